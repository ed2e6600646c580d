# Law of this file: who asks again for what it was sent elsewhere for may be right, although the
# target works: a store can lose content and go on to answer. So that is read back once more, aside.

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cache.errors import CacheUnavailable
from redirects.targets import Target
from server.health import PROBE_ENTITY
from server.publish import Publisher
from server.readback import NotReadable
from stores.entity import Entity

_log = logging.getLogger("offramp.publish")

# What came back is not read again within this many seconds, however many ask: it may be large.
_PEACE: Final = 600.0

# So much is remembered that came back.
_REMEMBERED: Final = 4096


@dataclass(slots=True)
class Rereading:
    """Reads content back through targets, of each no more than one at a time.

    Attributes:
        publisher: reads back, and notes what is lost.
        clock: seconds since whenever.
    """

    publisher: Publisher
    clock: Callable[[], float] = time.monotonic
    _running: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _came: OrderedDict[tuple[str, str], float] = field(default_factory=OrderedDict)

    def doubt(self, target: Target, entity: Entity) -> None:
        """A client was sent to ``target`` for ``entity``, perhaps in vain; see whether it is there.

        If another one is being read there, this one waits for the next client that fails.
        """
        came = self._came.get((target.name, entity.digest))
        recent = came is not None and self.clock() - came < _PEACE
        if not recent and target.name not in self._running:
            task = asyncio.create_task(self._look(target, entity))
            self._running[target.name] = task
            task.add_done_callback(lambda _: self._running.pop(target.name))

    async def close(self) -> None:
        """End what is being read."""
        running = tuple(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _look(self, target: Target, entity: Entity) -> None:
        try:
            await self.publisher.read_back(target, entity)
        except NotReadable as lost:
            try:
                await self.publisher.read_back(target, PROBE_ENTITY)
                await self.publisher.lost(target, entity)
            except NotReadable:
                return  # all of it is away, and health sees to that
            except CacheUnavailable as error:
                _log.warning("%s; and that cannot be noted: %s", lost, error)
            else:
                _log.warning("not named to clients any more: %s", lost)
        else:
            self._came[target.name, entity.digest] = self.clock()
            if len(self._came) > _REMEMBERED:
                self._came.popitem(last=False)
