# Law of this file: what a command's answer depends on, beside the command itself, is named here:
# nothing that matters is left out of a key, and nothing else is in it.

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from repos.hg import commands
from repos.hg.errors import CommandError
from repos.hg.lookup import Lookups
from repos.hg.pathfilter import parse_pathfilter
from repos.hg.rawstore import write_rawstorefiledata
from repos.hg.repository import HgSnapshot
from repos.hg.revisions import parse_nodes, parse_revisions
from server.hg.command import Answerer, Write
from server.hg.requests import Understood
from wire.hg import cbor
from wire.hg.cbor import Value
from wire.hg.commands import CommandSpec
from wire.hg.messages import sorted_names

# Roots that are looked up in the event loop; more of them would stop it for too long.
_QUICK: Final = 1000

# Answers that only the state of the repository decides, and how many are remembered of each one's.
_LASTING: Final = frozenset((b"branchmap", b"heads", b"listkeys"))
_REMEMBERED: Final = 16

# What a snapshot has; of others, hg tells what is there at the moment.
_KEPT_NAMESPACES: Final = frozenset((b"bookmarks", b"namespaces", b"phases"))
_NODE_DIGITS: Final = 40

Describe = Callable[[HgSnapshot], Value]
"""The answer to ``capabilities``."""


@dataclass(frozen=True, slots=True)
class Small:
    """An answer that costs less to make than to look up.

    Attributes:
        objects: encoded.
    """

    objects: bytes


@dataclass(frozen=True, slots=True)
class Bulk:
    """An answer that is made once for all who ask the same.

    Attributes:
        key: all that it depends on, beside the repository and the command's name.
        answer: makes it.
    """

    key: tuple[bytes, ...]
    answer: Answerer


@dataclass(slots=True)
class Questions:
    """What clients ask of one repository.

    Attributes:
        lookups: finds its changesets by what people call them.
    """

    lookups: Lookups
    _told: OrderedDict[tuple[str, bytes], bytes] = field(default_factory=OrderedDict)

    async def question(
        self, snapshot: HgSnapshot, asked: Understood, describe: Describe
    ) -> Small | Bulk:
        """What a request puts to the repository as it is now.

        Args:
            snapshot: what it serves.
            asked: the request.
            describe: see :data:`Describe`.

        Raises:
            CommandError: it cannot be answered.
        """
        bulk = _BULK.get(asked.spec.name)
        if bulk is None:
            return Small(await self._small(snapshot, asked, describe))
        if len(asked.roots) <= _QUICK:
            depends = _depends(snapshot, asked)
        else:
            depends = await self.lookups.repository.in_thread(lambda: _depends(snapshot, asked))
        return Bulk((asked.digest, *depends), functools.partial(bulk, snapshot, asked))

    async def _small(self, snapshot: HgSnapshot, asked: Understood, describe: Describe) -> bytes:
        """A small answer, encoded; the same for all who ask until the repository changes."""
        if asked.spec.name not in _LASTING or may_ask_hg(asked):
            return cbor.encode(await _value(self.lookups, snapshot, asked, describe))
        place = (snapshot.digest, asked.digest)
        told = self._told.get(place)
        if told is None:
            told = cbor.encode(await _value(self.lookups, snapshot, asked, describe))
            self._told[place] = told
            while len(self._told) > _REMEMBERED:
                self._told.popitem(last=False)
        return told


def may_ask_hg(asked: Understood) -> bool:
    """Whether a process may have to be started for an answer."""
    match asked.spec.name:
        case b"lookup":
            return len(_bytes(asked.arguments(), b"key")) != _NODE_DIGITS
        case b"listkeys":
            return _bytes(asked.arguments(), b"namespace") not in _KEPT_NAMESPACES
    return False


def is_bulk(spec: CommandSpec) -> bool:
    """Whether a command's answers may be large."""
    return spec.name in _BULK


def _depends(snapshot: HgSnapshot, asked: Understood) -> tuple[bytes, ...]:
    """What of the repository decides the answer, beside the question itself.

    What was answerable in an epoch of the index is so to the end of that epoch, and in the same
    way: but for roots that were unknown, and for what moves.
    """
    if asked.spec.name == b"rawstorefiledata":
        return (snapshot.digest.encode(),)
    known = snapshot.index.known(asked.roots)
    roots = b"".join(node for node, there in zip(asked.roots, known, strict=True) if there)
    moving = snapshot.moving.encode() if asked.spec.name == b"changesetdata" else b""
    return (snapshot.epoch.encode(), roots, moving)


