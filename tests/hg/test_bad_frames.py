# Law of this file: whatever stands in a body, its sender is told in frames what is wrong with it,
# its cost is bounded, and the server lives.

from __future__ import annotations

import asyncio
import gzip
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Serve, Served
from tests.hg.asking import (
    HEADERS,
    Exchange,
    Told,
    frames,
    read,
    serve_hg,
    where,
)
from tests.hg.byhand import HEADS, PATH, error_of, frame, heads, lives, long, post
from tests.hg.conftest import Sources
from tests.server.asking import connected, converse, head, read_reply
from wire.hg import cbor
from wire.hg.client import ClientReactor
from wire.hg.encodings import Encoding, encoder
from wire.hg.frames import (
    END,
    REQUEST_HAS_DATA,
    REQUEST_MORE,
    REQUEST_NEW,
    STREAM_ENCODED,
    FrameType,
)
from wire.hg.messages import (
    CommandRequest,
    SenderSettings,
    encode_settings,
)
from wire.hg.streams import encode_settings as encode_encoding


@pytest.fixture
async def served(serve: Serve, sources: Sources, shared_data: Path) -> Served:
    """A server of the repository in a row."""
    sources.path("linear")
    return await serve_hg(serve, sources.root, data=shared_data, limits={"request_body": 1 << 20})


# --- frames -------------------------------------------------------------------------------------

BOMB = zlib.compress(bytes(64 << 20), 9)


def encoded(encoding: Encoding, payload: bytes) -> bytes:
    """A request on a stream of an encoding, whose payload is what it is."""
    said = frame(FrameType.STREAM_SETTINGS, encode_encoding(encoding), END)
    kind = FrameType.COMMAND_REQUEST
    return said + frame(kind, payload, REQUEST_NEW, stream_flags=STREAM_ENCODED)


BAD = {
    "nothing": (b"", "ends before any command"),
    "garbage": (b"\xff" * 64, "a frame of"),
    "text": (b"GET / HTTP/1.1\r\n\r\n" * 9, "frame"),
    "a frame over the limit": (b"\x00\x00\x01" + heads()[3:8] + bytes(65536), "65536 bytes"),
    "a length that lies": (b"\xff\xff\x00" + heads()[3:], "ends in a frame"),
    "half a header": (heads()[:5], "ends in a frame"),
    "half a frame": (heads()[:-1], "ends in a frame"),
    "an unknown type": (heads()[:7] + b"\x41" + heads()[8:], "type 4"),
    "unknown flags": (heads()[:7] + b"\x10" + heads()[8:], "flags"),
    "unknown flags of a stream": (heads(stream_flags=1)[:6] + b"\x09" + heads()[7:], "flags"),
    "a stream that was not begun": (heads(stream_flags=0), "was not begun"),
    "a stream of the server": (heads()[:5] + b"\x02" + heads()[6:], "odd"),
    "a stream that begins twice": (heads() + heads(3), "begins while it is open"),
    "an id of the server": (heads(2), "ids of clients are odd"),
    "an id twice": (heads() + heads(1, 0), "begins while it is under way"),
    "a response": (frame(FrameType.COMMAND_RESPONSE, b"x", END), "from servers only"),
    "an error": (frame(FrameType.ERROR, b"x"), "from servers only"),
    "half a request": (heads(flags=REQUEST_NEW | REQUEST_MORE), "middle of request 1"),
    "no data": (heads(flags=REQUEST_NEW | REQUEST_HAS_DATA), "middle of request 1"),
    "data that were not announced": (
        heads() + frame(FrameType.COMMAND_DATA, b"x", END, stream_flags=0),
        "data that it did not announce",
    ),
    "settings alone": (
        frame(FrameType.SENDER_SETTINGS, encode_settings(SenderSettings()), END),
        "before any command",
    ),
    "settings that are none": (frame(FrameType.SENDER_SETTINGS, b"\x01", END), "settings"),
    "settings that come late": (
        heads() + frame(FrameType.SENDER_SETTINGS, b"\xa0", END, stream_flags=0),
        "come first",
    ),
    "an unknown encoding": (
        frame(FrameType.STREAM_SETTINGS, cbor.encode(b"lzma"), END) + heads(1, 0),
        "lzma",
    ),
    "what is not encoded": (encoded(Encoding.ZLIB, HEADS), "zlib"),
    "what is not encoded as said": (encoded(Encoding.ZSTD, HEADS), "zstd"),
    "a bomb": (encoded(Encoding.ZLIB, BOMB[:60_000]), "decodes to more"),
}


@pytest.mark.parametrize("bad", BAD)
async def test_frames_that_break_the_protocol(served: Served, bad: str) -> None:
    """Each breach is one error frame that says what it is, of the kind `protocol`."""
    body, words = BAD[bad]
    error = error_of(await post(served, body))
    assert error.kind == "protocol"
    assert words in error.text
    await lives(served)


async def test_all_who_asked_before_a_breach_are_told(served: Served) -> None:
    """No client waits for the answer to a request that was whole before the body broke."""
    body = heads() + heads(3, stream_flags=0) + frame(FrameType.ERROR, b"x", stream_flags=0)
    found = frames((await post(served, body, where("linear", "multirequest"))).body)
    assert {each.request_id for each in found if each.kind is FrameType.ERROR} >= {1, 3}


