# Law of this file: what stock Mercurial says is understood to the last byte, and what we say of the
# same content is the same bytes.

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.wire.hg_wire import cut
from wire.hg import cbor
from wire.hg.client import ClientReactor, ErrorReceived, ResponseReceived
from wire.hg.commands import COMMANDS, check_arguments, describe
from wire.hg.encodings import Encoding
from wire.hg.errors import ProtocolViolation
from wire.hg.handshake import parse_handshake
from wire.hg.messages import (
    CBOR_MEDIA_TYPE,
    FRAMING_MEDIA_TYPE,
    Failed,
    Ok,
    parse_request,
    parse_status,
)
from wire.hg.server import CommandReceived, ServerReactor

GOLDEN = Path(__file__).parent.parent / "hg" / "golden"


@dataclass(frozen=True)
class Exchange:
    """A request of the stock client, or of a script in its place, and the stock server's answer."""

    name: str
    request: bytes
    response: bytes
    media_type: str

    @property
    def by_stock_client(self) -> bool:
        """Whether it begins with what that client says of itself."""
        return self.request[3:8] == bytes.fromhex("0100 01 01 82")

    def commands(self) -> tuple[ServerReactor, list[CommandReceived]]:
        """What our server makes of the request."""
        reactor = ServerReactor()
        received = reactor.receive(self.request)
        reactor.end()
        return reactor, received

    def asked(self) -> tuple[ClientReactor, bytes]:
        """Our client when it has asked the same, and the bytes in which it did."""
        server, received = self.commands()
        accepted = [Encoding(name.decode()) for name in server.settings.encodings]
        client = ClientReactor(accepted, extra_frames=False)
        asked = [client.request(parse_request(each.payload)) for each in received]
        assert [request_id for request_id, _ in asked] == [each.request_id for each in received]
        return client, b"".join(written for _, written in asked)

    def answers(self, chunks: list[bytes]) -> dict[int, bytes | str]:
        """What our client makes of the response: objects, or the text of an error."""
        client, _ = self.asked()
        answers: dict[int, bytes | str] = {}
        pieces: defaultdict[int, bytes] = defaultdict(bytes)
        for event in (event for chunk in chunks for event in client.receive(chunk)):
            match event:
                case ResponseReceived(request_id, data):
                    answers[request_id] = pieces[request_id] = pieces[request_id] + data
                case ErrorReceived(request_id, error):
                    answers[request_id] = error.text
        client.end()
        return answers


def exchanges(conversation: Path) -> list[Exchange]:
    """All of a conversation."""
    return [
        Exchange(
            f"{conversation.name}/{each['name']}",
            (conversation / f"{each['name']}.request").read_bytes()
            if each["method"] == "POST"
            else b"",
            (conversation / f"{each['name']}.response").read_bytes(),
            each["answer_headers"].get("content-type", ""),
        )
        for each in json.loads((conversation / "exchanges.json").read_text())
    ]


EXCHANGES = {
    each.name: each
    for conversation in sorted(GOLDEN.iterdir())
    if conversation.is_dir()
    for each in exchanges(conversation)
}
STOCK = [name for name, each in EXCHANGES.items() if each.by_stock_client]
FRAMED = [name for name, each in EXCHANGES.items() if each.media_type == FRAMING_MEDIA_TYPE]
HANDSHAKES = [name for name, each in EXCHANGES.items() if each.media_type == CBOR_MEDIA_TYPE]


def test_there_are_captures():
    """The captures are there, of every kind."""
    assert len(STOCK) > 50
    assert len(FRAMED) > 50
    assert len(HANDSHAKES) > 10


@pytest.mark.parametrize("conversation", sorted({name.split("/")[0] for name in STOCK}))
def test_requests_of_the_stock_client(conversation: str):
    """Requests are read wherever they are cut, and written again they are the same bytes."""
    for exchange in (EXCHANGES[name] for name in STOCK if name.startswith(f"{conversation}/")):
        _, received = exchange.commands()
        reactor = ServerReactor()
        singly = cut(exchange.request, range(len(exchange.request)))
        assert [each for chunk in singly for each in reactor.receive(chunk)] == received
        assert exchange.asked()[1] == exchange.request
        for each in received:
            request = parse_request(each.payload)
            assert {*request.args} <= {*check_arguments(COMMANDS[request.name], request.args)}


@pytest.mark.parametrize("conversation", sorted({name.split("/")[0] for name in FRAMED}))
def test_responses_of_the_stock_server(conversation: str):
    """Responses are read wherever they are cut: a status, and whole objects after it."""
    for exchange in (EXCHANGES[name] for name in FRAMED if name.startswith(f"{conversation}/")):
        answers = exchange.answers([exchange.response])
        assert exchange.answers(cut(exchange.response, range(len(exchange.response)))) == answers
        assert answers
        for answer in answers.values():
            if isinstance(answer, bytes):
                status, *objects = cbor.decode(answer)
                assert isinstance(parse_status(status), Ok if objects else Failed)


@pytest.mark.parametrize("kind", ["clone", "pull"])
def test_encodings_tell_the_same(kind: str):
    """What the stock server tells in each encoding is the same, as we decode it."""
    for name in FRAMED:
        if name.startswith(f"{kind}-identity/"):
            told = [EXCHANGES[name.replace("identity", encoding)] for encoding in ("zlib", "zstd")]
            expected = EXCHANGES[name].answers([EXCHANGES[name].response])
            assert [each.answers([each.response]) for each in told] == [expected] * 2


@pytest.mark.parametrize("name", HANDSHAKES)
def test_handshakes_of_the_stock_server(name: str):
    """The stock server's descriptor is understood, and its commands are those that we know."""
    api = parse_handshake(EXCHANGES[name].response)
    assert api is not None
    assert api.base == "api"
    # Raw files are offered only where there are no secrets in them.
    assert {*COMMANDS} - {*api.commands} <= {b"rawstorefiledata"}
    for command, known in api.commands.items():
        assert known.args == {
            arg: argument.type.encode() for arg, argument in COMMANDS[command].args.items()
        }
        assert known.permissions == {COMMANDS[command].permission.encode()}


def test_descriptors_like_the_stock_servers():
    """We describe commands as the stock server does, but for a field that it never answered."""
    handshake = cbor.decode_one(EXCHANGES["clone-identity/01-capabilities"].response)
    match handshake:
        case {b"apis": {b"exp-http-v2-0003": {b"commands": {**theirs}}}}:
            pass
        case _:
            pytest.fail("no descriptor")
    filesdata = theirs[b"filesdata"]
    match filesdata:
        case {b"args": {b"fields": {b"validvalues": frozenset(valid)} as fields}}:
            fields[b"validvalues"] = valid - {b"firstchangeset"}
    assert {name: describe(spec) for name, spec in COMMANDS.items()} == theirs


def test_text_where_frames_are_expected():
    """The stock server's errors that are text are no frames to us, as they should be."""
    texts = [each for each in EXCHANGES.values() if each.media_type == "text/plain"]
    assert texts
    for exchange in texts:
        client = ClientReactor()
        client.request(parse_request(b"\xa1\x44name\x45heads"))
        with pytest.raises(ProtocolViolation):  # noqa: PT012 - either may tell
            _ = [*client.receive(exchange.response)]
            client.end()
