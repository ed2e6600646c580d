# Law of this file: a mirror that is damaged or gone costs its clients time and nothing else: the
# upstream answers them, and the mirror is made anew.

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repos.git.repository import GitRepository
from server.upstreams.mirrors import Mirrors
from tests.conformance.repositories import run_git
from tests.conftest import Serve
from tests.upstreams.clients import clone, fetch
from tests.upstreams.faults import Proxy
from tests.upstreams.forge import Forge
from tests.upstreams.packed import V0, fetch_v0
from tests.upstreams.private import upload_pack
from tests.upstreams.scene import NAME, Scene, scene, speaking

pytestmark = pytest.mark.nginx


@pytest.fixture
async def at(serve: Serve, proxy: Proxy, forge: Forge, tmp_path: Path) -> Scene:
    """A public repository, mirrored."""
    at = await scene(serve, proxy, forge.make(NAME), tmp_path)
    await at.mirrored()
    return at


def _overwritten(at: Scene, *, ending: bool) -> None:
    for pack in at.mirror.glob("objects/pack/*.pack"):
        whole = pack.read_bytes()
        kept = len(whole) if ending else len(whole) - 20
        pack.chmod(0o644)
        pack.write_bytes(whole[:12] + b"\xa5" * (kept - 12) + whole[kept:])


def _content(at: Scene) -> None:
    """Garbage over all that the pack says it holds."""
    _overwritten(at, ending=False)


def _all(at: Scene) -> None:
    """Also over its checksum: git no longer takes the file for a pack."""
    _overwritten(at, ending=True)


def _object(at: Scene, name: str) -> Path:
    """The file of one object, once each has one of its own."""
    for pack in at.mirror.glob("objects/pack/*.pack"):
        content = pack.read_bytes()
        for file in pack.parent.glob(f"{pack.stem}.*"):
            file.unlink()
        run_git(at.mirror, "unpack-objects", "-q", stdin=content)
    oid = at.repository.oid(name)
    return at.mirror / "objects" / oid[:2] / oid[2:]


def _blob(at: Scene) -> None:
    """Something is gone that no ref names: found out when a pack is made."""
    _object(at, "main:big.txt").unlink()


def _tip(at: Scene) -> None:
    """The end of what a ref names is gone: it is there, and cannot be read."""
    file = _object(at, "main")
    whole = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(whole[: len(whole) // 2])


async def looked_at(at: Scene) -> None:
    """Wait until a look at the mirror has ended."""
    checking = at.upstreams.mirrors._of(at.remote).checking
    if checking is not None:
        await asyncio.wait({checking})


async def made_anew(at: Scene) -> None:
    """The next clone is passed through and starts a mirror; from the one after on, redirects."""
    assert not (await at.same(name="passed")).packs
    await at.upstreams.mirrors.made(at.remote)
    assert (await at.same(name="anew")).packs
    at.check_mirror()


@pytest.mark.parametrize(
    ("version", "damage"),
    [(2, _content), (2, _all), (2, _blob), (2, _tip), (0, _content), (0, _all), (0, _tip)],
)
async def test_a_damaged_mirror_is_dropped(
    at: Scene, version: int, damage: Callable[[Scene], None]
) -> None:
    """The clone that finds it out is whole, and came from the upstream."""
    damage(at)
    done = await at.same(name="finds", client=speaking(at.client, version))
    assert not done.packs
    assert at.served.outcomes() == {"passthrough": 1}
    await looked_at(at)
    assert not at.mirror.exists()
    await made_anew(at)


async def test_an_old_answer_that_has_begun_is_broken_off(at: Scene) -> None:
    """In v0 git's words are sent as they come: one client fails, on behalf of all."""
    _blob(at)
    assert not (await clone(speaking(at.client, 0), at.url, at.directory / "finds")).well
    await looked_at(at)
    assert not at.mirror.exists()
    await made_anew(at)


async def test_a_mirror_whose_refs_cannot_be_read_is_dropped(at: Scene) -> None:
    """Not only its content can be damaged."""
    (at.mirror / "HEAD").write_text("no longer a ref\n")
    assert not (await at.same(name="finds")).packs
    await looked_at(at)
    assert not at.mirror.exists()
    await made_anew(at)


async def test_a_sound_mirror_stays(at: Scene) -> None:
    """One program that failed is no proof: the mirror is looked at, and kept if it is whole."""
    at.upstreams.mirrors.suspect(at.remote)
    assert at.upstreams.mirrors._of(at.remote).checking is not None
    await looked_at(at)
    at.check_mirror()
    assert (await at.same()).packs
    # Not looked at again at once, however often something fails.
    at.upstreams.mirrors.suspect(at.remote)
    assert at.upstreams.mirrors._of(at.remote).checking is None


def gone_when_ready(monkeypatch: pytest.MonkeyPatch, at: Scene) -> None:
    """Remove the mirror when the next request has been told that it is ready."""
    original = Mirrors.ready

    async def ready(self: Mirrors, *args: Any, **words: Any) -> GitRepository | None:
        repository = await original(self, *args, **words)
        assert repository is not None
        monkeypatch.setattr(Mirrors, "ready", original)
        shutil.rmtree(at.mirror)
        return repository

    monkeypatch.setattr(Mirrors, "ready", ready)


@pytest.mark.parametrize("version", [0, 1, 2])
async def test_a_mirror_that_goes_in_the_last_moment(
    at: Scene, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    """Another process may drop it between our look and git's: the upstream answers."""
    gone_when_ready(monkeypatch, at)
    client = speaking(at.client, version)
    assert not (await at.same(name="finds", client=client)).packs
    await looked_at(at)
    await made_anew(at)


async def test_one_that_goes_under_a_fetch_with_haves(
    at: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where git would be asked first what client and mirror have in common."""
    here = at.directory / "here"
    assert (await clone(at.client, at.url, here)).well
    oid = at.repository.commit("refs/heads/main", 20)
    gone_when_ready(monkeypatch, at)
    done = await fetch(at.client, here, "origin", "main:refs/heads/new")
    assert done.well, done.finished.stderr
    assert run_git(here, "rev-parse", "new") == oid


async def test_one_that_goes_under_old_haves(at: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in protocol v0."""
    gone_when_ready(monkeypatch, at)
    main, have = at.repository.oid("main"), at.repository.oid("main~1")
    reply = await upload_pack(at, fetch_v0(main, haves=(have,)), V0)
    assert b"PACK" in reply.body
    assert len(at.proxy.seen("fetch")) == 1
