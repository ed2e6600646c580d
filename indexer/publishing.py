# Law of this file: what is made here is named by no catalog before it was published and read back;
# and whoever stops waiting for a thread has ended it.

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from stores.base import Store, StoreUnavailable
from stores.entity import Entity

_T = TypeVar("_T")

Publisher = Callable[[Entity, Path], Awaitable[frozenset[str]]]
"""Puts an entity into the store and reads it back; returns the fingerprints of the targets
through which that went well. Whatever it raises is the failure of this one bundle."""

# How often a catalog that others change at the same time is read and planned for again.
ATTEMPTS: Final = 5


class NotPublished(Exception):  # noqa: N818 - what happened
    """A bundle could not be published, or be read back through any target."""


class Interrupted(Exception):  # noqa: N818 - what happened
    """The task was cancelled; ends the thread that works for it."""


async def published(publish: Publisher, entity: Entity, path: Path) -> tuple[str, ...]:
    """Publish a file and remove it; the fingerprints, sorted, of the targets that gave it back.

    Raises:
        NotPublished: none did.
    """
    try:
        fingerprints = await publish(entity, path)
    except Exception as error:
        raise NotPublished(f"entity {entity.digest} was not published: {error}") from error
    finally:
        # On a disk that is nearly full, the next file needs the space.
        path.unlink(missing_ok=True)
    if not fingerprints:
        raise NotPublished(
            f"entity {entity.digest} is in the store, but no target could read it back;"
            " `offramp doctor` says why"
        )
    return tuple(sorted(fingerprints))


async def fetched(store: Store, entity: Entity, directory: Path) -> Path:
    """A copy of what the store has of an entity.

    Raises:
        stores.base.StoreError: it has none, or does not answer.
        OSError: the disk refused.
    """
    path = directory / entity.digest
    with path.open("wb") as file:
        async for chunk in store.open(entity.digest):
            file.write(chunk)
    return path


async def is_stored(store: Store, entity: Entity) -> bool:
    """Tell whether the store has an entity, by its size."""
    found = await store.stat(entity.digest)
    return found is not None and found.size == entity.size


async def still_readable(
    replicas: Mapping[str, Store], readable: Iterable[str], entity: Entity
) -> tuple[str, ...]:
    """``readable`` without the targets whose store is known to have lost the entity.

    Args:
        replicas: by the fingerprint of a target, the store that it reads, if not the main one.
        readable: fingerprints of the targets through which the entity was read back.
        entity: which.
    """
    lost: dict[Store, bool] = {}
    left = []
    for fingerprint in readable:
        store = replicas.get(fingerprint)
        if store is not None and store not in lost:
            try:
                lost[store] = not await is_stored(store, entity)
            except StoreUnavailable:
                lost[store] = False  # nobody knows; health sees to it that it is not named
        if store is None or not lost[store]:
            left.append(fingerprint)
    return tuple(left)


@dataclass(slots=True)
class Worker:
    """Runs what blocks in threads, which are over when whoever waits for them is."""

    _interrupted: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Called in the thread, often.

        Raises:
            Interrupted: nobody waits any more.
        """
        if self._interrupted.is_set():
            raise Interrupted

    async def run(self, call: Callable[[], _T]) -> _T:
        """Run something that blocks; it is over when this returns, whatever ended it."""
        running = asyncio.ensure_future(asyncio.to_thread(call))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            self._interrupted.set()
            await asyncio.gather(running, return_exceptions=True)
            raise
