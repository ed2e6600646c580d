# Law of this file: what is small is answered from the index: no program is started and nobody is
# asked, but once per state of a repository for what a name means.

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from repos.hg import v1_answers
from repos.hg.errors import CommandError
from repos.hg.lookup import Lookups
from repos.hg.repository import HgSnapshot
from server.hg.v1.asked import Asked
from wire.hg.v1.requests import BadRequest, BatchCall, join_batch, read_nodes

SMALL: Final = frozenset({"heads", "known", "lookup", "branchmap", "listkeys"})

# Names in one request for each of which hg is started. With more of them, or with a namespace that
# only hg knows, one that runs already is asked for all.
_STARTS: Final = 4


# Bytes of the answer to a batch: that of a hundred thousand heads is 4 MiB.
LONGEST: Final = 64 << 20
# What takes no longer to join than the event loop may be stopped.
_QUICK: Final = 1 << 20

_Call = tuple[str, tuple[tuple[bytes, bytes], ...]]


class NotOurs(Exception):  # noqa: N818 - what it is
    """This is answered by hg alone."""


async def answer(lookups: Lookups, snapshot: HgSnapshot, asked: Asked) -> bytes:
    """The answer to a small command, or to a batch of them.

    Args:
        lookups: of the repository.
        snapshot: what it serves.
        asked: what is asked.

    Raises:
        BadRequest: a command is malformed, or the answer would be too long.
        NotOurs: it is for hg to answer.
    """
    calls = asked.calls
    if any(call.name not in SMALL for call in calls):
        raise NotOurs
    unknown = {
        key
        for call in calls
        if call.name == "lookup" and lookups.at_hand(snapshot, key := _one(call, b"key")) is None
    }
    if len(unknown) > _STARTS:
        raise NotOurs
    found: dict[_Call, bytes] = {}
    size = 0
    for call in calls:
        each = _distinct(call)
        if each not in found:
            found[each] = await _answer(lookups, snapshot, call)
        size = check_length(size + len(found[each]))
    if asked.command != "batch":
        return found[_distinct(calls[0])]
    return await joined([found[_distinct(call)] for call in calls], size)


def check_length(size: int) -> int:
    """See that the answers to a batch are not longer than anybody needs.

    Raises:
        BadRequest: they are: the same was asked again and again.
    """
    if size > LONGEST:
        raise BadRequest(
            f"the answer to this batch is longer than {LONGEST >> 20} MiB; ask for less"
        )
    return size


async def joined(answers: Sequence[bytes], size: int) -> bytes:
    """The answer to a batch, of those to its commands, ``size`` bytes in all."""
    if size <= _QUICK:
        return join_batch(answers)
    return await asyncio.to_thread(join_batch, answers)


def _distinct(call: BatchCall) -> _Call:
    return call.name, tuple(sorted(call.arguments.items()))


async def _answer(lookups: Lookups, snapshot: HgSnapshot, call: BatchCall) -> bytes:
    match call.name:
        case "heads":
            return v1_answers.heads(snapshot)
        case "known":
            return v1_answers.known(snapshot, read_nodes(_one(call, b"nodes")))
        case "branchmap":
            return v1_answers.branchmap(snapshot)
        case "lookup":
            return await _lookup(lookups, snapshot, _one(call, b"key"))
        case _:
            keys = v1_answers.listkeys(snapshot, _one(call, b"namespace"))
            if keys is None:
                raise NotOurs
            return keys


async def _lookup(lookups: Lookups, snapshot: HgSnapshot, key: bytes) -> bytes:
    try:
        return v1_answers.lookup(await lookups.lookup(snapshot, key))
    except CommandError as error:
        return v1_answers.lookup(error)


def _one(call: BatchCall, name: bytes) -> bytes:
    arguments: Mapping[bytes, bytes] = call.arguments
    value = arguments.get(name)
    if value is None:
        raise BadRequest(f"{call.name} needs the argument {name.decode()}")
    return value
