# Law of this file: what goes through is counted, recorded and passed on as it came; only what a
# test asked to be broken is broken, in the way that it asked for.

from __future__ import annotations

import asyncio
import gzip
import re
import zlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Self

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from tests.conformance.clones import packets

# What a request asks for. `info-refs` is the discovery of fetches and of pushes, `fetch` is one of
# any protocol version, and `other` has the commands of v2 that are neither of the two.
Kind = Literal["info-refs", "ls-refs", "fetch", "receive-pack", "lfs", "other"]

_TAIL: Final = re.compile(r"/(?:info/refs|git-upload-pack|git-receive-pack|info/lfs/.*)$")
_SIMPLE: Final[Mapping[str, Kind]] = {
    "/info/refs": "info-refs",
    "/git-receive-pack": "receive-pack",
}
_COMMANDS: Final[Mapping[bytes, Kind]] = {
    b"command=ls-refs": "ls-refs",
    b"command=fetch": "fetch",
}
_CHUNK: Final = 64 << 10
# Bodies of upload-pack are read whole, to know what they ask for; pushes are streamed.
_LARGEST_QUESTION: Final = 64 << 20
# Each connection has its own of these (RFC 9110, section 7.6.1).
_HOP: Final = frozenset({"connection", "keep-alive", "transfer-encoding", "expect"})


