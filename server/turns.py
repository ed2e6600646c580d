# Law of this file: no store is waited for without an end. Whoever writes to one waits for a turn,
# not many do so, and what is asked has a time. One that did not answer is left alone.

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Final, TypeVar

from stores.base import Store, StoreUnavailable
from stores.entity import Entity

_log = logging.getLogger("offramp.publish")

# Entities that are written to one store and read back side by side: each takes connections to it
# and keeps a core busy with hashing; the clients that wait share both.
PARALLEL: Final = 4

# Entities that are written to one store beside the main one, or wait for that. Each keeps two files
# open, of which a process may often have 1024 in all.
COPIES: Final = 16

# Seconds for which a store that did not answer is left alone: long enough that clients do not wait
# for it one after another, short enough that redirects are back soon after it is.
RETRY_AFTER: Final = 30.0

# A store has a minute to answer, and for what is written to it the time that this takes at 64 KiB/s
# beside; one that is slower, or a mount that hangs, would keep its turn from all others.
_BASE: Final = 60.0
_RATE: Final = 64 << 10

_T = TypeVar("_T")


class PublishRefused(StoreUnavailable):
    """The store did not answer a moment ago, or has too much to do; it was not asked."""


def nobody_away(name: str) -> bool:
    """For all that is known, every store answers."""
    del name
    return False


@dataclass(slots=True)
class Turns:
    """Asks stores, by their names.

    Attributes:
        stores: by name.
        is_away: whether others have found that a store does not answer.
        retry_after: see :data:`RETRY_AFTER`.
        parallel: see :data:`PARALLEL`.
        monotonic: seconds since whenever.
    """

    stores: Mapping[str, Store]
    is_away: Callable[[str], bool] = nobody_away
    retry_after: float = RETRY_AFTER
    parallel: int = PARALLEL
    monotonic: Callable[[], float] = time.monotonic
    _slots: dict[str, asyncio.Semaphore] = field(init=False)
    _taken: Counter[str] = field(default_factory=Counter)
    _down_until: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._slots = {name: asyncio.Semaphore(self.parallel) for name in self.stores}

    def is_down(self, name: str) -> bool:
        """Whether a store is not to be asked now."""
        return self._down_until.get(name, -inf) > self.monotonic() or self.is_away(name)

    def refuse_while_down(self, name: str) -> None:
        """Raise :class:`PublishRefused` while a store is not to be asked."""
        if self.is_down(name):
            left = self._down_until.get(name, -inf) - self.monotonic()
            when = f"in {left:.0f} s" if left > 0 else "when a probe of it has come back"
            raise PublishRefused(
                f"{self.stores[name].name} did not answer; it is asked again {when}"
            )

    def is_crowded(self, name: str) -> bool:
        """Whether so many write to a store already that nobody else should wait for a turn."""
        return self._taken[name] >= COPIES

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[None]:
        """One of a few who write to a store; waits until there is one less."""
        self._taken[name] += 1
        try:
            async with self._slots[name]:
                yield
        finally:
            self._taken[name] -= 1

    async def put(self, name: str, entity: Entity, path: Path) -> None:
        """See :meth:`stores.base.Store.put`; raises as :meth:`ask`."""
        seconds = _BASE + entity.size / _RATE
        await self.ask(name, self.stores[name].put(entity, path), seconds)

    async def holds(self, name: str, entity: Entity) -> bool:
        """Whether a store has an entity; raises as :meth:`ask`."""
        found = await self.ask(name, self.stores[name].stat(entity.digest))
        return found is not None and found.size == entity.size

    async def ask(self, name: str, asked: Awaitable[_T], seconds: float | None = None) -> _T:
        """What a store answers within so many seconds; one that does not is then left alone.

        ``seconds``: None for as many as what takes no time to do has.

        Raises:
            StoreUnavailable: it does not answer.
        """
        if seconds is None:
            seconds = _BASE
        try:
            async with asyncio.timeout(seconds):
                return await asked
        except TimeoutError:
            error = StoreUnavailable(
                f"{self.stores[name].name} has not done what it was asked within {seconds:.0f} s"
            )
            self._leave_alone(name, error)
            raise error from None
        except StoreUnavailable as error:
            self._leave_alone(name, error)
            raise

    def _leave_alone(self, name: str, error: StoreUnavailable) -> None:
        self._down_until[name] = self.monotonic() + self.retry_after
        _log.warning(
            "%s is left alone for %.0f s: %s", self.stores[name].name, self.retry_after, error
        )
