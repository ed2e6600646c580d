# Law of this file: an entity, complete or still being written, is read in pieces of a bounded size,
# and only as fast as they are taken.

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from cache.entities import OpenEntity
from cache.errors import CacheUnavailable, RunFailed
from cache.flights import Reader
from server.answer import Growing
from server.sending import read_at

_log = logging.getLogger("offramp.hg")

# Bytes that are read, encoded and framed at a time.
PIECE: Final = 256 << 10


@dataclass(frozen=True, slots=True)
class _Complete:
    """A complete entity, as something that does not grow any more."""

    entity: OpenEntity

    @property
    def fd(self) -> int:
        return self.entity.fd

    async def extent(self, offset: int) -> int:
        del offset
        return self.entity.size


@dataclass(slots=True)
class Source:
    """Content that is read from its start."""

    reader: Reader | _Complete

    async def up_to(self, limit: int) -> bytes | None:
        """All of it, if it is no longer than ``limit`` bytes; waits until that is known.

        Raises:
            Exception: what the run raised that writes it.
        """
        size = 0
        while (known := await self.reader.extent(size)) > size:
            size = known
            if size > limit:
                return None
            if isinstance(self.reader, _Complete):
                break
        return await _read(self.reader.fd, 0, size) if size else b""

    async def all(self) -> bytes:
        """All of it, in memory."""
        size = await self.reader.extent(0)
        return await _read(self.reader.fd, 0, size) if size else b""

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Its bytes, as they are there.

        Raises:
            Exception: what the run raised that writes it.
        """
        offset = 0
        while (size := await self.reader.extent(offset)) > offset:
            while offset < size:
                piece = await _read(self.reader.fd, offset, min(size - offset, PIECE))
                offset += len(piece)
                yield piece


async def _read(fd: int, offset: int, size: int) -> bytes:
    views = (memoryview(bytearray(size)),)
    await read_at(fd, views, offset)
    return bytes(views[0])


@asynccontextmanager
async def growing(inlined: Growing) -> AsyncIterator[Source]:
    """Read an entity along while it is written."""
    with inlined.flight.reader() as reader:
        yield Source(reader)


@asynccontextmanager
async def stored(entity: OpenEntity) -> AsyncIterator[Source]:
    """Read a complete entity, which its owner closes."""
    yield Source(_Complete(entity))


@dataclass(frozen=True, slots=True)
class Piped:
    """Content that is made while it is sent, and kept nowhere.

    Attributes:
        run: writes it; blocks.
        executor: has the thread in which it runs.
    """

    run: Callable[[Callable[[bytes], None]], None]
    executor: Executor

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Its bytes; the run waits while they are not taken.

        Raises:
            Exception: what the run raised.
        """
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[bytes] = asyncio.Queue(maxsize=2)
        left = threading.Event()

        def write(data: bytes) -> None:
            if left.is_set():
                raise ConnectionResetError("nobody takes this any more")
            asyncio.run_coroutine_threadsafe(queue.put(data), loop).result()

        thread = self.executor.submit(self.run, write)
        run = asyncio.wrap_future(thread)
        run.add_done_callback(_retrieved)
        taking: asyncio.Future[bytes] | None = None
        try:
            while not run.done() or not queue.empty():
                taking = asyncio.ensure_future(queue.get())
                either: set[asyncio.Future[bytes] | asyncio.Future[None]] = {taking, run}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if taking.done():
                    yield taking.result()
                else:
                    taking.cancel()
            run.result()
        finally:
            left.set()
            if taking is not None:
                taking.cancel()
            thread.cancel()  # if it waits for a thread; else a write that waits goes on, and fails
            while not run.done():
                while not queue.empty():
                    queue.get_nowait()
                await asyncio.wait({run}, timeout=0.01)


@dataclass(frozen=True, slots=True)
class Resumed:
    """Content that is read while the cache writes it, and made without the cache if that fails.

    Attributes:
        source: what the cache writes.
        instead: makes the same bytes again.
    """

    source: Source
    instead: Piped

    async def up_to(self, limit: int) -> bytes | None:
        """As :meth:`Source.up_to`; None also where the cache does not tell.

        Raises:
            Exception: what the run raised that writes it.
        """
        try:
            return await self.source.up_to(limit)
        except (CacheUnavailable, RunFailed):
            return None  # whoever goes on to the pieces finds out

    def pieces(self) -> AsyncGenerator[bytes, None]:
        """Its bytes.

        Raises:
            Exception: what the run raised.
        """
        return resumed(self.source, self.instead.pieces)


async def resumed(
    source: Source, anew: Callable[[], AsyncGenerator[bytes, None]]
) -> AsyncGenerator[bytes, None]:
    """The bytes of ``source``; where the cache breaks them off, the rest of the same from ``anew``.

    Raises:
        RunFailed: what is made anew does not begin as what was sent.
        Exception: what either raises, but for failures of the cache in the first.
    """
    taken = 0
    try:
        async with aclosing(source.pieces()) as pieces:
            async for piece in pieces:
                taken += len(piece)
                yield piece
    except (CacheUnavailable, RunFailed) as error:
        _log.error("an answer goes on without the cache: %s", error)
    else:
        return
    offset = 0
    async with aclosing(anew()) as again:
        async for piece in again:
            sent = piece[: max(0, taken - offset)]
            # What was written before the cache failed can still be read by those who read along.
            if sent and sent != await _read(source.reader.fd, offset, len(sent)):
                raise RunFailed("an answer that broke off is made otherwise the second time")
            offset += len(piece)
            if len(sent) < len(piece):
                yield piece[len(sent) :]


def _retrieved(run: asyncio.Future[None]) -> None:
    """Who takes the pieces is told of an error; it may have gone."""
    if not run.cancelled():
        run.exception()
