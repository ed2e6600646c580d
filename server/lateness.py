# Law of this file: who is late himself cannot say of another that he is. Where something must come
# back in time, it is measured meanwhile how late our own event loop is.
#
# An event loop with too much to do comes to an answer that has long arrived only when its time is
# over. If that counted as failure, all targets would be down at once, all content would go inline,
# and there would be still more to do.

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self, TypeVar

# How late the loop may be in all, as a share of the time that something has, for the end of that
# time to be believed.
LATE: Final = 0.25

# How often in a row it is not believed. A server that is always late must come to an end too.
AGAIN: Final = 3

# Seconds between two looks at the clock.
_TICK: Final = 0.1

_T = TypeVar("_T")

Told = Callable[[float], None]
"""Told by how many seconds the loop was late, when something is tried again for that."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """What is done before the time of an attempt is over, if it has not come by then.

    Attributes:
        after: seconds from its beginning.
        say: is called then, once for each attempt, if our own loop was not late.
    """

    after: float
    say: Callable[[], None]


async def in_time(
    attempt: Callable[[], Awaitable[_T]],
    seconds: float,
    told: Told,
    doubt: Doubt | None = None,
) -> _T:
    """What ``attempt`` gives, within ``seconds`` of an event loop that keeps its times.

    An attempt that took too long while the loop was late by more than :data:`LATE` of the time is
    made again at once, :data:`AGAIN` times at most; and has as much more time as was lost, up to
    twice the ``seconds``, or a loop that is always late would never see it come.

    Args:
        attempt: is made.
        seconds: that it has.
        told: when it is made again.
        doubt: what is done if it takes long.

    Raises:
        TimeoutError: it did not come in time.
        Exception: what the attempt raised.
    """
    allowed = seconds
    for _ in range(AGAIN):
        with _Lateness() as lateness, _doubting(doubt, lateness):
            try:
                async with asyncio.timeout(allowed):
                    return await attempt()
            except TimeoutError:
                late = lateness.seconds()
                if late <= LATE * allowed:
                    raise
        told(late)
        allowed = seconds + min(late, seconds)
    async with asyncio.timeout(allowed):
        return await attempt()


@contextmanager
def _doubting(doubt: Doubt | None, lateness: _Lateness) -> Iterator[None]:
    """Have the doubt said in time, unless what this is around has ended by then."""
    if doubt is None:
        yield
        return

    def say() -> None:
        if lateness.seconds() <= LATE * doubt.after:
            doubt.say()

    timer = asyncio.get_running_loop().call_later(doubt.after, say)
    try:
        yield
    finally:
        timer.cancel()


@dataclass(slots=True)
class _Lateness:
    """By how much the running loop calls later than it was asked to."""

    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _late: float = 0.0
    _due: float = 0.0
    _next: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._wait()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._next is not None:
            self._next.cancel()

    def seconds(self) -> float:
        """The sum up to now."""
        return self._late + max(self._loop.time() - self._due, 0.0)

    def _wait(self) -> None:
        self._due = self._loop.time() + _TICK
        self._next = self._loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        self._late = self.seconds()
        self._wait()
