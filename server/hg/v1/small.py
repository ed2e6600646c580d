# Law of this file: what is small is answered from the index: no program is started and nobody is
# asked, but once per state of a repository for what a name means.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from repos.hg import v1_answers
from repos.hg.errors import CommandError
from repos.hg.lookup import Lookups
from repos.hg.repository import HgSnapshot
from wire.hg.v1.requests import BadRequest, BatchCall, join_batch, read_nodes

SMALL: Final = frozenset({"heads", "known", "lookup", "branchmap", "listkeys"})

# Names in one request for each of which hg is started. With more of them, or with a namespace that
# only hg knows, one that runs already is asked for all.
_STARTS: Final = 4


class NotOurs(Exception):  # noqa: N818 - what it is
    """This is answered by hg alone."""


def joined(answers: Sequence[bytes]) -> bytes:
    """The answer to a batch."""
    return join_batch(answers)


async def answer(lookups: Lookups, snapshot: HgSnapshot, calls: Sequence[BatchCall]) -> list[bytes]:
    """The answers to small commands, in their order.

    Args:
        lookups: of the repository.
        snapshot: what it serves.
        calls: what is asked.

    Raises:
        BadRequest: one of them is malformed.
        NotOurs: it is for hg to answer.
    """
    if any(call.name not in SMALL for call in calls):
        raise NotOurs
    unknown = {
        key
        for call in calls
        if call.name == "lookup" and lookups.at_hand(snapshot, key := _one(call, b"key")) is None
    }
    if len(unknown) > _STARTS:
        raise NotOurs
    return [await _answer(lookups, snapshot, call) for call in calls]


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
