# Law of this file: stock git fails when a file server dies under it, and succeeds when it is run
# again; nobody else is sent to the dead one, until it lives again.

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest

from indexer.report import Silent
from redirects.health import State
from server.indexing import index_all
from tests.conformance.clones import accepting, declining, state, stock
from tests.conformance.fleet import Fleet
from tests.conformance.repositories import Repository

pytestmark = pytest.mark.nginx


async def begun(clone: Path) -> None:
    """Wait until some of what a client downloads into ``clone`` has come."""
    async with asyncio.timeout(60):
        while not any(  # noqa: ASYNC110 - git tells nobody what it has written
            found.stat().st_size for found in clone.glob("objects/pack/*.temp")
        ):
            await asyncio.sleep(0.01)


@pytest.fixture
async def large(fleet: Fleet, repository: Repository) -> str:
    """The URL of a repository whose pack is 256 KiB and more."""
    noise = "\n".join(hashlib.sha256(b"%d" % number).hexdigest() for number in range(1 << 13))
    repository.commit("refs/heads/main", 20, noise=noise)
    await index_all(fleet.served.settings, Silent(), gc=True)
    await fleet.served.runtime.catalogs.refresh_all()
    return repository.url(fleet.served.url)


async def test_a_file_server_that_is_killed(
    fleet: Fleet, repository: Repository, large: str, tmp_path: Path
) -> None:
    """Who was cut off succeeds at once; nobody else is sent there, until it is up again."""
    client, first = accepting(tmp_path).traced(), fleet.servers["a"]

    async def sent(name: str, *options: str) -> set[str]:
        return fleet.sent_to(await client("clone", "--bare", *options, large, name))

    assert await sent("before", "--depth=1") == {"a"}

    first.slow()
    cut_off = asyncio.create_task(client("clone", "--bare", large, "failed", check=False))
    await begun(tmp_path / "failed")
    first.kill()
    failed = await cut_off
    assert failed.status != 0
    assert fleet.sent_to(failed) == {"a"}

    assert await sent("again") == set()
    await fleet.until(State.DOWN)
    assert fleet.told == [State.SUSPECT, State.DOWN]
    assert await sent("others", "--depth=2") == {"b"}
    assert await sent("once more") == {"b"}

    first.start()
    await fleet.served.runtime.health.probe()
    assert fleet.told[-1] is State.HALF_OPEN
    assert await sent("half-open", "--depth=3") == {"b"}
    await fleet.served.runtime.health.probe()
    assert fleet.told[-1] is State.UP
    assert await sent("after", "--depth=4") == {"a"}

    await stock(tmp_path)("clone", "--bare", repository.stock_url, "stock")
    expected = await state(stock(tmp_path), tmp_path / "stock")
    for name in ("again", "once more"):
        assert await state(client, tmp_path / name) == expected


async def test_without_any_client_one_probe_is_enough(
    fleet: Fleet, repository: Repository, tmp_path: Path
) -> None:
    """When the pause between two probes is over, no new redirect names a dead one."""
    url, client = repository.url(fleet.served.url), accepting(tmp_path).traced()
    fleet.servers["a"].kill()
    await fleet.served.runtime.health.probe()
    assert fleet.sent_to(await client("clone", "--bare", url, "clone")) == {"b"}


async def test_all_are_killed(fleet: Fleet, repository: Repository, tmp_path: Path) -> None:
    """Then everything comes inline, and is what it would have been."""
    url, client = repository.url(fleet.served.url), accepting(tmp_path).traced()
    for server in fleet.servers.values():
        server.kill()
    await fleet.served.runtime.health.probe()
    assert fleet.sent_to(await client("clone", "--bare", url, "inline")) == set()
    await declining(tmp_path)("clone", "--bare", url, "plain")
    held = await state(client, tmp_path / "inline")
    assert held == await state(client, tmp_path / "plain")
