# Law of this file: the blob route speaks HTTP as clients expect it, to those who hold a signed
# URL, and never lets a part pass for the whole. Requests are written and read as bytes.

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from redirects.signing import SigningKeys
from server.blobs import BLOB_ROUTE, LocalFile, Stream, blob_handler, store_opener
from stores.base import StoreUnavailable
from stores.directory import DirectoryStore
from stores.entity import Entity
from stores.faulty import Fail, FaultyStore, Lose, Truncate
from stores.memory import MemoryStore

NOW = 1_700_000_000.5
EXPIRES = 1_700_003_600
KEYS = SigningKeys("k", {"k": b"k" * 32})
CONTENT = bytes(range(256)) * 40
DIGEST = hashlib.sha256(CONTENT).hexdigest()
ETAG = f'"{DIGEST}"'
# More than any pair of loopback sockets buffers.
LARGE = 64 << 20


@dataclass
class Reply:
    """A response, taken apart."""

    status: int
    headers: dict[str, str]
    body: bytes


def request(
    digest: str = DIGEST, *lines: str, method: str = "GET", query: str | None = None
) -> bytes:
    """A request as curl would write it."""
    target = f"/-/blobs/{digest}?{KEYS.sign(digest, EXPIRES) if query is None else query}"
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


async def read_reply(reader: asyncio.StreamReader, method: str = "GET") -> Reply:
    """Read one response, and not a byte more."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:-2])
    status = int(head[0].split()[1])
    bodiless = method == "HEAD" or status == 304
    body = b"" if bodiless else await reader.readexactly(int(headers["content-length"]))
    return Reply(status, headers, body)


@dataclass
class Server:
    """A server on loopback with the blob route alone."""

    opener: Callable = None
    stall_time: float = 300.0
    asked: list[str] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0

    async def handle(self, http: web.Request) -> web.StreamResponse:
        """The handler under test; tells when it has ended."""

        async def opener(digest: str) -> LocalFile | Stream | None:
            self.asked.append(digest)
            return await self.opener(digest)

        handler = blob_handler(opener, KEYS, lambda: NOW, stall_time=self.stall_time)
        try:
            return await handler(http)
        finally:
            self.ended.set()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A client's connection."""
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def get(self, raw: bytes, method: str = "GET") -> Reply:
        """Send one request over a connection of its own."""
        reader, writer = await self.connect()
        try:
            writer.write(raw)
            return await read_reply(reader, method)
        finally:
            writer.close()
            await writer.wait_closed()


@pytest.fixture
async def server(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Server]:
    """The server; no test may make it log an error."""
    made = Server()
    app = web.Application()
    app.router.add_get(BLOB_ROUTE, made.handle)
    async with TestServer(app) as listening:
        made.port = listening.port
        yield made
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []


async def store_in(store: MemoryStore | DirectoryStore, content: bytes, directory: Path) -> None:
    """Store content."""
    path = directory / "source"
    path.write_bytes(content)
    await store.put(Entity(hashlib.sha256(content).hexdigest(), len(content)), path)


@pytest.fixture(params=["file", "file without sendfile", "stream"])
async def served(
    request: pytest.FixtureRequest, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Server]:
    """CONTENT, served from a file by the kernel, from one where it cannot, and from a store."""
    if request.param == "file without sendfile":

        def refuse(*_: object) -> None:
            raise NotImplementedError  # as uvloop does

        monkeypatch.setattr(asyncio.get_running_loop(), "sendfile", refuse)
    store = MemoryStore() if request.param == "stream" else DirectoryStore(tmp_path / "store")
    await store_in(store, CONTENT, tmp_path)
    server.opener = store_opener(store, lambda _: None)
    yield server
    await store.close()


@pytest.fixture
def memory(server: Server) -> FaultyStore:
    """A store without files behind the server, with faults to come."""
    store = FaultyStore(MemoryStore())
    store.inner.entities[DIGEST] = CONTENT
    store.inner.modified[DIGEST] = NOW
    server.opener = store_opener(store, lambda _: None)
    return store


# --- the whole and its parts -------------------------------------------------------------


