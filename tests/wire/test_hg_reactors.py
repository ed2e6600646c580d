# Law of this file: whatever a client and a server say to each other, in any order and on any
# streams that the protocol allows, arrives as it was said.

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.hg.client import (
    ClientReactor,
    ErrorReceived,
    ProgressReceived,
    ResponseReceived,
    TextReceived,
)
from wire.hg.encodings import Encoder, Encoding, encoder
from wire.hg.frames import FrameType
from wire.hg.messages import (
    CommandRequest,
    Offer,
    Progress,
    Text,
    encode_error,
    encode_progress,
    encode_texts,
    parse_request,
)
from wire.hg.outgoing import OutputStream
from wire.hg.server import CommandReceived, ServerReactor

WORDS = (b"a node ", b"the same text again and again ", bytes(30), b"\xff\x00")


def chunks(data: bytes, random: Random) -> Iterator[bytes]:
    """``data`` in pieces, some of single bytes and some large."""
    at = 0
    while at < len(data):
        size = random.choice((1, 2, 7, 100, 5_000, 100_000))
        yield data[at : at + size]
        at += size


def content(random: Random) -> bytes:
    """Some bytes, compressible or not, of none to a few frames."""
    kind, size = random.random(), random.choice((0, 1, 50, 3_000, 70_000))
    return random.randbytes(size) if kind < 0.3 else random.choice(WORDS) * (size // 7)


@dataclass
class Talk:
    """A server that answers what it was asked in an order of its own.

    Attributes:
        said: per request, what its answer consists of.
        failed: requests that ended in an error.
        notices: per request, what was said besides.
    """

    random: Random
    server: ServerReactor
    waiting: list[int]
    said: dict[int, bytes] = field(default_factory=lambda: defaultdict(bytes))
    failed: set[int] = field(default_factory=set)
    notices: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    streams: list[tuple[OutputStream, Encoder]] = field(default_factory=list)
    ids: set[int] = field(default_factory=set)
    reused: bool = False

    def step(self) -> bytes:
        """Say something; returns the frames."""
        request_id = self.random.choice(self.waiting)
        stream, coder = self._stream()
        match self.random.choices(("answer", "end", "fail", "notice"), (6, 3, 0.4, 2))[0]:
            case "answer":
                return self._answer(stream, coder, request_id, end=False)
            case "end":
                self.waiting.remove(request_id)
                return self._answer(stream, coder, request_id, end=True)
            case "fail":
                self.waiting.remove(request_id)
                self.failed.add(request_id)
                close = self._closes(stream, coder)
                error = encode_error("command", b"no")
                return self.server.fail(stream, request_id, error, close=close)
            case _:
                self.notices[request_id] += 1
                kind, payload = self.random.choice(
                    (
                        (FrameType.PROGRESS, encode_progress(Progress(b"t", 1, 2))),
                        (FrameType.TEXT_OUTPUT, encode_texts([Text(b"hello")])),
                    )
                )
                return self.server.notice(stream, request_id, kind, payload)

    def _stream(self) -> tuple[OutputStream, Encoder]:
        if not self.streams or (len(self.streams) < 5 and self.random.random() < 0.2):
            encoding = self.random.choice(list(Encoding))
            stream = self.server.begin_stream(encoding)
            self.reused |= stream.id in self.ids
            self.ids.add(stream.id)
            self.streams.append((stream, encoder(encoding)))
        return self.random.choice(self.streams)

    def _closes(self, stream: OutputStream, coder: Encoder) -> bool:
        """Whether the stream ends now."""
        closes = self.random.random() < 0.3
        if closes:
            self.streams.remove((stream, coder))
        return closes

    def _answer(self, stream: OutputStream, coder: Encoder, request_id: int, *, end: bool) -> bytes:
        payload = content(self.random)
        self.said[request_id] += payload
        close = self._closes(stream, coder)
        encoded = self.random.random() < 0.7
        if encoded:
            payload = coder.encode(payload) + coder.flush()
        return self.server.answer(
            stream, request_id, payload, end=end, encoded=encoded, close=close
        )


@dataclass
class Heard:
    """What a client heard, per request."""

    said: dict[int, bytes] = field(default_factory=lambda: defaultdict(bytes))
    ended: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)
    notices: dict[int, int] = field(default_factory=lambda: defaultdict(int))

    def hear(self, client: ClientReactor, chunk: bytes) -> None:
        """Take in a piece of the response."""
        for event in client.receive(chunk):
            match event:
                case ResponseReceived(request_id, data, end):
                    self.said[request_id] += data
                    if end:
                        self.ended.add(request_id)
                case ErrorReceived(request_id):
                    self.failed.add(request_id)
                case TextReceived(request_id) | ProgressReceived(request_id):
                    self.notices[request_id] += 1


