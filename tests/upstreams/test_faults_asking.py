# Law of this file: an upstream that does not answer as git does has said nothing: clients get 503,
# nobody is let in, and the upstream is left alone for as long as it wants.

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import aiohttp
import pytest

from tests.conformance.clones import V2_HEADERS, v2_request
from tests.conformance.repositories import Repository
from tests.conftest import Serve
from tests.upstreams.clients import anonymous, basic, by_header, checkout, clone
from tests.upstreams.faults import Answers, Breaks, Fault, Holds, Kind, Proxy, Redirects, Truncated
from tests.upstreams.forge import Forge
from tests.upstreams.scene import NAME, Scene, scene

pytestmark = pytest.mark.nginx

LOGIN = Answers.login_page()
FAULTS: dict[str, Fault] = {
    "500": Answers(500),
    "502": Answers(502, {"Content-Type": "text/html"}, b"<h1>Bad gateway</h1>"),
    "418": Answers(418),
    "204": Answers(204),
    "login-page": LOGIN,
    "plain-text": Answers(200, {"Content-Type": "text/plain"}, b"all is well\n"),
    "breaks": Breaks(),
    "cut-short": Truncated(after=40),
    "breaks-within": Truncated(after=40, broken=True),
    "empty": Truncated(after=0),
}
QUESTIONS = pytest.mark.parametrize("kind", ["info-refs", "ls-refs"])


@pytest.fixture
def repository(forge: Forge) -> Repository:
    """A public repository."""
    return forge.make(NAME)


@pytest.fixture
async def at(serve: Serve, proxy: Proxy, repository: Repository, tmp_path: Path) -> Scene:
    """It, not mirrored yet."""
    return await scene(serve, proxy, repository, tmp_path)