async def test_the_whole(served: Server) -> None:
    """A signed URL gives the content, with a tag that is its name, cached while the URL lives."""
    reply = await served.get(request())
    assert reply.status == 200
    assert reply.body == CONTENT
    for unstable in ("date", "server"):
        reply.headers.pop(unstable)
    assert reply.headers == {
        "etag": ETAG,
        "accept-ranges": "bytes",
        "cache-control": "public, max-age=3599, must-revalidate, immutable",
        "content-length": "10240",
        "content-type": "application/octet-stream",
        "x-content-type-options": "nosniff",
    }


MERCURIAL = "application/mercurial-0.2"
TYPED = KEYS.sign(DIGEST, EXPIRES, MERCURIAL)


@pytest.mark.parametrize(
    ("method", "lines", "status"),
    [("GET", [], 200), ("HEAD", [], 200), ("GET", ["Range: bytes=5-"], 206)],
)
async def test_a_signed_type(served: Server, method: str, lines: list[str], status: int) -> None:
    """The type that the URL carries is told to the letter; no browser guesses at another."""
    reply = await served.get(request(DIGEST, *lines, method=method, query=TYPED), method)
    assert reply.status == status
    assert reply.headers["content-type"] == MERCURIAL
    assert reply.headers["x-content-type-options"] == "nosniff"


async def test_head(served: Server) -> None:
    """HEAD says the same without the content, and heeds no Range."""
    reply = await served.get(request(DIGEST, "Range: bytes=5-", method="HEAD"), "HEAD")
    assert (reply.status, reply.headers["content-length"]) == (200, "10240")
    assert reply.headers["etag"] == ETAG


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-299", 100, 300),
        ("bytes=10239-", 10239, 10240),
        ("bytes=5000-", 5000, 10240),
        ("bytes=-7", 10233, 10240),
        ("bytes=9000-99999", 9000, 10240),
    ],
)
async def test_a_part(served: Server, header: str, start: int, end: int) -> None:
    """A single range is answered with just that, and says where it is from."""
    reply = await served.get(request(DIGEST, f"Range: {header}"))
    assert reply.status == 206
    assert reply.body == CONTENT[start:end]
    assert reply.headers["content-range"] == f"bytes {start}-{end - 1}/10240"
    assert reply.headers["etag"] == ETAG


async def test_several_ranges(served: Server) -> None:
    """Several ranges at once are answered with the whole, in one line or in two."""
    for lines in (["Range: bytes=0-1,5-6"], ["Range: bytes=0-1", "Range: bytes=5-6"]):
        reply = await served.get(request(DIGEST, *lines))
        assert (reply.status, reply.body) == (200, CONTENT)
        assert "content-range" not in reply.headers


async def test_beyond_the_end(served: Server) -> None:
    """A range behind the content is refused with the content's size."""
    reply = await served.get(request(DIGEST, "Range: bytes=10240-"))
    assert reply.status == 416
    assert reply.headers["content-range"] == "bytes */10240"
    assert reply.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("if_range", "status"),
    [
        (ETAG, 206),
        (f"W/{ETAG}", 200),
        ('"other"', 200),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 200),
    ],
)
async def test_if_range(served: Server, if_range: str, status: int) -> None:
    """A download of this content is resumed; one of anything else starts over."""
    reply = await served.get(request(DIGEST, "Range: bytes=100-", f"If-Range: {if_range}"))
    assert reply.status == status
    assert reply.body == (CONTENT[100:] if status == 206 else CONTENT)


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([f"If-None-Match: {ETAG}"], 304),
        ([f'If-None-Match: "a", W/{ETAG}'], 304),
        (['If-None-Match: "a"', f"If-None-Match: {ETAG}"], 304),
        (["If-None-Match: *"], 304),
        (['If-None-Match: "a"'], 200),
        ([f"If-None-Match: {ETAG}", "Range: bytes=5-"], 304),
        ([f"If-Match: {ETAG}"], 200),
        (["If-Match: *"], 200),
        (['If-Match: "a"'], 412),
        ([f"If-Match: W/{ETAG}"], 412),
    ],
)
async def test_conditions(served: Server, lines: list[str], status: int) -> None:
    """Who has the content is told so; who wants other content under its name is refused."""
    reply = await served.get(request(DIGEST, *lines))
    assert reply.status == status
    if status == 304:
        assert reply.headers["etag"] == ETAG
        assert reply.headers["cache-control"].startswith("public, max-age=3599")