def ask(client: ClientReactor, random: Random) -> tuple[dict[int, CommandReceived], bytes]:
    """Some requests, with and without data, and the body that they make."""
    asked: dict[int, CommandReceived] = {}
    body = b""
    for _ in range(random.randint(1, 6)):
        request = CommandRequest(
            b"known", {b"nodes": [content(random)]}, random.choice((None, Offer((b"t",))))
        )
        data = random.choice((None, b"", content(random)))
        request_id, written = client.request(request, data)
        asked[request_id] = CommandReceived(request_id, _encoded(request), data)
        body += written
    return asked, body


def _encoded(request: CommandRequest) -> bytes:
    """A request as another client writes it, for comparison."""
    _, written = ClientReactor(extra_frames=False).request(request)
    return b"".join(each.payload for each in ServerReactor().receive(written))


def converse(seed: int) -> Talk:
    """One exchange from the first byte to the last, checked on both sides."""
    random = Random(seed)
    client = ClientReactor(encoding=random.choice(list(Encoding)))
    server = ServerReactor()
    asked, body = ask(client, random)
    received = [each for chunk in chunks(body, random) for each in server.receive(chunk)]
    server.end()
    assert {each.request_id: each for each in received} == asked
    assert all(parse_request(each.payload).name == b"known" for each in received)

    talk, heard = Talk(random, server, [*asked]), Heard()
    while talk.waiting:
        for chunk in chunks(talk.step(), random):
            heard.hear(client, chunk)
    client.end()
    assert heard.failed == talk.failed
    assert heard.ended == set(asked) - talk.failed
    for request_id in asked:
        assert heard.said[request_id] == talk.said[request_id]
        assert heard.notices[request_id] == talk.notices[request_id]
    return talk


@given(st.integers(0, 2**32))
def test_any_schedule(seed: int):
    """Several streams, interleaved and out of order, closed and begun again: all of it arrives."""
    converse(seed)


def test_schedules_are_not_tame():
    """Among a few such exchanges are reused ids, errors, notices, and answers side by side."""
    talks = [converse(seed) for seed in range(40)]
    assert any(talk.reused for talk in talks)
    assert any(talk.failed for talk in talks)
    assert any(talk.notices for talk in talks)
    assert max(len(talk.ids) for talk in talks) >= 4


@pytest.mark.parametrize("encoding", Encoding)
def test_large_requests(encoding: Encoding):
    """However well a request compresses, no frame of it tells more than servers take at a time."""
    client, server = ClientReactor(encoding=encoding), ServerReactor()
    nodes = [bytes(20)] * 100_000
    request_id, body = client.request(CommandRequest(b"known", {b"nodes": nodes}), bytes(10 << 20))
    (received,) = server.receive(body)
    server.end()
    assert received.request_id == request_id
    assert parse_request(received.payload).args == {b"nodes": nodes}
    assert received.data == bytes(10 << 20)


@pytest.mark.parametrize("encoding", [Encoding.ZLIB, Encoding.ZSTD])
def test_replayed_entities(encoding: Encoding):
    """What was compressed once goes out as it is, on a stream of its own, after a head that is not.

    So a cached entity costs no compression, beside answers that share another stream.
    """
    client, server = ClientReactor(), ServerReactor()
    server.receive(
        client.request(CommandRequest(b"a"))[1] + client.request(CommandRequest(b"b"))[1]
    )
    once = encoder(encoding)
    entity = b"".join(once.encode(b"%d " % n) for n in range(100_000)) + once.flush()
    shared, own = server.begin_stream(Encoding.ZLIB), server.begin_stream(encoding)
    small = encoder(Encoding.ZLIB)
    body = server.answer(own, 1, b"head ", end=False, encoded=False)
    body += server.answer(shared, 3, small.encode(b"small") + small.flush(), end=True, encoded=True)
    body += server.answer(own, 1, memoryview(entity), end=True, encoded=True, close=True)
    assert entity in body or len(entity) > 65_535
    heard = Heard()
    heard.hear(client, body)
    client.end()
    assert heard.said[1] == b"head " + b"".join(b"%d " % n for n in range(100_000))
    assert heard.said[3] == b"small"
