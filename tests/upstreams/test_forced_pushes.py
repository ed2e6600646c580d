# Law of this file: a client that was told of a ref and finds it moved when it fetches ends as it
# ends at the forge.

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conformance.clones import state
from tests.conformance.repositories import Repository
from tests.conftest import Serve
from tests.upstreams.clients import Done, clone
from tests.upstreams.faults import Holds, Proxy
from tests.upstreams.forge import Forge
from tests.upstreams.scene import NAME, Scene, scene

pytestmark = pytest.mark.nginx


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


@pytest.fixture
async def front(at: Scene) -> AsyncIterator[Proxy]:
    """Between clients and Offramp."""
    front = await Proxy.start(at.served.url)
    yield front
    await front.close()


def _rewrite(repository: Repository) -> None:
    """A forced push: the last commit of main is another one."""
    repository.git("update-ref", "refs/heads/main", repository.oid("main~1"))
    repository.commit("refs/heads/main", 40)


def _prune(repository: Repository) -> None:
    repository.git("reflog", "expire", "--all", "--expire=now")
    repository.git("gc", "--quiet", "--prune=now")


async def _interrupted(at: Scene, front: Proxy, *, pruned: bool, told: bool) -> Done:
    """Clone; between its question for refs and its fetch there is a forced push.

    Args:
        at: what is cloned.
        front: where the clone is held.
        pruned: the forge has dropped the old commit by then.
        told: somebody else has asked for refs by then, so Offramp knows.
    """
    held = Holds(after=None)
    front.fault("fetch", held, times=1)
    url = f"{front.url}/up/{NAME}"
    cloning = asyncio.create_task(clone(at.client, url, at.directory / "here"))
    await held.held()
    _rewrite(at.repository)
    if pruned:
        _prune(at.repository)
    if told:
        await at.client("ls-remote", at.url)
    held.release()
    return await cloning


@pytest.mark.parametrize("told", [True, False], ids=["told", "not-told"])
@pytest.mark.parametrize("lacks", [True, False], ids=["lacks", "has"])
async def test_the_old_commit_is_given_while_the_forge_has_it(
    at: Scene, front: Proxy, lacks: bool, told: bool
) -> None:
    """Whether or not the mirror had it, the clone is the repository as it was told of."""
    if lacks:
        at.repository.commit("refs/heads/main", 20)
    old = at.repository.oid("main")
    expected = at.directory / "expected"
    assert (await clone(at.client, at.there, expected)).well
    done = await _interrupted(at, front, pruned=False, told=told)
    assert done.well, done.finished.stderr
    found = await state(at.client, at.directory / "here")
    assert found == await state(at.client, expected)
    assert f"refs/heads/main {old} " in found.refs
    assert (await at.same(name="next")).well
    at.check_mirror()


@pytest.mark.parametrize("lacks", [True, False], ids=["lacks", "has"])
async def test_the_old_commit_is_refused_when_the_forge_has_dropped_it(
    at: Scene, front: Proxy, lacks: bool
) -> None:
    """As soon as Offramp knows of the push, "not our ref" is the answer, as at the forge."""
    if lacks:
        at.repository.commit("refs/heads/main", 20)
    old = at.repository.oid("main")
    done = await _interrupted(at, front, pruned=True, told=True)
    assert not done.well
    assert f"upload-pack: not our ref {old}" in done.finished.stderr
    assert (await at.same(name="next")).well
    at.check_mirror()


async def test_the_forge_refuses_it_in_its_own_words_where_the_mirror_lacks_it(
    at: Scene, front: Proxy
) -> None:
    """Offramp does not know of the push, and its mirror's fetch fails: the client hears why."""
    at.repository.commit("refs/heads/main", 20)
    old = at.repository.oid("main")
    done = await _interrupted(at, front, pruned=True, told=False)
    assert not done.well
    assert f"not our ref {old}" in done.finished.stderr
    assert (await at.same(name="next")).well
    at.check_mirror()


async def test_a_client_that_was_told_of_it_gets_it_from_the_mirror(
    at: Scene, front: Proxy
) -> None:
    """Within `auth_ttl` of the upstream's word, what the mirror has is as good as it was then."""
    expected = at.directory / "expected"
    assert (await clone(at.client, at.there, expected)).well
    done = await _interrupted(at, front, pruned=True, told=False)
    assert done.well, done.finished.stderr
    found = await state(at.client, at.directory / "here")
    assert found == await state(at.client, expected)
    assert (await at.same(name="next")).well