async def test_one_connection_for_many(served: Server) -> None:
    """Requests that follow each other on one connection, sent at once, are answered in order."""
    reader, writer = await served.connect()
    asked = [("GET", []), ("HEAD", []), ("GET", ["Range: bytes=7-"]), ("GET", [])]
    writer.write(b"".join(request(DIGEST, *lines, method=m) for m, lines in asked))
    replies = [await read_reply(reader, method) for method, _ in asked]
    assert [len(reply.body) for reply in replies] == [10240, 0, 10233, 10240]
    assert replies[-1].body == CONTENT
    writer.close()
    await writer.wait_closed()


async def test_http_1_0(served: Server) -> None:
    """An old client is answered and hung up on."""
    reader, writer = await served.connect()
    writer.write(request().replace(b"HTTP/1.1", b"HTTP/1.0"))
    reply = await reader.read()
    assert reply.partition(b"\r\n\r\n")[2] == CONTENT
    writer.close()
    await writer.wait_closed()


async def test_nothing(server: Server, tmp_path: Path) -> None:
    """Empty content is an empty answer, from a file and from a store."""
    digest = hashlib.sha256(b"").hexdigest()
    empty = tmp_path / "empty"
    empty.touch()
    store = MemoryStore()
    await store_in(store, b"", tmp_path)
    for opener in (store_opener(store, lambda _: empty), store_opener(store, lambda _: None)):
        server.opener = opener
        reply = await server.get(request(digest))
        assert (reply.status, reply.body) == (200, b"")


# --- who may ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "",
        f"expires={EXPIRES}",
        KEYS.sign(DIGEST, EXPIRES).replace(str(EXPIRES), str(EXPIRES + 1)),
        KEYS.sign("0" * 64, EXPIRES),
        SigningKeys("k", {"k": b"x" * 32}).sign(DIGEST, EXPIRES),
        "%ff=%ff&expires=%00&key=%C3&signature=%C3",
        f"{KEYS.sign(DIGEST, EXPIRES)}&type=application%2Fmercurial-0.2",
        f"{KEYS.sign(DIGEST, EXPIRES)}&type=text%2Fhtml",
        KEYS.sign(DIGEST, EXPIRES, "text/html"),
        f"type=application%2Fmercurial-0.1&{TYPED}",
        TYPED.replace("0.2", "0.1"),
        TYPED.replace("type=", "ty="),
    ],
)
async def test_forged(server: Server, query: str) -> None:
    """Without our signature nobody learns anything: the store is not even asked."""
    reply = await server.get(request(query=query))
    assert reply.status == 403
    assert reply.headers["content-type"].startswith("text/plain")
    assert reply.headers["cache-control"] == "no-store"
    assert b"not signed by this server" in reply.body
    assert server.asked == []


async def test_expired(server: Server) -> None:
    """An expired URL is refused with what to do about it, and the store is not asked."""
    reply = await server.get(request(query=KEYS.sign(DIGEST, int(NOW))))
    assert reply.status == 403
    assert b"expired. Fetch from the repository again" in reply.body
    assert server.asked == []


@pytest.mark.parametrize("digest", ["abc", "AB" * 32, "g" * 64, "ab" * 33, "..%2f" + "a" * 59])
async def test_no_digest(server: Server, digest: str) -> None:
    """What is no digest is nowhere, signed or not, and reaches no file system."""
    reply = await server.get(request(digest))
    assert reply.status == 404
    assert server.asked == []


# --- what can go wrong --------------------------------------------------------------------


async def test_gone(server: Server) -> None:
    """Content that is gone is 404, which no cache may keep."""
    server.opener = store_opener(MemoryStore(), lambda _: None)
    reply = await server.get(request())
    assert (reply.status, reply.headers["cache-control"]) == (404, "no-store")


async def test_gone_between(server: Server, memory: FaultyStore) -> None:
    """Content that goes between the look and the reading is 404 as well."""
    memory.faults["open"] = Lose()
    assert (await server.get(request())).status == 404


async def test_evicted_as_we_look(server: Server, tmp_path: Path, memory: FaultyStore) -> None:
    """A file that vanishes from the cache is read from the store instead."""
    paths = iter([tmp_path / "evicted", None])
    server.opener = store_opener(memory, lambda _: next(paths))
    reply = await server.get(request())
    assert (reply.status, reply.body) == (200, CONTENT)


async def test_a_file_that_never_is(server: Server, tmp_path: Path) -> None:
    """A file that is said to be there again and again, and is not, is 404."""
    server.opener = store_opener(MemoryStore(), lambda _: tmp_path / "gone")
    assert (await server.get(request())).status == 404


