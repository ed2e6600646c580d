# Law of this file: in a simulation waiting takes no time. Whatever sleeps on this loop wakes in the
# same order, and at the same moment by its clock, as it would have; nothing waits for the world.

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


class _Skipping(selectors.SelectSelector):
    """Puts the clock forward where others would wait.

    Attributes:
        now: seconds since the simulation began.
    """

    now = 0.0

    # The standard library's own signature says what keys of events are; there are none.
    def select(self, timeout: float | None = None) -> list[Any]:
        """See :meth:`selectors.BaseSelector.select`; no file is ever looked at."""
        if timeout is None:
            raise RuntimeError(
                "everything waits for something that will not come: a simulation may wait for"
                " times, and not for threads, files or sockets"
            )
        self.now += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is that of the simulation, in seconds from 0."""

    def __init__(self) -> None:
        self._skipping = _Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        """Seconds since the simulation began."""
        return self._skipping.now


def simulate(main: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run ``main`` to its end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())
