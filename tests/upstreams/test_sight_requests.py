# Law of this file: a request that could draw on more of a mirror than its wants reach is answered
# by the upstream, and one that cannot is not.

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.repositories import Repository, make
from tests.conftest import Serve
from tests.server.asking import post, stock
from tests.upstreams.clients import clone
from tests.upstreams.faults import Proxy
from tests.upstreams.forge import Forge
from tests.upstreams.packed import V0, V2, WHOLE, fetch_v0, fetch_v2, objects_in
from tests.upstreams.private import upload_pack
from tests.upstreams.scene import NAME, Scene, scene, speaking

pytestmark = pytest.mark.nginx

# A ref is named in each: for git, as far as it is none of ours.
NAMING = (
    "sparse:oid=main:README",
    "combine:blob:none+sparse:oid=main:README",
    "combine:sparse:oid=main:README+tree:3",
    "combine:combine:sparse:oid=main:README+tree:3+blob:none",
)
PLAIN = ("blob:none", "blob:limit=1k", "blob:limit=0", "tree:0", "tree:2", "object:type=commit")


@pytest.fixture
async def at(serve: Serve, proxy: Proxy, forge: Forge, tmp_path: Path) -> Scene:
    """A public repository, mirrored."""
    at = await scene(serve, proxy, forge.make(NAME), tmp_path)
    await at.mirrored()
    return at


# --- depth without end ---------------------------------------------------------------------------


async def _forgotten(at: Scene) -> tuple[str, set[str]]:
    """A commit of a branch that only the mirror still has, and the objects behind it."""
    before = at.repository.commit("refs/heads/secret", 40, plan="a plan that nobody is to know")
    oid = at.repository.commit("refs/heads/secret", 41, plan="a better one")
    behind = set(at.repository.git("rev-list", "--objects", "--no-object-names", before).split())
    assert (await clone(at.client, at.url, at.directory / "all")).well
    at.repository.git("update-ref", "-d", "refs/heads/secret")
    at.repository.git("reflog", "expire", "--all", "--expire=now")
    at.repository.git("gc", "--quiet", "--prune=now")
    at.proxy.forget()
    return oid, behind


@pytest.mark.parametrize("version", [0, 2])
async def test_depth_without_end_from_elsewhere_is_the_upstreams(
    at: Scene, tmp_path: Path, version: int
) -> None:
    """What lies behind a commit that the wants do not reach stays in the mirror."""
    oid, behind = await _forgotten(at)
    main = at.repository.oid("main")
    cut = (f"shallow {oid}", WHOLE)
    body = fetch_v2(f"want {main}", *cut) if version == 2 else fetch_v0(main, *cut)
    reply = await upload_pack(at, body, V2 if version == 2 else V0)
    assert reply.status == 200
    found = objects_in(reply.body, tmp_path / "got")
    assert not found & behind
    reached = at.repository.git("rev-list", "--objects", "--no-object-names", main).split()
    assert found == set(reached)
    assert len(at.proxy.seen("fetch")) == 1


@pytest.mark.parametrize("version", [0, 1, 2])
async def test_histories_are_completed_from_the_mirror(at: Scene, version: int) -> None:
    """`git fetch --unshallow` asks for all behind what its branch reaches: that is answered."""
    client = speaking(at.client, version)
    assert (await clone(client, at.url, at.directory / "cut", "--depth=1")).well
    await client("-C", "cut", "fetch", "--quiet", "--unshallow", "origin", "main:main")
    assert not (at.directory / "cut" / "shallow").exists()
    counted = await client("-C", "cut", "rev-list", "--count", "main")
    assert counted.stdout.strip() == at.repository.git("rev-list", "--count", "main")
    assert not at.proxy.seen("fetch")


# --- filters -------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", NAMING)
async def test_filters_that_name_refs_are_the_upstreams(at: Scene, spec: str) -> None:
    """The mirror's refs are not the caller's: only the upstream can look one up for it."""
    main = at.repository.oid("main")
    reply = await upload_pack(at, fetch_v2(f"want {main}", f"filter {spec}"), V2)
    assert b"PACK" in reply.body
    assert at.served.outcomes() == {"passthrough": 1}


@pytest.mark.parametrize("spec", PLAIN)
async def test_plain_filters_are_answered_from_the_mirror(at: Scene, spec: str) -> None:
    """They say the same everywhere."""
    main = at.repository.oid("main")
    reply = await upload_pack(at, fetch_v2(f"want {main}", f"filter {spec}"), V2)
    assert b"PACK" in reply.body
    assert not at.proxy.seen("fetch")


async def test_a_record_of_a_filter_ends_with_the_ref_that_it_names(
    serve: Serve, tmp_path: Path
) -> None:
    """The same request after the ref has moved gets what it asks for now."""
    repository: Repository = make(tmp_path / "root")
    repository.commit("refs/heads/main", 20, patterns="/README\n")
    served = await serve(tmp_path / "root", index={"enabled": False})
    want = repository.oid("topic")
    body = fetch_v2(f"want {want}", "filter sparse:oid=main:patterns")
    held = []
    for number, patterns in enumerate(("/README\n", "/topic.txt\n")):
        repository.commit("refs/heads/main", 21 + number, patterns=patterns)
        repository.git("config", "uploadpack.allowFilter", "true")
        got = objects_in((await post(served, "project.git", body)).body, tmp_path / f"{number}")
        assert got == objects_in(stock(repository.path, body), tmp_path / f"{number}-stock")
        held.append(got)
    assert repository.oid("topic:README") in held[0] - held[1]
    assert repository.oid("topic:topic.txt") in held[1] - held[0]
