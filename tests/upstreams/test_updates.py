# Law of this file: what a client wants and the mirror lacks is fetched for it once, whoever else
# wants it, and the client is answered from the mirror; or it hears the upstream's own words.

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from server.upstreams.mirrors import Mirrors
from server.upstreams.views import Views
from tests.conformance.clones import State, state
from tests.conformance.repositories import Repository, dropped, tag
from tests.conftest import Serve
from tests.upstreams.clients import Done, checkout, clone, fetch
from tests.upstreams.faults import Holds, Proxy
from tests.upstreams.forge import Forge
from tests.upstreams.scene import NAME, Arrivals, Scene, scene

pytestmark = pytest.mark.nginx

JOBS = 10


@pytest.fixture
def repository(forge: Forge) -> Repository:
    """A public repository whose objects can be had by their ids."""
    return forge.make(NAME)


@pytest.fixture
async def at(serve: Serve, proxy: Proxy, repository: Repository, tmp_path: Path) -> Scene:
    """It, mirrored."""
    at = await scene(serve, proxy, repository, tmp_path)
    await at.mirrored()
    return at


async def _same_checkout(at: Scene, oid: str, name: str) -> State:
    """A checkout through Offramp that was redirected holds what one from the forge does."""
    done = await checkout(at.client, at.url, oid, at.directory / name)
    assert done.well, done.finished.stderr
    assert done.packs
    assert (await checkout(at.client, at.there, oid, at.directory / f"{name}-expected")).well
    found = await state(at.client, at.directory / name)
    assert found == await state(at.client, at.directory / f"{name}-expected")
    return found


async def test_a_new_commit_is_fetched_when_it_is_wanted(at: Scene) -> None:
    """A clone after a push is whole, from a location, and cost the upstream one fetch."""
    at.repository.commit("refs/heads/main", 20)
    at.repository.commit("refs/heads/topic", 21)
    at.repository.git("fast-import", "--quiet", stdin=tag("v3.0", "refs/heads/main^0", 22))
    assert (await at.same()).packs
    assert len(at.proxy.seen("fetch")) == 1
    assert (await at.same(name="again")).packs
    assert len(at.proxy.seen("fetch")) == 1
    at.check_mirror()


async def test_what_has_not_changed_costs_no_fetch(at: Scene) -> None:
    """Clones of what is mirrored ask the upstream for refs, and for nothing else."""
    for number in range(2):
        assert (await at.same(name=f"{number}")).packs
    assert {exchange.kind for exchange in at.proxy.exchanges} == {"ls-refs"}


async def test_refs_that_the_mirror_does_not_keep_are_fetched_when_wanted(at: Scene) -> None:
    """A change under review is told of, and fetched by its name, with one fetch for two clients."""
    at.repository.git("update-ref", "refs/changes/07/7/1", "refs/heads/main")
    oid = at.repository.commit("refs/changes/07/7/1", 20)
    for name in ("one", "two"):
        clone_of = at.directory / name
        await at.client("init", "--quiet", "--bare", clone_of)
        done = await fetch(at.client, clone_of, at.url, "refs/changes/07/7/1:refs/heads/review")
        assert done.well, done.finished.stderr
        assert done.packs
        assert f"refs/heads/review {oid} " in (await state(at.client, clone_of)).refs
    assert len(at.proxy.seen("fetch")) == 1
    at.check_mirror()


async def test_a_commit_that_no_ref_names_is_given_as_the_upstream_gives_it(at: Scene) -> None:
    """The upstream is asked whether it may be had; then the mirror fetches it, once."""
    oid = dropped(at.repository)
    for name in ("one", "two"):
        assert oid in (await _same_checkout(at, oid, name)).shallow
    # The question whether it may be had, and the mirror's fetch.
    assert len(at.proxy.seen("fetch")) == 2
    at.check_mirror()


async def test_a_commit_that_the_upstream_has_not_is_refused_in_its_words(at: Scene) -> None:
    """Who wants what does not exist is told "not our ref", with the id, as by the forge."""
    oid = "1234567890" * 4
    here = await checkout(at.client, at.url, oid, at.directory / "here")
    there = await checkout(at.client, at.there, oid, at.directory / "there")
    words = f"upload-pack: not our ref {oid}"
    for done in (here, there):
        assert not done.well
        assert words in done.finished.stderr
    assert (await at.same()).packs


async def test_what_the_upstream_no_longer_has_is_given_to_nobody(at: Scene) -> None:
    """A commit that is in the mirror, and that the forge dropped since, is refused by its words."""
    oid = at.repository.commit("refs/heads/secret", 20)
    later = at.tell_time()
    assert (await at.same()).packs
    at.repository.git("update-ref", "-d", "refs/heads/secret")
    at.repository.git("reflog", "expire", "--all", "--expire=now")
    at.repository.git("gc", "--quiet", "--prune=now")
    later(at.remote.upstream.auth_ttl + 1)
    done = await checkout(at.client, at.url, oid, at.directory / "late")
    assert not done.well
    assert f"not our ref {oid}" in done.finished.stderr


async def test_ten_jobs_of_one_pipeline_are_one_fetch(
    at: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`fetch --depth=1 SHA` of a commit just pushed, by all at once: the upstream sends it once."""
    arrivals = Arrivals(monkeypatch, Mirrors, "ready")
    later = at.tell_time()
    oid = at.repository.commit("refs/heads/main", 20)
    later(10)
    held = Holds(after=None)
    at.proxy.fault("fetch", held, times=1)
    jobs = [asyncio.create_task(_same_checkout(at, oid, f"job-{n}")) for n in range(JOBS)]
    await arrivals.reach(JOBS)
    held.release()
    found = await asyncio.gather(*jobs)
    assert {each.shallow for each in found} == {(oid,)}
    assert len(at.proxy.seen("fetch")) == 1
    assert at.served.executions() == 1
    at.check_mirror()


async def test_ten_jobs_of_a_superseded_commit_are_one_question_and_one_fetch(
    at: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No ref names it any more: whether it may be had is asked once, and it is fetched once."""
    arrivals = Arrivals(monkeypatch, Views, "may_have")
    oid = dropped(at.repository)
    held = Holds(after=None)
    at.proxy.fault("fetch", held, times=1)
    jobs = [asyncio.create_task(_same_checkout(at, oid, f"job-{n}")) for n in range(JOBS)]
    await arrivals.reach(JOBS)
    held.release()
    found = await asyncio.gather(*jobs)
    assert {each.shallow for each in found} == {(oid,)}
    assert len(at.proxy.seen("fetch")) == 2
    at.check_mirror()


async def test_what_came_meanwhile_is_fetched_next(
    at: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who wants a commit younger than the fetch that runs waits for the next, and gets it."""
    arrivals = Arrivals(monkeypatch, Mirrors, "ready")
    held = Holds(after=None)
    at.proxy.fault("fetch", held, times=1)

    async def job(number: int) -> Done:
        oid = at.repository.commit("refs/heads/main", 20 + number)
        done = asyncio.create_task(clone(at.client, at.url, at.directory / f"job-{number}"))
        await arrivals.reach(1 + number)
        assert oid == at.repository.oid("main")
        return await done

    first = asyncio.create_task(job(0))
    await held.held()
    second = asyncio.create_task(job(1))
    await arrivals.reach(2)
    held.release()
    for done in await asyncio.gather(first, second):
        assert done.well, done.finished.stderr
        assert done.packs
    await at.check_same("job-1")
    assert len(at.proxy.seen("fetch")) == 2
