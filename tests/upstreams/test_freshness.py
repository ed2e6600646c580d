# Law of this file: with freshness "always" a client is told what the upstream has now, by as few
# questions as that needs; with an age, nothing is asked within it.

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from server.upstreams.views import Views
from tests.conformance.repositories import Repository
from tests.conftest import Serve
from tests.upstreams.clients import clone, push
from tests.upstreams.faults import Holds, Proxy
from tests.upstreams.forge import Forge
from tests.upstreams.scene import NAME, Arrivals, Scene, scene

pytestmark = pytest.mark.nginx

VERSIONS = pytest.mark.parametrize("version", [0, 1, 2])
WAITING = 12


@pytest.fixture
def repository(forge: Forge) -> Repository:
    """A public repository, into which ann pushes."""
    repository = forge.make(NAME)
    forge.allow(NAME, "ann", "hers")
    return repository


async def _told(scene: Scene, version: int = 2) -> str:
    """What ``git ls-remote`` says."""
    listed = await scene.client("-c", f"protocol.version={version}", "ls-remote", scene.url)
    return listed.stdout


async def _at_forge(scene: Scene) -> str:
    listed = await scene.client("ls-remote", scene.there)
    return listed.stdout


@VERSIONS
@pytest.mark.parametrize("mirrored", [True, False], ids=["mirrored", "passed"])
async def test_the_next_answer_has_what_was_pushed(
    *,
    serve: Serve,
    proxy: Proxy,
    repository: Repository,
    tmp_path: Path,
    version: int,
    mirrored: bool,
) -> None:
    """Whoever asks after a push, in any protocol, is told of it: new, moved and deleted refs."""
    at = await scene(serve, proxy, repository, tmp_path, mirror=("*",) if mirrored else ())
    if mirrored:
        await at.mirrored()
    assert await _told(at, version) == await _at_forge(at)
    for number in range(3):
        oid = repository.commit("refs/heads/main", 20 + number)
        repository.git("update-ref", f"refs/heads/new-{number}", oid)
        told = await _told(at, version)
        assert f"{oid}\trefs/heads/new-{number}\n" in told
        assert told == await _at_forge(at)
    repository.git("update-ref", "-d", "refs/heads/topic")
    repository.git("symbolic-ref", "HEAD", "refs/heads/new-0")
    assert await _told(at, version) == await _at_forge(at)


async def test_a_push_through_offramp_is_in_the_next_answer(
    serve: Serve, proxy: Proxy, repository: Repository, tmp_path: Path
) -> None:
    """What was just pushed through it, the same client is told and given at once."""
    at = await scene(serve, proxy, repository, tmp_path)
    await at.mirrored()
    work = at.directory / "work"
    assert (await clone(at.client, at.url, work)).well
    await at.client("-C", work, "update-ref", "refs/heads/pushed", repository.oid("topic"))
    login = at.url.replace("://", "://ann:hers@")
    pushed = await push(at.client, work, login, "refs/heads/pushed")
    assert pushed.status == 0, pushed.stderr
    assert "refs/heads/pushed" in await _told(at)
    await at.same()


async def test_who_waits_shares_one_question(
    serve: Serve,
    proxy: Proxy,
    repository: Repository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A question that began before a push answers nobody who came after it; one more does."""
    at = await scene(serve, proxy, repository, tmp_path)
    await at.mirrored()
    arrivals = Arrivals(monkeypatch, Views, "now")
    held = Holds(after=1)
    proxy.fault("ls-refs", held, times=1)
    first = asyncio.create_task(_told(at))
    await held.held()
    oid = repository.commit("refs/heads/main", 20)
    others = [asyncio.create_task(_told(at)) for _ in range(WAITING)]
    await arrivals.reach(1 + WAITING)
    held.release()
    assert oid not in await first
    for told in await asyncio.gather(*others):
        assert oid in told
    assert len(proxy.seen("ls-refs")) == 2
    assert not proxy.seen("info-refs", "fetch")


async def test_within_its_age_nothing_is_asked(
    serve: Serve, proxy: Proxy, repository: Repository, tmp_path: Path
) -> None:
    """With `freshness = "30s"` the upstream is asked again after that, and not before."""
    at = await scene(serve, proxy, repository, tmp_path, freshness="30s")
    later = at.tell_time()
    await at.mirrored()
    before = await _told(at)
    oid = repository.commit("refs/heads/main", 20)
    later(29)
    for version in (0, 2):
        assert await _told(at, version) == before
    cloned = await clone(at.client, at.url, at.directory / "old")
    assert cloned.well
    assert cloned.packs
    assert not proxy.exchanges
    later(1)
    assert oid in await _told(at)
    assert [exchange.kind for exchange in proxy.exchanges] == ["ls-refs"]
