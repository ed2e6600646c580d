# Law of this file: the cache of one process, opened and closed in one piece, and kept to its size.

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cache.entities import Entities
from cache.epochs import Epochs
from cache.errors import CacheUnavailable
from cache.flights import Flights
from cache.layout import Layout
from cache.publications import Publications
from cache.records import Records
from cache.usage import Usage

_log = logging.getLogger("offramp.cache")


@dataclass(slots=True)
class _Alarm:
    """Set, in any thread, when the disk refused something."""

    rung: bool = False

    def ring(self) -> None:
        self.rung = True


@dataclass(frozen=True, slots=True)
class Cache:
    """What one process knows of the data directory, which others share.

    Attributes:
        max_size: bytes of entities and records; beyond, the longest unused are removed.
        epochs: of repositories; what was recorded before one began is not used any more.
    """

    max_size: int
    entities: Entities
    records: Records
    flights: Flights
    publications: Publications
    epochs: Epochs
    usage: Usage
    _full: _Alarm = field(default_factory=_Alarm)

    @classmethod
    async def open(cls, data: Path, max_size: int, executor: Executor) -> Self:
        """Open the cache below ``data``, after clearing up what crashed processes left there.

        To be called after a fork, not before: a lock is shared with what is forked.

        Args:
            data: the data directory; created if need be.
            max_size: bytes.
            executor: threads in which runs run.

        Raises:
            OSError: the data directory cannot be created.
        """
        layout = await asyncio.to_thread(Layout.make, data)
        usage = Usage(layout)
        entities = Entities(layout, usage)
        records = Records(layout, usage)
        full = _Alarm()
        flights = Flights(layout, records, entities, executor, full.ring)
        publications, epochs = Publications(layout), Epochs(layout.data)
        cache = cls(max_size, entities, records, flights, publications, epochs, usage, full)
        await asyncio.to_thread(cache._clear_up, layout)
        return cache

    async def close(self) -> None:
        """Write down what is only in memory. Runs go on; their threads are their executor's."""
        await self.flights.close()
        await asyncio.to_thread(self._flush)

    async def maintain(self) -> int:
        """Write down last uses and, if there is too much, evict. To be called every few seconds.

        A disk that refuses is reported to the log; the next call tries again.

        Returns:
            How many bytes were evicted.
        """
        return await asyncio.to_thread(self._maintain)

    def total_size(self) -> int:
        """Bytes of entities and records; see :meth:`cache.usage.Usage.figures`."""
        return self.figures()[0]

    def figures(self) -> tuple[int, int]:
        """Bytes of entities and records, and how many entities there are."""
        return self.usage.figures()

    def _clear_up(self, layout: Layout) -> None:
        now = time.time()
        layout.sweep(now)
        self.publications.sweep(now)
        try:
            self.usage.reconcile()
        except CacheUnavailable as error:  # a full disk, on which we can answer all the same
            _log.warning("the index is not up to date: %s", error)

    def _flush(self) -> None:
        try:
            self.usage.flush()
        except CacheUnavailable as error:
            _log.warning("last uses are not written down: %s", error)

    def _maintain(self) -> int:
        # A server that nobody asks does nothing. What other processes add is in their figures,
        # and they evict.
        if self.usage.has_noted():
            self._flush()
        full, self._full.rung = self._full.rung, False
        if self.total_size() <= self.max_size and not full:
            return 0
        try:
            removed = self.usage.evict(self.max_size, disk_full=full)
        except CacheUnavailable as error:
            _log.warning("nothing is evicted: %s", error)
            return 0
        _log.info("evicted %d bytes of what was not used for longest", removed)
        return removed
