# Law of this file: a mirror's fetch that fails is one failure for all who waited for it; they are
# passed through, and an upstream that fails again and again is asked for less and less.

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import pytest

from server.upstreams import mirrors
from server.upstreams.mirrors import Mirrors
from server.upstreams.routes import Remote
from tests.conformance.repositories import Repository, run_git
from tests.conftest import Serve
from tests.upstreams.clients import Done, basic, clone
from tests.upstreams.faults import Answers, Holds, Proxy
from tests.upstreams.forge import Forge
from tests.upstreams.scene import NAME, PREFIX, Arrivals, Scene, scene

pytestmark = pytest.mark.nginx

CLIENTS: Final = 12
FAILS: Final = Answers(500, {"Content-Type": "text/plain"}, b"no\n")


class Time:
    """A clock for what rests."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """Seconds, as of the test."""
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    """For mirrors alone."""
    time = Time()
    monkeypatch.setattr(mirrors, "time", time)
    return time


@pytest.fixture
def repository(forge: Forge) -> Repository:
    """A public repository."""
    return forge.make(NAME)


@pytest.fixture
async def at(
    *, serve: Serve, proxy: Proxy, repository: Repository, tmp_path: Path, time: Time
) -> Scene:
    """It, mirrored."""
    at = await scene(serve, proxy, repository, tmp_path)
    await at.mirrored()
    return at


def updates(at: Scene) -> int:
    """How often a mirror's git has come: only it asks where it is, and is not us."""
    return sum("offramp" not in e.headers["User-Agent"] for e in at.proxy.seen("info-refs"))


# --- updates -------------------------------------------------------------------------------------


async def test_who_waits_for_one_that_fails_is_passed_through(
    at: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve clients of what was just pushed: one fetch for the mirror, and none after it."""
    arrivals = Arrivals(monkeypatch, Mirrors, "ready")
    at.repository.commit("refs/heads/main", 20)
    held = Holds(after=None)
    at.proxy.fault("info-refs", held, times=1)
    at.proxy.fault("fetch", FAILS, times=1)

    async def job(number: int) -> Done:
        return await clone(at.client, at.url, at.directory / f"{number}", "--depth=1")

    jobs = [asyncio.create_task(job(number)) for number in range(CLIENTS)]
    await arrivals.reach(CLIENTS)
    held.release()
    for done in await asyncio.gather(*jobs):
        assert done.well, done.finished.stderr
        assert not done.packs
    assert updates(at) == 1
    assert len(at.proxy.seen("fetch")) == 1 + CLIENTS
    assert at.served.outcomes() == {"passthrough": CLIENTS}
    at.check_mirror()


async def test_after_failures_the_upstream_is_left_alone(at: Scene, time: Time) -> None:
    """The second time for 5 s, then for twice as long; meanwhile everybody is passed through."""
    at.repository.commit("refs/heads/main", 20)
    number = 0

    async def tried(*, fails: bool) -> bool:
        """Whether a clone made the mirror fetch."""
        nonlocal number
        number += 1
        before = updates(at)
        if fails:
            at.proxy.fault("info-refs", FAILS)
        done = await clone(at.client, at.url, at.directory / f"{number}")
        at.proxy.heal()
        assert done.well, done.finished.stderr
        return updates(at) > before

    assert await tried(fails=True)
    assert await tried(fails=True)
    for rest in (5, 10, 20):
        assert not await tried(fails=False)
        time.now += rest - 1
        assert not await tried(fails=False)
        time.now += 1
        assert await tried(fails=True)
    time.now += 40
    assert await tried(fails=False)
    at.check_mirror()
    # A success is a new beginning.
    for again in (20, 21):
        at.repository.commit("refs/heads/main", again)
        assert await tried(fails=True)
    assert not await tried(fails=False)
    time.now += 5
    assert await tried(fails=False)
    assert (await at.same()).packs


def test_a_rest_has_a_longest(time: Time) -> None:
    """However often something fails."""
    rest = mirrors._Rest(0.0, 5.0, 300.0)
    lengths = [rest.after_failure() - time.now for _ in range(10)]
    assert lengths == [0, 5, 10, 20, 40, 80, 160, 300, 300, 300]
    rest.after_success()
    assert rest.after_failure() == time.now


# --- first mirrorings that wait for their turn ---------------------------------------------------

SMALL: Final = "acme/small.git"


def remote_of(at: Scene, name: str) -> Remote:
    """Another repository of the same upstream."""
    routed = at.upstreams.route(f"{PREFIX}{name}/info/refs")
    assert routed is not None
    return routed.remote


async def one_at_a_time(serve: Serve, proxy: Proxy, directory: Path, large: Repository) -> Scene:
    """Offramp that makes one mirror at a time."""
    upstream = {"prefix": PREFIX, "url": proxy.url}
    mirroring = {"fetches": 1}
    index = {"enabled": False}
    served = await serve(None, upstreams=[upstream], mirrors=mirroring, index=index)
    (directory / "clients").mkdir()
    return Scene(served, proxy, large, directory / "clients")


async def begun(at: Scene, remote: Remote, authorization: str | None) -> None:
    """Somebody asks for a first mirroring."""
    view = await at.upstreams.views.now(remote, authorization)
    at.upstreams.mirrors.begin(remote, view, authorization)


async def test_the_last_who_asked_is_fetched_with(
    serve: Serve, proxy: Proxy, forge: Forge, tmp_path: Path
) -> None:
    """A credential that ended while its mirroring waited is not used; refs are those of now."""
    at = await one_at_a_time(serve, proxy, tmp_path, forge.make(NAME))
    small = forge.make(SMALL, users={"ann": "a-password"})
    remote, later = remote_of(at, SMALL), at.tell_time()
    held = Holds(after=None)
    proxy.fault("fetch", held, times=1)
    await begun(at, at.remote, None)
    await held.held()
    await begun(at, remote, basic("ann", "a-password"))
    forge.revoke(SMALL, "ann")
    forge.allow(SMALL, "bob", "b-password")
    await begun(at, remote, basic("bob", "b-password"))
    oid = small.commit("refs/heads/main", 20)
    later(10)
    proxy.forget()
    held.release()
    await at.upstreams.mirrors.made(remote)
    mirror = at.upstreams.mirrors._of(remote).mirror
    assert mirror.exists
    assert mirror.refs()[b"refs/heads/main"] == oid
    run_git(mirror.path, "fsck", "--strict", "--no-dangling")
    shown = {e.authorization for e in proxy.seen() if f"/{SMALL}" in e.path}
    assert basic("ann", "a-password") not in shown


async def test_only_so_many_wait(
    serve: Serve, proxy: Proxy, forge: Forge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond that, who asks for a mirror is passed through, and may ask again."""
    monkeypatch.setattr(mirrors, "_QUEUED", 2)
    at = await one_at_a_time(serve, proxy, tmp_path, forge.make(NAME))
    names = [f"acme/small-{number}.git" for number in range(4)]
    for name in names:
        forge.make(name)
    remotes = [remote_of(at, name) for name in names]
    held = Holds(after=None)
    proxy.fault("fetch", held, times=1)
    await begun(at, at.remote, None)
    await held.held()
    for remote in remotes:
        await begun(at, remote, None)
    held.release()
    for remote in remotes:
        await at.upstreams.mirrors.made(remote)
    assert [at.upstreams.mirrors.known(remote.name) for remote in remotes] == [
        True,
        True,
        False,
        False,
    ]
    await begun(at, remotes[3], None)
    await at.upstreams.mirrors.made(remotes[3])
    assert at.upstreams.mirrors.known(remotes[3].name)
