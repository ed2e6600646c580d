# Law of this file: equal questions are one question: what decides the bytes of a bundle is in its
# key, and nothing else. A complete answer is an entity, and may be elsewhere.

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from cache.keys import record_key
from cache.sink import Outcome, Run, Sink
from indexer.catalog import Bundle, CloneBundle
from redirects.acceptance import ACCEPTS_NOTHING, Acceptance, Client
from redirects.audience import Audience
from repos.program import cpu_spent
from server.answer import Execution, Locate, Plan
from server.hg.command import Observe, always
from server.hg.v1.asked import Asked
from server.settings_repositories import HgSettings
from wire.hg.v1.capabilities import decode_bundle2
from wire.hg.v1.getbundle import GetBundle, argument_bytes
from wire.hg.v1.media import MERCURIAL_0_2, Framing

DIALECT: Final = "hg-v1"
GETBUNDLE: Final = "getbundle"

# Clients repeat their headers to the place that they are sent to. Object stores take about 8 KiB of
# them in all, and so do many servers.
MAX_REPEATED: Final = 6 << 10

# Repositories, and sets of heads of each one's clone bundles, that are remembered.
_REPOSITORIES: Final = 1024
_SETS: Final = 32

_NULL: Final = "0" * 40

_SCHEMES: Final = Acceptance(frozenset({"http", "https"}))


@dataclass(frozen=True, slots=True)
class GetBundleCommand:
    """One ``getbundle`` of one client.

    Attributes:
        repository: served name.
        identity: what names the repository in keys.
        question: all that the answer depends on, beside the repository and the framing.
        framing: how the answer is compressed and called.
        compute: makes the answer.
        acceptance: which locations the client accepts.
        client: who asks.
        audience: for whom the repository's content is.
        observe: told how long the run took, and what it cost.
        known_by: see :func:`known_by`.
    """

    repository: str
    identity: str
    question: tuple[bytes, ...]
    framing: Framing
    compute: Run
    acceptance: Acceptance
    client: Client
    audience: Audience
    observe: Observe
    known_by: str

    dialect: str = DIALECT
    name: str = GETBUNDLE

    @property
    def key(self) -> str:
        """Of its record."""
        framing = (self.framing.media_type.encode(), self.framing.engine.encode())
        return record_key(DIALECT, self.identity, *framing, *self.question)

    async def plan(self, bundles: Sequence[Bundle], locate: Locate) -> Plan:
        """Clone bundles were offered before; this is all a record or a run."""
        del bundles, locate
        return Plan(None, Execution(self.key, self._run, always))

    def _run(self, sink: Sink) -> Outcome:
        began, spent = time.monotonic(), cpu_spent()
        outcome = self.compute(sink)
        self.observe(time.monotonic() - began, cpu_spent() - spent)
        return outcome


def question_of(
    asked: GetBundle, *, state: bytes, moving: bytes, everything: bytes
) -> tuple[bytes, ...]:
    """What the answer depends on, beside the repository and the framing.

    Args:
        asked: with heads, and with those of its common nodes that the repository has.
        state: as long as it is the same, what was answerable is answerable in the same way.
        moving: of phases and bookmarks.
        everything: of all that can be asked.
    """
    depends = [state]
    if asked.stream or asked.obsmarkers or set(asked.listkeys) - {b"bookmarks", b"phases"}:
        depends = [everything]
    elif asked.bookmarks or asked.phases or asked.listkeys:
        depends.append(moving)
    return (argument_bytes(asked.canonical()), *depends)


