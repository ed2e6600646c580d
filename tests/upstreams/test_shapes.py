# Law of this file: each shape of clone and fetch that stock git knows ends through Offramp as it
# ends at the forge, whether the mirror has it all or lacks what was just pushed.

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.clones import Client, state, stock
from tests.conformance.repositories import DAY, Repository, tag
from tests.conftest import Serve
from tests.upstreams.clients import clone
from tests.upstreams.faults import Proxy
from tests.upstreams.forge import Forge
from tests.upstreams.scene import NAME, Scene, scene, without_locations

pytestmark = pytest.mark.nginx

SHAPES = {
    "whole": (),
    "mirror": ("--mirror",),
    "depth-1": ("--depth=1",),
    "depth-2": ("--depth=2", "--no-single-branch"),
    "since": (f"--shallow-since={1_700_000_000 + 4 * DAY}",),
    "no-blobs": ("--filter=blob:none",),
    "no-trees": ("--filter=tree:0",),
    "small-blobs": ("--filter=blob:limit=1k",),
    "no-blobs-depth-1": ("--filter=blob:none", "--depth=1"),
    "one-branch": ("--single-branch", "--branch=topic"),
    "one-tag": ("--branch=v1.0", "--depth=1"),
    "no-tags": ("--no-tags",),
}
# git asks for these by names, which only the upstream may resolve for this caller.
EXCLUDING = {
    "not-a-tag": ("--shallow-exclude=v1.0",),
    "not-a-branch": ("--shallow-exclude=old", "--no-single-branch"),
}


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


def _push(repository: Repository) -> None:
    """What a day brings: commits, a branch, a tag."""
    repository.commit("refs/heads/main", 20, big="something new\n" * 200)
    repository.commit("refs/heads/fresh", 21)
    repository.git("fast-import", "--quiet", stdin=tag("v3.0", "refs/heads/main^0", 22))


@pytest.mark.parametrize("options", SHAPES.values(), ids=SHAPES)
async def test_clones_are_redirected_and_the_same(at: Scene, options: tuple[str, ...]) -> None:
    """From the mirror as it is, and after a push; with locations, and inline."""
    assert (await at.same(*options)).packs
    await at.same(*options, name="inline", client=without_locations(at.client))
    _push(at.repository)
    assert (await at.same(*options, name="pushed")).packs
    at.check_mirror()


@pytest.mark.parametrize("options", EXCLUDING.values(), ids=EXCLUDING)
async def test_clones_that_exclude_by_name_are_the_same(
    at: Scene, options: tuple[str, ...]
) -> None:
    """The upstream answers them itself, from its own names."""
    await at.same(*options)
    at.repository.git("update-ref", "refs/tags/v1.0", at.repository.oid("v2.0"))
    at.repository.git("update-ref", "refs/heads/old", at.repository.oid("topic"))
    await at.same(*options, name="moved")


async def test_tags_that_come_along_are_those_of_now(at: Scene) -> None:
    """A clone of one branch asks for no tag: it gets what was tagged, moved or deleted since."""
    options = ("--single-branch", "--branch=topic")
    at.repository.git("tag", "late", "topic~1")
    at.repository.git("tag", "-a", "-m", "late", "late-annotated", "topic")
    await at.same(*options, name="new")
    at.repository.git("tag", "-f", "late", "topic")
    await at.same(*options, name="moved")
    at.repository.git("tag", "-d", "late-annotated")
    await at.same(*options, name="deleted")


async def _both(at: Scene, *steps: tuple[str, ...]) -> None:
    """Take the same steps in the clones ``here`` and ``there``; after each they are the same."""
    for step in steps:
        await at.client("-C", "here", *step)
        await stock(at.directory)("-C", "there", *step)
        here = await state(at.client, at.directory / "here")
        assert here == await state(at.client, at.directory / "there")


async def _cloned(at: Scene, *options: str) -> None:
    assert (await clone(at.client, at.url, at.directory / "here", *options)).well
    assert (await clone(stock(at.directory), at.there, at.directory / "there", *options)).well


async def test_fetches_take_what_was_pushed_since(at: Scene) -> None:
    """Commits, new branches, moved and deleted refs, and tags that follow what is fetched."""
    await _cloned(at, "--mirror")
    _push(at.repository)
    await _both(at, ("fetch", "origin", "refs/heads/main:refs/heads/main"))
    await _both(at, ("fetch", "--prune"))
    at.repository.git("update-ref", "-d", "refs/heads/topic")
    at.repository.git("update-ref", "refs/heads/main", at.repository.oid("main~2"))
    at.repository.commit("refs/heads/main", 30)
    await _both(at, ("fetch", "--prune"), ("fetch", "--tags"))


async def test_tags_follow(at: Scene) -> None:
    """A fetch of a branch brings the tags of what it brings, also one that is older than a push."""
    await _cloned(at, "--no-tags", "--single-branch")
    await at.client("-C", "here", "config", "--unset", "remote.origin.tagOpt")
    await at.client("-C", "there", "config", "--unset", "remote.origin.tagOpt")
    _push(at.repository)
    await _both(at, ("fetch", "origin", "main:main"))
    assert "refs/tags/v3.0" in (await at.client("-C", "here", "for-each-ref")).stdout


async def test_shallow_clones_deepen(at: Scene) -> None:
    """By steps, by date, to the end; and after a push."""
    await _cloned(at, "--depth=1")
    await _both(at, ("fetch", "--deepen=1"))
    _push(at.repository)
    await _both(
        at,
        ("fetch", "--depth=2"),
        ("fetch", "--deepen=1"),
        ("fetch", f"--shallow-since={1_700_000_000 + 2 * DAY}"),
        ("fetch", "--shallow-exclude=v1.0"),
        ("fetch", "--unshallow"),
    )


async def test_partial_clones_get_what_they_left_out(at: Scene) -> None:
    """A checkout of a blobless clone asks for blobs by their ids, also for new ones."""
    options = ("clone", "--quiet", "--filter=blob:none")
    await at.client(*options, at.url, "here")
    await stock(at.directory)(*options, at.there, "there")
    _push(at.repository)
    await _both(
        at,
        ("fetch", "--quiet"),
        ("checkout", "--quiet", "--detach", "origin/main"),
        ("checkout", "--quiet", "--detach", "origin/topic"),
        ("cat-file", "-p", "origin/main~3:big.txt"),
    )
    assert _files(at.client, "here") == _files(at.client, "there")


def _files(client: Client, name: str) -> dict[str, bytes]:
    """What lies in a work tree."""
    tree = client.directory / name
    files = (path for path in tree.rglob("*") if path.is_file() and ".git" not in path.parts)
    return {str(path.relative_to(tree)): path.read_bytes() for path in files}
