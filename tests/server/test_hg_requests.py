# Law of this file: requests that ask the same are one question, and none that ask something else.

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.hg.requests import Requests, Understood
from wire.hg.cbor import Value
from wire.hg.commands import BadArguments
from wire.hg.errors import ProtocolViolation
from wire.hg.messages import CommandRequest, Offer, encode_request

NODES: list[Value] = [bytes([each]) * 20 for each in range(9)]


async def understood(name: bytes, offer: Offer | None = None, **args: Value) -> Understood:
    """What a request means to a server that never saw one."""
    sent = {key.encode(): value for key, value in args.items()}
    return await Requests().understand(encode_request(CommandRequest(name, sent, offer)))


@given(st.permutations(NODES))
async def test_the_order_of_what_is_wanted_does_not_matter(nodes: list[Value]) -> None:
    """Lists of nodes are one question in any order, and with nodes named twice."""
    asked = await understood(b"manifestdata", nodes=nodes + nodes[:2], tree=b"")
    other = await understood(b"manifestdata", nodes=[*NODES], tree=b"")
    assert asked.digest == other.digest


async def test_what_is_left_out_is_the_default() -> None:
    """Who leaves an argument out asks what those ask who send its default."""
    plain = await understood(b"heads")
    assert plain.digest == (await understood(b"heads", publiconly=False)).digest
    assert plain.digest != (await understood(b"heads", publiconly=True)).digest
    assert plain.arguments() == {b"publiconly": False}


async def test_different_questions_differ() -> None:
    """Each argument tells questions apart."""
    base: dict[str, Value] = {"path": b"a", "nodes": NODES[:2], "fields": frozenset({b"parents"})}
    digests = {(await understood(b"filedata", **base)).digest}
    for changed in (
        {"path": b"b"},
        {"nodes": NODES[:3]},
        {"fields": frozenset({b"parents", b"revision"})},
        {"haveparents": True},
    ):
        digests.add((await understood(b"filedata", **{**base, **changed})).digest)
    assert len(digests) == 5


async def test_specifiers_are_a_union() -> None:
    """Revision specifiers mean the same in any order."""
    one: Value = {b"type": b"changesetexplicit", b"nodes": NODES[:2]}
    two: Value = {b"type": b"changesetdagrange", b"roots": [], b"heads": NODES[2:4]}
    first = await understood(b"changesetdata", revisions=[one, two])
    assert first.digest == (await understood(b"changesetdata", revisions=[two, one])).digest
    assert first.digest != (await understood(b"changesetdata", revisions=[two])).digest


async def test_who_asks_is_no_part_of_the_question() -> None:
    """What a client says of redirects is kept beside the question."""
    offer = Offer((b"cdn",), (b"sha256",))
    asked = await understood(b"heads", offer)
    assert asked.offer == offer
    assert asked.digest == (await understood(b"heads")).digest


async def test_long_arguments_are_read_again() -> None:
    """What is too long to be kept is known again by its bytes, and read when it is needed."""
    requests = Requests()
    nodes: list[Value] = [number.to_bytes(20) for number in range(5000)]
    payload = encode_request(CommandRequest(b"manifestdata", {b"nodes": nodes, b"tree": b""}))
    first, second = await requests.understand(payload), await requests.understand(payload)
    assert first.digest == second.digest
    assert second.arguments()[b"nodes"] == nodes


async def test_what_is_wrong_is_told() -> None:
    """Unknown commands, bad arguments and what is no request are told apart."""
    with pytest.raises(BadArguments, match="unknown command: pull"):
        await understood(b"pull")
    with pytest.raises(BadArguments, match="missing required arguments: nodes"):
        await understood(b"manifestdata", tree=b"")
    with pytest.raises(ProtocolViolation, match="name"):
        await Requests().understand(b"\xa0")
