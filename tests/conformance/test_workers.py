# Law of this file: several processes on one data directory are one server: one run for one
# question, however many ask it at once, and a worker that dies is nobody's end but its own.

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import aiohttp
import pytest

from tests.conformance.clones import V2_HEADERS, accepting, declining, state, stock, v2_request
from tests.conformance.faults import Wrapper
from tests.conformance.places import endpoint, s3, s3_server, stop
from tests.conformance.processes import Offramp
from tests.conformance.repositories import Repository

CLONES = 30
EQUAL = 100


async def test_thirty_clones_at_once_are_one_run(
    offramp: Offramp, repository: Repository, tmp_path: Path
) -> None:
    """Two workers, clients that accept locations and clients that do not: one execution."""
    server = await offramp.serve(repository.root, "--workers", "2")
    url = repository.url(server.url)
    kinds = [accepting(tmp_path), declining(tmp_path)]
    await asyncio.gather(
        *(kinds[number % 2]("clone", "--bare", url, str(number)) for number in range(CLONES))
    )
    assert await server.figure("offramp_executions_total") == 1
    await stock(tmp_path)("clone", "--bare", repository.stock_url, "stock")
    expected = await state(kinds[0], tmp_path / "stock")
    for number in range(CLONES):
        objects = await state(kinds[0], tmp_path / str(number))
        assert objects == expected
    assert await server.stop() == 0


@pytest.mark.parametrize("accept", [True, False], ids=["redirects", "inline"])
async def test_a_hundred_equal_requests_are_one_run(
    offramp: Offramp, repository: Repository, wrapper: Wrapper, accept: bool
) -> None:
    """All of them wait for the same upload-pack, in whichever worker, and get the same pack."""
    server = await offramp.serve(repository.root, "--workers", "2", environ={"PATH": wrapper.path})
    wrapper.fault("holds")
    uris = ["packfile-uris http"] if accept else []
    want = f"want {repository.oid('main')}"
    body = v2_request("fetch", "ofs-delta", "no-progress", *uris, want, "done")
    service = f"{repository.url(server.url)}/git-upload-pack"

    async def ask(session: aiohttp.ClientSession) -> tuple[int, bytes]:
        async with session.post(service, data=body, headers=V2_HEADERS) as answer:
            return answer.status, await answer.read()

    connector = aiohttp.TCPConnector(limit=EQUAL)
    async with aiohttp.ClientSession(connector=connector) as session:
        asking = [asyncio.create_task(ask(session)) for _ in range(EQUAL)]
        await wrapper.held()
        with wrapper.released():
            answers = await asyncio.gather(*asking)
    assert {status for status, _ in answers} == {200}
    assert all((b"packfile-uris" in answer) == accept for _, answer in answers)
    assert all(answer.endswith(b"0000") for _, answer in answers)
    assert wrapper.runs() == 1
    assert await server.figure("offramp_executions_total") == 1


async def test_a_worker_that_is_killed_is_replaced(
    offramp: Offramp, repository: Repository, tmp_path: Path
) -> None:
    """After SIGKILL of each worker in turn there are two again, and clones work all the time."""
    server = await offramp.serve(repository.root, "--workers", "2")
    url = repository.url(server.url)
    first = server.workers()
    assert len(first) == 2
    for victim in sorted(first):
        os.kill(victim, signal.SIGKILL)
        assert "starting it again" in await server.logged(f"exit code {-signal.SIGKILL}")
        await accepting(tmp_path)("clone", url, f"after-{victim}")
        async with asyncio.timeout(60):
            while server.listening() < 2:  # noqa: ASYNC110 - another process tells no event
                await asyncio.sleep(0.05)
        assert len(server.workers()) == 2
    assert not server.workers() & first
    assert await server.stop() == 0


async def test_a_worker_is_replaced_while_the_store_is_away(
    offramp: Offramp, repository: Repository, tmp_path: Path
) -> None:
    """Whoever dies then comes up again, and clones come inline."""
    with s3_server() as store:
        settings = json.dumps(s3(endpoint(store), tmp_path))
        environ = {"OFFRAMP_STORE": settings}
        server = await offramp.serve(repository.root, "--workers", "2", environ=environ)
        stop(store)
        first = server.workers()
        for victim in first:
            os.kill(victim, signal.SIGKILL)
        async with asyncio.timeout(60):
            while len(server.workers() - first) < 2 or server.listening() < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await accepting(tmp_path)("clone", repository.url(server.url), "clone")
        assert await server.stop() == 0
