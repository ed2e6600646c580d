# Law of this file: mirrors are kept without anybody noticing: what they serve stays what the forge
# has, whatever was repacked or dropped, and nothing goes that somebody may be reading.

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from indexer.report import Silent
from repos.git.mirror import Mirror, mirror_path
from repos.git.mirror_lock import locked
from repos.git.program import Git
from server.indexing import index_all
from server.upstreams.keeping import KEEPER, Keeping
from server.upstreams.mirrors import MIRRORS
from tests.conformance.processes import Offramp
from tests.conformance.repositories import Repository, run_git
from tests.conftest import Serve, Served
from tests.upstreams.clients import anonymous, basic, by_header, clone
from tests.upstreams.faults import Answers, Holds, Proxy
from tests.upstreams.forge import Forge
from tests.upstreams.scene import NAME, PREFIX, Scene

pytestmark = pytest.mark.nginx

HOUR = 3600.0
DAY = 24 * HOUR
SETTINGS = {"idle": "10m", "unused": "30d", "interval": "1h"}
# As long as a program may run, and the two minutes by which uses are noted late.
GRACE = HOUR + 120


@dataclass
class Kept:
    """A server's mirrors, kept by the test alone, at a time that the test tells.

    Attributes:
        served: the server.
        keeping: keeps them when it is told to.
    """

    served: Served
    keeping: Keeping

    def later(self, seconds: float) -> None:
        """Make it so much later than it is."""
        self.keeping.clock = lambda: time.time() + seconds

    def path(self, name: str) -> Path:
        """Where the mirror of what is served as ``name`` lies."""
        return mirror_path(self.served.settings.data / MIRRORS, name)

    def figure(self, name: str) -> float:
        """A figure without labels."""
        return self.served._samples(name)[()]


Keep = Callable[..., Awaitable[Kept]]


