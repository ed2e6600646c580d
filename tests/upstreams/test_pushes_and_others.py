# Law of this file: what is no fetch reaches the upstream as the client said it, with the client's
# own credential, and comes back as it was said, piece by piece; and is seen by who fetches next.

from __future__ import annotations

import asyncio
import gzip
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import aiohttp
import pytest
from aiohttp import web

from server.exchange import REQUEST_ID
from tests.conformance.clones import Client
from tests.conftest import Serve, Served
from tests.server.asking import ask
from tests.upstreams.clients import anonymous, basic, by_helper, clone, push
from tests.upstreams.faults import Proxy
from tests.upstreams.forge import Forge
from tests.upstreams.private import (
    LS_REFS,
    REPOSITORY,
    USERS,
    direct,
    mirrored,
    private,
    refs_of,
    same,
    shown,
    upload_pack,
    user,
)
from tests.upstreams.scene import NAME, PREFIX, Scene
from tests.upstreams.scripted import Scripted, answer, cut_short

# More than is read of any question, and than a socket's buffers hold.
LARGE: Final = 3 << 20


@pytest.fixture
async def at(serve: Serve, proxy: Proxy, forge: Forge, tmp_path: Path) -> Scene:
    """A private repository, mirrored."""
    at = await private(serve, proxy, forge, tmp_path)
    await mirrored(at)
    return at


@pytest.fixture
async def scripted() -> AsyncIterator[Scripted]:
    """An upstream that says what a test wrote."""
    scripted = await Scripted.start()
    yield scripted
    await scripted.close()


async def before(serve: Serve, url: str) -> Served:
    """Offramp before an upstream."""
    return await serve(None, upstreams=[{"prefix": PREFIX, "url": url}], index={"enabled": False})


async def worked(at: Scene, client: Client, content: bytes) -> tuple[Path, str]:
    """A clone with a commit of its own, and the commit."""
    work = at.directory / f"work-{len(content)}"
    await client("clone", "--quiet", at.url, work)
    (work / "large").write_bytes(content)
    await client("-C", work, "add", "large")
    await client("-C", work, "commit", "--quiet", "-m", "more")
    return work, (await client("-C", work, "rev-parse", "HEAD")).stdout.strip()


# --- pushes --------------------------------------------------------------------------------------


@pytest.mark.nginx
@pytest.mark.parametrize("size", [10, LARGE], ids=["small", "chunked"])
async def test_a_push_is_in_the_next_answer(at: Scene, size: int) -> None:
    """With its length or in chunks, as the pusher; everybody is told of it, and clones get it."""
    client = user(at, "bob")
    work, oid = await worked(at, client, random.Random(1).randbytes(size))
    assert (await upload_pack(at, LS_REFS, shown("ann"))).status == 200
    pushed = await push(client, work, at.url, "HEAD:refs/heads/pushed")
    assert pushed.status == 0, pushed.stderr
    exchanges = at.proxy.seen("receive-pack")
    assert {exchange.authorization for exchange in exchanges} == {basic("bob", USERS["bob"])}
    chunked = exchanges[-1].headers.get("Transfer-Encoding") == "chunked"
    assert chunked == (size == LARGE)
    assert (exchanges[-1].received > size) == (size > 10 or not chunked)
    assert refs_of(await upload_pack(at, LS_REFS, shown("ann")))["refs/heads/pushed"] == oid
    assert (await same(at, user(at, "ann"), "after")).packs


@pytest.mark.nginx
async def test_who_may_push_is_the_upstreams_word(at: Scene, forge: Forge) -> None:
    """Nobody is asked who they are; who may only read is refused; a credential helper is used."""
    client = user(at, "bob")
    work, _ = await worked(at, client, b"x")
    alone = await push(anonymous(at.directory), work, at.url, "HEAD:refs/heads/no")
    assert "could not read Username" in alone.stderr
    forge.allow(NAME, "reader", "reads", push=False)
    reader = await push(user(at, "reader", "reads"), work, at.url, "HEAD:refs/heads/no")
    assert reader.status != 0
    helped = by_helper(anonymous(at.directory), at.served.url, "bob", USERS["bob"])
    assert (await push(helped, work, at.url, "HEAD:refs/heads/yes")).status == 0
    assert "refs/heads/no" not in at.repository.git("for-each-ref")
    challenge = (await direct(f"{at.there}/info/refs?service=git-receive-pack")).headers
    reply = await ask(at.served, "GET", f"{REPOSITORY}/info/refs?service=git-receive-pack")
    assert reply.status == 401
    assert reply.headers["www-authenticate"] == challenge["WWW-Authenticate"]


@pytest.mark.nginx
async def test_a_rejected_push_is_told_in_gits_words(at: Scene) -> None:
    """One that is no fast-forward is rejected by the forge, ref by ref; a deletion is seen."""
    client = user(at, "ann")
    work, oid = await worked(at, client, b"x")
    at.repository.commit("refs/heads/main", 30)
    rejected = await push(client, work, at.url, "HEAD:refs/heads/main", "HEAD:refs/heads/new")
    assert "[rejected]" in rejected.stderr
    assert "[new branch]" in rejected.stderr
    refs = refs_of(await upload_pack(at, LS_REFS, shown("bob")))
    assert refs["refs/heads/new"] == oid
    assert refs["refs/heads/main"] != oid
    assert (await push(client, work, at.url, ":refs/heads/new")).status == 0
    assert "refs/heads/new" not in refs_of(await upload_pack(at, LS_REFS, shown("bob")))


# --- what we do not know -------------------------------------------------------------------------