async def test_cut_bodies_are_breaches_or_short(served: Served) -> None:
    """A body that ends at any byte of a request is answered by an error frame."""
    body = heads()
    for length in range(len(body)):
        assert error_of(await post(served, body[:length])).kind == "protocol"
    assert frames((await post(served, body)).body)[-1].kind is FrameType.COMMAND_RESPONSE


@pytest.mark.parametrize(
    "arguments",
    [
        b"\x7fcheads",  # text
        b"\xfb" + bytes(8),  # a float
        b"\x9f\xff",  # an indefinite array
        b"\x81" * 200 + b"\x00",  # deep
        b"\x9b" + b"\xff" * 8,  # long
        b"\x5b" + b"\x7f" * 8,  # long
        b"\xc1\x00",  # a tag
        b"\xa2\x41a\x00\x41a\x00",  # a key twice
    ],
    ids=["text", "float", "indefinite", "deep", "array", "bytes", "tag", "twice"],
)
async def test_arguments_that_are_no_cbor_of_ours(served: Served, arguments: bytes) -> None:
    """What the subset of CBOR does not have is the command's own error."""
    payload = b"\xa2" + cbor.encode(b"name") + cbor.encode(b"heads") + cbor.encode(b"args")
    body = frame(FrameType.COMMAND_REQUEST, payload + arguments, REQUEST_NEW)
    reply = await post(served, body)
    client = ClientReactor((Encoding.IDENTITY,), extra_frames=False)
    client.request(CommandRequest(b"heads"))
    found = Exchange(reply, {1: Told()})
    read(found, client)
    assert "cannot be read" in found.answers[0].failure or "map" in found.answers[0].failure


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.integers(0, 300))
async def test_anything_at_all(served: Served, noise: bytes, at: int) -> None:
    """Whatever stands in a body, the answer is whole, and of frames."""
    body = (heads() + heads(3, 0))[:at] + noise
    reply = await post(served, body, where("linear", "multirequest"))
    assert (reply.status, reply.whole) in {(200, True), (403, True)}
    if reply.status == 200:
        assert frames(reply.body)


@pytest.fixture
async def hurried(serve: Serve, sources: Sources, shared_data: Path) -> Served:
    """The same, for requests that come soon."""
    sources.path("linear")
    return await serve_hg(serve, sources.root, data=shared_data, limits={"request_time": 0.3})


# --- sizes and times ----------------------------------------------------------------------------


async def test_a_request_that_is_too_long(served: Served) -> None:
    """More than limits.request_body is 413, whether its length is told before or not."""
    body = long(1 << 21)
    assert (await post(served, body)).status == 413
    chunk = b"%x\r\n%b\r\n" % (len(body), body)
    fields = {**HEADERS, "Transfer-Encoding": "chunked"}
    assert (await converse(served, head("POST", PATH, fields), chunk)).status == 413
    await lives(served)


async def test_a_request_that_tells_too_much(served: Served) -> None:
    """Compressed, more than limits.request_body is refused as soon as it shows."""
    coder = encoder(Encoding.ZSTD)
    said = frame(FrameType.STREAM_SETTINGS, encode_encoding(Encoding.ZSTD), END)
    pieces = [coder.encode(bytes(900_000)) + coder.flush() for _ in range(3)]
    first = frame(
        FrameType.COMMAND_REQUEST,
        pieces[0],
        REQUEST_NEW | REQUEST_MORE,
        stream_flags=STREAM_ENCODED,
    )
    rest = b"".join(
        frame(FrameType.COMMAND_REQUEST, each, 0x2 | REQUEST_MORE, stream_flags=STREAM_ENCODED)
        for each in pieces[1:]
    )
    error = error_of(await post(served, said + first + rest))
    assert "more than 1048576 bytes" in error.text


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_body_with_a_content_encoding(served: Served, coding: str) -> None:
    """A bomb in HTTP's own compression is bounded by what it tells; a small body is read."""
    pack = gzip.compress if coding == "gzip" else zlib.compress
    reply = await post(served, pack(heads()), Content_Encoding=coding)
    assert frames(reply.body)[-1].kind is FrameType.COMMAND_RESPONSE
    assert (await post(served, pack(long(1 << 24)), Content_Encoding=coding)).status == 413
    assert (await post(served, heads(), Content_Encoding=coding)).status == 400
    await lives(served)


async def test_a_request_that_never_ends(hurried: Served) -> None:
    """What has not come within limits.request_time is 408, the last on its connection."""
    lasting = {"Connection": "keep-alive", **HEADERS}
    for length in ({"Content-Length": "1000"}, {"Transfer-Encoding": "chunked"}):
        async with connected(hurried) as (reader, writer):
            begun = heads(flags=REQUEST_NEW | REQUEST_MORE)
            if "Transfer-Encoding" in length:
                begun = b"%x\r\n%b\r\n" % (len(begun), begun)
            writer.write(head("POST", PATH, {**lasting, **length}) + begun)
            reply = await read_reply(reader)
        assert reply.status == 408
        assert reply.headers["connection"] == "close"


async def test_many_half_sent_requests_stop_nobody(hurried: Served) -> None:
    """While others are half sent, a whole one is answered."""
    half = heads(flags=REQUEST_NEW | REQUEST_MORE)
    top = head("POST", PATH, {**HEADERS, "Content-Length": "1000"}) + half
    waiting = [asyncio.create_task(converse(hurried, top)) for _ in range(50)]
    await lives(hurried)
    assert {reply.status for reply in await asyncio.gather(*waiting)} == {408}