async def _value(
    lookups: Lookups, snapshot: HgSnapshot, asked: Understood, describe: Describe
) -> cbor.Encodable:
    if asked.spec.name == b"known" and not asked.is_small:
        # To read so many nodes, and to find them, would stop the event loop for too long.
        return await lookups.repository.in_thread(lambda: _known(snapshot, asked))
    args = asked.arguments()
    match asked.spec.name:
        case b"heads":
            return commands.heads(snapshot, publiconly=args[b"publiconly"] is True)
        case b"known":
            return _known(snapshot, asked)
        case b"listkeys":
            return await lookups.listkeys(snapshot, _bytes(args, b"namespace"))
        case b"lookup":
            return await lookups.lookup(snapshot, _bytes(args, b"key"))
        case b"branchmap":
            return commands.branchmap(snapshot)
        case b"capabilities":
            return describe(snapshot)
    raise CommandError(b"command %s is not served", (asked.spec.name,))


def _known(snapshot: HgSnapshot, asked: Understood) -> Value:
    return commands.known(snapshot, parse_nodes(asked.arguments()[b"nodes"], b"nodes"))


# --- answers that are made once ---------------------------------------------------------------


def _changesetdata(snapshot: HgSnapshot, asked: Understood, write: Write) -> None:
    args = asked.arguments()
    revs = snapshot.index.resolve(parse_revisions(_list(args, b"revisions")))
    commands.write_changesetdata(snapshot, revs, _names(args, b"fields"), write)


def _manifestdata(snapshot: HgSnapshot, asked: Understood, write: Write) -> None:
    args = asked.arguments()
    commands.write_manifestdata(
        snapshot,
        nodes=parse_nodes(args[b"nodes"], b"nodes"),
        tree=_bytes(args, b"tree"),
        fields=_names(args, b"fields"),
        haveparents=args[b"haveparents"] is True,
        write=write,
    )


def _filedata(snapshot: HgSnapshot, asked: Understood, write: Write) -> None:
    args = asked.arguments()
    commands.write_filedata(
        snapshot,
        path=_bytes(args, b"path"),
        nodes=parse_nodes(args[b"nodes"], b"nodes"),
        fields=_names(args, b"fields"),
        haveparents=args[b"haveparents"] is True,
        write=write,
    )


def _filesdata(snapshot: HgSnapshot, asked: Understood, write: Write) -> None:
    args = asked.arguments()
    commands.write_filesdata(
        snapshot,
        revs=snapshot.index.resolve(parse_revisions(_list(args, b"revisions"))),
        fields=_names(args, b"fields"),
        haveparents=args[b"haveparents"] is True,
        pathfilter=parse_pathfilter(args[b"pathfilter"]),
        write=write,
    )


def _rawstorefiledata(snapshot: HgSnapshot, asked: Understood, write: Write) -> None:
    write_rawstorefiledata(snapshot, _list_of_names(asked.arguments(), b"files"), write)


_BULK: Final[Mapping[bytes, Callable[[HgSnapshot, Understood, Write], None]]] = {
    b"changesetdata": _changesetdata,
    b"filedata": _filedata,
    b"filesdata": _filesdata,
    b"manifestdata": _manifestdata,
    b"rawstorefiledata": _rawstorefiledata,
}


# --- arguments, whose types were checked ------------------------------------------------------


def _bytes(args: Mapping[bytes, Value], name: bytes) -> bytes:
    value = args[name]
    assert isinstance(value, bytes)  # noqa: S101 - as the table of commands says
    return value


def _list(args: Mapping[bytes, Value], name: bytes) -> list[Value]:
    value = args[name]
    assert isinstance(value, list)  # noqa: S101 - as the table of commands says
    return value


def _names(args: Mapping[bytes, Value], name: bytes) -> frozenset[bytes]:
    value = args[name]
    assert isinstance(value, frozenset)  # noqa: S101 - as the table of commands says
    return frozenset(each for each in value if isinstance(each, bytes))


def _list_of_names(args: Mapping[bytes, Value], name: bytes) -> tuple[bytes, ...]:
    names = sorted_names(args[name])
    if names is None:
        raise CommandError(b"argument %s must be a list of names", (name,))
    return names
