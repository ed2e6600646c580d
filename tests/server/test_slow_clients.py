# Law of this file: a client that is slow, or pretends to be, costs a bounded time and a bounded
# memory, and is then hung up on.

from __future__ import annotations

import asyncio
import os
import re
import socket
import tracemalloc
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.conftest import Serve, Served
from tests.server.asking import (
    HEADERS,
    REQUEST,
    ask,
    command,
    connected,
    head,
    listen_to_access,
    make_repository,
    post,
    read_reply,
    run_git,
    want,
)
from wire.git import pktline

# More than the kernel buffers of a connection on one machine take.
SIZE = 24 << 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory with one small repository, ``p.git``."""
    root = tmp_path / "root"
    root.mkdir()
    make_repository(root / "p.git", {"file": b"content\n"})
    return root


@pytest.fixture
def big(root: Path) -> str:
    """A repository, ``big.git``, whose pack is large; its commit."""
    return make_repository(root / "big.git", {"noise": os.urandom(SIZE)})


# --- requests that do not end --------------------------------------------------------------


async def test_a_body_that_never_ends(serve: Serve, root: Path) -> None:
    """A body that has not come within limits.request_time is 408, the last on its connection."""
    served = await serve(root, limits={"request_time": 0.1})
    lasting = {"Connection": "keep-alive", **HEADERS}
    for length in ({"Content-Length": "1000"}, {"Transfer-Encoding": "chunked"}):
        async with connected(served) as (reader, writer):
            writer.write(head("POST", "/p.git/git-upload-pack", {**lasting, **length}))
            writer.write(b"1\r\n0\r\n")
            reply = await read_reply(reader)
            assert reply.status == 408
            assert reply.headers.get("connection") == "close"


async def test_a_head_that_never_ends(serve: Serve, root: Path) -> None:
    """A request whose head has not come within limits.request_time is hung up on."""
    served = await serve(root, limits={"request_time": 0.1})
    async with connected(served) as (reader, writer):
        writer.write(b"POST /p.git/git-upload-pack HTTP/1.1\r\nHost: h\r\n")
        async with asyncio.timeout(15):  # a bound for a server that waits for ever
            assert (await read_reply(reader)).status in {0, 408}


async def test_the_next_request_is_not_hurried(serve: Serve, root: Path) -> None:
    """The time for a request begins with it, not with its connection."""
    served = await serve(root, limits={"request_time": 5.0})
    body = command(b"ls-refs")
    lasting = {"Connection": "keep-alive", "Content-Length": str(len(body)), **HEADERS}
    async with connected(served) as (reader, writer):
        for _ in range(3):
            writer.write(head("POST", "/p.git/git-upload-pack", lasting) + body)
            assert (await read_reply(reader)).status == 200


# --- readers that do not read --------------------------------------------------------------


def deaf(served: Served, request: bytes) -> socket.socket:
    """A connection that has asked, takes little at a time, and reads nothing."""
    parts = urlsplit(served.url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((parts.hostname, parts.port))
    connection.sendall(request)
    return connection


def rest(connection: socket.socket) -> int:
    """How many bytes still come."""
    count = 0
    try:
        while data := connection.recv(1 << 16):
            count += len(data)
    except ConnectionError:
        pass
    return count


def v0(oid: str) -> bytes:
    """A clone in protocol v0."""
    return pktline.text(b"want %s ofs-delta" % oid.encode()) + b"0000" + pktline.text(b"done")


@pytest.mark.parametrize("asked", ["first", "stored", "first v0", "stored v0", "blob"])
async def test_a_reader_that_stops_reading(serve: Serve, root: Path, big: str, asked: str) -> None:
    """Who takes no byte of an answer for limits.stall_time is hung up on, at no cost in memory."""
    served = await serve(root, limits={"stall_time": 0.2}, log={"access": True})
    log = listen_to_access(served)
    fields = {"Content-Type": REQUEST} if "v0" in asked else HEADERS
    body = v0(big) if "v0" in asked else want(big)
    seen = 0
    if asked.startswith("stored"):
        length = {"Content-Length": str(len(body))}
        first = await ask(served, "POST", "/big.git/git-upload-pack", body, {**fields, **length})
        assert len(first.body) > SIZE
        seen += 1
    request = head("POST", "/big.git/git-upload-pack", {**fields, "Content-Length": str(len(body))})
    if asked == "blob":
        accepts = (b"packfile-uris http", b"want " + big.encode(), b"done")
        redirected = (await post(served, "big.git", command(b"fetch", *accepts))).body
        url = re.search(rb"http://[^/]+(/-/blobs/\S+)", redirected)
        assert url is not None
        request, body = head("GET", url[1].decode()), b""
        seen += len(log.getvalue().splitlines())
    tracemalloc.start()
    try:
        connection = deaf(served, request + body)
        lines = await log.until(seen + 1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    with connection:
        assert await asyncio.to_thread(rest, connection) < SIZE
    assert peak < SIZE // 4
    if asked != "blob":
        assert " 499 " in lines[-1]


async def test_a_reader_that_stops_does_not_stop_the_others(
    serve: Serve, root: Path, big: str
) -> None:
    """While one client does not read, another that follows the same run gets all of it."""
    served = await serve(root)
    body = want(big)
    request = head(
        "POST", "/big.git/git-upload-pack", {**HEADERS, "Content-Length": str(len(body))}
    )
    with deaf(served, request + body):
        reply = await post(served, "big.git", body)
        assert reply.whole
        assert len(reply.body) > SIZE
    assert served.executions() == 1
    assert run_git("cat-file", "-t", big, cwd=root / "big.git") == "commit"
