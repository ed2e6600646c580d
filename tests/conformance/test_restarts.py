# Law of this file: stock clients go on while servers come and go below them. What fails for one is
# what would have failed with any server.

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from tests.conformance.clones import accepting, declining, state
from tests.conformance.faults import Wrapper
from tests.conformance.processes import Offramp, Running
from tests.conformance.repositories import Repository

SHARED = {"OFFRAMP_REUSE_PORT": "true"}


@dataclass
class Cloning:
    """Clones that are made one after the other, by several clients at once.

    Attributes:
        made: how many have ended well; one that does not ends the test.
    """

    made: int = 0

    async def more(self, count: int) -> None:
        """Wait until so many more have ended."""
        until = self.made + count
        while self.made < until:  # noqa: ASYNC110 - a test waits here, and nothing else
            await asyncio.sleep(0.02)


Clone = Callable[[str], Awaitable[object]]


@asynccontextmanager
async def cloning(*clones: Clone) -> AsyncIterator[Cloning]:
    """Run each of ``clones`` again and again, given a new name each time."""
    counted, over = Cloning(), asyncio.Event()

    async def again(number: int, clone: Clone) -> None:
        turn = 0
        while not over.is_set():
            await clone(f"{number}-{turn}")
            counted.made += 1
            turn += 1

    async with asyncio.TaskGroup() as group:
        for number, clone in enumerate(clones):
            group.create_task(again(number, clone))
        yield counted
        over.set()


@pytest.mark.parametrize(("workers", "restarts"), [("1", 2), ("2", 1)])
async def test_a_restart_that_nobody_notices(
    offramp: Offramp, repository: Repository, tmp_path: Path, workers: str, restarts: int
) -> None:
    """A server is started beside another, which is then stopped; no clone of git fails."""

    async def start(*at: str) -> Running:
        return await offramp.serve(repository.root, "--workers", workers, *at, environ=SHARED)

    server = await start()
    url = repository.url(server.url)
    at = ("--listen", server.url.removeprefix("http://"))
    clients = (accepting(tmp_path), declining(tmp_path), declining(tmp_path))

    async with cloning(
        *(lambda name, git=git: git("clone", "--bare", url, name) for git in clients)
    ) as clones:
        await clones.more(3)
        for _ in range(restarts):
            before, server = server, await start(*at)
            await clones.more(1)
            assert await before.stop() == 0
            await clones.more(3)
    first = await state(clients[0], tmp_path / "0-0")
    assert await state(clients[1], tmp_path / "1-0") == first
    assert await server.stop() == 0


async def test_a_port_is_shared_on_purpose_alone(offramp: Offramp, repository: Repository) -> None:
    """A server that was not told to share its port does not, whatever the other one says."""
    server = await offramp.serve(repository.root)
    at = ("--listen", server.url.removeprefix("http://"))
    for environ in (SHARED, {}):
        other = await offramp.start("serve", repository.root, *at, environ=environ)
        _, said = await other.communicate()
        assert other.returncode == 1
        assert b"Address already in use" in said
    assert await server.stop() == 0


async def test_a_worker_is_killed_under_load(
    offramp: Offramp, repository: Repository, tmp_path: Path
) -> None:
    """What it was answering fails; everybody else, and all who come later, do not."""
    server = await offramp.serve(repository.root, "--workers", "2")
    git, url = declining(tmp_path), repository.url(server.url)
    failed: list[str] = []

    async def clone(name: str) -> None:
        done = await git("clone", "--bare", url, name, check=False)
        if done.status:
            failed.append(done.stderr)

    async with cloning(clone, clone, clone) as clones:
        await clones.more(3)
        os.kill(min(server.workers()), signal.SIGKILL)
        await server.logged("starting it again")
        while server.listening() < 2:  # noqa: ASYNC110 - another process tells no event
            await asyncio.sleep(0.05)
        before = len(failed)
        await clones.more(6)
    # Each client had one request at most with the worker that was killed.
    assert before <= 3, failed
    assert len(failed) == before
    assert await server.stop() == 0


async def test_an_answer_under_way_is_finished(
    offramp: Offramp, repository: Repository, tmp_path: Path, wrapper: Wrapper
) -> None:
    """A clone of stock git that has begun when the server is told to stop ends well."""
    server = await offramp.serve(repository.root, environ={"PATH": wrapper.path})
    wrapper.fault("holds")
    git = declining(tmp_path)
    clone = asyncio.create_task(git("clone", "--bare", repository.url(server.url), "clone"))
    await wrapper.held()
    server.process.terminate()
    with wrapper.released():
        await clone
    assert await server.stop() == 0


async def test_a_leave_that_is_announced(
    offramp: Offramp, repository: Repository, tmp_path: Path
) -> None:
    """Told to stop, workers say so and answer on for limits.stop_delay, or until told again."""
    admin = tmp_path / "admin.sock"
    environ = {"OFFRAMP_LIMITS__STOP_DELAY": "600", "OFFRAMP_ADMIN__LISTEN": f"unix:{admin}"}
    server = await offramp.serve(repository.root, "--workers", "2", environ=environ)
    connector = aiohttp.UnixConnector(str(admin), force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def asked(path: str) -> tuple[int, str]:
            async with session.get(f"http://localhost/-/{path}") as answer:
                return answer.status, await answer.text()

        assert {await asked("readyz") for _ in range(8)} == {(200, "ok\n")}
        server.process.terminate()
        while {await asked("readyz") for _ in range(8)} != {(503, "stopping\n")}:
            pass
        await declining(tmp_path)("clone", "--bare", repository.url(server.url), "clone")
        status, figures = await asked("metrics")
        assert status == 200
        assert "offramp_executions_total" in figures
    assert await server.stop() == 0
    assert not admin.exists()
