# Law of this file: the instruments work by themselves: the forge lets in whom it should, and each
# fault does to stock git what its name says. What is tested with them can rely on that.

from __future__ import annotations

import asyncio
import random
import re
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from tests.conformance.clones import V2_HEADERS, Client, State, state, stock, v2_request
from tests.conformance.repositories import Repository, commit, empty
from tests.conftest import Serve
from tests.upstreams.clients import (
    anonymous,
    basic,
    bearer,
    by_header,
    by_helper,
    by_unscoped_header,
    checkout,
    clone,
    fetch,
    push,
)
from tests.upstreams.faults import (
    Answers,
    Breaks,
    Fault,
    Holds,
    Kind,
    Proxy,
    Redirects,
    Truncated,
)
from tests.upstreams.forge import Forge

pytestmark = pytest.mark.nginx

NAME = "acme/widget.git"


@pytest.fixture
def repository(forge: Forge) -> Repository:
    """A private repository of ann, who may write, and of bob, who may read."""
    repository = forge.make(NAME, users={"ann": "a word: of hers"})
    forge.allow(NAME, "bob", "his", push=False)
    return repository


@pytest.fixture
def public(forge: Forge) -> Repository:
    """A repository that everybody may read."""
    return forge.make("acme/public.git")


@pytest.fixture
def nobody(tmp_path: Path) -> Client:
    """A client without credentials."""
    return anonymous(tmp_path)


def ann(client: Client, url: str) -> Client:
    """As ann."""
    return by_header(client, url, basic("ann", "a word: of hers"))


async def stock_state(repository: Repository, directory: Path, *options: str) -> State:
    """What stock git's own server gives."""
    await stock(directory)("clone", "--bare", *options, repository.stock_url, "stock")
    return await state(Client(directory), directory / "stock")


# --- the forge -----------------------------------------------------------------------------------


async def test_a_private_repository_is_for_those_who_are_allowed(
    forge: Forge, repository: Repository, nobody: Client, tmp_path: Path
) -> None:
    """The right password gives the repository; a wrong one, another's and none give a 401."""
    url = repository.url(forge.url)
    whole = await stock_state(repository, tmp_path)
    by_whom = {
        "header": ann(nobody, forge.url),
        "helper": by_helper(nobody, url, "bob", "his"),
    }
    for name, client in by_whom.items():
        assert (await clone(client, url, tmp_path / name)).well
        assert await state(client, tmp_path / name) == whole
    refused = {
        "none": nobody,
        "wrong": by_helper(nobody, url, "ann", "his"),
        "token": by_header(nobody, forge.url, bearer("t0k-en")),
    }
    before = len(forge.requests())
    for name, client in refused.items():
        assert not (await clone(client, url, tmp_path / name)).well
    assert {request.status for request in forge.requests()[before:]} == {401}
    other = forge.make("acme/other.git", users={"carol": "hers"})
    assert not (await clone(ann(nobody, forge.url), other.url(forge.url), tmp_path / "other")).well


async def test_rights_change_at_once(
    forge: Forge, repository: Repository, nobody: Client, tmp_path: Path
) -> None:
    """Who is revoked is refused by the next request; so is a token; who is allowed is let in."""
    url = repository.url(forge.url)

    async def answers(client: Client) -> bool:
        return (await client("ls-remote", url, check=False)).status == 0

    token = by_header(nobody, forge.url, bearer("t0k-en"))
    assert [await answers(client) for client in (ann(nobody, forge.url), token)] == [True, False]
    forge.revoke(NAME, "ann")
    forge.allow_token(NAME, "t0k-en")
    assert [await answers(client) for client in (ann(nobody, forge.url), token)] == [False, True]
    forge.revoke_token(NAME, "t0k-en")
    forge.allow(NAME, "ann", "a word: of hers")
    assert [await answers(client) for client in (ann(nobody, forge.url), token)] == [True, False]
    forge.open_to_the_public(NAME)
    assert await answers(nobody)
    forge.close_to_the_public(NAME)
    assert not await answers(nobody)


