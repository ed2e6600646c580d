# Law of this file: an answer that nobody waits for any more is not made to its end. A run that has
# not begun is given up at once, one that has after a while, in which whoever lost its connection
# comes back.

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

# Seconds for which a run goes on that nobody waits for. Who was cut off asks again at once.
GRACE: Final = 10.0

Key = tuple[str | bytes, ...]


class Abandoned(Exception):  # noqa: N818 - what happened
    """Nobody waits for this run any more."""


class TooLong(Exception):  # noqa: N818 - what happened
    """A run took longer than runs may."""


@dataclass(slots=True)
class Interest:
    """Who waits for which answers. Changed in the event loop, asked in any thread.

    Attributes:
        grace: see :data:`GRACE`.
        clock: seconds, of any beginning.
    """

    grace: float = GRACE
    clock: Callable[[], float] = time.monotonic
    _waiting: Counter[Key] = field(default_factory=Counter)
    _left: OrderedDict[Key, float] = field(default_factory=OrderedDict)

    @contextmanager
    def held(self, key: Key) -> Iterator[None]:
        """Wait for an answer in this block."""
        self._waiting[key] += 1
        self._left.pop(key, None)
        try:
            yield
        finally:
            self._waiting[key] -= 1
            if not self._waiting[key]:
                self._left[key] = self.clock()
                del self._waiting[key]
            self._forget()

    def check(self, key: Key, *, begun: bool) -> None:
        """Whether a run is to begin, or to go on.

        Raises:
            Abandoned: it is not.
        """
        if key in self._waiting:
            return
        left = self._left.get(key)
        if not begun or left is None or self.clock() - left > self.grace:
            raise Abandoned("nobody waits for this answer any more")

    def _forget(self) -> None:
        """Drop those for which nobody has waited for long; the oldest stand first."""
        longest = self.clock() - self.grace
        while self._left and next(iter(self._left.values())) < longest:
            self._left.popitem(last=False)
