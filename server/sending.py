# Law of this file: content goes from disk to the socket through one buffer of a fixed size, with
# whatever frames the dialect puts around it, and never faster than the client reads.

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from cache.flights import Reader
from server.exchange import EXCHANGE, REQUEST_ID
from wire.git.response import FRAME_PAYLOAD, KEEPALIVE, framed_size, sideband

# Packets in one write. Larger writes cost fewer trips through the event loop, but each client that
# is being sent to holds a buffer of this many packets (64 KiB each).
PACKETS: Final = 8

# As stock git's uploadpack.keepAlive: silence of this many seconds is broken.
KEEPALIVE_SECONDS: Final = 5.0

_UNREADY: Final = {errno.EAGAIN, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class Stalled(Exception):  # noqa: N818 - what the client did
    """The client took no byte for too long."""


@dataclass(slots=True)
class Framer:
    """A buffer laid out as full sideband packets, whose payloads are read into place.

    The frames' headers are written once; a copy of the content into a buffer of its own, to be
    framed from there, would double the cost of an inline answer.
    """

    _buffer: bytearray
    _slots: tuple[memoryview, ...]

    @classmethod
    def make(cls) -> Framer:
        """A new buffer."""
        packet = FRAME_PAYLOAD + 5
        buffer = bytearray(packet * PACKETS)
        view = memoryview(buffer)
        for start in range(0, len(buffer), packet):
            view[start : start + 5] = b"%04x\x01" % packet
        slots = tuple(view[start + 5 : start + packet] for start in range(0, len(buffer), packet))
        return cls(buffer, slots)

    async def read(self, fd: int, offset: int, size: int) -> memoryview | bytes:
        """Frame ``size`` bytes of a file from ``offset``, at most what the buffer holds.

        Returns a view of the buffer, which the next call overwrites.
        """
        full, rest = divmod(min(size, FRAME_PAYLOAD * PACKETS), FRAME_PAYLOAD)
        if full == 0:
            piece = await read_at(fd, (memoryview(bytearray(rest)),), offset)
            return sideband(bytes(piece[0]))
        await read_at(fd, self._slots[:full], offset)
        return memoryview(self._buffer)[: framed_size(full * FRAME_PAYLOAD)]


async def read_at(fd: int, views: tuple[memoryview, ...], offset: int) -> tuple[memoryview, ...]:
    """Fill ``views`` from a file at ``offset``.

    What the page cache holds is read at once; only a read that would wait for a disk goes to a
    thread (RWF_NOWAIT, preadv2(2)).

    Raises:
        EOFError: the file ends before.
    """
    wanted = sum(len(view) for view in views)
    done = 0
    try:
        done = os.preadv(fd, views, offset, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno not in _UNREADY:
            raise
    if done < wanted:
        await asyncio.to_thread(_read_all, fd, views, offset, wanted)
    return views


def _read_all(fd: int, views: tuple[memoryview, ...], offset: int, wanted: int) -> None:
    done = 0
    rest = list(views)
    while done < wanted:
        count = os.preadv(fd, rest, offset + done)
        if count == 0:
            raise EOFError(f"file ends {wanted - done} bytes early")
        done += count
        while rest and count >= len(rest[0]):
            count -= len(rest.pop(0))
        if rest:
            rest[0] = rest[0][count:]


@dataclass(slots=True)
class Sender:
    """Writes one response's body.

    Attributes:
        request: which is answered.
        response: which is sent.
        stall_time: seconds for which the client may take nothing.
        sent: bytes written so far.
    """

    request: web.Request
    response: web.StreamResponse
    stall_time: float
    sent: int = 0

    async def begin(self) -> None:
        """Send the response's head; from here on an error can only break it off."""
        exchange = self.request[EXCHANGE]
        exchange.begun = True
        self.response.headers[REQUEST_ID] = exchange.request_id
        await self.response.prepare(self.request)

    async def write(self, data: bytes | memoryview) -> None:
        """Send, waiting for the client where it is slow.

        Raises:
            Stalled: it took no byte for too long.
            ConnectionResetError: it is gone.
        """
        try:
            async with asyncio.timeout(self.stall_time):
                await self.response.write(data)
        except TimeoutError:
            raise Stalled(f"the client took no byte for {self.stall_time:.0f} s") from None
        self.sent += len(data)

    @property
    def idle(self) -> bool:
        """The kernel has taken every byte; what was written may be overwritten.

        The event loop keeps a view of what the kernel did not take yet, not a copy.
        """
        transport = self.request.transport
        return transport is not None and not transport.get_write_buffer_size()

    async def framed_file(self, fd: int, size: int) -> None:
        """Send a complete file as sideband packets."""
        framer = Framer.make()
        step = FRAME_PAYLOAD * PACKETS
        offset = 0
        while offset < size:
            left = size - offset
            count = step if left >= step else left - left % FRAME_PAYLOAD or left
            await self.write(await framer.read(fd, offset, count))
            offset += count
            if not self.idle:
                framer = Framer.make()

    async def framed_growing(self, reader: Reader) -> None:
        """Send a file as sideband packets while it is being written.

        Raises:
            Exception: what the run raised.
        """
        framer = Framer.make()
        offset = 0
        while True:
            try:
                size = await reader.extent(offset, timeout=KEEPALIVE_SECONDS)
            except TimeoutError:
                await self.write(KEEPALIVE)
                continue
            if size <= offset:
                return
            while offset < size:
                left = min(size - offset, FRAME_PAYLOAD * PACKETS)
                count = left - left % FRAME_PAYLOAD or left
                await self.write(await framer.read(reader.fd, offset, count))
                offset += count
                if not self.idle:
                    framer = Framer.make()

    async def raw_file(self, fd: int, size: int) -> None:
        """Send a complete file as it is."""
        offset = 0
        while offset < size:
            view = memoryview(bytearray(min(size - offset, FRAME_PAYLOAD * PACKETS)))
            await read_at(fd, (view,), offset)
            await self.write(view)
            offset += len(view)

    async def raw_growing(self, reader: Reader) -> None:
        """Send a file as it is while it is being written."""
        offset = 0
        while (size := await reader.extent(offset)) > offset:
            while offset < size:
                view = memoryview(bytearray(min(size - offset, FRAME_PAYLOAD * PACKETS)))
                await read_at(reader.fd, (view,), offset)
                await self.write(view)
                offset += len(view)

    async def all_of(self, pieces: AsyncIterator[bytes]) -> None:
        """Send what an iterator yields."""
        async for piece in pieces:
            await self.write(piece)
