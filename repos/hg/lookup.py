# Law of this file: a name means what stock hg says it means. What is a node we know ourselves; for
# everything else (tags, branches, bookmarks, numbers, `tip`) hg is asked once per snapshot.

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from repos.hg.asking import listkeys as ask_keys
from repos.hg.asking import lookup as ask
from repos.hg.commands import listkeys
from repos.hg.errors import CommandError
from repos.hg.nodes import Ambiguous
from repos.hg.repository import HgRepository, HgSnapshot
from wire.hg.cbor import Value
from wire.hg.texts import NULL, TextError, unhex

# What a snapshot has; other namespaces are those of extensions, or `obsolete`, which is large.
_OURS: Final = (b"bookmarks", b"namespaces", b"phases")

# Names that are remembered per repository, found or not; hundreds of repositories are.
_REMEMBERED: Final = 200
# No name that hg makes is longer; whoever sends more asks for nothing.
MAX_KEY: Final = 1024

# What means something of its own before it is a name.
_WORDS: Final = frozenset((b".", b"null", b"tip"))


@dataclass(slots=True)
class Lookups:
    """What names mean in one repository.

    Attributes:
        repository: which.
    """

    repository: HgRepository
    _known: OrderedDict[tuple[str, bytes], bytes | CommandError] = field(
        default_factory=OrderedDict
    )

    async def listkeys(self, snapshot: HgSnapshot, namespace: bytes) -> Value:
        """Answer ``listkeys`` for any namespace.

        Raises:
            HgFailed: hg could not be asked.
        """
        if namespace in _OURS or namespace not in snapshot.namespaces:
            return listkeys(snapshot, namespace)
        hg, place = self.repository.hg, self.repository.path.parent
        told = await self.repository.ask(lambda: ask_keys(hg, place, namespace))
        return {key: value for key, value in told.items()}  # noqa: C416 - its type

    async def lookup(self, snapshot: HgSnapshot, key: bytes) -> bytes:
        """Answer ``lookup``: the node of a served changeset.

        Raises:
            CommandError: ``key`` names none.
            HgFailed: hg could not be asked.
        """
        found = self.at_hand(snapshot, key)
        if found is None:
            found = await self.repository.ask(lambda: self._ask(snapshot, key))
            self._known[snapshot.digest, key] = found
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        if isinstance(found, CommandError):
            raise CommandError(found.message, found.words)
        return found

    def at_hand(self, snapshot: HgSnapshot, key: bytes) -> bytes | CommandError | None:
        """What ``key`` names, where that is known here; None where hg has to be asked."""
        if len(key) > MAX_KEY:
            return CommandError(b"unknown revision: a name of %s bytes", (b"%d" % len(key),))
        if len(key) == 40:
            try:
                node = unhex(key)
            except TextError:
                pass
            else:
                if snapshot.index.rev(node) is not None:
                    return node
        if key == b"tip":
            return snapshot.heads[0]  # the newest changeset has no children
        if key == b"null":
            return NULL
        if key in snapshot.bookmarks and key not in _WORDS:
            return snapshot.bookmarks[key]
        return self._known.get((snapshot.digest, key))

    def _ask(self, snapshot: HgSnapshot, key: bytes) -> bytes | CommandError:
        node, _ = ask(self.repository.hg, self.repository.path.parent, key)
        if node is not None and snapshot.index.rev(node) is not None:
            return node
        # Whatever hg says of a name that leads to no served changeset (hidden, secret, come since),
        # clients are told the same of all: they learn nothing of what is not for them.
        try:
            snapshot.index.lookup_prefix(key)
        except Ambiguous:
            return CommandError(b"ambiguous identifier: %s", (key,))
        return CommandError(b"unknown revision '%s'", (key,))
