# Law of this file: whatever kind of repository the upstream has, or has instead of it today, clones
# through Offramp are clones of that.

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance.repositories import KINDS, Repository, empty, make
from tests.conftest import Serve
from tests.upstreams.clients import clone
from tests.upstreams.faults import Proxy
from tests.upstreams.forge import Forge
from tests.upstreams.scene import NAME, Scene, scene, speaking

pytestmark = pytest.mark.nginx

MANY = 2000
ODD_NAMES = (
    "refs/heads/with'quote",
    'refs/heads/with"quotes"',
    "refs/heads/percent%2Fsign",
    "refs/heads/at@sign",
    "refs/heads/{braces}",
    "refs/heads/-dash",
    "refs/heads/$(touch)",
    "refs/heads/;semicolon&",
    "refs/heads/sp\N{NO-BREAK SPACE}ace",
    "refs/heads/\N{SNOWMAN}",
    "refs/heads/a/b/c/d/e/f",
    "refs/heads/" + "long" * 40,
    "refs/tags/#1",
    "refs/tags/v1,0",
    "refs/heads/HEAD",
    "refs/heads/refs/heads/main",
)


def _many(root: Path, name: str) -> Repository:
    repository = make(root, name)
    oids = [repository.oid(f"main~{n}") for n in range(3)]
    kinds = ("heads/topic-", "tags/build-", "pull/", "changes/")
    lines = (f"create refs/{kinds[n % 4]}{n} {oids[n % 3]}\n" for n in range(MANY))
    repository.git("update-ref", "--stdin", stdin="".join(lines).encode())
    return repository


def _odd(root: Path, name: str) -> Repository:
    repository = make(root, name)
    lines = (f"create {ref}\0{repository.oid('main')}\0" for ref in ODD_NAMES)
    repository.git("update-ref", "--stdin", "-z", stdin="".join(lines).encode())
    return repository


def _empty_sha256(root: Path, name: str) -> Repository:
    return empty(root, name, "--object-format=sha256")


def _kind(kind: str) -> Callable[[Path, str], Repository]:
    """One of the usual kinds, at the name where the test wants it."""

    def make_it(root: Path, name: str) -> Repository:
        made = KINDS[kind](root)
        (root / name).parent.mkdir(parents=True)
        made.path.rename(root / name)
        return Repository(root, name)

    return make_it


UPSTREAMS = {
    "sha256": _kind("sha256"),
    "empty": _kind("empty"),
    "empty-trunk": _kind("empty-trunk"),
    "empty-sha256": _empty_sha256,
    "detached": _kind("detached"),
    "unborn": _kind("unborn"),
    "odd-tags": _kind("odd-tags"),
    "symbolic": _kind("symbolic"),
    "packed": _kind("packed"),
    "many-refs": _many,
    "odd-names": _odd,
}


@pytest.mark.parametrize("version", [0, 2])
@pytest.mark.parametrize("maker", UPSTREAMS.values(), ids=UPSTREAMS)
async def test_every_kind_is_mirrored(
    *,
    serve: Serve,
    proxy: Proxy,
    forge: Forge,
    tmp_path: Path,
    maker: Callable[[Path, str], Repository],
    version: int,
) -> None:
    """Passed through, mirrored, and after a push; whole, and with all refs."""
    repository = forge.make(NAME, maker=maker)
    at = await scene(serve, proxy, repository, tmp_path)
    client = speaking(at.client, version)
    await at.same(name="passed", client=client)
    await at.upstreams.mirrors.made(at.remote)
    if not at.mirror.is_dir():  # of an empty repository nothing is fetched
        await at.mirrored()
    await at.same(name="mirrored", client=client)
    await at.same("--mirror", name="all-refs", client=client)
    repository.commit("refs/heads/main", 20)
    await at.same(name="pushed", client=client)
    at.check_mirror()


async def test_names_that_are_no_text_are_kept(
    serve: Serve, proxy: Proxy, forge: Forge, tmp_path: Path
) -> None:
    """A ref in Latin-1 is cloned and mirrored byte by byte."""
    at = await scene(serve, proxy, forge.make(NAME), tmp_path)
    name = b"refs/heads/caf\xe9"
    line = b"create %b %b\n" % (name, at.repository.oid("main~1").encode())
    at.repository.git("update-ref", "--stdin", stdin=line)
    for stage in ("passed", "mirrored"):
        to = at.directory / stage
        assert (await clone(at.client, at.url, to, "--mirror")).well
        assert name in (to / "packed-refs").read_bytes()
        await at.upstreams.mirrors.made(at.remote)
    assert name in (at.mirror / "packed-refs").read_bytes()
    at.check_mirror()


async def _replace(at: Scene, *options: str) -> None:
    """Another repository is at the same place from now on, with the same rights."""
    shutil.rmtree(at.repository.path)
    made = make(at.repository.root, "new.git", *options)
    for key in ("uploadpack.allowFilter", "uploadpack.allowAnySHA1InWant"):
        made.git("config", key, "true")
    made.git("update-ref", "-d", "refs/heads/topic")
    made.commit("refs/heads/main", 50)
    made.path.rename(at.repository.path)


async def test_one_that_was_replaced_is_followed(
    serve: Serve, proxy: Proxy, forge: Forge, tmp_path: Path
) -> None:
    """Deleted and made anew under the same name: clones are of the new one."""
    at = await scene(serve, proxy, forge.make(NAME), tmp_path)
    await at.mirrored()
    await _replace(at)
    assert (await at.same()).packs
    await at.same("--mirror", name="all-refs")
    at.check_mirror()


@pytest.mark.parametrize("version", [0, 2])
async def test_one_of_another_object_format_is_followed(
    serve: Serve, proxy: Proxy, forge: Forge, tmp_path: Path, version: int
) -> None:
    """SHA-1 yesterday, SHA-256 today: what was remembered of the old one does no harm."""
    at = await scene(serve, proxy, forge.make(NAME), tmp_path)
    client = speaking(at.client, version)
    await at.mirrored()
    await at.same(name="before", client=client)
    later = at.tell_time()
    await _replace(at, "--object-format=sha256")
    later(at.remote.upstream.auth_ttl + 1)
    # The first may find that it does not fit together any more.
    await clone(client, at.url, at.directory / "first")
    later(at.remote.upstream.auth_ttl + 1)
    await at.same(name="after", client=client)


async def test_one_that_vanished_is_gone(
    serve: Serve, proxy: Proxy, forge: Forge, tmp_path: Path
) -> None:
    """404 of the upstream is ours, whatever the mirror has; and when it is back, so are we."""
    at = await scene(serve, proxy, forge.make(NAME), tmp_path)
    later = at.tell_time()
    await at.mirrored()
    hidden = at.repository.path.with_suffix(".hidden")
    at.repository.path.rename(hidden)
    for version in (0, 2):
        listed = await speaking(at.client, version)("ls-remote", at.url, check=False)
        assert "not found" in listed.stderr, listed.stderr
    hidden.rename(at.repository.path)
    later(at.remote.upstream.auth_ttl + 1)
    assert (await at.same()).packs
