# Law of this file: an upstream that becomes another one, moves, comes back or is made again is
# followed; nothing of what it was before is told as what it is.

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conformance.repositories import Repository, make
from tests.conftest import Serve
from tests.upstreams.clients import clone
from tests.upstreams.faults import Answers, Proxy, Redirects
from tests.upstreams.forge import Forge
from tests.upstreams.scene import NAME, Scene, scene

pytestmark = pytest.mark.nginx

GONE = Answers(404, {"Content-Type": "text/plain"}, b"there is no such repository\n")


@pytest.fixture
def repository(forge: Forge) -> Repository:
    """A public repository."""
    return forge.make(NAME)


@pytest.fixture
async def at(serve: Serve, proxy: Proxy, repository: Repository, tmp_path: Path) -> Scene:
    """It, mirrored."""
    at = await scene(serve, proxy, repository, tmp_path)
    await at.mirrored()
    return at


def replace_by(repository: Repository, *options: str) -> None:
    """Make another one in its place."""
    shutil.rmtree(repository.path)
    made = make(repository.root, repository.name, *options)
    made.commit("refs/heads/main", 30, other="not what it was\n")
    made.git("config", "uploadpack.allowAnySHA1InWant", "true")
    made.git("config", "uploadpack.allowFilter", "true")


# --- another object format -----------------------------------------------------------------------


async def test_another_object_format_makes_another_mirror(at: Scene) -> None:
    """There and back: each time the upstream answers first, then a new mirror does."""
    later = at.tell_time()
    for format_ in ("sha256", "sha1"):
        replace_by(at.repository, f"--object-format={format_}")
        later(at.remote.upstream.auth_ttl + 1)
        # The question in the old format has no answer; after that silence it is asked anew.
        await clone(at.client, at.url, at.directory / f"notices-{format_}")
        later(at.remote.upstream.auth_ttl + 1)
        assert not (await at.same(name=f"passed-{format_}")).packs
        await at.upstreams.mirrors.made(at.remote)
        assert (await at.same(name=f"mirrored-{format_}")).packs
        config = (at.mirror / "config").read_text()
        assert ("objectformat = sha256" in config) == (format_ == "sha256")
        at.check_mirror()


async def test_the_same_object_format_keeps_the_mirror(at: Scene) -> None:
    """Another history of the same kind is an update."""
    before = at.mirror.stat().st_ino
    replace_by(at.repository)
    assert (await at.same()).packs
    assert at.mirror.stat().st_ino == before


# --- redirects -----------------------------------------------------------------------------------


@pytest.fixture
async def moved(
    *, serve: Serve, proxy: Proxy, elsewhere: Proxy, repository: Repository, tmp_path: Path
) -> Scene:
    """A repository that has moved to another host, whither it is followed."""
    proxy.fault("info-refs", Redirects(f"{elsewhere.url}/{NAME}"))
    host = elsewhere.url.removeprefix("http://")
    at = await scene(serve, proxy, repository, tmp_path, redirect_hosts=[host])
    await at.mirrored()
    return at


async def test_a_redirect_that_ends_is_forgotten(moved: Scene, elsewhere: Proxy) -> None:
    """The new place says that there is nothing any more: the old one is asked, and has it."""
    elsewhere.forget()
    assert (await moved.same(name="there")).packs
    assert elsewhere.seen("ls-refs")
    assert not moved.proxy.seen("ls-refs", "fetch")
    for kind in ("info-refs", "ls-refs", "fetch"):
        elsewhere.fault(kind, GONE)
    moved.proxy.heal()
    assert (await moved.same(name="back")).packs
    assert moved.proxy.seen("ls-refs")
    elsewhere.forget()
    # Also what is fetched and what is passed on comes from the old place again.
    moved.repository.commit("refs/heads/main", 20)
    assert (await moved.same(name="updated")).packs
    assert not elsewhere.exchanges
    assert moved.proxy.seen("fetch")


async def test_a_redirect_to_nothing_is_a_no(moved: Scene, elsewhere: Proxy) -> None:
    """As long as the old place sends everybody there, there is nothing, also for us."""
    for kind in ("info-refs", "ls-refs", "fetch"):
        elsewhere.fault(kind, GONE)
    for word in ("--bare", "--mirror"):
        assert not (await clone(moved.client, moved.url, moved.directory / word[2:], word)).well
    assert not moved.proxy.seen("ls-refs", "fetch")


# --- gone and made again -------------------------------------------------------------------------


async def test_one_that_is_made_again_is_another(at: Scene) -> None:
    """While it is gone nobody gets anything; then what is there now, and nothing of the old."""
    later = at.tell_time()
    old = at.repository.oid("topic")
    shutil.rmtree(at.repository.path)
    assert not (await clone(at.client, at.url, at.directory / "gone")).well
    at.repository.path.mkdir()
    replace_by(at.repository)
    at.repository.git("update-ref", "-d", "refs/heads/topic")
    later(at.remote.upstream.auth_ttl + 1)
    assert (await at.same(name="new")).packs
    refs = (await at.client("ls-remote", at.url)).stdout
    assert "refs/heads/topic" not in refs
    assert f"{old}\trefs/heads" not in refs


async def test_a_no_that_ended_is_asked_about_in_time(at: Scene) -> None:
    """Within `auth_ttl` the no is remembered; after it the upstream is asked again."""
    later = at.tell_time()
    aside = at.repository.path.with_suffix(".aside")
    at.repository.path.rename(aside)
    for number in range(2):
        assert not (await clone(at.client, at.url, at.directory / f"gone-{number}")).well
    asked = len(at.proxy.seen("info-refs", "ls-refs"))
    aside.rename(at.repository.path)
    assert not (await clone(at.client, at.url, at.directory / "early")).well
    assert len(at.proxy.seen("info-refs", "ls-refs")) == asked
    later(at.remote.upstream.auth_ttl + 1)
    assert (await at.same(name="back")).packs
