# Law of this file: the doctor says of an upstream of Mercurial what a clone of it would meet, and
# of what it cannot know that it is not known.

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
import pytest
from aiohttp import web

from server.checks_upstreams import check_upstreams
from server.settings import Settings
from server.verdict import Level, Verdict
from wire.git import pktline

TOKEN: Final = "hunter2-hunter2"
_CAPABILITIES: Final = b"batch branchmap getbundle known lookup unbundle=HG10GZ"
_GIT: Final = b"".join(
    (
        pktline.text(b"# service=git-upload-pack"),
        pktline.FLUSH,
        *map(pktline.text, (b"version 2", b"ls-refs", b"fetch", b"object-format=sha1")),
        pktline.FLUSH,
    )
)


async def answer(request: web.Request) -> web.Response:
    """A server with a repository for everybody, one for a token, and what is none."""
    shown = request.headers.get("Authorization")
    mercurial = web.Response(body=_CAPABILITIES, content_type="application/mercurial-0.1")
    asked = request.query.get("cmd") == "capabilities"
    match request.path:
        case "/one" | "/mine" if asked and (request.path == "/one" or shown == f"Bearer {TOKEN}"):
            return mercurial
        case "/mine" if asked:
            return web.Response(status=401, headers={"WWW-Authenticate": "Basic"})
        case "/moved":
            location = f"https://hg.example.org{request.path_qs}"
            return web.Response(status=301, headers={"Location": location})
        case "/login" | "/":
            return web.Response(text="<html>Who are you?", content_type="text/html")
        case "/git/info/refs":
            return web.Response(
                body=_GIT, content_type="application/x-git-upload-pack-advertisement"
            )
        case "/git":
            return web.Response(text="<html>", content_type="text/html")
    return web.Response(status=404)


@asynccontextmanager
async def server() -> AsyncIterator[str]:
    """The base URL of a server of :func:`answer`."""
    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def sole(path: str, **upstream: Any) -> Verdict:
    """The one thing that is found out of an upstream; it holds no secret."""
    async with server() as base:
        values = {"vcs": "hg", "url": base + path, **upstream}
        settings = Settings.model_validate({"upstreams": [values]})
        async with aiohttp.ClientSession() as session:
            (verdict,) = [each async for each in check_upstreams(settings, session)]
    assert "hunter2" not in str(verdict)
    assert verdict.remedy or verdict.level in {Level.OK, Level.INFO}
    return verdict


OWN: Final = {"auth": "none", "credential": {"password": TOKEN}}
WRONG: Final = {"auth": "none", "credential": {"password": "hunter2-wrong-hunter2"}}


@pytest.mark.parametrize(
    ("path", "values", "level", "said"),
    [
        ("/one", {}, Level.OK, "can be read, by Mercurial's protocol"),
        ("/mine", OWN, Level.OK, "can be read"),
        ("/mine", WRONG, Level.FAIL, "401 to this server's credential"),
        ("/mine", {"auth": "none"}, Level.FAIL, "401 without a credential"),
        ("/mine", {}, Level.INFO, "callers show their own"),
        ("/gone", {}, Level.WARN, "404 without a credential"),
        ("/login", {}, Level.FAIL, "does not answer as Mercurial does (Content-Type 'text/html')"),
        ("/moved", {}, Level.FAIL, "write the URL to which it does"),
        ("/git", {}, Level.FAIL, "this is a git repository"),
    ],
)
async def test_one_repository(path: str, values: dict[str, Any], level: Level, said: str) -> None:
    """It is asked what it can do, with the credential; what is none of Mercurial's is no yes."""
    verdict = await sole(path, repository="one", **values)
    assert (verdict.level, said in verdict.what) == (level, True), verdict


async def test_mercurial_that_is_declared_as_git() -> None:
    """It is said what to write in its place."""
    verdict = await sole("/one", vcs="git", repository="one")
    assert (verdict.level, verdict.remedy) == (Level.FAIL, 'write vcs = "hg"')


async def test_nobody_is_there(unused_tcp_port: int) -> None:
    """A server that does not run is a failure."""
    url = f"http://127.0.0.1:{unused_tcp_port}/one"
    verdict = await sole("", repository="one", url=url)
    assert (verdict.level, "`url`" in verdict.remedy) == (Level.FAIL, True)


async def test_below_a_prefix() -> None:
    """What only a repository could tell is said not to be known; a redirect is, at once."""
    verdict = await sole("", prefix="code")
    assert verdict.level is Level.INFO
    assert "seen only when one is asked for" in verdict.what
    assert "hg identify http://127.0.0.1" in verdict.remedy
    verdict = await sole("/moved", prefix="code")
    assert verdict.level is Level.WARN
    assert "redirects to https://hg.example.org" in verdict.what
