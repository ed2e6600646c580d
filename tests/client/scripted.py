# Law of this file: a server of the frame protocol, and one of files, that say exactly what a test
# wrote, however wrong, and remember what they were asked.

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web
from multidict import CIMultiDictProxy

from wire.hg import cbor
from wire.hg.cbor import Encodable
from wire.hg.commands import COMMANDS
from wire.hg.encodings import Encoding, encoder
from wire.hg.handshake import (
    API_NAME,
    AdvertisedTarget,
    Descriptor,
    encode_descriptor,
    encode_handshake,
)
from wire.hg.messages import (
    CBOR_MEDIA_TYPE,
    FRAMING_MEDIA_TYPE,
    CommandRequest,
    Location,
    Moved,
    Ok,
    Status,
    encode_status,
    parse_request,
)
from wire.hg.outgoing import OutputStream
from wire.hg.server import ServerReactor

REPOSITORY: Final = "/repo"
NODE: Final = bytes(range(20))


@dataclass(frozen=True)
class Asked:
    """One HTTP request."""

    method: str
    path: str
    headers: CIMultiDictProxy[str]
    body: bytes = b""


@dataclass(frozen=True)
class Question:
    """One command."""

    request_id: int
    request: CommandRequest
    data: bytes | None


def sequence(*objects: Encodable) -> bytes:
    """A CBOR sequence: what a target has."""
    return b"".join(map(cbor.encode, objects))


def answer(*objects: Encodable, status: Status | None = None) -> bytes:
    """A status and objects."""
    return encode_status(status or Ok()) + sequence(*objects)


def moved(url: str, content: bytes, **changes: object) -> Moved:
    """A redirect to a location that says all of its content."""
    fields: dict[str, object] = {
        "size": len(content),
        "hashes": (
            ("sha256", hashlib.sha256(content).digest()),
            ("sha1", hashlib.sha1(content, usedforsecurity=False).digest()),
        ),
        **changes,
    }
    return Moved(Location(url, **fields))  # type: ignore[arg-type] - of a test


Replies = dict[bytes, bytes | Status | Callable[[Question], bytes | Status]]
Frames = Iterable[bytes] | AsyncIterator[bytes]
Script = Callable[[ServerReactor, Sequence[Question]], Frames]


@dataclass
class Scripted:
    """A server of the frame protocol.

    Attributes:
        url: of its repository.
        replies: by command: objects as they are sent, or a status.
        script: writes the response's frames, in place of one stream with all replies.
        encoding: of that stream; None for what the client prefers.
        descriptor: what it says of itself.
        greeting: answers the handshake, in place of the descriptor.
        responding: answers commands, in place of frames.
        chunk: bytes of the response that are written at a time; 0 for as they are made.
        asked, questions: what came.
        settings: the encodings that the client named last.
        written: bytes of responses.
        gone: clients that hung up.
    """

    url: str = ""
    replies: Replies = field(default_factory=dict)
    script: Script | None = None
    encoding: Encoding | None = None
    descriptor: Descriptor = field(
        default_factory=lambda: Descriptor(tuple(COMMANDS.values()), (b"revlogv1",))
    )
    greeting: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None
    responding: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None
    chunk: int = 0
    asked: list[Asked] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    settings: tuple[bytes, ...] = ()
    written: int = 0
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def commands(self) -> list[tuple[bytes, tuple[bytes, ...] | None]]:
        """The commands that came, each with the targets that it offered."""
        return [
            (each.request.name, None if each.request.offer is None else each.request.offer.targets)
            for each in self.questions
        ]

    def advertise(self, *targets: AdvertisedTarget, encodings: tuple[bytes, ...] = ()) -> None:
        """Have redirects."""
        self.descriptor = Descriptor(
            tuple(COMMANDS.values()), (b"revlogv1",), targets, encodings=encodings
        )

    async def greet(self, request: web.Request) -> web.StreamResponse:
        """The handshake."""
        self.asked.append(Asked(request.method, request.path_qs, request.headers))
        if self.greeting is not None:
            return await self.greeting(request)
        apis = {API_NAME: encode_descriptor(self.descriptor)}
        return web.Response(body=encode_handshake(apis, b"batch"), content_type=CBOR_MEDIA_TYPE)

    async def respond(self, request: web.Request) -> web.StreamResponse:
        """A command, or several."""
        body = await request.read()
        self.asked.append(Asked(request.method, request.path_qs, request.headers, body))
        if self.responding is not None:
            return await self.responding(request)
        reactor = ServerReactor()
        received = reactor.receive(body)
        reactor.end()
        questions = [
            Question(each.request_id, parse_request(each.payload), each.data) for each in received
        ]
        self.questions += questions
        self.settings = reactor.settings.encodings
        response = web.StreamResponse(headers={"Content-Type": FRAMING_MEDIA_TYPE})
        await response.prepare(request)
        try:
            async for piece in _pieces(self._frames(reactor, questions), self.chunk):
                await response.write(piece)
                self.written += len(piece)
        except (ConnectionError, asyncio.CancelledError):
            self.gone.set()
            raise
        return response

    def _frames(self, reactor: ServerReactor, questions: Sequence[Question]) -> Frames:
        if self.script is not None:
            return self.script(reactor, questions)
        return self._one_stream(reactor, questions)

    def _one_stream(self, reactor: ServerReactor, questions: Sequence[Question]) -> Iterator[bytes]:
        talk = Talk(reactor, self.encoding or reactor.encoding)
        for question in questions:
            reply = self.replies[question.request.name]
            if callable(reply):
                reply = reply(question)
            payload = reply if isinstance(reply, bytes) else encode_status(reply)
            yield talk.say(question.request_id, payload, end=True)