async def test_a_push_needs_the_right_to_push(
    forge: Forge, repository: Repository, public: Repository, nobody: Client, tmp_path: Path
) -> None:
    """Readers may not push, nor may anybody to a public repository; writers and tokens may."""
    url = repository.url(forge.url)
    writer = ann(nobody, forge.url)
    await clone(writer, url, tmp_path / "clone")
    new = Repository(tmp_path, "clone").commit("refs/heads/pushed", 20)
    refspec = "refs/heads/pushed"
    bob = by_helper(nobody, url, "bob", "his")
    assert (await push(bob, tmp_path / "clone", url, refspec)).status != 0
    assert (await push(nobody, tmp_path / "clone", public.url(forge.url), refspec)).status != 0
    assert not repository.git("for-each-ref", refspec)
    assert (await push(writer, tmp_path / "clone", url, refspec)).status == 0
    assert repository.oid(refspec) == new
    forge.allow_token(NAME, "t0k-en")
    token = by_header(nobody, forge.url, bearer("t0k-en"))
    assert (await push(token, tmp_path / "clone", url, f":{refspec}")).status == 0
    assert not repository.git("for-each-ref", refspec)


async def test_the_forge_logs_what_it_answered(
    forge: Forge, repository: Repository, nobody: Client, tmp_path: Path
) -> None:
    """Every request with its status, caller and protocol, as soon as the client is done."""
    url = f"{forge.url}/acme/widget"
    bob = by_helper(nobody, url, "bob", "his")
    assert (await clone(bob, url, tmp_path / "clone")).well
    requests = forge.requests()
    assert [(request.path, request.status, request.user) for request in requests] == [
        ("/acme/widget/info/refs", 401, ""),
        ("/acme/widget/info/refs", 200, "bob"),
        ("/acme/widget/git-upload-pack", 200, "bob"),
        ("/acme/widget/git-upload-pack", 200, "bob"),
    ]
    assert [request.method for request in requests] == ["GET", "GET", "POST", "POST"]
    assert {request.query for request in requests[:2]} == {"service=git-upload-pack"}
    assert {request.git_protocol for request in requests} == {"version=2"}
    assert requests[-1].bytes_sent > requests[-2].bytes_sent > 0


async def test_a_repository_has_the_settings_of_a_forge_and_its_own(
    forge: Forge, repository: Repository, nobody: Client, tmp_path: Path
) -> None:
    """Commits by their ids, and filters where they are allowed."""
    client = ann(nobody, forge.url)
    url = repository.url(forge.url)
    inner = repository.oid("main~2")
    done = await checkout(client, url, inner, tmp_path / "ci")
    assert done.well
    assert not done.packs
    assert await client("-C", tmp_path / "ci", "rev-parse", "FETCH_HEAD")
    assert (await state(client, tmp_path / "ci")).shallow == (inner,)
    assert (await clone(client, url, tmp_path / "blobless", "--filter=blob:none")).well
    strict = forge.make("acme/strict.git", config={"uploadpack.allowFilter": "false"}, maker=empty)
    strict.commit("refs/heads/main", 1)
    strict_url = strict.url(forge.url)
    done = await clone(client, strict_url, tmp_path / "strict", "--filter=blob:none")
    assert "filtering not recognized" in done.finished.stderr


async def test_a_forge_that_is_closed_leaves_nobody_behind(forge: Forge) -> None:
    """Both programs and everything that they ran are gone, and its port answers nobody."""
    forge.close()
    assert all(process.returncode is not None for process in forge.processes)
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(forge.url)


# --- the proxy -----------------------------------------------------------------------------------


async def test_what_goes_through_is_what_the_forge_says(
    repository: Repository, proxy: Proxy, nobody: Client, tmp_path: Path
) -> None:
    """Clones, incremental fetches and pushes through the proxy are those of the forge itself."""
    url = repository.url(proxy.url)
    client = ann(nobody, proxy.url)
    assert (await clone(client, url, tmp_path / "clone")).well
    assert await state(client, tmp_path / "clone") == await stock_state(repository, tmp_path)
    new = repository.commit("refs/heads/main", 20)
    assert (await fetch(client, tmp_path / "clone", url, "+main:main")).well
    own = Repository(tmp_path, "clone").commit("refs/heads/own", 21)
    assert (await push(client, tmp_path / "clone", url, "refs/heads/own")).status == 0
    assert repository.oid("own") == own
    assert all(exchange.ended for exchange in proxy.seen())
    (second,) = [exchange for exchange in proxy.seen("fetch") if new.encode() in exchange.question]
    assert second.headers["Git-Protocol"] == "version=2"
    assert b"have " in second.question