@pytest.mark.nginx
@pytest.mark.parametrize("tail", ["HEAD", "objects/info/packs", "info/refs", "info/nothing"])
async def test_other_paths_are_answered_by_the_upstream(at: Scene, tail: str) -> None:
    """Of the dumb protocol, or of none: as there, with the caller's credential or without."""
    url = f"{at.there}/{tail}"
    for headers in ({}, shown("ann")):
        async with (
            aiohttp.ClientSession() as session,
            session.get(url, headers=headers) as expected,
        ):
            body = await expected.read()
        reply = await ask(at.served, "GET", f"{REPOSITORY}/{tail}", headers=headers)
        assert (reply.status, reply.body) == (expected.status, body)
        kind = expected.headers.get("Content-Type", "application/octet-stream")
        assert reply.headers["content-type"] == kind


@pytest.mark.nginx
async def test_git_of_the_dumb_protocol_clones(at: Scene) -> None:
    """`GIT_SMART_HTTP=0` clones through us as from the forge."""
    at.repository.git("update-server-info")
    client = user(at, "ann")
    dumb = Client(client.directory, client.settings, {**client.environ, "GIT_SMART_HTTP": "0"})
    done = await clone(dumb, at.url, at.directory / "dumb")
    assert done.well, done.finished.stderr
    assert not at.proxy.seen("ls-refs", "fetch")


async def test_questions_reach_the_upstream_as_they_were_put(
    serve: Serve, scripted: Scripted
) -> None:
    """Method, query and headers; but nothing of the connection, of cookies, or of who asked us."""
    scripted.said = [
        answer(
            b"locks",
            "text/x",
            203,
            {"X-Back": "1", "Set-Cookie": "a=b", "Alt-Svc": "h3", "Strict-Transport-Security": "x"},
        )
    ]
    served = await before(serve, scripted.url)
    target = "info/lfs/locks?path=a%2Fb&cursor=%20;x&empty=&a=1&a=2"
    kept = {"X-Forge": "word", "Accept": "x/y", "User-Agent": "git-lfs/3", "Git-Protocol": "v=9"}
    dropped = {
        "Cookie": "session=1",
        "X-Forwarded-For": "192.0.2.1",
        "X-Forwarded-User": "root",
        "X-Real-IP": "192.0.2.1",
        "Forwarded": "for=192.0.2.1",
        "Proxy-Authorization": "Basic eDp5",
        "TE": "trailers",
        "X-Hop": "1",
        "Connection": "close, X-Hop",
    }
    body = gzip.compress(b'{"a": 1}')
    reply = await ask(
        served,
        "PATCH",
        f"{REPOSITORY}/{target}",
        body,
        {**kept, **dropped, "Content-Encoding": "gzip", "Content-Length": f"{len(body)}"},
    )
    (asked,) = scripted.asked
    assert (asked.method, asked.path) == ("PATCH", f"/{NAME}/{target}")
    assert asked.body == b'{"a": 1}'
    assert {name: asked.headers.get(name) for name in kept} == kept
    assert not {name.lower() for name in asked.headers} & {
        *(name.lower() for name in dropped if name != "Connection"),
        "authorization",
        "content-encoding",
    }
    assert asked.headers["Host"] == scripted.url.removeprefix("http://")
    assert (reply.status, reply.body, reply.headers["x-back"]) == (203, b"locks", "1")
    assert not {"set-cookie", "alt-svc", "strict-transport-security"} & set(reply.headers)
    assert REQUEST_ID.lower() in reply.headers or reply.whole


async def test_both_ways_are_streamed(serve: Serve) -> None:
    """The upstream reads the first piece before the second was sent, and answers before the end."""
    first, last = b"a" * LARGE, b"z" * LARGE
    reached = asyncio.Event()

    async def talk(request: web.Request) -> web.StreamResponse:
        assert await request.content.readexactly(len(first)) == first
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first")
        reached.set()
        assert await request.content.read() == last
        await response.write(b"last")
        return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", talk)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    served = await before(serve, f"http://{host}:{port}")
    answered = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield first
        await reached.wait()
        await answered.wait()
        yield last

    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{served.url}{REPOSITORY}/git-receive-pack", data=pieces()) as response,
    ):
        assert await response.content.readexactly(5) == b"first"
        answered.set()
        assert await response.content.read() == b"last"
    await runner.cleanup()


async def test_an_answer_that_breaks_off_is_no_whole_answer(
    serve: Serve, scripted: Scripted
) -> None:
    """What the upstream did not end, we do not end either."""
    served = await before(serve, scripted.url)
    scripted.said = [cut_short(b"half"), answer(b"whole")]
    reply = await ask(served, "GET", f"{REPOSITORY}/HEAD")
    assert not reply.whole
    assert (await ask(served, "GET", f"{REPOSITORY}/HEAD")).body == b"whole"


async def test_nothing_is_pushed_where_sessions_stay(serve: Serve, scripted: Scripted) -> None:
    """Below that path no push is handed on, whoever may push: the upstream is not even asked."""
    served = await serve(
        None,
        upstreams=[{"prefix": PREFIX, "url": scripted.url}],
        index={"enabled": False},
        sessions={"here": True},
    )
    below = f"/-/here{REPOSITORY}"
    for method, path in (
        ("GET", f"{below}/info/refs?service=git-receive-pack"),
        ("POST", f"{below}/git-receive-pack"),
    ):
        reply = await ask(served, method, path, headers=shown("bob"))
        assert reply.status == 403
        assert b"can only be read" in reply.body
    assert scripted.asked == []