@pytest.mark.parametrize("method", ["stat", "open"])
async def test_the_store_is_down(server: Server, memory: FaultyStore, method: str) -> None:
    """A store that does not answer is 503, with the time after which to try again."""
    memory.faults[method] = Fail()
    reply = await server.get(request())
    assert (reply.status, reply.headers["retry-after"]) == (503, "30")
    assert memory.name.encode() not in reply.body


async def test_an_unreadable_file(server: Server, tmp_path: Path) -> None:
    """A file that cannot be opened is 503, not an error of the server."""
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    server.opener = store_opener(MemoryStore(), lambda _: loop)
    assert (await server.get(request())).status == 503


async def broken_off(server: Server) -> None:
    """Check that a body ends early, and the connection with it."""
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await server.get(request())


async def test_a_stream_that_ends_early(
    server: Server, memory: FaultyStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A store that gives too little ends the connection: the client sees that it is not all."""
    memory.faults["open"] = Truncate(5000)
    await broken_off(server)
    assert f"/-/blobs/{DIGEST} was not sent to its end" in caplog.text
    assert "signature" not in caplog.text


def stream_of(chunks: list[bytes], then: Exception | None, size: int) -> Stream:
    """A stream that gives these chunks, whatever is asked for."""

    async def read(start: int, end: int) -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk
        if then is not None:
            raise then

    return Stream(size, read)


@pytest.mark.parametrize(
    ("chunks", "then"),
    [
        ([b"a" * 10], StoreUnavailable("gone away")),
        ([b"a" * 10], OSError("disk")),
        ([b"a" * 10], None),
        ([b"a" * 10, b"b" * 11], None),
        ([b"a" * 21], None),
    ],
)
async def test_a_stream_that_breaks(
    server: Server, chunks: list[bytes], then: Exception | None
) -> None:
    """An error in the middle, too little or too much: the connection ends."""

    async def opener(digest: str) -> Stream:
        return stream_of(chunks, then, 20)

    server.opener = opener
    await broken_off(server)


@pytest.fixture
def large(server: Server, tmp_path: Path) -> Path:
    """A sparse file that no buffer holds, served."""
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(LARGE)

    async def opener(digest: str) -> LocalFile:
        return LocalFile(path)

    server.opener = opener
    return path


async def test_deleted_while_it_is_sent(server: Server, large: Path) -> None:
    """What was opened is sent to its end, though its name is gone."""
    reader, writer = await server.connect()
    writer.write(request())
    await reader.readuntil(b"\r\n\r\n")
    large.unlink()
    left = LARGE
    while left:
        chunk = await reader.read(1 << 20)
        assert chunk
        left -= len(chunk)
    writer.close()
    await writer.wait_closed()


async def test_cut_short_while_it_is_sent(server: Server, large: Path) -> None:
    """A file that loses its end while it is sent ends the connection."""
    reader, writer = await server.connect()
    writer.write(request())
    await reader.readuntil(b"\r\n\r\n")
    with large.open("r+b") as file:
        file.truncate(1000)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await reader.readexactly(LARGE)
    writer.close()


@pytest.mark.parametrize("sendfile", [True, False])
async def test_a_client_that_leaves(
    server: Server, large: Path, sendfile: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that goes away in the middle ends its answer, and no other."""
    if not sendfile:

        def refuse(*_: object) -> None:
            raise NotImplementedError

        monkeypatch.setattr(asyncio.get_running_loop(), "sendfile", refuse)
    reader, writer = await server.connect()
    writer.write(request())
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()
    await server.ended.wait()
    assert (await server.get(request(DIGEST, "Range: bytes=0-9"))).body == bytes(10)


@pytest.mark.parametrize("stored", ["file", "stream"])
async def test_a_client_that_takes_nothing(server: Server, large: Path, stored: str) -> None:
    """A client that does not read is let go of when its time is over."""
    server.stall_time = 0.05
    if stored == "stream":

        async def opener(digest: str) -> Stream:
            return stream_of([bytes(1 << 20)] * 64, None, LARGE)

        server.opener = opener
    reader, writer = await server.connect()
    writer.transport.pause_reading()
    writer.write(request())
    await server.ended.wait()
    writer.transport.resume_reading()
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await reader.readexactly(LARGE)
    writer.close()