async def test_compressed_and_chunked_bodies_go_through(
    public: Repository, forge: Forge, proxy: Proxy, nobody: Client, tmp_path: Path
) -> None:
    """A fetch of many wants comes compressed, a large push in chunks; both as with the forge."""
    branches = (
        commit(f"refs/heads/b{number}", number, "refs/heads/main^0", {"b": f"{number}\n"})
        for number in range(40)
    )
    public.git("fast-import", "--quiet", stdin=b"".join(branches))
    url = public.url(proxy.url)
    assert (await clone(nobody, url, tmp_path / "clone")).well
    assert await state(nobody, tmp_path / "clone") == await stock_state(public, tmp_path)
    (fetched,) = proxy.seen("fetch")
    assert fetched.headers["Content-Encoding"] == "gzip"
    assert fetched.question.count(b"want ") > 40
    assert 0 < fetched.received < len(fetched.question)

    forge.allow("acme/public.git", "ann", "a word: of hers")
    mine = Repository(tmp_path, "clone")
    large = mine.git("hash-object", "-w", "--stdin", stdin=random.Random(1).randbytes(200_000))
    mine.git("update-ref", "refs/tags/large", large)
    writer = ann(replace(nobody, settings=("http.postBuffer=65536",)), proxy.url)
    assert (await push(writer, tmp_path / "clone", url, "refs/tags/large")).status == 0
    assert public.oid("refs/tags/large") == large
    pushed = proxy.seen("receive-pack")[-1]
    assert pushed.headers["Transfer-Encoding"] == "chunked"
    assert pushed.received > 200_000


async def test_requests_and_bytes_are_counted_per_kind(
    repository: Repository, proxy: Proxy, nobody: Client, tmp_path: Path
) -> None:
    """A clone and a push are these requests, with the bytes that the forge sent."""
    url = repository.url(proxy.url)
    client = ann(nobody, proxy.url)
    assert (await clone(client, url, tmp_path / "clone")).well
    Repository(tmp_path, "clone").commit("refs/heads/own", 21)
    assert (await push(client, tmp_path / "clone", url, "refs/heads/own")).status == 0
    async with aiohttp.ClientSession() as session:
        await session.post(f"{url}/info/lfs/objects/batch", json={"operation": "download"})
        await session.get(f"{proxy.url}/login")
    figures = proxy.figures()
    assert {key: found.requests for key, found in figures.items()} == {
        ("GET", "info-refs"): 2,
        ("POST", "ls-refs"): 1,
        ("POST", "fetch"): 1,
        ("POST", "receive-pack"): 1,
        ("POST", "lfs"): 1,
        ("GET", "other"): 1,
    }
    assert all(found.sent for found in figures.values())
    assert figures["POST", "receive-pack"].received > 100
    assert figures["POST", "fetch"].received == len(proxy.seen("fetch")[0].question)
    (pack,) = (tmp_path / "clone").glob("objects/pack/*.pack")
    assert figures["POST", "fetch"].sent > pack.stat().st_size
    proxy.forget()
    assert proxy.figures() == {}


@pytest.mark.parametrize("version", [0, 1])
async def test_fetches_of_old_protocols_are_fetches(
    public: Repository, proxy: Proxy, tmp_path: Path, version: int
) -> None:
    """Before v2 there is one command."""
    client = Client(tmp_path, (f"protocol.version={version}",))
    await client("clone", "--bare", public.url(proxy.url), "clone")
    assert [exchange.kind for exchange in proxy.seen()] == ["info-refs", "fetch"]


