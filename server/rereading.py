# Law of this file: who asks again for what it was sent elsewhere for may be right, although the
# target works: a store can lose content and go on to answer. So that is read back once more, aside.

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from cache.errors import CacheUnavailable
from redirects.targets import Target
from server.publish import Publisher
from server.readback import NotReadable
from stores.entity import Entity

_log = logging.getLogger("offramp.publish")

# What was read is not read again within this many seconds, however many ask: it may be large.
_PEACE: Final = 600.0

# So much is remembered that was read.
_REMEMBERED: Final = 4096


@dataclass(slots=True)
class Rereading:
    """Reads content back through targets, of each no more than one at a time.

    Attributes:
        publisher: reads back, and notes what is lost and what is found again.
        probe: raises NotReadable where all of a target is away.
        clock: seconds since whenever.
    """

    publisher: Publisher
    probe: Callable[[Target], Awaitable[None]]
    clock: Callable[[], float] = time.monotonic
    _running: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _read: OrderedDict[tuple[str, str], float] = field(default_factory=OrderedDict)

    def doubt(self, target: Target, entity: Entity) -> None:
        """A client was sent to ``target`` for ``entity``, perhaps in vain; see whether it is there.

        Or was not sent there, because it was lost: then see whether it was put there again, as
        another machine may have done. If another one is being read there, this one waits for the
        next client.
        """
        read = self._read.get((target.name, entity.digest))
        recent = read is not None and self.clock() - read < _PEACE
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
            if await self._is_there(target, entity):
                await self.publisher.found(target, entity)
        except NotReadable:
            return  # all of it is away, and health sees to that
        except CacheUnavailable as error:
            _log.warning(
                "what was found of entity %s, target %s, cannot be noted: %s",
                entity.digest,
                target.name,
                error,
            )
        self._read[target.name, entity.digest] = self.clock()
        self._read.move_to_end((target.name, entity.digest))
        if len(self._read) > _REMEMBERED:
            self._read.popitem(last=False)

    async def _is_there(self, target: Target, entity: Entity) -> bool:
        try:
            await self.publisher.read_back_stored(target, entity)
        except NotReadable as lost:
            await self.probe(target)
            if await self.publisher.lost(target, entity):
                _log.warning("not named to clients any more: %s", lost)
            return False
        return True
