# Law of this file: a name server that is silent keeps nobody waiting but who asks for its names,
# and one lookup of a name is enough for all.

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

import server
from redirects.targets import HttpTarget
from redirects.window import Window
from server import lookups
from server.lookups import Resolver, connector
from server.probes import PROBE_ENTITY
from server.readback import NotReadable, probe_anew
from stores.memory import MemoryStore
from tests.conformance.repositories import make
from tests.conftest import Git, Serve


@dataclass
class Names:
    """The system's resolver, which is silent about names below `silent`, until it is released."""

    asked: list[str] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None

    def look(self, host: str) -> None:
        """Whoever is asked."""
        self.asked.append(host)
        if host.endswith(".silent"):
            self.released.wait()
        if self.error is not None:
            raise self.error


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    """Of this test; every name is that of this machine."""
    found, real = Names(), socket.getaddrinfo

    def getaddrinfo(host: str, *args: object, **options: object) -> object:
        if re.fullmatch(r"[0-9.]+|.*:.*", host):
            return real(host, *args, **options)  # type: ignore[arg-type]
        found.look(host)
        return real("127.0.0.1", *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield found
    found.released.set()


async def until(told: Callable[[], bool]) -> None:
    """Wait for what threads do."""
    async with asyncio.timeout(60):
        while not told():  # noqa: ASYNC110 - threads tell nobody
            await asyncio.sleep(0.001)


async def test_a_name_is_what_the_system_says_it_is() -> None:
    """As aiohttp's own resolver has it."""
    own, theirs = Resolver(), aiohttp.ThreadedResolver()
    for family in (socket.AF_INET, socket.AF_UNSPEC):
        found = await own.resolve("localhost", 80, family)  # type: ignore[arg-type]
        assert found == await theirs.resolve("localhost", 80, family)  # type: ignore[arg-type]


async def test_an_address_of_one_link_keeps_its_scope(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, it leads nowhere."""
    told = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1", 80, 0, 1))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: told)
    found = await Resolver().resolve("near.example", 80, socket.AF_INET6)
    assert found[0]["host"].startswith("fe80::1%")


async def test_one_lookup_is_enough_for_all(names: Names) -> None:
    """Whoever asks meanwhile waits for it, and gets the same; one who goes takes it from nobody."""
    resolver = Resolver()
    first, *others = (asyncio.create_task(resolver.resolve("one.silent", 80)) for _ in range(4))
    await until(lambda: names.asked == ["one.silent"])
    first.cancel()
    with suppress(asyncio.CancelledError):
        await first
    again = asyncio.create_task(resolver.resolve("one.silent", 80))
    await asyncio.sleep(0)
    names.released.set()
    found = await asyncio.gather(*others, again)
    assert [each[0]["host"] for each in found] == ["127.0.0.1"] * 4
    assert names.asked == ["one.silent"]
    await resolver.resolve("one.silent", 80)
    assert names.asked == ["one.silent"] * 2


async def test_an_error_is_for_who_asked(names: Names) -> None:
    """The next one asks anew."""
    resolver = Resolver()
    names.error = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    with pytest.raises(socket.gaierror):
        await resolver.resolve("gone.example", 80)
    names.error = None
    assert await resolver.resolve("gone.example", 80)


async def test_there_is_an_end_to_lookups(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that would be too much is refused, and counts as one that failed."""
    monkeypatch.setattr(lookups, "_LIMIT", 1)
    resolver = Resolver()
    one = asyncio.create_task(resolver.resolve("one.silent", 80))
    await until(lambda: names.asked == ["one.silent"])
    with pytest.raises(OSError, match="looked up already"):
        await resolver.resolve("two.silent", 80)
    async with aiohttp.ClientSession(connector=connector()) as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get("http://two.silent/")
    names.released.set()
    assert await one


async def test_probes_of_silent_names_take_no_thread_from_others(names: Names) -> None:
    """However many targets and probes: one thread for each name, and none of the loop's own."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    window = Window(900.0, 3600.0)
    targets = [HttpTarget(f"t{n}", f"http://t{n}.silent", window) for n in range(8)]
    before = threading.active_count()

    async def probe(target: HttpTarget) -> None:
        async with asyncio.timeout(0.01):
            await probe_anew(MemoryStore(), target, PROBE_ENTITY)

    for _ in range(3):
        for each in await asyncio.gather(*map(probe, targets), return_exceptions=True):
            assert isinstance(each, TimeoutError | NotReadable)
    await until(lambda: len(names.asked) == 8)
    assert threading.active_count() <= before + 8
    assert await asyncio.to_thread(lambda: "at once") == "at once"


async def test_a_silent_name_server_keeps_no_clone_waiting(
    names: Names, serve: Serve, git: Git, tmp_path: Path
) -> None:
    """What is sent inline is read by threads that no lookup has."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    repository = make(tmp_path / "root")
    served = await serve(
        repository.root,
        targets=[
            {"type": "http", "name": f"t{n}", "base_url": f"http://t{n}.silent"} for n in range(8)
        ],
        health={"interval": "0.1s", "timeout": "0.05s", "suspicion": 0},
    )
    await until(lambda: len(names.asked) == 8)
    for name in ("first", "again"):
        await git("clone", "--bare", repository.url(served.url), tmp_path / name)
    assert not names.released.is_set()


def test_every_session_of_a_server_looks_names_up_so() -> None:
    """None is made with aiohttp's own resolver, which takes the threads of whoever serves."""
    made = {
        f"{path.name}: {found}"
        for path in Path(server.__path__[0]).rglob("*.py")
        for found in re.findall(r"ClientSession\(\s*(.*)", path.read_text())
        if not found.startswith("connector=connector(")
    }
    assert made == set()