async def test_credentials_are_seen_where_they_arrive(  # noqa: PLR0917 - fixtures
    repository: Repository,
    public: Repository,
    proxy: Proxy,
    elsewhere: Proxy,
    nobody: Client,
    tmp_path: Path,
) -> None:
    """A header for one host arrives there only; one for no particular host everywhere."""
    word = basic("ann", "a word: of hers")
    scoped = by_header(nobody, proxy.url, word)
    for host in (proxy, elsewhere):
        assert (await clone(scoped, public.url(host.url), tmp_path / host.url[-5:])).well
    assert {exchange.authorization for exchange in proxy.seen()} == {word}
    assert {exchange.authorization for exchange in elsewhere.seen()} == {None}
    elsewhere.forget()
    unscoped = by_unscoped_header(nobody, word)
    assert (await clone(unscoped, public.url(elsewhere.url), tmp_path / "unscoped")).well
    assert {exchange.authorization for exchange in elsewhere.seen()} == {word}
    proxy.forget()
    helped = by_helper(nobody, proxy.url, "ann", "a word: of hers")
    assert (await clone(helped, repository.url(proxy.url), tmp_path / "helped")).well
    assert [exchange.authorization for exchange in proxy.seen()] == [None, word, word, word]


# --- faults --------------------------------------------------------------------------------------

FAULTS: dict[str, tuple[Fault, str]] = {
    "500": (Answers(500), "error: 500|HTTP 500"),
    "502": (Answers(502), "error: 502|HTTP 502"),
    "503": (Answers(503), "error: 503|HTTP 503"),
    "429": (Answers.too_many(7), "error: 429|HTTP 429"),
    "breaks": (Breaks(), "Empty reply from server|Recv failure"),
    "truncated": (Truncated(60), "early EOF|unexpected|hung up|expected|bad line length"),
    "cut-off": (Truncated(60, broken=True), "transfer closed|outstanding|early EOF"),
}


