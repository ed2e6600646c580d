# Law of this file: what stands between two programs passes every byte on as it is, until it is told
# to fail; then it fails in one way, for connections that there are and for new ones.

from __future__ import annotations

import asyncio
import enum
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

_PIECE: Final = 1 << 16

# Of what it sends on a connection in TRUNCATES: less than the answer to a large request, more than
# the answers to small ones, so that only who downloads meets it.
CUT: Final = 24 << 10

_HEAD: Final = 64 << 10
_ERROR: Final = (
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)


class Fault(enum.Enum):
    """How it fails."""

    REFUSES = "refuses connections"
    HANGS = "takes requests and says nothing"
    ERRORS = "answers 500"
    TRUNCATES = "cuts answers off"


@dataclass(slots=True)
class Proxy:
    """A relay to one port of loopback.

    Attributes:
        upstream: port to which it leads.
        port: where it listens.
    """

    upstream: int
    port: int = 0
    _fault: Fault | None = None
    _server: asyncio.Server | None = None
    _open: set[asyncio.StreamWriter] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen, where it did before."""
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", self.port, reuse_address=True
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Listen no longer, and cut all off."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._cut()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @asynccontextmanager
    async def failing(self, fault: Fault) -> AsyncIterator[None]:
        """Fail so in this block; who is connected when it begins or ends is cut off."""
        self._fault = fault
        if fault is Fault.REFUSES:
            await self.close()
        self._cut()
        try:
            yield
        finally:
            self._fault = None
            self._cut()
            if self._server is None:
                await self.start()

    def _cut(self) -> None:
        for writer in tuple(self._open):
            reset(writer)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            match self._fault:
                case Fault.ERRORS:
                    await reader.readuntil(b"\r\n\r\n")
                    writer.write(_ERROR)
                    await writer.drain()
                    # What is still coming must not make a reset of it.
                    await asyncio.wait_for(reader.read(_HEAD), 1.0)
                case Fault.HANGS:
                    while await reader.read(_PIECE):
                        pass
                case fault:
                    await self._relay(reader, writer, CUT if fault is Fault.TRUNCATES else None)
        except (OSError, EOFError, asyncio.LimitOverrunError, TimeoutError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _relay(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: int | None
    ) -> None:
        there, to = await asyncio.open_connection("127.0.0.1", self.upstream)
        asks = asyncio.create_task(_pass_on(reader, to, None))
        try:
            if await _pass_on(there, writer, most):
                reset(writer)
        finally:
            to.close()
            asks.cancel()
            await asyncio.gather(asks, return_exceptions=True)


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: int | None
) -> bool:
    """Pass on what comes, until its end; True: there was more than ``most``."""
    sent = 0
    while piece := await reader.read(_PIECE):
        if most is not None and sent + len(piece) > most:
            writer.write(piece[: most - sent])
            await writer.drain()
            return True
        writer.write(piece)
        sent += len(piece)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
    return False


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection as a crash does."""
    there = writer.get_extra_info("socket")
    if there is not None:
        with suppress(OSError):
            there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
