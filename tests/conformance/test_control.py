# Law of this file: redirects are switched off, let in slowly and tried in shadow on a server that
# runs, and real git gets the same repository all the while.

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import aiohttp

from indexer.report import Silent
from redirects.control import lot
from server.indexing import index_all
from tests.conformance.clones import V2_HEADERS, accepting, locations, state, stock, v2_request
from tests.conformance.processes import Offramp, Running
from tests.conformance.repositories import Repository
from tests.conftest import Serve

_DECISIONS: Final = re.compile(
    r'^offramp_decisions_total\{outcome="(\w+)",reason="(\w*)",target="(\w*)"\} ([0-9.]+)$',
    re.MULTILINE,
)

# This machine is believed when it says for whom it asks.
_PROXIES: Final = '[regions]\nproxies = ["127.0.0.0/8"]\n'


def write(path: Path, redirect: str = "", top: str = "") -> Path:
    """A settings file, in place of an earlier one."""
    path.write_text(f"{top}\n{_PROXIES}\n[redirect]\n{redirect}\n")
    return path


async def decided(server: Running) -> dict[tuple[str, str], float]:
    """How often each outcome was counted, with its target or reason."""
    async with aiohttp.ClientSession() as session, session.get(f"{server.url}/-/metrics") as said:
        text = await said.text()
    return {(o, target + reason): float(n) for o, reason, target, n in _DECISIONS.findall(text)}


async def reload(server: Running, *words: str) -> None:
    """Have it read its settings again, and wait until it has said each of these."""
    server.process.send_signal(signal.SIGHUP)
    for each in words:
        await server.logged(each)


async def redirected(server: Running, repository: Repository, addresses: Iterable[str]) -> set[str]:
    """Which of these addresses are redirected, when they ask for the same clone."""
    body = v2_request(
        "fetch",
        "ofs-delta",
        "no-progress",
        "packfile-uris http",
        f"want {repository.oid('main')}",
        "done",
    )
    service = f"{repository.url(server.url)}/git-upload-pack"
    found = set()
    # A connection each, so that every worker gets some.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        for address in addresses:
            headers = {**V2_HEADERS, "X-Forwarded-For": address}
            async with session.post(service, data=body, headers=headers) as answer:
                assert answer.status == 200
                if b"packfile-uris" in await answer.read():
                    found.add(address)
    return found


async def test_from_shadow_to_redirects(
    offramp: Offramp, repository: Repository, tmp_path: Path
) -> None:
    """Clones of a shadow are inline and counted as what they would be; then they are redirected."""
    assert await offramp.index(repository.root) == 0
    repository.commit("refs/heads/main", 8, later="not in the bundle\n")
    config = write(tmp_path / "offramp.toml", "shadow = true")
    server = await offramp.serve(repository.root, "--config", str(config))
    url, client = repository.url(server.url), accepting(tmp_path)
    said = await client.traced()("clone", "--bare", url, "shadow")
    assert not locations(said)
    shallow = await client.traced()("clone", "--bare", "--depth=1", url, "shallow")
    assert not locations(shallow)
    async with asyncio.timeout(60):
        # The second was not waited for, so it is published and counted in its own time.
        while (counted := await decided(server)) != {("shadow", "self"): 2}:
            assert set(counted) <= {("shadow", "self")}
            await asyncio.sleep(0.02)
    assert await server.figure("offramp_bytes_total") > 0

    write(config)
    await reload(server, "goes on with new redirect.shadow")
    said = await client.traced()("clone", "--bare", url, "redirected")
    assert len(locations(said)) == 2
    await stock(tmp_path)("clone", "--bare", repository.stock_url, "stock")
    expected = await state(stock(tmp_path), tmp_path / "stock")
    for name in ("shadow", "redirected"):
        assert await state(client, tmp_path / name) == expected
    assert (await decided(server))["redirect", "self"] == 2
    assert await server.stop() == 0


async def test_a_share_of_the_clients(
    offramp: Offramp, repository: Repository, tmp_path: Path
) -> None:
    """In every worker the same, and after each change; a worker that is replaced knows it, too."""
    addresses = [f"198.51.{n}.7" for n in range(30)]
    drawn = {
        address: lot(f"{address.rpartition('.')[0]}.0/24", repository.name) for address in addresses
    }
    config = write(tmp_path / "offramp.toml", "percentage = 40")
    server = await offramp.serve(repository.root, "--config", str(config), "--workers", "2")
    for percentage in (40, 70, 0):
        if percentage != 40:
            write(config, f"percentage = {percentage}")
            await reload(server, *["goes on with new redirect.percentage"] * 2)
        expected = {address for address in addresses if drawn[address] < percentage}
        assert len(expected) < len(addresses)
        for _ in range(2):
            assert await redirected(server, repository, addresses) == expected
    counted = await decided(server)
    assert counted["inline", "not_in_percentage"] + counted["redirect", "self"] == 180

    victim = min(server.workers())
    os.kill(victim, signal.SIGKILL)
    await server.logged("starting it again")
    async with asyncio.timeout(60):
        while server.listening() < 2:  # noqa: ASYNC110 - another process tells no event
            await asyncio.sleep(0.05)
    assert await redirected(server, repository, addresses) == set()
    assert await server.stop() == 0


