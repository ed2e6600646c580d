# Law of this file: a source is closed once, when nobody reads it any more, however its reader went.

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from stores.streaming import stream


class Gated:
    """A source whose reads wait for a gate, and that knows whether a thread is in it."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.closed = threading.Event()
        self.reading = False
        self.closed_while_read = False

    def read(self, amount: int, /) -> bytes:
        """One byte, as soon as the gate is open."""
        self.reading = True
        self.entered.set()
        self.gate.wait()
        self.reading = False
        return b"x"

    def close(self) -> None:
        """Note how."""
        assert not self.closed.is_set()
        self.closed_while_read = self.reading
        self.closed.set()


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    """A thread."""
    with ThreadPoolExecutor(1) as made:
        yield made


async def test_an_abandoned_source_is_closed(executor: ThreadPoolExecutor) -> None:
    """Dropping the iterator is enough."""
    source = Gated()
    source.gate.set()
    chunks = stream(executor, lambda: source)
    assert await anext(chunks) == b"x"
    del chunks
    gc.collect()
    await asyncio.to_thread(source.closed.wait)


async def test_a_source_is_not_closed_under_a_reader(executor: ThreadPoolExecutor) -> None:
    """A cancelled read ends first; then its thread closes."""
    source = Gated()
    step = asyncio.ensure_future(anext(stream(executor, lambda: source)))
    await asyncio.to_thread(source.entered.wait)
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    assert not source.closed.is_set()
    source.gate.set()
    await asyncio.to_thread(source.closed.wait)
    assert not source.closed_while_read


async def test_a_source_that_opens_too_late_is_closed(executor: ThreadPoolExecutor) -> None:
    """Cancellation while it is opened leaks nothing."""
    source = Gated()
    opening = threading.Event()
    go = threading.Event()

    def open_slowly() -> Gated:
        opening.set()
        go.wait()
        return source

    step = asyncio.ensure_future(anext(stream(executor, open_slowly)))
    await asyncio.to_thread(opening.wait)
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    go.set()
    await asyncio.to_thread(source.closed.wait)


async def test_a_source_that_cannot_be_opened_says_so(executor: ThreadPoolExecutor) -> None:
    """On the first step, with its own error."""

    def fail() -> Gated:
        raise LookupError("no such source")

    with pytest.raises(LookupError, match="no such source"):
        await anext(stream(executor, fail))
