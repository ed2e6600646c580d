# Law of this file: the answers of one exchange go out side by side. Each large one has a stream of
# its own, all small ones share one whose context lives across them; who is ready is sent, and
# nobody makes more than the client takes.

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from cache.entities import OpenEntity
from server.answer import Growing, Inlined, Stored
from server.exchange import EXCHANGE
from server.git.answers import NO_CACHE
from server.hg.content import Piped, Resumed, Source, growing, resumed, stored
from server.sending import Sender, Stalled
from wire.hg.encodings import Encoder, Encoding, encoder
from wire.hg.frames import FrameType
from wire.hg.messages import (
    FRAMING_MEDIA_TYPE,
    Progress,
    Text,
    encode_error,
    encode_progress,
    encode_texts,
)
from wire.hg.outgoing import OutputStream
from wire.hg.server import ServerReactor

_log = logging.getLogger("offramp.hg")

# Answers up to this size share a stream: a context of their own would cost more than it saves.
SMALL: Final = 64 << 10

# Answers that are made or read side by side, of commands with much to tell (each holds a file) and
# of the others (each is in memory). The rest of the same exchange waits.
_PRODUCED: Final = 32

# How often a client that reads progress is told that we are still at it, and how soon one that
# went away is noticed while there is nothing to send.
PULSE_SECONDS: Final = 0.5

