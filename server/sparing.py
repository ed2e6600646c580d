# Law of this file: what costs much is done in a thread, once for all who ask, and leaves nine
# tenths of the time to others, however many ask.

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

T = TypeVar("T")

# After it was done, so many times as long as it computed nothing is done.
_REST: Final = 9

# Who asks meanwhile waits for what is new, if it does not take longer; if it does, the last counts.
_PATIENCE: Final = 0.5


@dataclass(slots=True)
class Sparing(Generic[T]):
    """Does one thing for many.

    Attributes:
        work: what is done; blocks.
        clock: seconds of a clock that never jumps.
        spent: seconds that this thread has computed.
    """

    work: Callable[[], T]
    clock: Callable[[], float] = time.monotonic
    spent: Callable[[], float] = time.thread_time
    _last: tuple[T] | None = None
    _rests_until: float = 0.0
    _next: asyncio.Task[T] | None = None
    _one: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def result(self) -> T:
        """What came of it: begun after it was asked for, or a little before if it costs much."""
        if self._last is not None and self._rest() > _PATIENCE:
            return self._last[0]
        if self._next is None:
            self._next = asyncio.create_task(self._do())
        # Others wait for it too.
        return await asyncio.shield(self._next)

    def _rest(self) -> float:
        return max(0.0, self._rests_until - self.clock())

    async def _do(self) -> T:
        async with self._one:
            await asyncio.sleep(self._rest())
            # Who asks from now on wants to know what happens from now on.
            self._next = None
            value, spent = await asyncio.to_thread(self._timed)
            self._last = (value,)
            self._rests_until = self.clock() + _REST * spent
            return value

    def _timed(self) -> tuple[T, float]:
        before = self.spent()
        value = self.work()
        return value, self.spent() - before
