# Law of this file: nothing is advertised that cannot be read. A target counts for an entity only
# after the entity was written to the store and read back, whole and in part, through that target;
# and only for as long as no URL that is given out could outlive the content.

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import aiohttp

from indexer.ownership import claim
from redirects.targets import Target
from server.readback import NotReadable, read_back
from stores.base import Store, StoreUnavailable
from stores.entity import Entity

_log = logging.getLogger("offramp.publish")

# Entities that are written and read back side by side: each takes connections to the store and
# keeps a core busy with hashing; the clients that wait share both.
PARALLEL: Final = 4

# Seconds for which a store that did not answer is left alone: long enough that clients do not wait
# for it one after another, short enough that redirects are back soon after it is.
RETRY_AFTER: Final = 30.0


_Named = tuple[str, str | None]
"""Digest and demanded type: what an entity is to those who read it back."""


class PublishRefused(StoreUnavailable):
    """The store did not answer a moment ago, and was not asked again."""


class Publications(Protocol):
    """Remembers what was read back through which target; shared by the processes of a machine."""

    def readable(self, digest: str, now: float) -> frozenset[str]:
        """Notes of the targets that count for ``digest`` at ``now``."""
        ...

    def record(self, digest: str, targets: Iterable[str], now: float, lease: float) -> None:
        """Let targets (a note of each) count from ``now`` for ``lease`` seconds."""
        ...

    def lock(self, digest: str) -> AbstractAsyncContextManager[object]:
        """Held by one publisher of ``digest`` at a time, across processes."""
        ...


