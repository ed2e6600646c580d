# Law of this file: whatever becomes of a fetch from the upstream, the mirror is as it was before or
# as it was to be, clients get the upstream's own answer meanwhile, and no half is ever kept.

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from tests.conformance.clones import V2_HEADERS, v2_request
from tests.conformance.repositories import Repository, run_git
from tests.conftest import Serve
from tests.upstreams.clients import clone
from tests.upstreams.faults import Answers, Breaks, Fault, Holds, Proxy, Truncated
from tests.upstreams.forge import Forge
from tests.upstreams.scene import NAME, Scene, scene, speaking

pytestmark = pytest.mark.nginx

FAULTS: dict[str, Fault] = {
    "500": Answers(500),
    "429": Answers.too_many(1),
    "404": Answers(404),
    "login-page": Answers.login_page(),
    "no-pack": Truncated(after=30),
    "cut-short": Truncated(after=400),
    "broken": Truncated(after=400, broken=True),
}
VERSIONS = pytest.mark.parametrize("version", [0, 2])


@pytest.fixture
def repository(forge: Forge) -> Repository:
    """A public repository."""
    return forge.make(NAME)


def _refs(at: Scene) -> str:
    return run_git(at.mirror, "for-each-ref", "--format=%(refname) %(objectname)")


def _push(at: Scene) -> None:
    at.repository.commit("refs/heads/main", 20, big="".join(f"{n * n}\n" for n in range(500)))


def _recorded(at: Scene) -> list[Path]:
    return [path for path in (at.served.settings.data / "records").rglob("*") if path.is_file()]


# --- updates -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_an_update_that_fails_changes_nothing(
    serve: Serve, proxy: Proxy, repository: Repository, tmp_path: Path, fault: Fault
) -> None:
    """The client who waited for it is passed through; the next one's update goes well."""
    at = await scene(serve, proxy, repository, tmp_path)
    await at.mirrored()
    before = _refs(at)
    _push(at)
    proxy.fault("fetch", fault, times=1)
    assert not (await at.same(name="passed")).packs
    assert _refs(at) == before
    at.check_mirror()
    assert (await at.same()).packs
    assert _refs(at) != before
    at.check_mirror()


@VERSIONS
async def test_an_update_that_hangs_is_not_waited_for(
    *, serve: Serve, proxy: Proxy, repository: Repository, tmp_path: Path, version: int
) -> None:
    """After `max_wait` clients are passed through, who waited and who comes then."""
    at = await scene(serve, proxy, repository, tmp_path, max_wait="0.3s")
    await at.mirrored()
    before = _refs(at)
    _push(at)
    held = Holds(after=200)
    proxy.fault("fetch", held, times=1)
    client = speaking(at.client, version)
    for name in ("waited", "came-then"):
        assert not (await at.same(name=name, client=client)).packs
    assert _refs(at) == before
    run_git(at.mirror, "fsck", "--strict")
    held.release()
    await at.updated()
    proxy.forget()
    await at.same(name="after", client=client)
    assert not proxy.seen("fetch")
    at.check_mirror()


async def test_an_update_that_hangs_ends_by_itself(
    serve: Serve, proxy: Proxy, repository: Repository, tmp_path: Path
) -> None:
    """After `stall_time` without a byte it is over, and the next client's starts."""
    at = await scene(serve, proxy, repository, tmp_path, stall_time="1s")
    await at.mirrored()
    before = _refs(at)
    _push(at)
    proxy.fault("fetch", Holds(after=200), times=1)
    assert not (await at.same(name="passed")).packs
    assert _refs(at) == before
    at.check_mirror()
    assert (await at.same()).packs


async def test_a_first_mirroring_that_hangs_ends_by_itself(
    serve: Serve, proxy: Proxy, repository: Repository, tmp_path: Path
) -> None:
    """After `stall_time` it is over, and nothing of it is left."""
    at = await scene(serve, proxy, repository, tmp_path, stall_time="1s")
    proxy.fault("fetch", Holds(after=200), times=1)
    await at.begin()
    await at.upstreams.mirrors.made(at.remote)
    assert not at.mirrors_on_disk()
    assert not (await at.same()).packs


async def test_a_client_that_leaves_takes_nothing_with_it(
    serve: Serve, proxy: Proxy, repository: Repository, tmp_path: Path
) -> None:
    """The update that it started goes on for the others, who are answered from the mirror."""
    at = await scene(serve, proxy, repository, tmp_path)
    await at.mirrored()
    _push(at)
    held = Holds(after=200)
    proxy.fault("fetch", held, times=1)
    body = v2_request("fetch", f"want {repository.oid('main')}", "done")
    await at.client("ls-remote", at.url)
    async with aiohttp.ClientSession() as session:
        asked = asyncio.create_task(
            session.post(f"{at.url}/git-upload-pack", data=body, headers=V2_HEADERS)
        )
        await held.held()
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
    staying = asyncio.create_task(at.same())
    held.release()
    assert (await staying).packs
    assert len(proxy.seen("fetch")) == 1
    at.check_mirror()


# --- what is passed through ----------------------------------------------------------------------


BROKEN: dict[str, Fault] = {
    "broken": Truncated(after=400, broken=True),
    "cut-short": Truncated(after=400),
    "stalls": Holds(after=400),
    "breaks": Breaks(),
    "hangs": Holds(after=0),
}


@VERSIONS
@pytest.mark.parametrize("fault", BROKEN.values(), ids=BROKEN)
async def test_a_pack_that_breaks_off_is_a_failure(
    *,
    serve: Serve,
    proxy: Proxy,
    repository: Repository,
    tmp_path: Path,
    fault: Fault,
    version: int,
) -> None:
    """The client is not told that all is well, and nothing is recorded: the next clone is right."""
    at = await scene(serve, proxy, repository, tmp_path, mirror=(), stall_time="1s")
    client = speaking(at.client, version)
    proxy.fault("fetch", fault, times=1)
    assert not (await clone(client, at.url, at.directory / "broken")).well
    assert not _recorded(at)
    await at.same(client=client)
    assert not _recorded(at)


async def test_a_broken_answer_is_broken_off(
    serve: Serve, proxy: Proxy, repository: Repository, tmp_path: Path
) -> None:
    """The answer has no end of its own: a client without git's checks sees it as well."""
    at = await scene(serve, proxy, repository, tmp_path, mirror=())
    body = v2_request("fetch", f"want {repository.oid('main')}", "done")
    proxy.fault("fetch", Truncated(after=400, broken=True))
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{at.url}/git-upload-pack", data=body, headers=V2_HEADERS) as answer,
    ):
        assert answer.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()


@VERSIONS
async def test_what_the_upstream_says_to_a_fetch_is_handed_on(
    *, serve: Serve, proxy: Proxy, repository: Repository, tmp_path: Path, version: int
) -> None:
    """429 and 500 come to the client as they are, with the time after which to come again."""
    at = await scene(serve, proxy, repository, tmp_path, mirror=())
    client = speaking(at.client, version)
    for fault in (Answers(500), Answers.too_many(7)):
        proxy.fault("fetch", fault, times=1)
        done = await clone(client, at.url, at.directory / f"{fault.status}")
        assert f"error: {fault.status}" in done.finished.stderr
    proxy.fault("fetch", Answers.too_many(7), times=1)
    body = v2_request("fetch", f"want {repository.oid('main')}", "done")
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{at.url}/git-upload-pack", data=body, headers=V2_HEADERS) as answer,
    ):
        assert (answer.status, answer.headers["Retry-After"]) == (429, "7")
