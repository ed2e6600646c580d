# Law of this file: clients are sent to real servers of content, and never to a dead one; whatever
# happens to a store or a target, a clone goes on inline.

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web
from moto.server import ThreadedMotoServer

from indexer.report import Silent
from server.indexing import index_all
from server.wiring import build_store
from stores.base import Store
from stores.faulty import Fail, Fault, FaultyStore, Lose, Method
from tests.conformance.clones import accepting, locations, state, stock
from tests.conformance.places import BUCKET, endpoint, s3, s3_server, stop
from tests.conformance.repositories import Repository
from tests.conftest import Serve, Served
from tests.nginx import kill_nginx, start_nginx

SERVER_ERRORS = [500, 503, 403, 404]


async def clone(
    repository: Repository, served: Served, directory: Path, *options: str
) -> dict[str, str]:
    """Clone, compare with stock git, and return the locations that the client was sent to."""
    number = len(list(directory.glob("clone-*")))
    theirs, ours = directory / f"stock-{number}", directory / f"clone-{number}"
    await stock(directory)("clone", "--bare", *options, repository.stock_url, theirs)
    client = accepting(directory)
    said = await client.traced()("clone", "--bare", *options, repository.url(served.url), ours)
    assert await state(client, ours) == await state(client, theirs)
    return locations(said)


async def index(served: Served) -> bool:
    """Index; tells whether all went well."""
    indexed = await index_all(served.settings, Silent(), gc=True)
    await served.runtime.catalogs.refresh_all()
    return not any(report.failed for report in indexed.reports)


# --- a static server -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Nginx:
    """A static server in front of a directory store.

    Attributes:
        url: of the store's root.
        here: where its log is.
        process: the server.
    """

    url: str
    here: Path
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """End it as a crash does."""
        kill_nginx(self.process)

    def served(self) -> list[str]:
        """The paths that it served entities from."""
        lines = (self.here / "access.log").read_text().splitlines()
        return [line.split('"')[1].split()[1] for line in lines if "offramp" not in line]


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Nginx]:
    """A stock nginx; it listens before the test begins."""
    here = tmp_path / "nginx"
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        server = f"server {{ listen {address}; root {tmp_path}/data/store; }}"
        process = start_nginx(here, server, listener)
    made = Nginx(f"http://{address}", here, process)
    yield made
    made.kill()


@pytest.mark.nginx
async def test_a_static_server_gives_the_packs(
    serve: Serve, repository: Repository, tmp_path: Path, nginx: Nginx
) -> None:
    """Computed and indexed packs come from nginx, whole and by Range."""
    served = await serve(
        repository.root, targets=[{"type": "http", "base_url": nginx.url}, {"type": "self"}]
    )
    named = await clone(repository, served, tmp_path)
    assert await index(served)
    named |= await clone(repository, served, tmp_path)
    named |= await clone(repository, served, tmp_path, "--depth=1")
    assert named
    assert all(url.startswith(f"{nginx.url}/entities/") for url in named.values())
    assert {urlsplit(url).path for url in named.values()} <= set(nginx.served())
    async with aiohttp.ClientSession() as session:
        for url in named.values():
            async with session.get(url) as answer:
                whole = await answer.read()
            async with session.get(url, headers={"Range": "bytes=5-"}) as answer:
                assert answer.status == 206
                assert await answer.read() == whole[5:]


@pytest.mark.nginx
@pytest.mark.parametrize("beside", [True, False], ids=["beside-self", "alone"])
async def test_a_dead_target_is_not_named_after_one_probe(
    serve: Serve, repository: Repository, tmp_path: Path, nginx: Nginx, beside: bool
) -> None:
    """The next target is named, or the clone goes inline; new packs too, and bundles."""
    targets: list[dict[str, str]] = [{"type": "http", "base_url": nginx.url}]
    targets += [{"type": "self"}] if beside else []
    served = await serve(repository.root, targets=targets)
    assert await index(served)
    assert await clone(repository, served, tmp_path)
    nginx.kill()
    await served.runtime.health.probe()
    for step in range(2):
        for options in ((), ("--depth=1",)):
            named = await clone(repository, served, tmp_path, *options)
            assert all(url.startswith(f"{served.url}/-/blobs/") for url in named.values())
            assert bool(named) == beside
        repository.commit("refs/heads/main", 20 + step)


# --- S3 ------------------------------------------------------------------------------------------


@pytest.fixture
def moto() -> Iterator[ThreadedMotoServer]:
    """An S3 server of this test's own, with an empty bucket."""
    with s3_server() as server:
        yield server


