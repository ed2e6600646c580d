# Law of this file: a server that says exactly what a test wrote, however wrong, and remembers what
# it was asked.

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Self

import aiohttp
import pytest
from aiohttp import web
from multidict import CIMultiDictProxy

from server.settings_upstreams import UpstreamSettings
from server.upstreams.asking import Asking, Down, SpeaksV2, Spoken
from server.upstreams.routes import Remote, Routes
from tests.conformance.clones import packet
from wire.git.capabilities import parse_advertisement
from wire.git.refs import Refs

SECRET: Final = "Basic YW5uOnNlY3JldA=="
TAIL: Final = "/info/refs?service=git-upload-pack"
HERE: Final = f"/base/acme/widget.git{TAIL}"
FLUSH: Final = b"0000"
ADVERTISEMENT: Final = "application/x-git-upload-pack-advertisement"
RESULT: Final = "application/x-git-upload-pack-result"
PREFACE: Final = packet("# service=git-upload-pack\n") + FLUSH
OID: Final = "1234567890" * 4
V2: Final = PREFACE + b"".join(
    (
        *map(packet, ("version 2\n", "agent=git/2.39.5\n", "ls-refs=unborn\n")),
        *map(packet, ("fetch=shallow filter\n", "object-format=sha1\n")),
        FLUSH,
    )
)
V0: Final = PREFACE + packet(f"{OID} refs/heads/main\0ofs-delta agent=git/2.0\n") + FLUSH
REFS: Final = packet(f"{OID} refs/heads/main\n") + FLUSH

Said = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    headers: CIMultiDictProxy[str]
    body: bytes


@dataclass
class Scripted:
    """An upstream of a test.

    Attributes:
        url: its base URL.
        said: the answers, in this order; the last is given again and again.
        asked: what came.
    """

    url: str
    said: list[Said]
    asked: list[Asked] = field(default_factory=list)
    _runner: web.AppRunner | None = None

    @classmethod
    async def start(cls) -> Self:
        """Listen on a free port of loopback."""
        scripted = cls("", [])
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", scripted._handle)
        runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.01
        )
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        scripted.url = f"http://{host}:{port}"
        scripted._runner = runner
        return scripted

    async def close(self) -> None:
        """Stop."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.asked.append(Asked(request.method, request.raw_path, request.headers, body))
        said = self.said[min(len(self.asked), len(self.said)) - 1]
        return await said(request)

    def remote(self, **settings: object) -> Remote:
        """The repository ``acme/widget`` of this upstream."""
        upstream = UpstreamSettings.model_validate(
            {"prefix": "/up/", "url": f"{self.url}/base", **settings}
        )
        routed = Routes((upstream,)).route("/up/acme/widget/info/refs", lambda _: False)
        assert routed is not None
        return routed.remote


def answer(
    body: bytes = b"",
    content_type: str = ADVERTISEMENT,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Said:
    """Answer so."""

    async def said(_: web.Request) -> web.StreamResponse:
        fields = {"Content-Type": content_type, **(headers or {})}
        return web.Response(status=status, headers=fields, body=body)

    return said


def redirect(location: str, status: int = 302) -> Said:
    """Send somewhere else."""
    return answer(status=status, headers={"Location": location})


def cut_short(body: bytes, content_type: str = ADVERTISEMENT) -> Said:
    """Promise one byte more than comes, and break the connection."""

    async def said(request: web.Request) -> web.StreamResponse:
        length = str(len(body) + 1)
        headers = {"Content-Type": content_type, "Content-Length": length}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        await response.write(body)
        assert request.transport is not None
        request.transport.close()
        return response

    return said


def endless(begin: bytes, more: bytes, content_type: str = RESULT) -> Said:
    """Begin an answer and go on with it for as long as somebody reads."""

    async def said(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": content_type})
        await response.prepare(request)
        await response.write(begin)
        while True:
            await response.write(more)

    return said


class Upstream:
    """A scripted upstream, and who asks it, always with the same credential."""

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[Self]:
        """It, on a free port, until the end of the block."""
        scripted = await Scripted.start()
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
            yield cls(scripted, http)
        await scripted.close()

    def __init__(self, scripted: Scripted, http: aiohttp.ClientSession) -> None:
        self.scripted = scripted
        self.asking = Asking(http)

    def says(self, *said: Said) -> None:
        """Answer so, in this order."""
        self.scripted.said[:] = said

    @property
    def spoken(self) -> SpeaksV2:
        """Protocol v2, at the repository's own URL."""
        return SpeaksV2(f"{self.scripted.url}/base/acme/widget.git", parse_advertisement(V2))

    async def discover(self, **settings: object) -> tuple[Spoken, Refs | None]:
        """Ask what it speaks."""
        return await self.asking.discover(self.scripted.remote(**settings), SECRET)

    async def refs(self, **settings: object) -> bytes | Refs:
        """Ask for its refs."""
        return await self.asking.refs(self.scripted.remote(**settings), self.spoken, SECRET)

    async def may_have(self, **settings: object) -> str | None:
        """Ask whether an object may be had."""
        remote = self.scripted.remote(**settings)
        return await self.asking.may_have(remote, self.spoken, SECRET, (OID,))

    def check_words(self, words: str) -> None:
        """See that a message is fit to be shown to anybody."""
        assert words
        for secret in (SECRET, SECRET.split()[1], "secret", "http:", "127.0.0.1", "/base"):
            assert secret not in words


Question = Callable[..., Awaitable[object]]


async def down(upstream: Upstream, asked: Awaitable[object]) -> Down:
    """See that a question ends so, in words that are fit for everybody."""
    with pytest.raises(Down) as caught:
        await asked
    upstream.check_words(str(caught.value))
    return caught.value


def asked_with(question: Question, upstream: Upstream, **settings: object) -> Awaitable[object]:
    """The question, with settings of the upstream."""
    return question(upstream, **settings)
