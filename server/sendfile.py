# Law of this file: a promised number of bytes goes to a client, files by the kernel, and each step
# within a time limit; what breaks off is an exception, never a short body.

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from aiohttp import web

# Bytes of one sendfile. The time limit counts from one to the next: with a limit of 300 s, a
# client may be as slow as 3.5 kB/s.
_SLICE: Final = 1 << 20

# Bytes read at once where there is no sendfile (uvloop).
_CHUNK: Final = 256 << 10


@dataclass(frozen=True, slots=True)
class Out:
    """The body of one prepared response. Its methods raise:

    ConnectionError: the client has gone.
    TimeoutError: it took nothing for too long.
    EOFError: the content was not as long as was promised.

    Attributes:
        request: whose connection it is.
        response: prepared, with a Content-Length and neither compressed nor chunked.
        stall_time: seconds for which the client may take nothing.
    """  # noqa: D415 - the errors are all methods'

    request: web.Request
    response: web.StreamResponse
    stall_time: float

    async def file(self, file: BinaryIO, start: int, end: int) -> None:
        """Send the bytes ``start <= i < end`` of a file."""
        loop = asyncio.get_running_loop()
        while start < end:
            transport = self.request.transport
            if transport is None or transport.is_closing():
                raise ConnectionResetError("the client has gone")
            try:
                async with asyncio.timeout(self.stall_time):
                    sent = await loop.sendfile(transport, file, start, min(_SLICE, end - start))
            except NotImplementedError:
                await self.chunks(_read(file, start, end), end - start)
                return
            if sent == 0:
                raise EOFError(f"the file ends {end - start} bytes early")
            start += sent

    async def chunks(self, chunks: AsyncIterator[bytes], size: int, first: bytes = b"") -> None:
        """Send ``first`` and then what ``chunks`` yields, ``size`` bytes together."""
        left = size
        chunk: bytes | None = first
        while chunk is not None:
            if len(chunk) > left:
                raise EOFError(f"there is more than the {size} bytes that were promised")
            left -= len(chunk)
            async with asyncio.timeout(self.stall_time):
                await self.response.write(chunk)
            chunk = await anext(chunks, None)
        if left:
            raise EOFError(f"the content ends {left} bytes early")


async def _read(file: BinaryIO, start: int, end: int) -> AsyncIterator[bytes]:
    """Read the bytes ``start <= i < end`` of a file in a thread; fewer if it ends before."""
    while start < end:
        count = min(_CHUNK, end - start)
        chunk = await asyncio.to_thread(os.pread, file.fileno(), count, start)
        if not chunk:
            return
        yield chunk
        start += len(chunk)
