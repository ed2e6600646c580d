# Law of this file: what blocks is read in threads, one chunk at a time, and is closed when its
# reader has gone, but never under a thread that still reads it.

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, Future
from typing import Protocol

from stores.checks import CHUNK


class Source(Protocol):
    """Something open that blocks while it is read."""

    def read(self, amount: int, /) -> bytes:
        """At most ``amount`` bytes; none at the end."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


async def stream(executor: Executor, open_source: Callable[[], Source]) -> AsyncIterator[bytes]:
    """Open a source on a thread of ``executor`` and yield it in chunks of at most 1 MiB.

    What ``open_source`` and the source's ``read`` raise is raised on the step that met it. When
    the iterator is closed, cancelled or dropped, the source is closed as soon as no thread is in
    it.
    """
    opening = executor.submit(open_source)
    last: Future[Source] | Future[bytes] = opening

    def close(_: object) -> None:
        if not opening.cancelled() and opening.exception() is None:
            opening.result().close()

    try:
        source = await asyncio.wrap_future(opening)
        while True:
            last = reading = executor.submit(source.read, CHUNK)
            chunk = await asyncio.wrap_future(reading)
            if not chunk:
                return
            yield chunk
    finally:
        last.add_done_callback(close)
