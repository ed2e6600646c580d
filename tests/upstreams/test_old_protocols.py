# Law of this file: old clients and old forges are served as each would serve the other: what a
# client of protocol v0 is told it can have, and a forge that speaks nothing else is mirrored too.

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from multidict import CIMultiDict

from server.upstreams.asking import SpeaksV0
from tests.conformance.repositories import Repository, dropped
from tests.conftest import Serve
from tests.upstreams.clients import checkout
from tests.upstreams.faults import Answers, Holds, Proxy
from tests.upstreams.forge import Forge
from tests.upstreams.scene import NAME, Scene, scene, speaking

pytestmark = pytest.mark.nginx

OLD = pytest.mark.parametrize("version", [0, 1])
ALL = pytest.mark.parametrize("version", [0, 1, 2])
SHAPES = {"whole": (), "depth-1": ("--depth=1",), "excluding": ("--shallow-exclude=v1.0",)}


class OldProxy(Proxy):
    """Before a server that never heard of protocol v2."""

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        headers = CIMultiDict(request.headers)
        headers.popall("Git-Protocol", None)
        return await super()._handle(request.clone(headers=headers))


@pytest.fixture
def repository(forge: Forge) -> Repository:
    """A public repository."""
    return forge.make(NAME)


@pytest.fixture
async def at(serve: Serve, proxy: Proxy, repository: Repository, tmp_path: Path) -> Scene:
    """Offramp before a forge of today; nothing is mirrored yet."""
    return await scene(serve, proxy, repository, tmp_path)


@pytest.fixture
async def old(
    serve: Serve, forge: Forge, repository: Repository, tmp_path: Path
) -> AsyncIterator[Scene]:
    """Offramp before a forge that speaks protocol v0 only; nothing is mirrored yet."""
    proxy = await OldProxy.start(forge.url)
    yield await scene(serve, proxy, repository, tmp_path)
    await proxy.close()


@OLD
@pytest.mark.parametrize("options", SHAPES.values(), ids=SHAPES)
async def test_old_clients_are_served_before_and_after_mirroring(
    at: Scene, version: int, options: tuple[str, ...]
) -> None:
    """Passed through, from the mirror, and from it after a push: the same clone each time."""
    client = speaking(at.client, version)
    await at.same(*options, name="passed", client=client)
    await at.upstreams.mirrors.made(at.remote)
    assert at.mirror.is_dir()
    at.proxy.forget()
    await at.same(*options, name="mirrored", client=client)
    if not options:
        assert not at.proxy.seen("fetch")
    at.repository.commit("refs/heads/main", 20)
    at.repository.git("tag", "-a", "-m", "new", "v3.0", "main")
    await at.same(*options, name="pushed", client=client)
    at.check_mirror()


@ALL
async def test_what_comes_along_is_what_the_caller_sees(at: Scene, version: int) -> None:
    """A tag that the forge does not show any more is in no pack, although the mirror has it."""
    await at.mirrored()
    at.repository.git("tag", "-d", "v2.0")
    await at.same("--single-branch", client=speaking(at.client, version))


@OLD
async def test_a_session_that_was_advertised_from_the_mirror_ends_well_without_it(
    *, serve: Serve, proxy: Proxy, repository: Repository, tmp_path: Path, version: int
) -> None:
    """The mirror's fetch hangs: the request goes to the upstream, in the same old protocol."""
    at = await scene(serve, proxy, repository, tmp_path, max_wait="0.2s")
    await at.mirrored()
    repository.commit("refs/heads/main", 20)
    held = Holds(after=None)
    proxy.fault("fetch", held, times=1)
    await at.same(client=speaking(at.client, version))
    held.release()
    await at.updated()


@ALL
async def test_a_forge_of_protocol_v0_is_mirrored(old: Scene, version: int) -> None:
    """Clients of any version are passed through at first, and then answered from the mirror."""
    client = speaking(old.client, version)
    assert not (await old.same(name="passed", client=client)).packs
    await old.upstreams.mirrors.made(old.remote)
    view = await old.upstreams.views.now(old.remote, None)
    assert isinstance(view.spoken, SpeaksV0)
    old.proxy.forget()
    done = await old.same(name="mirrored", client=client)
    assert bool(done.packs) == (version == 2)
    old.repository.commit("refs/heads/main", 20)
    await old.same("--depth=1", name="pushed", client=client)
    assert {each.headers.get("Git-Protocol") for each in old.proxy.seen("fetch")} == {None}
    old.check_mirror()


async def test_a_forge_of_protocol_v0_gives_no_commit_by_its_id(old: Scene) -> None:
    """It cannot be asked who may have what no ref names; "not our ref" is the answer to all."""
    await old.mirrored()
    oid = dropped(old.repository)
    done = await checkout(old.client, old.url, oid, old.directory / "by-id")
    assert not done.well
    assert f"not our ref {oid}" in done.finished.stderr
    main = old.repository.oid("main")
    assert (await checkout(old.client, old.url, main, old.directory / "tip")).packs


async def test_a_forge_of_protocol_v0_that_cannot_update_the_mirror_is_down(old: Scene) -> None:
    """A client of protocol v2 cannot be passed through to it, and is told to come again."""
    await old.mirrored()
    old.repository.commit("refs/heads/main", 20)
    old.proxy.fault("fetch", Answers(500))
    done = await checkout(
        old.client, old.url, old.repository.oid("main"), old.directory / "too-early"
    )
    assert not done.well
    assert "503" in done.finished.stderr
    old.proxy.heal()
    assert (await old.same()).packs