@pytest.fixture
def keep(serve: Serve, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Keep:
    """Start servers with the proxy as upstream; their mirrors are limited by keyword arguments.

    They keep no mirrors by themselves, so that the test does it alone.
    """

    async def start(
        upstream: dict[str, Any] | None = None, data: Path | None = None, **mirrors: Any
    ) -> Kept:
        settings = {"prefix": PREFIX, "url": proxy.url, "public": True, **(upstream or {})}
        words = {} if data is None else {"data": data}
        with monkeypatch.context() as patched:
            patched.setattr(Keeping, "run", _rest)
            served = await serve(
                None, upstreams=[settings], mirrors={**SETTINGS, **mirrors}, **words
            )
        assert served.runtime.upstreams is not None
        return Kept(served, replace(served.runtime.upstreams.keeping))

    return start


async def _rest(keeping: Keeping) -> None:
    """Keep nothing."""


@pytest.fixture
def repository(forge: Forge) -> Repository:
    """A public repository whose objects can be had by their ids."""
    return forge.make(NAME)


async def scene_of(kept: Kept, proxy: Proxy, repository: Repository, directory: Path) -> Scene:
    """The repository, mirrored."""
    (directory / "clients").mkdir()
    scene = Scene(kept.served, proxy, repository, directory / "clients")
    await scene.mirrored()
    return scene


async def mirrored(kept: Kept, forge: Forge, name: str, *, age: float = 0.0) -> Path:
    """Another repository's mirror, used so many seconds ago."""
    forge.make(f"{name.removesuffix('.git')}.git")
    upstreams = kept.served.runtime.upstreams
    assert upstreams is not None
    remote = upstreams.routes.named(f"{PREFIX.strip('/')}/{name}")
    assert remote is not None
    upstreams.mirrors.begin(remote, await upstreams.views.fresh(remote, None), None)
    await upstreams.mirrors.made(remote)
    path = kept.path(remote.name)
    assert path.is_dir()
    used(path, age)
    return path


def used(path: Path, age: float) -> None:
    """Let a mirror have been used last so many seconds ago."""
    when = time.time() - age
    os.utime(path.with_suffix(".used"), (when, when))


def packs(path: Path) -> set[str]:
    """The packs of a mirror."""
    return {pack.name for pack in (path / "objects" / "pack").glob("*.pack")}


def marks(path: Path) -> dict[str, int]:
    """When the files of a mirror were last changed."""
    files = (file for file in path.rglob("*") if file.is_file())
    return {str(file): file.stat().st_mtime_ns for file in files}


# --- repacking -----------------------------------------------------------------------------------


async def test_what_was_left_alone_is_repacked(
    keep: Keep, proxy: Proxy, repository: Repository, tmp_path: Path
) -> None:
    """Packs of many fetches become few with an index over all, once; clones are as the forge's."""
    kept = await keep()
    at = await scene_of(kept, proxy, repository, tmp_path)
    for number in range(3):
        repository.commit("refs/heads/main", 20 + number)
        assert (await at.same(name=f"before-{number}")).packs
    many = packs(at.mirror)
    kept.later(9 * 60)
    await kept.keeping.tidy()
    assert packs(at.mirror) == many
    kept.later(11 * 60)
    await kept.keeping.tidy()
    assert len(packs(at.mirror)) < len(many)
    assert (at.mirror / "objects/pack/multi-pack-index").exists()
    assert list((at.mirror / "objects/pack").glob("multi-pack-index-*.bitmap"))
    at.check_mirror()
    assert (await at.same("--depth=1", name="after")).packs
    before = marks(at.mirror)
    await kept.keeping.tidy()
    assert marks(at.mirror) == before


async def test_old_wants_are_dropped_once_a_week(
    keep: Keep, proxy: Proxy, repository: Repository, tmp_path: Path
) -> None:
    """A full repack comes a week after the last one, and only if there is something to repack."""
    kept = await keep()
    at = await scene_of(kept, proxy, repository, tmp_path)
    oid = repository.oid("main")
    old = f"refs/offramp/wants/1/{oid}"
    run_git(at.mirror, "update-ref", old, oid)

    async def grown(number: int, days: float) -> bool:
        repository.commit("refs/heads/main", number)
        await at.same(name=f"{number}")
        kept.later(days * DAY)
        await kept.keeping.tidy()
        at.check_mirror()
        return bool(run_git(at.mirror, "for-each-ref", old))

    assert await grown(20, 1)
    assert await grown(21, 6)
    kept.later(8 * DAY)
    await kept.keeping.tidy()
    assert run_git(at.mirror, "for-each-ref", old)
    assert not await grown(22, 8)
    assert (await at.same(name="after")).packs


async def test_what_cannot_be_repacked_waits_until_it_has_grown(
    keep: Keep,
    proxy: Proxy,
    repository: Repository,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A repack that fails is told once, stops nobody, and is tried again after the next fetch."""
    kept = await keep()
    at = await scene_of(kept, proxy, repository, tmp_path)
    mirrors = kept.keeping.mirrors
    broken = replace(mirrors, git=Git(executable="false"))
    kept.keeping.mirrors = broken
    kept.later(HOUR)
    for _ in range(2):
        await kept.keeping.tidy()
    assert caplog.text.count("could not be repacked") == 1
    assert "up/acme/widget" in caplog.text
    kept.keeping.mirrors = mirrors
    repository.commit("refs/heads/main", 20)
    assert (await at.same()).packs
    await kept.keeping.tidy()
    assert (at.mirror / "objects/pack/multi-pack-index").exists()
    at.check_mirror()


async def test_what_somebody_works_on_is_repacked_later(
    keep: Keep, proxy: Proxy, repository: Repository, tmp_path: Path
) -> None:
    """A mirror that is being fetched into is let be, until another round."""
    kept = await keep()
    at = await scene_of(kept, proxy, repository, tmp_path)
    kept.later(HOUR)
    with locked(at.mirror, 0):
        await kept.keeping.tidy()
    assert not (at.mirror / "objects/pack/multi-pack-index").exists()
    await kept.keeping.tidy()
    assert (at.mirror / "objects/pack/multi-pack-index").exists()


async def test_repacking_has_a_low_priority(
    keep: Keep, proxy: Proxy, repository: Repository, tmp_path: Path
) -> None:
    """Its programs are nice by ten; the server itself is as it was."""
    kept = await keep()
    await scene_of(kept, proxy, repository, tmp_path)
    program = tmp_path / "git"
    program.write_text(f'#!/bin/sh\nnice >> {tmp_path}/nice\nexec git "$@"\n')
    program.chmod(0o755)
    kept.keeping.mirrors = replace(kept.keeping.mirrors, git=Git(executable=str(program)))
    before = os.nice(0)
    kept.later(HOUR)
    await kept.keeping.tidy()
    assert set((tmp_path / "nice").read_text().split()) == {str(min(before + 10, 19))}
    assert os.nice(0) == before


# --- dropping ------------------------------------------------------------------------------------


async def test_what_nobody_uses_is_dropped_and_comes_back(
    keep: Keep,
    proxy: Proxy,
    repository: Repository,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After `unused` a mirror is gone, its bundles are not, and the next clone begins it anew."""
    caplog.set_level(logging.INFO)
    kept = await keep()
    at = await scene_of(kept, proxy, repository, tmp_path)
    await index_all(kept.served.settings, Silent(), gc=False)
    catalogs = kept.served.runtime.catalogs
    bundles = await catalogs.bundles("up/acme/widget")
    assert bundles
    kept.later(29 * DAY)
    await kept.keeping.tidy()
    assert at.mirror.is_dir()
    kept.later(31 * DAY)
    await kept.keeping.tidy()
    left = {path.suffix for path in at.mirror.parent.glob(f"{at.mirror.stem}*")}
    assert left == {".lock"}
    assert "mirror of up/acme/widget is dropped: nobody used it for 31.0 days" in caplog.text
    await index_all(kept.served.settings, Silent(), gc=True)
    await catalogs.refresh_all()
    assert await catalogs.bundles("up/acme/widget") == bundles
    assert not (await at.same(name="first")).packs
    await at.upstreams.mirrors.made(at.remote)
    assert (await at.same(name="second")).packs
    at.check_mirror()


async def test_what_is_listed_stays(
    keep: Keep,
    proxy: Proxy,
    repository: Repository,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither age nor size make a listed mirror go; that there is too much is told."""
    kept = await keep({"listed": ["acme/widget"]}, max_size=1)
    at = await scene_of(kept, proxy, repository, tmp_path)
    kept.later(365 * DAY)
    await kept.keeping.tidy()
    assert "more than mirrors.max_size (1)" in caplog.text
    at.check_mirror()
    assert (await at.same()).packs


async def test_the_longest_unused_make_room(keep: Keep, forge: Forge) -> None:
    """As many go as are too much, those unused longest first; figures tell what is left."""
    kept = await keep()
    oldest = await mirrored(kept, forge, "acme/oldest", age=3 * DAY)
    middle = await mirrored(kept, forge, "acme/middle", age=2 * DAY)
    newest = await mirrored(kept, forge, "acme/newest", age=1 * DAY)
    sizes = {path: Mirror(path, Git()).size() for path in (oldest, middle, newest)}
    kept.keeping.settings = kept.keeping.settings.model_copy(
        update={"max_size": sizes[newest] + sizes[middle], "idle": 9 * DAY}
    )
    await kept.keeping.tidy()
    assert [path.is_dir() for path in (oldest, middle, newest)] == [False, True, True]
    assert kept.figure("offramp_mirrors") == 2
    assert kept.figure("offramp_mirror_bytes") == sizes[newest] + sizes[middle]
    kept.keeping.settings = kept.keeping.settings.model_copy(update={"max_size": 1})
    await kept.keeping.tidy()
    assert not list(middle.parent.glob("*.git"))
    assert kept.figure("offramp_mirrors") == kept.figure("offramp_mirror_bytes") == 0


async def test_what_a_program_may_read_stays(keep: Keep, forge: Forge) -> None:
    """However little room there is: as long as a program of the last use may run."""
    kept = await keep(max_size=1, unused=1)
    path = await mirrored(kept, forge, "acme/widget", age=GRACE - 30)
    await kept.keeping.tidy()
    run_git(path, "fsck", "--strict")
    used(path, GRACE + 30)
    await kept.keeping.tidy()
    assert not path.exists()


async def test_who_comes_in_the_last_moment_is_served(keep: Keep, forge: Forge) -> None:
    """A mirror that was to go, and is used before it does, stays."""
    kept = await keep(max_size=1)
    path = await mirrored(kept, forge, "acme/widget", age=DAY)
    found = kept.keeping._look()
    Mirror(path, Git()).touch()
    assert await kept.keeping._drop(found) == found
    assert path.is_dir()


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("acme/widget", {"prefix": "/other/"}, "no upstream in the settings has it"),
        ("acme/widget", {"deny": ["acme/*"]}, "no upstream in the settings has it"),
        ("acme/widget.git", {"git_suffix": True}, "no upstream in the settings has it"),
        ("acme/widget", {"mirror": ["other/*"]}, "the settings do not mirror it any more"),
    ],
    ids=["prefix", "denied", "named otherwise", "not mirrored"],
)
async def test_what_the_settings_no_longer_have_is_dropped(
    keep: Keep,
    forge: Forge,
    caplog: pytest.LogCaptureFixture,
    *,
    name: str,
    change: dict[str, Any],
    why: str,
) -> None:
    """A mirror whose upstream is gone goes too, when nobody can be reading it; the log says so."""
    caplog.set_level(logging.INFO)
    before = await keep({"git_suffix": False})
    path = await mirrored(before, forge, name)
    after = await keep(change, data=before.served.settings.data)
    await after.keeping.tidy()
    assert path.is_dir()
    after.later(GRACE + 60)
    await after.keeping.tidy()
    assert not path.exists()
    assert f"mirror of up/{name} is dropped: {why}" in caplog.text


# --- from the start ------------------------------------------------------------------------------


class Rests:
    """A keeper's time between rounds, that is over when the test says so."""

    def __init__(self) -> None:
        self._begun: asyncio.Queue[asyncio.Event] = asyncio.Queue()

    async def sleep(self, seconds: float) -> None:
        """Rest."""
        assert seconds == HOUR
        over = asyncio.Event()
        self._begun.put_nowait(over)
        await over.wait()

    async def begun(self) -> asyncio.Event:
        """Wait until it rests; the answer ends that."""
        return await self._begun.get()


async def test_one_keeps_the_mirrors(
    keep: Keep, proxy: Proxy, repository: Repository, tmp_path: Path
) -> None:
    """Who comes second waits, and takes over when the first is gone; leftovers go then."""
    assert repository.path.is_dir()
    directory = tmp_path / "data" / MIRRORS
    left = directory / f"{'0' * 40}.new"
    kept = await keep({"listed": ["acme/widget"]})
    left.mkdir(parents=True)
    rests = Rests()
    kept.keeping.sleep = rests.sleep
    with locked(directory / KEEPER, 0):
        running = asyncio.create_task(kept.keeping.run())
        over = await rests.begun()
        assert left.is_dir()
        assert not proxy.exchanges
    over.set()
    for _ in range(2):  # what is listed, and what is there
        await rests.begun()
    assert not left.exists()
    run_git(kept.path("up/acme/widget"), "fsck", "--strict")
    running.cancel()
    await asyncio.wait({running})
    with locked(directory / KEEPER, 0):
        pass


async def test_a_server_keeps_its_mirrors(
    serve: Serve, proxy: Proxy, repository: Repository, tmp_path: Path
) -> None:
    """What is listed is mirrored without being asked for, and the first clone comes from it."""
    assert repository.path.is_dir()
    upstream = {"repository": "/widget", "url": f"{proxy.url}/{NAME}", "public": True}
    served = await serve(None, upstreams=[upstream])
    upstreams = served.runtime.upstreams
    assert upstreams is not None
    await upstreams.keeping.make_listed()
    (tmp_path / "clients").mkdir()
    done = await clone(
        anonymous(tmp_path / "clients"), f"{served.url}/widget", tmp_path / "clients/clone"
    )
    assert done.well, done.finished.stderr
    assert done.packs
    assert len(proxy.seen("fetch")) == 1


async def test_a_server_that_mirrors_can_be_stopped(
    proxy: Proxy, repository: Repository, tmp_path: Path
) -> None:
    """However long the fetch would take: the server ends at once, and the next one begins anew."""
    assert repository.path.is_dir()
    config = tmp_path / "offramp.toml"
    config.write_text(
        f'[[upstreams]]\nprefix = "{PREFIX}"\nurl = "{proxy.url}"\npublic = true\n'
        'listed = ["acme/widget"]\n'
    )
    (tmp_path / "root").mkdir()
    hold = Holds()
    proxy.fault("fetch", hold)
    offramp = Offramp(tmp_path / "data")
    try:
        server = await offramp.serve(tmp_path / "root", "--config", str(config))
        await hold.held()
        assert await server.stop() == 0
        proxy.heal()
        server = await offramp.serve(tmp_path / "root", "--config", str(config))
        await server.logged("up/acme/widget is mirrored")
        assert await server.stop() == 0
    finally:
        hold.release()
        await offramp.close()
    path = mirror_path(tmp_path / "data" / MIRRORS, "up/acme/widget")
    run_git(path, "fsck", "--strict")


async def test_listed_repositories_are_tried_again(
    keep: Keep, proxy: Proxy, repository: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    """An upstream that is down at the start costs a line in the log, and one round."""
    assert repository.path.is_dir()
    proxy.fault("info-refs", Answers(503))
    kept = await keep({"listed": ["acme/widget"]})
    views = kept.keeping.mirrors.views
    await kept.keeping.make_listed()
    assert "up/acme/widget is listed and could not be mirrored" in caplog.text
    assert "503" in caplog.text
    proxy.heal()
    later = views.clock() + 60
    views.clock = lambda: later
    await kept.keeping.make_listed()
    run_git(kept.path("up/acme/widget"), "fsck", "--strict")


async def test_listed_repositories_are_mirrored_with_our_own_credential(
    keep: Keep, forge: Forge, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is private is mirrored with the credential of the settings, or not at all."""
    forge.make(NAME, users={"robot": "a-secret-word", "ann": "hers"})
    private = {"listed": ["acme/widget"], "public": False}
    without = await keep(private)
    await without.keeping.make_listed()
    assert not without.path("up/acme/widget").exists()
    assert "up/acme/widget is listed and could not be mirrored" in caplog.text
    credential = {"username": "robot", "password": "a-secret-word"}
    kept = await keep({**private, "credential": credential}, data=tmp_path / "other")
    await kept.keeping.make_listed()
    run_git(kept.path("up/acme/widget"), "fsck", "--strict")
    assert "a-secret-word" not in caplog.text
    (tmp_path / "clients").mkdir()
    anybody = anonymous(tmp_path / "clients")
    url = f"{kept.served.url}{PREFIX}{NAME}"
    assert not (await clone(anybody, url, tmp_path / "clients/no")).well
    ann = by_header(anybody, kept.served.url, basic("ann", "hers"))
    done = await clone(ann, url, tmp_path / "clients/yes")
    assert done.well, done.finished.stderr
    assert done.packs


async def test_a_round_that_fails_is_not_the_last(
    keep: Keep, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """What nobody expected is logged, and the next round comes."""
    del proxy
    kept = await keep()
    rests = Rests()
    kept.keeping.sleep = rests.sleep
    told: list[int] = []

    def figures(count: int, size: int) -> None:
        del size
        told.append(count)
        if len(told) == 1:
            raise ZeroDivisionError

    kept.keeping.figures = figures
    running = asyncio.create_task(kept.keeping.run())
    overs = [await rests.begun() for _ in range(2)]
    assert "ZeroDivisionError" in caplog.text
    for over in overs:
        over.set()
    for _ in range(2):
        await rests.begun()
    assert told == [0, 0]
    running.cancel()
    await asyncio.wait({running})


# --- what other processes see --------------------------------------------------------------------


async def test_a_mirror_of_another_process_is_indexed(
    *,
    serve: Serve,
    proxy: Proxy,
    repository: Repository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The process that indexes hears of a mirror that another made, long before its interval."""
    monkeypatch.setattr("server.indexing._LOOK_SECONDS", 0.01)
    monkeypatch.setattr("server.indexing._SETTLE_SECONDS", 0.0)
    upstream = {"prefix": PREFIX, "url": proxy.url, "public": True}
    indexes = await serve(None, upstreams=[upstream], index={"enabled": True, "interval": "1h"})
    indexing = indexes.runtime.indexing
    assert indexing is not None
    ended: asyncio.Queue[None] = asyncio.Queue()
    refresh = indexing.done

    async def told() -> None:
        await refresh()
        ended.put_nowait(None)

    indexing.done = told
    await ended.get()
    serves = await serve(None, upstreams=[upstream], index={"enabled": False})
    (tmp_path / "clients").mkdir()
    at = Scene(serves, proxy, repository, tmp_path / "clients")
    await at.mirrored()
    await ended.get()
    await serves.runtime.catalogs.refresh_all()
    assert await serves.runtime.catalogs.bundles("up/acme/widget")
    assert (await at.same()).packs
    assert serves.executions() == 0