class Publisher:
    """Writes entities to the store, reads them back through every target, and records which came.

    Args:
        store: where entities go.
        targets: ways for clients to read it.
        publications: remembers; see :class:`Publications`.
        session: makes the requests of reading back; its owner closes it.
        keep: seconds that the store keeps an entity after the last ``put`` of it.
        max_url_life: seconds that a URL given out lives at most.
        retry_after: see :data:`RETRY_AFTER`.
        parallel: see :data:`PARALLEL`.
        clock: seconds since the epoch.
        monotonic: seconds since whenever.

    Raises:
        ValueError: URLs would outlive content.
    """

    def __init__(
        self,
        store: Store,
        targets: Sequence[Target],
        publications: Publications,
        *,
        session: aiohttp.ClientSession,
        keep: float,
        max_url_life: float,
        retry_after: float = RETRY_AFTER,
        parallel: int = PARALLEL,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        # Windows round up to whole seconds, so a URL may live a little longer than was set.
        longest = max([max_url_life, *(target.max_lifetime for target in targets)])
        if keep <= longest:
            raise ValueError(
                f"content is kept for {keep:.0f} s and URLs live up to {longest:.0f} s;"
                " raise retention.keep, or lower redirect.lifetime or redirect.window"
            )
        self._store = store
        self._targets = tuple(targets)
        self._publications = publications
        self._session = session
        self._lease = keep - longest
        self._retry_after = retry_after
        self._slots = asyncio.Semaphore(parallel)
        self._clock = clock
        self._monotonic = monotonic
        self._down_until = monotonic()
        self._running: dict[_Named, asyncio.Task[frozenset[str]]] = {}

    def readable(self, entity: Entity) -> frozenset[str]:
        """Fingerprints of the targets through which ``entity`` may be named now."""
        return _readable(self._publications, entity, self._clock())

    async def publish(self, entity: Entity, path: Path) -> frozenset[str]:
        """Make ``entity``, the file at ``path``, readable through as many targets as will.

        Calls for one entity share one run, which goes on when a caller is cancelled. What is
        readable already, with half of its time left, costs a question to the store: callers may
        ask often, and so keep alive what they need. A target that does not give the content back
        is left out and logged; the next call tries it again.

        Returns:
            Fingerprints of the targets that it can be read through.

        Raises:
            PublishRefused: the store did not answer a moment ago.
            StoreUnavailable: it does not answer.
            stores.base.Corrupt: the file is not ``entity``.
        """
        named = (entity.digest, entity.demanded_type)
        task = self._running.get(named)
        if task is None:
            self._refuse_while_down()
            task = asyncio.create_task(self._publish(entity, path))
            self._running[named] = task
            task.add_done_callback(partial(self._ended, named))
        return await asyncio.shield(task)

    async def claim(self, repository: str, entity: Entity) -> None:
        """Say in the store that ``entity`` is what the server computed for ``repository``.

        To be called before :meth:`publish`, so that a purge finds all that was ever published.

        Raises:
            PublishRefused, StoreUnavailable: as :meth:`publish`.
        """
        self._refuse_while_down()
        try:
            await claim(self._store, repository, entity.digest, self._clock())
        except StoreUnavailable as error:
            self._leave_alone(error)
            raise

    async def read_back(self, target: Target, entity: Entity) -> None:
        """Read ``entity`` back through ``target``, whole and in part, as clients would.

        Raises:
            server.readback.NotReadable: it does not come back as it is; the message says why.
        """
        await read_back(self._session, self._store, target, entity, self._clock())

    async def close(self) -> None:
        """End what is being published; what was not recorded is not readable."""
        running = tuple(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _ended(self, named: _Named, task: asyncio.Task[frozenset[str]]) -> None:
        del self._running[named]
        if not task.cancelled():
            task.exception()  # its callers may all have gone; nobody else is to be told

    def _refuse_while_down(self) -> None:
        left = self._down_until - self._monotonic()
        if left > 0:
            raise PublishRefused(
                f"{self._store.name} did not answer; it is asked again in {left:.0f} s"
            )

    async def _publish(self, entity: Entity, path: Path) -> frozenset[str]:
        async with self._publications.lock(entity.digest), self._slots:
            # Another process may have done it while we waited for the lock.
            half_time = self._clock() + self._lease / 2
            fresh = _readable(self._publications, entity, half_time)
            missing = [t for t in self._targets if t.fingerprint not in fresh]
            if not missing:
                # Whoever asks may have found that the store has lost it.
                if await self._is_stored(entity):
                    return fresh
                fresh, missing = frozenset(), list(self._targets)
            # The lease begins before the store's own count of the entity's age can.
            began = self._clock()
            await self._put(entity, path)
            came = await asyncio.gather(*(self._comes_back(t, entity) for t in missing))
            readable = fresh.union(*came)
            if readable:
                notes = {_note(entity, fingerprint) for fingerprint in readable}
                self._publications.record(entity.digest, notes, began, self._lease)
            return readable

    async def _is_stored(self, entity: Entity) -> bool:
        try:
            found = await self._store.stat(entity.digest)
        except StoreUnavailable as error:
            self._leave_alone(error)
            raise
        return found is not None and found.size == entity.size

    async def _put(self, entity: Entity, path: Path) -> None:
        self._refuse_while_down()
        try:
            await self._store.put(entity, path)
        except StoreUnavailable as error:
            self._leave_alone(error)
            raise

    def _leave_alone(self, error: StoreUnavailable) -> None:
        self._down_until = self._monotonic() + self._retry_after
        _log.warning("%s is left alone for %.0f s: %s", self._store.name, self._retry_after, error)

    async def _comes_back(self, target: Target, entity: Entity) -> frozenset[str]:
        """The target's fingerprint if the entity comes back through it, else nothing."""
        try:
            await self.read_back(target, entity)
        except NotReadable as error:
            _log.warning("not named to clients: %s", error)
            return frozenset()
        return frozenset((target.fingerprint,))


def _note(entity: Entity, fingerprint: str) -> str:
    """How it is noted that ``entity`` came back: the same bytes under another type are not it.

    A fingerprint has no blank; alone it says that the bytes came, whatever type was told.
    """
    typed = entity.demanded_type
    return fingerprint if typed is None else f"{fingerprint} {typed}"


def _readable(publications: Publications, entity: Entity, now: float) -> frozenset[str]:
    """Fingerprints of the targets of which :func:`_note` was noted for ``entity``."""
    notes = publications.readable(entity.digest, now)
    typed = entity.demanded_type
    if typed is not None:
        suffix = f" {typed}"
        return frozenset(n.removesuffix(suffix) for n in notes if n.endswith(suffix))
    if any(" " in note for note in notes):
        return frozenset(note for note in notes if " " not in note)
    return notes
