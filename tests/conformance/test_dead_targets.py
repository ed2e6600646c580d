# Law of this file: stock git fails when a file server dies under it, and succeeds when it is run
# again; nobody else is sent to the dead one, until it lives again.

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web

from indexer.report import Silent
from redirects.health import State
from server.indexing import index_all
from tests.conformance.clones import V2_HEADERS, accepting, locations, state, stock, v2_request
from tests.conformance.repositories import Repository
from tests.conftest import Serve, Served

NAMES = ("a", "b", "c")


@dataclass
class FileServer:
    """A static server in front of a directory store.

    Attributes:
        entities: the directory.
        dies: in the middle of what it sends next.
        address: of its socket; 0 for any port.
    """

    entities: Path
    dies: bool = False
    address: tuple[str, int] = ("127.0.0.1", 0)
    _runner: web.AppRunner | None = None

    @property
    def netloc(self) -> str:
        """As in URLs of it."""
        return f"{self.address[0]}:{self.address[1]}"

    async def start(self) -> None:
        """Listen, where it did before."""
        app = web.Application(middlewares=[self._dying])
        app.router.add_static("/entities", self.entities)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, *self.address, reuse_address=True).start()
        host, port = self._runner.addresses[0][:2]
        self.address = (host, port)

    async def kill(self) -> None:
        """End it; harmless a second time."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    @web.middleware
    async def _dying(
        self,
        request: web.Request,
        handler: Callable[[web.Request], web.StreamResponse],
    ) -> web.StreamResponse:
        if not self.dies:
            return await handler(request)  # type: ignore[misc]
        content = (self.entities.parent / request.path.lstrip("/")).read_bytes()
        response = web.StreamResponse()
        response.content_length = len(content)
        await response.prepare(request)
        await response.write(content[: len(content) // 2])
        assert self._runner is not None
        for site in tuple(self._runner.sites):
            await site.stop()
        assert request.transport is not None
        request.transport.abort()
        return response


@dataclass
class Fleet:
    """A server and the file servers that clients are sent to.

    Attributes:
        served: the server.
        servers: by name of the target, in order.
        told: what was thought of the first one, one after another.
    """

    served: Served
    servers: dict[str, FileServer]
    told: list[State] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _waking: set[asyncio.Task[None]] = field(default_factory=set)

    def note(self, target: str, thought: State) -> None:
        """See how the first one is seen."""
        if target == "a":
            self.told.append(thought)
            task = asyncio.create_task(self._wake())
            self._waking.add(task)
            task.add_done_callback(self._waking.discard)

    async def _wake(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until(self, thought: State) -> None:
        """Wait until that is thought of the first one."""
        async with asyncio.timeout(60), self.changed:
            await self.changed.wait_for(lambda: self.told[-1:] == [thought])


@pytest.fixture
async def fleet(serve: Serve, repository: Repository, tmp_path: Path) -> AsyncIterator[Fleet]:
    """Three file servers that take turns, and an hour between probes that nobody asked for."""
    store = tmp_path / "data" / "store"
    (store / "entities").mkdir(parents=True)
    async with AsyncExitStack() as stack:
        servers = {name: FileServer(store / "entities") for name in NAMES}
        for server in servers.values():
            await server.start()
            stack.push_async_callback(server.kill)
        served = await serve(
            repository.root,
            targets=[
                {"type": "http", "name": name, "base_url": f"http://{server.netloc}"}
                for name, server in servers.items()
            ],
            health={"interval": "1h", "timeout": "30s"},
        )
        await index_all(served.settings, Silent(), gc=True)
        await served.runtime.catalogs.refresh_all()
        made = Fleet(served, servers)
        served.runtime.health.changed = made.note
        yield made


async def test_a_file_server_that_is_killed(
    fleet: Fleet, repository: Repository, tmp_path: Path
) -> None:
    """Who was cut off succeeds at once; nobody else is sent there, until it is up again."""
    url, client = repository.url(fleet.served.url), accepting(tmp_path).traced()

    async def sent(name: str, *options: str) -> set[str]:
        said = await client("clone", "--bare", *options, url, name)
        return {urlsplit(found).netloc for found in locations(said).values()}

    first, second = fleet.servers["a"], fleet.servers["b"]
    assert await sent("before", "--depth=1") == {first.netloc}

    first.dies = True
    failed = await client("clone", "--bare", url, "failed", check=False)
    assert failed.status != 0
    assert {urlsplit(found).netloc for found in locations(failed).values()} == {first.netloc}
    await first.kill()

    assert await sent("again") == set()
    await fleet.until(State.DOWN)
    assert fleet.told == [State.SUSPECT, State.DOWN]
    assert await sent("others", "--depth=2") == {second.netloc}
    assert await sent("once more") == {second.netloc}

    first.dies = False
    await first.start()
    await fleet.served.runtime.health.probe()
    assert fleet.told[-1] is State.HALF_OPEN
    assert await sent("half-open", "--depth=3") == {second.netloc}
    await fleet.served.runtime.health.probe()
    assert fleet.told[-1] is State.UP
    assert await sent("after", "--depth=4") == {first.netloc}

    await stock(tmp_path)("clone", "--bare", repository.stock_url, "stock")
    expected = await state(stock(tmp_path), tmp_path / "stock")
    for name in ("again", "once more"):
        assert await state(client, tmp_path / name) == expected


async def test_without_any_client_one_probe_is_enough(
    fleet: Fleet, repository: Repository, tmp_path: Path
) -> None:
    """When the pause between two probes is over, no new redirect names a dead one."""
    url, client = repository.url(fleet.served.url), accepting(tmp_path).traced()
    await fleet.servers["a"].kill()
    await fleet.served.runtime.health.probe()
    said = await client("clone", "--bare", url, "clone")
    assert {urlsplit(found).netloc for found in locations(said).values()} == {
        fleet.servers["b"].netloc
    }


# --- who asks again, and who only looks so ------------------------------------------------------


async def ask(
    session: aiohttp.ClientSession, fleet: Fleet, repository: Repository, **headers: str
) -> bool:
    """Ask for a clone; tells whether it was redirected."""
    body = v2_request(
        "fetch",
        f"want {repository.oid('refs/heads/main')}",
        "ofs-delta",
        "packfile-uris http,https",
        "done",
    )
    url = f"{repository.url(fleet.served.url)}/git-upload-pack"
    async with session.post(url, data=body, headers={**V2_HEADERS, **headers}) as answer:
        content = await answer.read()
        assert answer.status == 200
        return b"packfile-uris" in content


def one_shot() -> aiohttp.ClientSession:
    """A client that ends its connection when it has asked."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))


