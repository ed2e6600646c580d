# Law of this file: a connection that was made is answered, whatever becomes of the listener; and
# who comes when there are too many is told so.

from __future__ import annotations

import asyncio
import os
import select
import socket
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import web

from server.accepting import _deaf_to_syn, listen
from server.app import make_runner
from server.listening import bind
from server.serving import BACKLOG
from tests.conftest import Git, Serve, Served
from tests.server.asking import ask, connected, converse, head, make_repository, read_reply

REFS = "/p.git/info/refs?service=git-upload-pack"
KEPT = {"Connection": "keep-alive"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory with one repository, ``p.git``."""
    root = tmp_path / "root"
    root.mkdir()
    make_repository(root / "p.git", {"noise": os.urandom(1000)})
    return root


# --- too many ------------------------------------------------------------------------------------


async def test_too_many_connections(serve: Serve, root: Path, git: Git, tmp_path: Path) -> None:
    """One too many is told so by status and text, and ended; whoever watches is answered."""
    served = await serve(root, limits={"connections": 2})
    async with AsyncExitStack() as stack:
        for _ in range(2):
            reader, writer = await stack.enter_async_context(connected(served))
            writer.write(head("GET", REFS, KEPT))
            assert (await read_reply(reader)).status == 200
        reply = await converse(served, head("GET", REFS, KEPT))
        assert (reply.status, reply.headers["connection"]) == (503, "close")
        assert reply.headers["retry-after"] == "10"
        cloned = await git("clone", f"{served.url}/p.git", tmp_path / "clone", check=False)
        assert "remote: Too many connections; try again in 10 s." in cloned.stderr
        assert (await ask(served, "GET", "/-/livez")).status == 200
        writer.write(head("GET", REFS, KEPT))
        assert (await read_reply(reader)).status == 200
    assert served._samples("offramp_refused_total")[("reason", "connections"),] == 2
    await git("clone", f"{served.url}/p.git", tmp_path / "later")


async def test_content_is_sent_to_one_too_many(serve: Serve, root: Path) -> None:
    """We sent them there; and a CDN that pulls would hand our refusal on, and be taken for dead."""
    served = await serve(root, limits={"connections": 1})
    async with connected(served) as (reader, writer):
        writer.write(head("GET", REFS, KEPT))
        assert (await read_reply(reader)).status == 200
        assert (await converse(served, head("GET", REFS, KEPT))).status == 503
        blob = await converse(served, head("GET", f"/-/blobs/{'0' * 64}", KEPT))
        assert (blob.status, blob.headers["connection"]) == (403, "close")


async def test_content_leaves_room_for_who_watches(serve: Serve, root: Path) -> None:
    """However many download slowly, it is seen that we are alive: they take half of the spare."""
    served = await serve(root, limits={"connections": 1})
    blob = head("GET", f"/-/blobs/{'0' * 64}", KEPT)
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(connected(served)) for _ in range(5)]
        opened[0][1].write(head("GET", REFS, KEPT))
        assert (await read_reply(opened[0][0])).status == 200
        # These hold their places as long downloads do: nothing is asked on them.
        assert (await converse(served, blob)).status == 503
        assert (await ask(served, "GET", "/-/livez")).status == 200


async def test_far_too_many_connections(serve: Serve, root: Path) -> None:
    """Beyond those that are told so, they are ended without a word."""
    served = await serve(root, limits={"connections": 1})
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(connected(served)) for _ in range(12)]
        reader, _ = streams[-1]
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)


def test_open_files_are_allowed_as_far_as_possible() -> None:
    """A soft limit is raised to what the connections need; else fewer are taken, which is told."""
    code = """
import resource
from server.checks_limits import check_limits
from server.open_files import allow, connections, needed
from server.settings_limits import LimitSettings
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 2000))
few, many = LimitSettings(connections=100), LimitSettings(connections=1000)
print(allow(few), resource.getrlimit(resource.RLIMIT_NOFILE)[0] == needed(few))
print(allow(many), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
print(needed(LimitSettings(connections=allow(many))) <= 2000)
print([*check_limits(few)], *(f"{each.what}: {each.remedy}" for each in check_limits(many)))
resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
print(connections(many))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == (
        "100 True\n647 2000\nTrue\n"
        "[] open files: this user may have 2000, and limits.connections = 1000 may need 2794; so a"
        " process takes 647 connections: raise it (LimitNOFILE=2794 in the service), or lower"
        " limits.connections\n1\n"
    )


# --- stopping ------------------------------------------------------------------------------------


async def test_told_to_stop(serve: Serve, root: Path) -> None:
    """While it still answers, a load balancer is told to send nobody, and connections end."""
    served = await serve(root)
    async with connected(served) as (reader, writer):
        writer.write(head("GET", REFS, KEPT))
        before = await read_reply(reader)
        assert (before.status, before.headers.get("connection")) == (200, None)
        served.runtime.gate.stopping = True
        ready = await ask(served, "GET", "/-/readyz")
        assert (ready.status, ready.body) == (503, b"stopping\n")
        assert (await ask(served, "GET", "/-/livez")).status == 200
        writer.write(head("GET", REFS, KEPT))
        reply = await read_reply(reader)
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert await reader.read() == b""


async def _another(served: Served) -> tuple[web.AppRunner, Served]:
    """The same server at another port, to be stopped by the test."""
    runner = make_runner(served.runtime, stop_seconds=1.0)
    await runner.setup()
    bound = bind("127.0.0.1:0", shared=False)
    await listen(runner, bound, 60.0, BACKLOG)
    port = bound.getsockname()[1]
    return runner, Served(f"http://127.0.0.1:{port}", served.settings, served.runtime)


async def test_who_was_let_in_is_heard(serve: Serve, root: Path) -> None:
    """A connection that was made before the listener closed is answered, if it speaks soon."""
    runner, served = await _another(await serve(root))
    port = int(served.url.rpartition(":")[2])
    with socket.socket() as early:
        early.connect(("127.0.0.1", port))  # the loop has not run: nobody has accepted it
        stopping = asyncio.create_task(runner.cleanup())
        early.setblocking(False)
        loop = asyncio.get_running_loop()
        while True:  # until nobody listens any more
            try:
                _, late = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                break
            late.transport.abort()
        await loop.sock_sendall(early, head("GET", REFS))
        answer = bytearray()
        while data := await loop.sock_recv(early, 65536):
            answer += data
        assert answer.startswith(b"HTTP/1.1 200 ")
        await stopping


def test_a_deaf_listener_passes_connections_on() -> None:
    """Where two listen at a port and one goes deaf, the other gets everybody, and nobody fails."""
    with bind("127.0.0.1:0", shared=True) as first:
        address = first.getsockname()
        first.listen(64)
        with bind(f"127.0.0.1:{address[1]}", shared=True) as second:
            second.listen(64)
            assert _deaf_to_syn(first)
            asking = [socket.socket() for _ in range(32)]
            try:
                for each in asking:
                    each.setblocking(False)
                    each.connect_ex(address)
                assert not select.select([first], [], [], 0)[0]
                first.close()
                for each in asking:  # those that were not heard knock again
                    assert select.select([], [each], [], 30)[1]
                    assert each.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            finally:
                for each in asking:
                    each.close()