async def _status(at: Scene) -> tuple[int, str | None, str]:
    """What a client is answered that asks for refs: status, when to come again, and words."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{at.url}/git-upload-pack", data=v2_request("ls-refs"), headers=V2_HEADERS
        ) as answer,
    ):
        return answer.status, answer.headers.get("Retry-After"), await answer.text()


@QUESTIONS
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_an_answer_that_is_not_gits_is_no_yes(at: Scene, fault: Fault, kind: Kind) -> None:
    """Neither for who asks first nor for who knew the refs before; afterwards all is well again."""
    later = at.tell_time()
    at.proxy.fault(kind, fault)
    status, _, words = await _status(at)
    assert status == 503
    assert at.proxy.url not in words
    assert not (await clone(at.client, at.url, at.directory / "refused")).well
    assert not at.mirrors_on_disk()
    at.proxy.heal()
    later(2.5)
    await at.same(name="passed")
    await at.upstreams.mirrors.made(at.remote)
    at.proxy.fault("ls-refs", fault)
    assert not (await clone(at.client, at.url, at.directory / "refused-again")).well
    at.proxy.heal()
    later(2.5)
    assert (await at.same()).packs


async def test_an_upstream_that_had_too_many_requests_is_left_alone(at: Scene) -> None:
    """429: clients are told to come again when it wants, and it hears nothing meanwhile."""
    later = at.tell_time()
    await at.mirrored()
    at.proxy.fault("ls-refs", Answers.too_many(40))
    status, again, _ = await _status(at)
    assert (status, again) == (503, "40")
    assert len(at.proxy.exchanges) == 1
    at.proxy.heal()
    for passed in (20, 19):
        later(passed)
        assert not (await clone(at.client, at.url, at.directory / "too-early")).well
        assert (await _status(at))[0] == 503
    assert len(at.proxy.exchanges) == 1
    later(1.5)
    assert (await at.same()).packs


async def test_a_refusal_of_one_caller_leaves_others_alone(at: Scene) -> None:
    """Whom the upstream tells to come later waits; who has another credential is answered."""
    await at.mirrored()
    at.proxy.fault("ls-refs", Answers.too_many(40), times=1)
    assert (await _status(at))[0] == 503
    other = by_header(at.client, at.served.url, basic("eve", "hers"))
    assert (await at.same(client=other)).packs


async def test_an_upstream_that_hangs_is_waited_for_once(
    serve: Serve, proxy: Proxy, repository: Repository, tmp_path: Path
) -> None:
    """All who wait get 503 when `timeout` is over; it was asked once."""
    at = await scene(serve, proxy, repository, tmp_path, timeout="1s")
    await at.mirrored()
    for after in (None, 40):
        at.proxy.forget()
        held = Holds(after=after)
        proxy.fault("ls-refs", held)
        later = at.tell_time()
        for status, again, words in await asyncio.gather(*(_status(at) for _ in range(8))):
            assert status == 503
            assert again is not None
            assert "in time" in words
        assert len(proxy.seen("ls-refs")) <= 2
        held.release()
        proxy.heal()
        later(2.5)
        assert (await at.same(name=f"after-{after}")).packs


async def test_a_redirect_to_another_host_is_not_followed(at: Scene, elsewhere: Proxy) -> None:
    """Unless the settings list it: no credential and no question goes there."""
    at.proxy.fault("info-refs", Redirects(f"{elsewhere.url}/{NAME}"))
    status, _, words = await _status(at)
    assert status == 503
    assert "redirect_hosts" in words
    client = by_header(at.client, at.served.url, basic("ann", "hers"))
    assert not (await clone(client, at.url, at.directory / "refused")).well
    assert not elsewhere.exchanges


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_to_a_listed_host_is_followed(
    *,
    serve: Serve,
    proxy: Proxy,
    elsewhere: Proxy,
    repository: Repository,
    tmp_path: Path,
    status: int,
) -> None:
    """The repository is asked, passed through and mirrored from its new place."""
    host = elsewhere.url.removeprefix("http://")
    at = await scene(serve, proxy, repository, tmp_path, redirect_hosts=[host])
    proxy.fault("info-refs", Redirects(f"{elsewhere.url}/{NAME}", status))
    assert not (await at.same(name="passed")).packs
    await at.upstreams.mirrors.made(at.remote)
    assert (await at.same()).packs
    repository.commit("refs/heads/main", 20)
    assert (await at.same(name="pushed")).packs
    assert not proxy.seen("ls-refs", "fetch")
    assert elsewhere.seen("ls-refs", "fetch")


async def test_a_repository_that_was_renamed_is_found_again(at: Scene, forge: Forge) -> None:
    """A forge that redirects to the new name on the same host is followed, without settings."""
    forge.make("acme/gadget.git")
    at.proxy.fault("info-refs", Redirects(f"{at.proxy.url}/acme/gadget.git"))
    assert not (await at.same(name="passed")).packs
    await at.upstreams.mirrors.made(at.remote)
    assert (await at.same()).packs
    paths = {exchange.path for exchange in at.proxy.seen("fetch", "ls-refs")}
    assert paths == {"/acme/gadget.git/git-upload-pack"}


# --- while it is down ------------------------------------------------------------------------


async def _down(at: Scene) -> None:
    """Nobody answers at its address any more."""
    await at.proxy.close()


async def test_public_repositories_may_be_stale_for_so_long(
    serve: Serve, proxy: Proxy, repository: Repository, tmp_path: Path
) -> None:
    """With `stale = "1h"` clones go on as the refs were then; after that hour they are refused."""
    at = await scene(serve, proxy, repository, tmp_path, stale="1h")
    later = at.tell_time()
    await at.mirrored()
    await _down(at)
    for name in ("at-once", "half-an-hour", "nearly-an-hour"):
        # They are compared with the forge itself, which only Offramp cannot reach.
        assert (await at.same(name=name)).packs
        later(1790)
    assert (await _status(at))[0] == 503
    assert not (await clone(at.client, at.url, at.directory / "too-late")).well


async def test_without_stale_nothing_is_said_of_what_was(at: Scene) -> None:
    """A public upstream that is down is down: clients are told when to come again."""
    later = at.tell_time()
    await at.mirrored()
    await _down(at)
    later(1)
    status, again, words = await _status(at)
    assert status == 503
    assert again is not None
    assert re.search(r"up/?: the upstream cannot be asked", words)


async def test_private_repositories_are_shown_to_nobody_while_it_is_down(
    serve: Serve, proxy: Proxy, forge: Forge, tmp_path: Path
) -> None:
    """Who may read is the upstream's to say: 503, also for who was let in a minute ago."""
    repository = forge.make(NAME, users={"ann": "hers"})
    at = await scene(serve, proxy, repository, tmp_path, public=False)
    later = at.tell_time()
    ann = by_header(at.client, at.served.url, basic("ann", "hers"))
    assert (await clone(ann, at.url, at.directory / "passed")).well
    await at.upstreams.mirrors.made(at.remote)
    assert (await clone(ann, at.url, at.directory / "mirrored")).well
    await _down(at)
    later(at.remote.upstream.auth_ttl + 1)
    oid = repository.oid("main")
    for client in (ann, anonymous(at.directory)):
        refused = await clone(client, at.url, at.directory / "refused")
        assert not refused.well
        assert "503" in refused.finished.stderr
        job = await checkout(client, at.url, oid, at.directory / "job")
        assert "503" in job.finished.stderr