@pytest.mark.parametrize("kind", ["info-refs", "ls-refs", "fetch"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_fails_the_clone_and_is_gone_when_healed(  # noqa: PLR0917 - fixtures
    public: Repository,
    proxy: Proxy,
    nobody: Client,
    tmp_path: Path,
    kind: Kind,
    fault: str,
) -> None:
    """Git says what it met; the next clone is well."""
    injected, said = FAULTS[fault]
    proxy.fault(kind, injected)
    done = await clone(nobody, public.url(proxy.url), tmp_path / "clone")
    assert not done.well
    assert re.search(said, done.finished.stderr)
    assert proxy.seen()[-1].kind == kind
    proxy.heal()
    assert (await clone(nobody, public.url(proxy.url), tmp_path / "clone")).well


async def test_a_login_page_is_no_repository(
    public: Repository, proxy: Proxy, nobody: Client, tmp_path: Path
) -> None:
    """A status 200 with a page for people gives git nothing."""
    proxy.fault("info-refs", Answers.login_page())
    done = await clone(nobody, public.url(proxy.url), tmp_path / "clone")
    assert not done.well
    assert [exchange.kind for exchange in proxy.seen()][:1] == ["info-refs"]
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{public.url(proxy.url)}/info/refs") as answer,
    ):
        assert (answer.status, answer.content_type) == (200, "text/html")


async def test_a_busy_upstream_says_when_to_come_back(
    forge: Forge, public: Repository, proxy: Proxy
) -> None:
    """Only as often as was asked for, and not to requests of other kinds."""
    proxy.fault("ls-refs", Answers.too_many(7), times=1)
    body = v2_request("ls-refs")
    async with aiohttp.ClientSession() as session:
        statuses = []
        for _ in range(2):
            service = f"{public.url(proxy.url)}/git-upload-pack"
            async with session.post(service, data=body, headers=V2_HEADERS) as answer:
                statuses.append((answer.status, answer.headers.get("Retry-After")))
    assert statuses == [(429, "7"), (200, None)]
    assert [request.status for request in forge.requests()] == [200]


@pytest.mark.parametrize("after", [None, 0, 400])
async def test_a_held_answer_goes_on_when_released(
    public: Repository,
    proxy: Proxy,
    nobody: Client,
    tmp_path: Path,
    after: int | None,
) -> None:
    """Before the forge is asked, before its body, and within it; then the clone is whole."""
    proxy.fault("fetch", hold := Holds(after))
    cloning = asyncio.create_task(clone(nobody, public.url(proxy.url), tmp_path / "clone"))
    await hold.held()
    (exchange,) = proxy.seen("fetch")
    assert (exchange.sent, exchange.ended) == (after or 0, False)
    assert (exchange.status is None) == (after is None)
    assert not cloning.done()
    hold.release()
    assert (await cloning).well
    assert exchange.ended
    assert await state(nobody, tmp_path / "clone") == await stock_state(public, tmp_path)


@pytest.mark.parametrize("after", [None, 20])
@pytest.mark.parametrize("leaves", ["client", "proxy"])
async def test_whoever_leaves_ends_what_is_held(
    public: Repository, proxy: Proxy, after: int | None, leaves: str
) -> None:
    """A client that goes away is waited for by nobody; neither is one when the proxy closes."""
    proxy.fault("info-refs", hold := Holds(after))
    async with aiohttp.ClientSession() as session:
        url = f"{public.url(proxy.url)}/info/refs?service=git-upload-pack"

        async def ask() -> bytes:
            async with session.get(url) as answer:
                return await answer.read()

        asking = asyncio.create_task(ask())
        await hold.held()
        (exchange,) = proxy.seen()
        if leaves == "client":
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        else:
            await proxy.close()
            with pytest.raises(aiohttp.ClientError):
                await asking
        await exchange.over.wait()
    assert not exchange.ended


@pytest.mark.parametrize("broken", [False, True])
async def test_a_truncated_pack_is_no_clone(
    public: Repository, proxy: Proxy, nobody: Client, tmp_path: Path, broken: bool
) -> None:
    """The forge's answer was longer than what came, whether or not HTTP says so."""
    assert (await clone(nobody, public.url(proxy.url), tmp_path / "whole")).well
    proxy.fault("fetch", Truncated(400, broken=broken))
    done = await clone(nobody, public.url(proxy.url), tmp_path / "clone")
    assert not done.well
    assert ("transfer closed" in done.finished.stderr) == broken
    whole, cut = proxy.seen("fetch")
    assert whole.sent > cut.sent == 400
    assert whole.ended
    assert cut.ended == (not broken)
    async with aiohttp.ClientSession() as session:
        service = f"{public.url(proxy.url)}/git-upload-pack"
        async with session.post(service, data=cut.question, headers=V2_HEADERS) as answer:
            if broken:
                with pytest.raises(aiohttp.ClientPayloadError):
                    await answer.read()
            else:
                assert len(await answer.read()) == 400


@pytest.mark.parametrize("status", [301, 302])
@pytest.mark.parametrize("host", ["same", "another"])
async def test_a_repository_that_has_moved_is_followed(  # noqa: PLR0917 - fixtures
    public: Repository,
    proxy: Proxy,
    elsewhere: Proxy,
    nobody: Client,
    tmp_path: Path,
    status: int,
    host: str,
) -> None:
    """Stock git follows the discovery and asks the rest of the new place."""
    base = {"same": proxy, "another": elsewhere}[host]
    proxy.fault("info-refs", Redirects(public.url(base.url), status))
    done = await clone(nobody, f"{proxy.url}/old/name.git", tmp_path / "clone")
    assert done.well
    old, *rest = proxy.seen() + elsewhere.seen()
    assert (old.status, old.path) == (status, "/old/name.git/info/refs?service=git-upload-pack")
    assert [(exchange.kind, exchange.status) for exchange in rest] == [
        ("info-refs", 200),
        ("ls-refs", 200),
        ("fetch", 200),
    ]
    assert all(exchange.path.startswith("/acme/public.git/") for exchange in rest)
    assert elsewhere.seen() == ([] if host == "same" else rest)


# --- the clients ---------------------------------------------------------------------------------


async def test_a_client_tells_from_where_its_packs_came(
    serve: Serve, forge: Forge, public: Repository, nobody: Client, tmp_path: Path
) -> None:
    """Packs of a server that redirects have their URLs; those of the forge came inline."""
    served = await serve(forge.root)
    for name, url in (("inline", forge.url), ("redirected", served.url)):
        whole = await clone(nobody, public.url(url), tmp_path / name)
        tip = await checkout(nobody, public.url(url), public.oid("main"), tmp_path / f"{name}-ci")
        assert whole.well
        assert tip.well
        assert bool(whole.packs) == bool(tip.packs) == (name == "redirected")
        for found in (*whole.packs.values(), *tip.packs.values()):
            assert found.startswith(f"{served.url}/-/blobs/")
    assert await state(nobody, tmp_path / "inline") == await state(nobody, tmp_path / "redirected")
