# Law of this file: requests that ask the same are one question, and none that ask something else.

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.hg.requests import Requests, Understood
from wire.hg.cbor import Value, encode
from wire.hg.commands import BadArguments
from wire.hg.errors import ProtocolViolation
from wire.hg.messages import CommandRequest, Offer, encode_request

NODES: list[Value] = [bytes([each]) * 20 for each in range(9)]


async def understood(name: bytes, offer: Offer | None = None, **args: Value) -> Understood:
    """What a request means to a server that never saw one."""
    sent = {key.encode(): value for key, value in args.items()}
    return await meant(Requests(), encode_request(CommandRequest(name, sent, offer)))


async def meant(requests: Requests, payload: bytes) -> Understood:
    """What one request means; what is wrong with it is raised."""
    (meaning,) = await requests.understand([payload])
    if not isinstance(meaning, Understood):
        raise meaning
    return meaning


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
    first, second = await meant(requests, payload), await meant(requests, payload)
    assert first.digest == second.digest
    assert second.arguments()[b"nodes"] == nodes


async def test_what_is_wrong_is_told() -> None:
    """Unknown commands, bad arguments and what is no request are told apart."""
    with pytest.raises(BadArguments, match="unknown command: pull"):
        await understood(b"pull")
    with pytest.raises(BadArguments, match="missing required arguments: nodes"):
        await understood(b"manifestdata", tree=b"")
    with pytest.raises(ProtocolViolation, match="name"):
        await meant(Requests(), b"\xa0")


async def test_a_list_is_not_taken_for_another() -> None:
    """What is encoded is not what it says: a byte string that looks like a map is none."""
    spec: Value = {b"type": b"changesetexplicit", b"nodes": NODES[:1]}
    right = await understood(b"changesetdata", revisions=[spec])
    assert right.digest != (await understood(b"changesetdata", revisions=[encode(spec)])).digest


async def test_many_requests_are_read_beside_the_event_loop() -> None:
    """Requests that are long together are understood as each alone is, in their order."""
    payloads = [
        encode_request(CommandRequest(b"lookup", {b"key": b"%d" % each * 1000}))
        for each in range(50)
    ]
    together = await Requests().understand([*payloads, b"\xa0"])
    alone = [(await meant(Requests(), payload)).digest for payload in payloads]
    assert [each.digest for each in together[:-1] if isinstance(each, Understood)] == alone
    assert isinstance(together[-1], ProtocolViolation)


async def test_what_nobody_asks_is_not_read_to_its_end() -> None:
    """A request of nothing but small things, which cost more to read than to send, is refused."""
    with pytest.raises(ProtocolViolation, match="entries"):
        await understood(b"changesetdata", revisions=[{} for _ in range(40_000)])


async def test_what_is_long_is_not_kept() -> None:
    """A request of many roots, or that lists many targets, leaves nothing in memory."""
    requests = Requests()
    roots: list[Value] = [number.to_bytes(20) for number in range(100)]
    spec: Value = {b"type": b"changesetdagrange", b"roots": roots, b"heads": NODES[:1]}
    offer = Offer(tuple(b"target-%d" % each for each in range(1000)))
    for request in (
        CommandRequest(b"changesetdata", {b"revisions": [spec]}),
        CommandRequest(b"heads", {}, offer),
    ):
        await meant(requests, encode_request(request))
    assert not requests._known
    await meant(requests, encode_request(CommandRequest(b"heads")))
    assert len(requests._known) == 1