async def test_a_bucket_gives_the_packs(
    serve: Serve, repository: Repository, tmp_path: Path, moto: ThreadedMotoServer
) -> None:
    """Computed and indexed packs come from presigned URLs of the bucket, and nothing from us."""
    served = await serve(repository.root, store=s3(endpoint(moto), tmp_path))
    named = await clone(repository, served, tmp_path)
    assert await index(served)
    executed = served.executions()
    named |= await clone(repository, served, tmp_path)
    named |= await clone(repository, served, tmp_path, "--filter=blob:none")
    assert served.executions() == executed == 1
    named |= await clone(repository, served, tmp_path, "--depth=1")
    repository.commit("refs/heads/main", 20)
    beside = await clone(repository, served, tmp_path)
    assert len(beside) == 2
    for url in (named | beside).values():
        assert url.startswith(f"{endpoint(moto)}/{BUCKET}/of/{tmp_path.name}/entities/")
        assert "X-Amz-Signature=" in url


async def test_a_store_that_goes_down_is_a_clone_that_goes_inline(
    serve: Serve, repository: Repository, tmp_path: Path, moto: ThreadedMotoServer
) -> None:
    """What was named before is not named after one probe; what is new goes inline at once."""
    served = await serve(repository.root, store=s3(endpoint(moto), tmp_path))
    assert await clone(repository, served, tmp_path, "--depth=1")
    assert await index(served)
    assert await clone(repository, served, tmp_path)
    await asyncio.to_thread(stop, moto)
    assert not await clone(repository, served, tmp_path, "--shallow-exclude=v1.0")
    await served.runtime.health.probe()
    assert not await clone(repository, served, tmp_path)
    assert not await clone(repository, served, tmp_path, "--depth=1")
    repository.commit("refs/heads/main", 20)
    assert not await clone(repository, served, tmp_path)
    assert not await index(served)
    assert not await clone(repository, served, tmp_path)


@dataclass
class Sullen:
    """A server that says the same to everybody.

    Attributes:
        url: its base URL.
        status: what it says; at first, that nothing is there.
    """

    url: str = ""
    status: int = 404

    async def answer(self, request: web.Request) -> web.Response:
        """Say it."""
        await request.read()
        return web.Response(status=self.status)


@pytest.fixture
async def sullen() -> AsyncIterator[Sullen]:
    """One that takes everything and gives nothing."""
    made = Sullen()
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    made.url = f"http://{host}:{port}"
    yield made
    await runner.cleanup()


@pytest.mark.parametrize("status", SERVER_ERRORS)
async def test_a_store_that_answers_errors_is_a_clone_that_goes_inline(
    serve: Serve, repository: Repository, tmp_path: Path, sullen: Sullen, status: int
) -> None:
    """Cold and warm, whole and shallow; our own blob route names nothing of such a store either."""
    served = await serve(repository.root, store=s3(sullen.url, tmp_path))
    sullen.status = status
    for options in ((), (), ("--depth=1",)):
        assert not await clone(repository, served, tmp_path, *options)
    assert served.executions() == 2
    assert served.content()["redirected"] == 0
    assert not await index(served)


FAULTS: list[Mapping[Method, Fault]] = [
    {"put": Fail()},
    {"put": Fail(), "stat": Fail(), "open": Fail(), "read_document": Fail()},
    {"open": Lose()},
    {"open": Fail()},
]


@pytest.mark.parametrize("faults", FAULTS, ids="-".join)
async def test_a_fault_of_any_call_of_the_store_breaks_no_clone(
    serve: Serve,
    repository: Repository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    faults: Mapping[Method, Fault],
) -> None:
    """A store that cannot be written or read is passed over; when it is well, it is used."""
    made: list[FaultyStore] = []

    def build(settings: Any) -> Store:
        made.append(FaultyStore(build_store(settings)))
        return made[-1]

    monkeypatch.setattr("server.runtime.build_store", build)
    served = await serve(repository.root)
    (store,) = made
    store.faults.update(faults)
    for options in ((), (), ("--depth=1",)):
        assert not await clone(repository, served, tmp_path, *options)
    assert served.executions() == 2
    store.faults.clear()
    served.runtime.publisher._turns._down_until.clear()  # as if the pause were over
    for _ in range(served.settings.health.up_after):
        await served.runtime.health.probe()
    assert await clone(repository, served, tmp_path)
    assert served.executions() == 2