# --- faults --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answers:
    """The upstream is not asked; the answer is this one.

    Attributes:
        status: of HTTP.
        headers: of the answer.
        body: of the answer.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @classmethod
    def too_many(cls, retry_after: int) -> Self:
        """There were too many requests; come back after so many seconds."""
        return cls(429, {"Retry-After": f"{retry_after}", "Content-Type": "text/plain"}, b"slow\n")

    @classmethod
    def login_page(cls) -> Self:
        """A page for people, with a status that says that all is well."""
        page = b"<!DOCTYPE html><title>Sign in</title><form action='/login'></form>\n"
        return cls(200, {"Content-Type": "text/html; charset=utf-8"}, page)


@dataclass(frozen=True)
class Redirects:
    """The repository has moved; requests that come for its new place on this host go through.

    Attributes:
        to: the repository's new URL.
        status: of HTTP.
    """

    to: str
    status: int = 301


@dataclass(frozen=True)
class Truncated:
    """Only the first of the answer's body comes; if it is as short as that, all of it.

    Attributes:
        after: bytes that come.
        broken: then the connection breaks; otherwise the answer ends as a whole one does.
    """

    after: int
    broken: bool = False


@dataclass(frozen=True)
class Breaks:
    """The connection breaks before anything is said."""


@dataclass(frozen=True, eq=False)
class Holds:
    """Nothing goes on until the test says so.

    Attributes:
        after: bytes of the answer's body that come before, all of it if it is shorter; None: the
            upstream is not even asked.
    """

    after: int | None = None
    _reached: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    _released: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    async def held(self) -> None:
        """Wait until a request is held."""
        await self._reached.wait()

    def release(self) -> None:
        """Let go on what is held, and whatever comes after it."""
        self._released.set()

    async def wait(self) -> None:
        """Be held."""
        self._reached.set()
        await self._released.wait()


Fault = Answers | Redirects | Truncated | Breaks | Holds


# --- records -------------------------------------------------------------------------------------


@dataclass
class Exchange:
    """One request, and how far its answer came.

    Attributes:
        kind: what it asks for.
        method: of HTTP.
        path: as it came, with the query.
        headers: as they came.
        question: the body of a fetch or of another command of upload-pack, decompressed.
        received: bytes of the request's body, as they came.
        status: of the answer; None before there is one, and if none was given.
        sent: bytes of the answer's body.
        ended: whether the answer ended as a whole one does.
        over: set when nothing more happens, however it ended.
    """

    kind: Kind
    method: str
    path: str
    headers: CIMultiDictProxy[str]
    question: bytes = b""
    received: int = 0
    status: int | None = None
    sent: int = 0
    ended: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    @property
    def authorization(self) -> str | None:
        """With which credentials it came."""
        return self.headers.get("Authorization")


@dataclass(frozen=True)
class Figures:
    """Sums over requests of one method and kind.

    Attributes:
        requests: how many.
        received: bytes of their bodies.
        sent: bytes of the answers' bodies.
    """

    requests: int = 0
    received: int = 0
    sent: int = 0


@dataclass
class _Set:
    fault: Fault
    times: int | None


@dataclass
class Proxy:
    """A reverse proxy in this process.

    Attributes:
        url: its base URL, without a trailing slash.
        upstream: that of the server behind it.
        exchanges: all requests, in the order in which they came.
    """

    url: str
    upstream: str
    exchanges: list[Exchange]
    _session: aiohttp.ClientSession
    _runner: web.AppRunner
    _faults: dict[Kind, _Set] = field(default_factory=dict)

    @classmethod
    async def start(cls, upstream: str) -> Self:
        """Listen on a free port, in front of the server at ``upstream``."""
        session = aiohttp.ClientSession(
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            connector=aiohttp.TCPConnector(limit=0),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )
        app = web.Application(client_max_size=_LARGEST_QUESTION)
        runner = web.AppRunner(
            app,
            access_log=None,
            auto_decompress=False,
            handler_cancellation=True,
            shutdown_timeout=0.01,  # what is held is dropped; zero would be to wait for ever
        )
        proxy = cls("", upstream, [], session, runner)
        app.router.add_route("*", "/{path:.*}", proxy._handle)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        proxy.url = f"http://{host}:{port}"
        return proxy

    async def close(self) -> None:
        """Stop, and drop what is still going on."""
        await self._runner.cleanup()
        await self._session.close()

    def fault(self, kind: Kind, fault: Fault, *, times: int | None = None) -> None:
        """From now on, requests of this kind meet this fault; only the next ``times`` of them."""
        self._faults[kind] = _Set(fault, times)

    def heal(self) -> None:
        """From now on, all goes through."""
        self._faults.clear()

    def seen(self, *kinds: Kind) -> list[Exchange]:
        """What came, of these kinds or of all."""
        return [exchange for exchange in self.exchanges if not kinds or exchange.kind in kinds]

    def figures(self) -> dict[tuple[str, Kind], Figures]:
        """Counts per method and kind; what did not come is not there."""
        found: dict[tuple[str, Kind], Figures] = {}
        for exchange in self.exchanges:
            key = (exchange.method, exchange.kind)
            before = found.get(key, Figures())
            found[key] = Figures(
                before.requests + 1,
                before.received + exchange.received,
                before.sent + exchange.sent,
            )
        return found

    def forget(self) -> None:
        """Begin to count and to record anew."""
        self.exchanges.clear()

    # --- one request -----------------------------------------------------------------------------

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = b""
        if request.path.endswith("/git-upload-pack"):
            body = await request.read()
        question = _decompressed(request, body)
        exchange = Exchange(
            _kind(request.path, question),
            request.method,
            request.raw_path,
            request.headers,
            question,
            received=len(body),
        )
        self.exchanges.append(exchange)
        try:
            return await self._answer(request, body, exchange)
        except aiohttp.ClientError:
            return _broken(request)
        finally:
            exchange.over.set()

    async def _answer(
        self, request: web.Request, body: bytes, exchange: Exchange
    ) -> web.StreamResponse:
        fault = self._fault(exchange)
        match fault:
            case Breaks():
                return _broken(request)
            case Answers():
                exchange.status = fault.status
                exchange.sent = len(fault.body)
                exchange.ended = True
                return web.Response(status=fault.status, headers=fault.headers, body=fault.body)
            case Redirects():
                exchange.status, exchange.ended = fault.status, True
                location = f"{fault.to}{_tail(request.raw_path)}"
                return web.Response(status=fault.status, headers={"Location": location})
            case Holds(after=None):
                await fault.wait()
        return await self._pass_on(request, body, exchange, fault)

    def _fault(self, exchange: Exchange) -> Fault | None:
        found = self._faults.get(exchange.kind)
        if found is None or found.times == 0:
            return None
        if isinstance(found.fault, Redirects) and (
            f"{self.url}{exchange.path}".startswith(f"{found.fault.to}/")
        ):
            return None
        if found.times is not None:
            found.times -= 1
        return found.fault

    async def _pass_on(
        self, request: web.Request, body: bytes, exchange: Exchange, fault: Fault | None
    ) -> web.StreamResponse:
        data = body or (_counted(request, exchange) if request.can_read_body else None)
        async with self._session.request(
            request.method,
            URL(f"{self.upstream}{request.raw_path}", encoded=True),
            headers=_end_to_end(request.headers),
            data=data,
            chunked="chunked" in request.headers.get("Transfer-Encoding", "") or None,
            allow_redirects=False,
        ) as answer:
            exchange.status = answer.status
            headers = _end_to_end(answer.headers)
            if isinstance(fault, Truncated):
                headers.popall("Content-Length", None)
            response = web.StreamResponse(
                status=answer.status, reason=answer.reason, headers=headers
            )
            await response.prepare(request)
            match fault:
                case Truncated():
                    await _copy(answer.content, response, exchange, fault.after)
                    if fault.broken:
                        return _broken(request, response)
                case Holds(after=int()):
                    await _copy(answer.content, response, exchange, fault.after)
                    await fault.wait()
                    await _copy(answer.content, response, exchange)
                case _:
                    await _copy(answer.content, response, exchange)
            exchange.ended = True
            await response.write_eof()
            return response


async def _copy(
    source: aiohttp.StreamReader,
    response: web.StreamResponse,
    exchange: Exchange,
    most: int | None = None,
) -> None:
    left = _CHUNK if most is None else most
    while left and (piece := await source.read(min(left, _CHUNK))):
        # Counted before: who has received it may ask at once.
        exchange.sent += len(piece)
        await response.write(piece)
        left -= len(piece) if most is not None else 0


async def _counted(request: web.Request, exchange: Exchange) -> AsyncIterator[bytes]:
    async for piece in request.content.iter_any():
        exchange.received += len(piece)
        yield piece


def _broken(request: web.Request, response: web.StreamResponse | None = None) -> web.StreamResponse:
    """Break the connection behind what was said so far."""
    if request.transport is not None:
        request.transport.close()
    return web.Response() if response is None else response


def _end_to_end(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in _HOP)


def _tail(path: str) -> str:
    bare, mark, query = path.partition("?")
    found = _TAIL.search(bare)
    return f"{found[0] if found else bare}{mark}{query}"


def _decompressed(request: web.Request, body: bytes) -> bytes:
    if request.headers.get("Content-Encoding") not in {"gzip", "x-gzip"}:
        return body
    try:
        return gzip.decompress(body)
    except (OSError, EOFError, zlib.error):
        return b""  # what it is, the upstream may say


def _kind(path: str, question: bytes) -> Kind:
    found = _TAIL.search(path)
    tail = "" if found is None else found[0]
    if tail.startswith("/info/lfs/"):
        return "lfs"
    if tail == "/git-upload-pack":
        return _command(question)
    return _SIMPLE.get(tail, "other")


def _command(question: bytes) -> Kind:
    """Which command of upload-pack it is; before v2 there is only one, that begins with a want."""
    try:
        lines = packets(question)
    except ValueError:
        return "other"
    if any(line.startswith(b"want ") for line in lines[:1]):
        return "fetch"
    # Clients write the command in any place of the head.
    return next((_COMMANDS[line.strip()] for line in lines if line.strip() in _COMMANDS), "other")
