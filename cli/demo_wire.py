# Law of this file: bytes are counted on the wire, by neither of the two who talk.

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

_CHUNK: Final = 256 << 10


@dataclass(slots=True)
class Wire:
    """A relay in front of a server: passes everything on, and counts what the server sends.

    Attributes:
        upstream: port of the server on loopback; set before somebody connects.
        port: where clients connect.
        sent: bytes that the server has sent through it, HTTP headers included.
    """

    upstream: int = 0
    port: int = 0
    sent: int = 0
    _connections: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        """What clients take for the server."""
        return f"http://127.0.0.1:{self.port}"

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection until both sides have ended."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - start_server runs this in a task
        self._connections.add(task)
        try:
            with suppress(OSError):
                to_server = await asyncio.open_connection("127.0.0.1", self.upstream)
                try:
                    await asyncio.gather(
                        self._pass_on(reader, to_server[1], count=False),
                        self._pass_on(to_server[0], writer, count=True),
                    )
                finally:
                    to_server[1].close()
        finally:
            self._connections.discard(task)
            writer.close()

    async def _pass_on(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, count: bool
    ) -> None:
        # Whoever has gone cannot be told; the other side ends by itself.
        with suppress(OSError):
            while data := await source.read(_CHUNK):
                if count:
                    self.sent += len(data)
                sink.write(data)
                await sink.drain()
            if sink.can_write_eof():
                sink.write_eof()

    async def hang_up(self) -> None:
        """End the connections that there are."""
        tasks = tuple(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def wire() -> AsyncIterator[Wire]:
    """A relay on a free port of loopback, for the time of a block."""
    relay = Wire()
    server = await asyncio.start_server(relay.connected, "127.0.0.1", 0)
    relay.port = server.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        server.close()
        await relay.hang_up()
        await server.wait_closed()