@dataclass(frozen=True, slots=True)
class Offered:
    """Which heads clients have that began with a clone bundle that they were told of here."""

    _known: OrderedDict[str, OrderedDict[frozenset[str], None]] = field(default_factory=OrderedDict)

    def note(self, repository: str, bundles: Sequence[CloneBundle]) -> None:
        """A client was told of these bundles of ``repository``."""
        known = self._known.setdefault(repository, OrderedDict())
        self._known.move_to_end(repository)
        for bundle in bundles:
            known[frozenset(bundle.heads)] = None
            known.move_to_end(frozenset(bundle.heads))
        while len(known) > _SETS:
            known.popitem(last=False)
        while len(self._known) > _REPOSITORIES:
            self._known.popitem(last=False)

    def get(self, repository: str) -> Collection[frozenset[str]]:
        """The heads of each bundle that clients were told of."""
        return self._known.get(repository, OrderedDict())


def acceptance_of(
    wanted: GetBundle,
    framing: Framing,
    asked: Asked,
    settings: HgSettings,
    bundles: Collection[frozenset[str]],
) -> Acceptance:
    """Which locations a client accepts in place of the answer.

    It says nothing of that. Stock clients follow a redirect, and put all further questions of their
    operation to the place that they were sent to, which cannot answer them. So they are redirected
    where this is the last one, as far as the question tells.

    Args:
        wanted: the question, with its heads.
        framing: how the answer is compressed and called.
        asked: who asks, and how.
        settings: of Mercurial repositories.
        bundles: the heads of each clone bundle of the repository.
    """
    version = asked.version
    if settings.redirect_getbundle == "off" or framing.media_type != MERCURIAL_0_2:
        return ACCEPTS_NOTHING
    if version is None or f"{version[0]}.{version[1]}" not in settings.redirect_getbundle_clients:
        return ACCEPTS_NOTHING
    # Credentials would be sent along.
    if asked.credentials or asked.repeated > MAX_REPEATED or not is_last(wanted):
        return ACCEPTS_NOTHING
    if settings.redirect_getbundle == "pulls" and may_update(wanted, bundles):
        return ACCEPTS_NOTHING
    return _SCHEMES


def is_last(wanted: GetBundle) -> bool:
    """Whether a client has no further question to us, but for a name to update to.

    Who does not get phases with it asks for them afterwards, as does `hg incoming`; and who speaks
    of markers and does not get any.
    """
    markers = "obsmarkers" in abilities(wanted)
    return (
        wanted.bundle2
        and wanted.cg
        and wanted.phases
        and not wanted.stream
        and not is_narrow(wanted)
        and (wanted.obsmarkers or not markers)
    )


def may_update(wanted: GetBundle, bundles: Collection[frozenset[str]]) -> bool:
    """Whether this could be a `hg clone -u NAME`, which looks the name up afterwards.

    It asks for everything, or for everything beyond a clone bundle.
    """
    common = _common(wanted)
    return not common or common in bundles


def known_by(wanted: GetBundle, identity: str, bundles: Collection[frozenset[str]]) -> str:
    """By what a client is known again that asks this once more, whatever was pushed meanwhile.

    The heads that it asks for are no part of that, but what it has. A clone is one whether it began
    with a clone bundle or not: who was sent to one in vain begins without.

    Args:
        wanted: the question, without common nodes that the repository has not.
        identity: what names the repository in keys.
        bundles: as for :func:`acceptance_of`.
    """
    has = () if may_update(wanted, bundles) else sorted(_common(wanted))
    return " ".join((DIALECT, GETBUNDLE, identity, *has))


def _common(wanted: GetBundle) -> frozenset[str]:
    return frozenset(node.hex() for node in wanted.common or ()) - {_NULL}


def is_narrow(wanted: GetBundle) -> bool:
    """Whether it is asked for a part of the files, or by words of an extension."""
    return bool(wanted.includepats or wanted.excludepats or wanted.other)


def abilities(wanted: GetBundle) -> dict[str, tuple[str, ...]]:
    """What the client can do with bundles of version 2."""
    found: dict[str, tuple[str, ...]] = {}
    for word in sorted(wanted.bundlecaps or ()):
        name, equals, blob = word.partition(b"=")
        if name == b"bundle2" and equals:
            found |= decode_bundle2(blob)
    return found
