# Law of this file: the doctor says whether public_url leads to Offramp; where not, what is there
# instead and how to mend it, and no more than a warning.

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
import pytest
from aiohttp import web

from redirects.signing import SigningKeys
from server.blobs import BLOB_ROUTE, blob_handler
from server.checks_public_url import check_public_url
from server.settings import Settings
from server.verdict import Level, Verdict

_CDN: Final = {"type": "http", "base_url": "http://127.0.0.1:9"}


async def found(url: str | None, **values: object) -> list[Verdict]:
    """What is found out about a public_url."""
    settings = Settings.model_validate({"public_url": url, **values})
    async with aiohttp.ClientSession() as session:
        verdicts = [verdict async for verdict in check_public_url(settings, session)]
    assert all(verdict.remedy for verdict in verdicts if verdict.level is Level.WARN)
    return verdicts


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    """The URL of an application."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def offramp() -> web.Application:
    """What of the server's routes is asked for; the blob route is its own."""

    async def nothing(digest: str) -> None:
        del digest

    async def livez(request: web.Request) -> web.Response:
        del request
        return web.Response(text="ok\n")

    app = web.Application()
    app.router.add_get("/-/livez", livez)
    app.router.add_get(BLOB_ROUTE, blob_handler(nothing, SigningKeys("k", {"k": bytes(32)})))
    return app


def saying(status: int, headers: Mapping[str, str] | None = None) -> web.Application:
    """Something else, that says the same to everything."""

    async def answer(request: web.Request) -> web.Response:
        del request
        return web.Response(status=status, text="a page", headers=headers)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    return app


async def test_it_is_not_set() -> None:
    """Then there is nothing to try."""
    assert await found(None) == []


@pytest.mark.parametrize("targets", [(), (_CDN,)])
async def test_offramp_answers(targets: tuple[dict[str, str], ...]) -> None:
    """The blob route is asked where clients are sent to it, else whether the server lives."""
    async with serving(offramp()) as url:
        (verdict,) = await found(url, targets=targets)
    assert verdict.level is Level.OK
    assert ("/-/livez" if targets else "/-/blobs/") in verdict.what


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (200, "pass every path on"),
        (404, "pass every path on"),
        (401, "without a password"),
        (301, "to which it redirects"),
        (502, "start the server"),
    ],
)
async def test_something_else_answers(status: int, remedy: str) -> None:
    """A page, a proxy that asks for passwords, one that redirects, one with nothing behind it."""
    headers = {"Location": "https://git.example.org/"} if status == 301 else None
    async with serving(saying(status, headers)) as url:
        (verdict,) = await found(url)
    assert verdict.level is Level.WARN
    assert f"{status} where Offramp was expected" in verdict.what
    assert remedy in verdict.remedy


async def test_nobody_answers(unused_tcp_port: int) -> None:
    """A server that does not run yet is worth a warning; so is a name that leads nowhere."""
    (verdict,) = await found(f"http://127.0.0.1:{unused_tcp_port}")
    assert (verdict.level, "start the server" in verdict.remedy) == (Level.WARN, True)
    (verdict,) = await found("http://nowhere.invalid")
    assert verdict.level is Level.WARN
    assert "the name nowhere.invalid leads nowhere" in verdict.what
