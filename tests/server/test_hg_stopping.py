# Law of this file: whatever a Mercurial server does, or does not, while clients wait for it, who
# tells the real command to stop is obeyed.

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import aiohttp
import pytest
from aiohttp import web

from tests.conformance import processes
from tests.conformance.processes import Offramp, Running
from tests.hg.versions import V1, executable, hg
from tests.repos.hg_serving import make_seed
from tests.upstreams.machine import ended

# For what must not hang; nothing waits this long.
PATIENCE: Final = 60

# It is not waited for threads as long as usual.
CODE: Final = """\
import server.serving
server.serving.CLOSE_SECONDS = {close}
from cli.main import main
main()
"""

GETBUNDLE: Final = (
    "cmd=getbundle&cg=1&bundlecaps=HG20%2Cbundle2%3DHG20%250Achangegroup%253D01%252C02"
)
GIVEN_UP: Final = "what still runs is given up"
STRING: Final = "application/mercurial-0.1"


@pytest.fixture(params=[PATIENCE / 2])
async def offramp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> AsyncIterator[Offramp]:
    """The real command, with so many seconds to let go of everything."""
    code = CODE.format(close=request.param)
    monkeypatch.setattr(processes, "_PROGRAM", (sys.executable, "-c", code))
    monkeypatch.setenv("OFFRAMP_LIMITS__STOP_TIME", "0.5")
    offramp = Offramp(tmp_path / "data")
    yield offramp
    await offramp.close()


async def stopped(server: Running) -> str:
    """Tell it to stop, and wait until it does; its complaints."""
    server.process.terminate()
    async with asyncio.timeout(PATIENCE):
        _, said = await server.process.communicate()
    assert server.process.returncode == 0
    return said.decode()


@asynccontextmanager
async def asking(url: str) -> AsyncIterator[None]:
    """Somebody asks, and takes whatever comes of it."""

    async def ask() -> None:
        with suppress(aiohttp.ClientError):
            async with aiohttp.ClientSession() as session, session.get(url) as answer:
                await answer.read()

    task = asyncio.create_task(ask())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


@asynccontextmanager
async def hanging(begin: bytes, reached: asyncio.Event) -> AsyncIterator[str]:
    """A Mercurial server elsewhere that stops in the beginning of a bundle, or before it."""
    over = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        text = {
            "capabilities": "batch getbundle known lookup",
            "batch": ";".join(("0" * 40 + "\n", "", "", "", "publishing\tTrue")),
        }.get(request.query["cmd"])
        if text is not None:
            return web.Response(text=text, headers={"Content-Type": STRING})
        response = web.StreamResponse(headers={"Content-Type": STRING})
        response.content_length = 1 << 20
        if begin:
            await response.prepare(request)
            await response.write(begin)
        reached.set()
        await over.wait()
        return response

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    try:
        yield f"http://{host}:{port}/"
    finally:
        over.set()
        await runner.cleanup()


@pytest.mark.parametrize("begin", [b"", b"x\x9c"], ids=["silent", "in the middle"])
async def test_an_upstream_that_hangs(offramp: Offramp, tmp_path: Path, begin: bytes) -> None:
    """It is not waited for: no thread is left to be given up."""
    root, reached = tmp_path / "root", asyncio.Event()
    root.mkdir()
    async with hanging(begin, reached) as url:
        config = tmp_path / "offramp.toml"
        config.write_text(
            f'[[upstreams]]\nvcs = "hg"\nrepository = "/code"\nurl = "{url}"\npublic = true\n'
            'stall_time = "1h"\n'
        )
        server = await offramp.serve(root, "--config", str(config))
        async with asking(f"{server.url}/code?{GETBUNDLE}"):
            await reached.wait()
            said = await stopped(server)
    assert GIVEN_UP not in said


async def test_a_program_that_was_stopped(offramp: Offramp, tmp_path: Path) -> None:
    """An `hg serve` that somebody stopped in the middle of a bundle is ended with us."""
    hg(V1[-1])  # skips where it is not installed
    begun = tmp_path / "begun"
    os.mkfifo(begun)
    stop = f"test $HG_SOURCE = bundle || {{ echo $PPID > {begun}; kill -STOP $PPID; }}"
    hook = f"[hooks]\npreoutgoing = {stop}\n"
    make_seed(tmp_path).sow(tmp_path / "root" / "code", hook)
    program = {"OFFRAMP_HG__PROGRAM": str(executable(V1[-1])), "OFFRAMP_HG__SILENCE": "1h"}
    server = await offramp.serve(tmp_path / "root", environ=program)
    async with asking(f"{server.url}/code?{GETBUNDLE}"):
        pid = int(await asyncio.to_thread(begun.read_text))
        assert GIVEN_UP not in await stopped(server)
    await ended(pid)


@pytest.mark.parametrize("offramp", [0.5], indirect=True)
async def test_a_program_that_never_ends(offramp: Offramp, tmp_path: Path) -> None:
    """What hangs in a program that we cannot end is given up, and named."""
    begun = tmp_path / "begun"
    os.mkfifo(begun)
    program = tmp_path / "hg"
    program.write_text(f"#!/bin/sh\necho $$ > {begun}\nexec sleep 1000\n")
    program.chmod(0o755)
    make_seed(tmp_path).sow(tmp_path / "root" / "code")
    server = await offramp.serve(tmp_path / "root", environ={"OFFRAMP_HG__PROGRAM": str(program)})
    async with asking(f"{server.url}/code?cmd=heads"):
        pid = int(await asyncio.to_thread(begun.read_text))
        assert f"{GIVEN_UP}: hg-index_0\n" in await stopped(server)
    await ended(pid)