# Seconds for telling a client that its answers end here, when the server stops or has a fault.
_LAST_WORDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Whole:
    """A response in one piece: its status, and its objects if it has any."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Content:
    """A response whose objects are an entity.

    Attributes:
        head: its status.
        inlined: its objects.
        instead: makes the same objects, if the cache cannot finish them.
    """

    head: bytes
    inlined: Inlined | Piped
    instead: Piped | None = None


class _Stopping(Exception):  # noqa: N818 - what happens
    """The server stops, and this answer has not ended."""


Response = Whole | Content
Produce = Callable[[], Awaitable[Response]]
Compressed = Callable[[OpenEntity, Encoding], Awaitable[Inlined | None]]
"""Gives an entity as one that was encoded once; None where that cannot be had."""


@dataclass(slots=True)
class Asked:
    """One request that is being answered.

    Attributes:
        what: is asked, for people.
        bulk: its answer may be large; it waits for others of that kind only.
        produce: what answers it; it raises nothing but what ends the whole exchange.
        since: when it was asked, by the monotonic clock.
        sent: bytes of its content that were taken to be sent.
        told: the client was told how far it is.
    """

    what: str
    bulk: bool
    produce: Produce
    since: float = field(default_factory=time.monotonic)
    sent: int = 0
    told: bool = False


@dataclass(slots=True)
class Reply:
    """Sends the answers to all requests of one exchange.

    Attributes:
        reactor: the protocol's state.
        request: which is answered.
        stall_time: seconds for which the client may take nothing.
        compressed: see :data:`Compressed`.
        streams: large answers that are sent side by side.
    """

    reactor: ServerReactor
    request: web.Request
    stall_time: float
    compressed: Compressed
    streams: int
    _sender: Sender = field(init=False)
    _outbox: list[bytes] = field(default_factory=list)
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _waiting: dict[int, Asked] = field(default_factory=dict)
    _shared: OutputStream = field(init=False)
    _encoder: Encoder | None = None

    def __post_init__(self) -> None:
        headers = {**NO_CACHE, "Content-Type": FRAMING_MEDIA_TYPE}
        response = web.StreamResponse(headers=headers)
        self._sender = Sender(self.request, response, self.stall_time)
        # The stream of small answers does not end: nobody knows which is the last. It has its id
        # from the start, since its frames may be written before others that were made earlier:
        # an id that those give back must not be taken by it.
        self._shared = self.reactor.begin_stream(self.reactor.encoding)

    async def send(self, asked: Mapping[int, Asked]) -> web.StreamResponse:
        """Answer requests, each as soon as its answer is there.

        Raises:
            ConnectionError, server.sending.Stalled: the client is gone, or takes nothing.
        """
        streams = asyncio.Semaphore(self.streams)
        bulk, small = asyncio.Semaphore(_PRODUCED), asyncio.Semaphore(_PRODUCED)
        self._waiting.update(asked)
        tasks = [
            asyncio.ensure_future(
                self._answer(request_id, each, streams, bulk if each.bulk else small)
            )
            for request_id, each in asked.items()
        ]
        pulse = asyncio.ensure_future(self._pulse())
        try:
            pending: set[asyncio.Future[None]] = {*tasks}
            while pending:
                done, pending = await asyncio.wait(
                    {*pending, pulse}, return_when=asyncio.FIRST_COMPLETED
                )
                pending.discard(pulse)
                # Whatever ended one ends all. Waiting for a client that takes nothing, aiohttp may
                # cancel one task for what ended another.
                for task in sorted(done, key=asyncio.Future[None].cancelled):
                    if task.cancelled():
                        raise ConnectionResetError("the connection broke in mid-answer")
                    task.result()
            return await self._finish()
        except (ConnectionError, Stalled):
            raise
        except asyncio.CancelledError as error:
            await _cancelled(tasks)
            await self._break_off(error)
            raise
        except Exception as error:
            if not self.request[EXCHANGE].begun:
                raise
            # Each answer has ended, if only in an error: so the whole can end as one does.
            _log.exception("request %s failed", self.request[EXCHANGE].request_id)
            await _cancelled(tasks)
            await self._break_off(error)
            return await self._finish()
        finally:
            await _cancelled((*tasks, pulse))
            self.request[EXCHANGE].sent = self._sender.sent

    def refuse(self, request_id: int, payload: bytes) -> None:
        """Put an error frame before the answers."""
        self._outbox.append(self.reactor.fail(self._shared, request_id, payload))

    async def _answer(
        self,
        request_id: int,
        asked: Asked,
        streams: asyncio.Semaphore,
        produced: asyncio.Semaphore,
    ) -> None:
        async with produced:
            match await asked.produce():
                case Whole(payload):
                    await self._send_small(request_id, payload)
                case Content(head, Stored(entity)):
                    with entity:
                        await self._send_stored(request_id, asked, head, entity, streams)
                case Content(head, Piped() as piped):
                    async with streams:
                        await self._send_stream(request_id, asked, head, self._encoded(piped))
                case Content(head, Growing() as inlined, instead):
                    async with growing(inlined) as source:
                        growth = source if instead is None else Resumed(source, instead)
                        await self._send_growing(request_id, asked, head, growth, streams)
        self._end_of(request_id)

    async def _break_off(self, error: BaseException) -> None:
        """End what was begun, in frames: Mercurial waits for ever for an answer that just stops."""
        if not self.request[EXCHANGE].begun:
            return
        with suppress(Exception):
            async with asyncio.timeout(_LAST_WORDS):
                payload = self._explained(error)
                fails = (self.reactor.fail(self._shared, each, payload) for each in self._waiting)
                await self._push(b"".join(fails))

    # --- small answers -------------------------------------------------------------------------

    async def _send_small(self, request_id: int, payload: bytes) -> None:
        """Send a response as one piece, flushed, so that it can be read at once."""
        if self._encoder is None:
            self._encoder = encoder(self.reactor.encoding)
        data = self._encoder.encode(payload) + self._encoder.flush()
        self._outbox.append(
            self.reactor.answer(self._shared, request_id, data, end=True, encoded=True)
        )
        # Others that are ready go into the same write; alone, they would cost a packet each.
        await asyncio.sleep(0)
        if len(self._waiting) > 1:
            await self._flush()

    async def _flush(self) -> None:
        """Write what waits in the outbox, in its order."""
        async with self._writing:
            if self._outbox:
                data = b"".join(self._outbox)
                self._outbox.clear()
                await self._write(data)

    async def _write(self, data: bytes) -> None:
        if not self.request[EXCHANGE].begun:
            await self._sender.begin()
        await self._sender.write(data)

    async def _finish(self) -> web.StreamResponse:
        exchange = self.request[EXCHANGE]
        if not exchange.begun:
            # All fits into one piece, which then has a length and needs no chunks.
            body = b"".join(self._outbox)
            return web.Response(body=body, headers=self._sender.response.headers)
        await self._flush()
        await self._sender.response.write_eof()
        return self._sender.response

    # --- large answers -------------------------------------------------------------------------

    async def _send_stored(
        self,
        request_id: int,
        asked: Asked,
        head: bytes,
        entity: OpenEntity,
        streams: asyncio.Semaphore,
    ) -> None:
        async with stored(entity) as source:
            if entity.size <= SMALL:
                await self._send_small(request_id, head + await source.all())
                return
            async with streams:
                encoding = self.reactor.encoding
                once = None
                if encoding is not Encoding.IDENTITY:
                    once = await self.compressed(entity, encoding)
                match once:
                    case Stored(compressed):
                        with compressed:
                            async with stored(compressed) as replay:
                                await self._send_stream(request_id, asked, head, replay.pieces())
                    case Growing() as inlined:
                        async with growing(inlined) as replay:
                            # An encoder says the same of the same pieces, whoever keeps it.
                            pieces = resumed(replay, lambda: self._encoded(source))
                            await self._send_stream(request_id, asked, head, pieces)
                    case None:
                        await self._send_stream(request_id, asked, head, self._encoded(source))

    async def _send_growing(
        self,
        request_id: int,
        asked: Asked,
        head: bytes,
        source: Source | Resumed,
        streams: asyncio.Semaphore,
    ) -> None:
        try:
            small = await source.up_to(SMALL)
        except Exception as error:  # noqa: BLE001 - whatever the run raised
            self._outbox.append(self.reactor.fail(self._shared, request_id, self._explained(error)))
            return
        if small is not None:
            await self._send_small(request_id, head + small)
            return
        async with streams:
            await self._send_stream(request_id, asked, head, self._encoded(source))

    async def _encoded(self, source: Source | Resumed | Piped) -> AsyncGenerator[bytes, None]:
        """A source's pieces in the client's encoding, made in threads: several cores share them."""
        encoding = self.reactor.encoding
        coder = encoder(encoding)
        async with aclosing(source.pieces()) as pieces:
            async for piece in pieces:
                if encoding is Encoding.IDENTITY:
                    yield piece
                else:
                    yield await asyncio.to_thread(coder.encode, piece)
        if encoding is not Encoding.IDENTITY:
            yield await asyncio.to_thread(coder.flush)

    async def _send_stream(
        self,
        request_id: int,
        asked: Asked,
        head: bytes,
        pieces: AsyncGenerator[bytes, None],
    ) -> None:
        """Send a response on a stream of its own, which ends with it.

        The head is not encoded, so that what was encoded once can follow as it is.
        """
        stream = self.reactor.begin_stream(self.reactor.encoding)
        frames = self.reactor.answer(stream, request_id, head, end=False, encoded=False)
        held = b""
        try:
            async with aclosing(_ahead(pieces)) as made:
                async for piece in made:
                    if not piece:
                        continue  # the encoder keeps it for later
                    if held:
                        frames += self.reactor.answer(
                            stream, request_id, held, end=False, encoded=True
                        )
                    await self._push(frames)
                    asked.sent += len(piece)
                    frames, held = b"", piece
        except (ConnectionError, Stalled):
            raise
        except Exception as error:  # noqa: BLE001 - whatever the run raised
            frames += self.reactor.fail(stream, request_id, self._explained(error), close=True)
            await self._push(frames)
            return
        frames += self.reactor.answer(stream, request_id, held, end=True, encoded=True, close=True)
        await self._push(frames)

    async def _push(self, frames: bytes) -> None:
        if frames or self._outbox:
            async with self._writing:
                waiting = b"".join(self._outbox)
                self._outbox.clear()
                await self._write(waiting + frames)

    def _explained(self, error: BaseException) -> bytes:
        """An error frame for a run that failed after its answer had begun."""
        request_id = self.request[EXCHANGE].request_id
        _log.error("request %s: an answer broke off: %r", request_id, error)
        return encode_error(
            "server",
            b"the server could not finish its answer; its log says why (request %s)",
            (request_id.encode("ascii", "replace"),),
        )

    # --- while the client waits ------------------------------------------------------------------

    async def _pulse(self) -> None:
        """Notice that the client has gone, and tell one that can read it how far we are.

        Raises:
            ConnectionResetError: it has gone.
        """
        while True:
            await asyncio.sleep(PULSE_SECONDS)
            transport = self.request.transport
            if transport is None or transport.is_closing():
                raise ConnectionResetError("the client went away")
            if self.request.content.exception() is not None:
                # aiohttp, when it stops, leaves the connection open for a last moment after this.
                raise _Stopping("the server stops")
            if b"progress" in self.reactor.settings.extra_frames and not self._outbox:
                for request_id, asked in self._waiting.items():
                    asked.told = True
                    self._say(request_id, _how_far(asked))
            if self._outbox and not self._writing.locked():  # else it goes with what is written
                await self._flush()

    def _say(self, request_id: int, progress: Progress) -> None:
        stream = self._shared
        self._outbox.append(
            self.reactor.notice(stream, request_id, FrameType.PROGRESS, encode_progress(progress))
        )

    def _end_of(self, request_id: int) -> None:
        asked = self._waiting.pop(request_id)
        if asked.told:
            self._say(request_id, Progress(asked.what.encode(), -1, -1))

    def tell(self, request_id: int, text: Text) -> None:
        """Say something to the person behind the client, if it can show it."""
        if b"text" in self.reactor.settings.extra_frames:
            stream = self._shared
            payload = encode_texts((text,))
            self._outbox.append(
                self.reactor.notice(stream, request_id, FrameType.TEXT_OUTPUT, payload)
            )


async def _cancelled(tasks: Collection[asyncio.Future[None]]) -> None:
    """End tasks, and wait until they have."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _how_far(asked: Asked) -> Progress:
    if asked.sent:
        return Progress(asked.what.encode(), asked.sent, -1, b"bytes")
    waited = int(time.monotonic() - asked.since)
    return Progress(asked.what.encode(), waited, -1, b"seconds")


async def _ahead(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The same pieces, each made while the one before it is being sent."""

    async def following() -> bytes | None:
        return await anext(pieces, None)

    async with aclosing(pieces):
        task = asyncio.ensure_future(following())
        try:
            while (piece := await task) is not None:
                task = asyncio.ensure_future(following())
                yield piece
        finally:
            if not task.done():
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)