async def test_off_by_repository_and_by_network(
    offramp: Offramp, repository: Repository, tmp_path: Path
) -> None:
    """Who is off gets the same inline, the others are redirected; then the other way round."""
    office, home = "192.0.2.7", "2001:db8::7"
    config = write(tmp_path / "offramp.toml", 'off_networks = ["192.0.2.0/24"]')
    server = await offramp.serve(repository.root, "--config", str(config))
    assert await redirected(server, repository, [office, home]) == {home}
    write(config, 'off_networks = ["2001:db8::/32"]')
    await reload(server, "goes on with new redirect.off_networks")
    assert await redirected(server, repository, [office, home]) == {office}
    write(config, f'off_repositories = ["{repository.name}"]')
    await reload(server, "goes on with new redirect.off_repositories, redirect.off_networks")
    assert await redirected(server, repository, [office, home]) == set()
    await accepting(tmp_path)("clone", "--bare", repository.url(server.url), "clone")
    await stock(tmp_path)("clone", "--bare", repository.stock_url, "stock")
    client = stock(tmp_path)
    assert await state(client, tmp_path / "clone") == await state(client, tmp_path / "stock")
    counted = await decided(server)
    assert counted["inline", "off_for_network"] == 2
    assert counted["inline", "off_for_repository"] == 3


async def test_a_broken_file_changes_nothing(
    offramp: Offramp, repository: Repository, tmp_path: Path
) -> None:
    """It is told, with the place; the server goes on; what needs a restart is told by its name."""
    somebody = ["192.0.2.7"]
    config = write(tmp_path / "offramp.toml")
    server = await offramp.serve(repository.root, "--config", str(config))
    config.write_text("[redirect\n")
    await reload(server, "the settings of before stay")
    write(config, "percentage = 200")
    await reload(server, "redirect.percentage = 200")
    config.unlink()
    await reload(server, "no such file")
    assert await redirected(server, repository, somebody) == set(somebody)

    write(config, 'enabled = false\nlifetime = "1h"', top="workers = 3")
    await reload(
        server,
        "changed, but only by a restart: workers, redirect.lifetime",
        "goes on with new redirect.enabled",
    )
    assert await redirected(server, repository, somebody) == set()
    write(config, 'lifetime = "1h"', top="workers = 3")
    await reload(server, "goes on with new redirect.enabled")
    assert await redirected(server, repository, somebody) == set(somebody)
    assert await server.stop() == 0


async def test_a_broken_file_is_told_once_by_several_workers(
    offramp: Offramp, repository: Repository, tmp_path: Path
) -> None:
    """Workers are not even told of it, and hear of the next that is good."""
    config = write(tmp_path / "offramp.toml")
    server = await offramp.serve(repository.root, "--config", str(config), "--workers", "2")
    write(config, "percentage = 200")
    await reload(server, "the settings of before stay")
    write(config, "enabled = false", top='listen = "127.0.0.1:1"')
    server.process.send_signal(signal.SIGHUP)
    # --listen on the command line wins over the file, so that is no change.
    lines: list[str] = []
    while sum("goes on with new redirect.enabled" in line for line in lines) < 2:
        lines.append(await server.logged(""))
    assert not [line for line in lines if "stay" in line or "restart" in line]
    assert await redirected(server, repository, ["192.0.2.7"] * 8) == set()


async def test_bundle_lists_of_a_shadow(serve: Serve, repository: Repository) -> None:
    """They are empty, and count what would be in them; when it ends, the bundle is in them."""
    served = await serve(repository.root, redirect={"min_size": 0, "shadow": True})
    await index_all(served.settings, Silent(), gc=True)
    await served.runtime.catalogs.refresh_all()
    listing = f"{served.url}/-/bundles/{repository.name}"
    server = Running(served.url, None)  # type: ignore[arg-type]
    async with aiohttp.ClientSession() as session:
        async with session.get(listing) as answer:
            assert b"uri" not in await answer.read()
        assert await decided(server) == {("shadow", "self"): 1}
        redirect = served.settings.redirect.model_copy(update={"shadow": False})
        await served.runtime.adopt(served.settings.model_copy(update={"redirect": redirect}))
        async with session.get(listing) as answer:
            assert b"uri = " in await answer.read()
    assert (await decided(server))["redirect", "self"] == 1