async def test_machines_side_by_side_are_no_suspicion(fleet: Fleet, repository: Repository) -> None:
    """Those of one address whose earlier requests still go on: all of them are redirected."""
    async with AsyncExitStack() as stack:
        for _ in range(12):
            session = await stack.enter_async_context(aiohttp.ClientSession())
            assert await ask(session, fleet, repository)
    assert fleet.told == []


async def test_the_same_connection_is_no_suspicion(fleet: Fleet, repository: Repository) -> None:
    """Whose program goes on has not failed."""
    async with aiohttp.ClientSession() as session:
        assert all([await ask(session, fleet, repository) for _ in range(3)])
    assert fleet.told == []


async def test_one_after_another_does_not_switch_redirects_off(
    fleet: Fleet, repository: Repository
) -> None:
    """A fleet that repeats itself gets one answer inline, and then redirects again."""
    redirected = []
    for number in range(12):
        async with one_shot() as session:
            redirected.append(await ask(session, fleet, repository))
        if number == 1:
            await fleet.until(State.UP)  # the probe that it brought came back
    assert redirected == [True, False, *[True] * 10]
    assert fleet.told == [State.SUSPECT, State.UP]


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Via", "X-Real-IP"])
async def test_behind_an_unknown_proxy_nobody_is_known_again(
    fleet: Fleet, repository: Repository, header: str
) -> None:
    """Its address is everybody's; it is not listed in regions.proxies."""
    for _ in range(3):
        async with one_shot() as session:
            assert await ask(session, fleet, repository, **{header: "192.0.2.7"})
    assert fleet.told == []


async def test_who_shows_another_credential_is_another(
    fleet: Fleet, repository: Repository
) -> None:
    """Jobs of a CI have each a token of their own."""
    for number in range(3):
        async with one_shot() as session:
            assert await ask(session, fleet, repository, Authorization=f"Bearer {number}")
    assert fleet.told == []


async def test_our_own_blobs_are_not_suspected(
    serve: Serve, repository: Repository, tmp_path: Path
) -> None:
    """An inline answer would go the same way."""
    served = await serve(repository.root, health={})
    url, client = repository.url(served.url), accepting(tmp_path).traced()
    for name in ("one", "two", "three"):
        assert locations(await client("clone", "--bare", url, name))


async def test_other_workers_know_it_too(
    serve: Serve, fleet: Fleet, repository: Repository
) -> None:
    """A second try that comes to another process of this machine is known as one."""
    other = await serve(
        repository.root,
        targets=[target.model_dump() for target in fleet.served.settings.targets],
        data=fleet.served.settings.data,
        health={"interval": "1h", "timeout": "30s"},
    )
    async with one_shot() as session:
        assert await ask(session, fleet, repository)
    async with one_shot() as session:
        assert not await ask(session, Fleet(other, fleet.servers), repository)


async def test_a_table_that_cannot_be_used(fleet: Fleet, repository: Repository) -> None:
    """A disk that fails costs the second tries, and no answer."""
    table = fleet.served.runtime.sent_table
    good, table.descriptor = table.descriptor, -1
    try:
        for _ in range(2):
            async with one_shot() as session:
                assert await ask(session, fleet, repository)
    finally:
        table.descriptor = good


async def test_listed_proxies_say_who_asks(
    serve: Serve, fleet: Fleet, repository: Repository, tmp_path: Path
) -> None:
    """Then the client's own address counts, whatever connections the proxy keeps."""
    served = await serve(
        repository.root,
        targets=[target.model_dump() for target in fleet.served.settings.targets],
        data=tmp_path / "data",
        health={"interval": "1h", "timeout": "30s"},
        regions={"proxies": ["127.0.0.0/8"]},
    )
    behind = Fleet(served, fleet.servers)
    async with aiohttp.ClientSession() as session:
        for address, redirected in (
            ("192.0.2.7", True),
            ("192.0.2.8", True),
            ("192.0.2.7", False),
        ):
            said = await ask(session, behind, repository, **{"X-Forwarded-For": address})
            assert said == redirected