class Talk:
    """One stream with its encoder."""

    def __init__(self, reactor: ServerReactor, encoding: Encoding = Encoding.IDENTITY) -> None:
        self._reactor = reactor
        self.stream: OutputStream = reactor.begin_stream(encoding)
        self._encoder = encoder(encoding)

    def say(self, request_id: int, payload: bytes, *, end: bool, close: bool = False) -> bytes:
        """Frames with a piece of an answer."""
        encoded = self._encoder.encode(payload) + self._encoder.flush()
        return self._reactor.answer(
            self.stream, request_id, encoded, end=end, encoded=True, close=close
        )


async def _pieces(frames: Frames, chunk: int) -> AsyncIterator[bytes]:
    if isinstance(frames, AsyncIterator):
        async for each in frames:
            yield each
        return
    if not chunk:
        for each in frames:
            yield each
        return
    body = b"".join(frames)
    for offset in range(0, len(body), chunk):
        yield body[offset : offset + chunk]


# --- files ----------------------------------------------------------------------------------

Deed = Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]


@dataclass
class Files:
    """A server of one content, at every path.

    Attributes:
        url: its base URL.
        content: what it has.
        deeds: what it does with the requests, in this order; the last is done again and again.
        asked: what came.
    """

    url: str = ""
    content: bytes = b""
    deeds: list[Deed] = field(default_factory=lambda: [whole])
    asked: list[Asked] = field(default_factory=list)

    async def respond(self, request: web.Request) -> web.StreamResponse:
        """Do what comes next."""
        deed = self.deeds[min(len(self.asked), len(self.deeds) - 1)]
        self.asked.append(Asked(request.method, request.path_qs, request.headers))
        return await deed(request, self.content)

    @property
    def ranges(self) -> list[str | None]:
        """What was asked for, of the content."""
        return [each.headers.get("Range") for each in self.asked]


def _range(request: web.Request, content: bytes) -> tuple[int, dict[str, str]]:
    asked = request.headers.get("Range")
    if asked is None:
        return 200, {}
    start = int(asked.removeprefix("bytes=").rstrip("-"))
    return 206, {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}


async def whole(request: web.Request, content: bytes) -> web.StreamResponse:
    """All of it, or the range that is asked for."""
    status, headers = _range(request, content)
    start = int(headers["Content-Range"].split()[1].split("-")[0]) if headers else 0
    return web.Response(status=status, headers=headers, body=content[start:])


async def without_ranges(request: web.Request, content: bytes) -> web.StreamResponse:
    """All of it, whatever is asked for."""
    return web.Response(body=content)


def says(status: int, body: bytes = b"no", **headers: str) -> Deed:
    """A fixed answer."""

    async def deed(request: web.Request, content: bytes) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, body=body, headers=named)

    return deed


def breaks_after(count: int, *, length: bool = True) -> Deed:
    """``count`` more bytes, and then the connection breaks."""

    async def deed(request: web.Request, content: bytes) -> web.StreamResponse:
        status, headers = _range(request, content)
        start = int(headers["Content-Range"].split()[1].split("-")[0]) if headers else 0
        if length:
            headers["Content-Length"] = str(len(content) - start)
        response = web.StreamResponse(status=status, headers=headers)
        await response.prepare(request)
        await response.write(content[start : start + count])
        assert request.transport is not None
        request.transport.close()
        return response

    return deed


def ends_after(count: int) -> Deed:
    """``count`` bytes, and then an end that looks as if all had come."""

    async def deed(request: web.Request, content: bytes) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(content[:count])
        return response

    return deed


async def hangs_up(request: web.Request, content: bytes) -> web.StreamResponse:
    """Nothing at all."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def never(request: web.Request, content: bytes) -> web.StreamResponse:
    """Silence, until the client has left."""
    await asyncio.Event().wait()
    raise AssertionError


@asynccontextmanager
async def listening(app: web.Application) -> AsyncIterator[str]:
    """Serve on a free port; its base URL."""
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def scripted_server() -> AsyncIterator[Scripted]:
    """A server of the frame protocol."""
    server = Scripted()
    app = web.Application(client_max_size=1 << 30)
    app.router.add_get(REPOSITORY, server.greet)
    app.router.add_post(REPOSITORY + "/api/" + API_NAME + "/{permission}/{command}", server.respond)
    async with listening(app) as base:
        server.url = base + REPOSITORY
        yield server


@asynccontextmanager
async def file_server() -> AsyncIterator[Files]:
    """A server of files."""
    files = Files()
    app = web.Application()
    app.router.add_get("/{path:.*}", files.respond)
    async with listening(app) as base:
        files.url = base
        yield files
