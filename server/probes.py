# Law of this file: what targets are probed with is younger than what a cache before them can hold.
# Content never changes and is cached for a year, so the same probe again and again would come back
# from a cache long after everything behind that is dead.
#
# In a store there are
#
#     "offramp probe <n> <salt>\n"   of the minutes n since the epoch, of which the last twenty are
#                                    kept: the same bytes, so the same entity, for all servers that
#                                    share the store. Nobody else knows the salt, the generation of
#                                    the main store: who could tell the path of a probe before it is
#                                    there could have a CDN remember that it is not
#     "offramp probe\n"              for ever, to be read while a store takes nothing new
#
# A server probes with nothing but what it has put there, or found there: clocks may differ.

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from stores.base import Store, StoreError, StoreUnavailable
from stores.entity import Entity

PERIOD: Final = 60.0
"""Seconds for which all servers probe with the same: so long a cache may hold it after what it
holds is gone behind it. Shorter ones cost more: an S3 store takes money for each ``put``."""

# Periods by which clocks of servers may differ; a probe is kept for twice as many after its own.
_KEPT: Final = 10

# Of these periods it is looked for a probe that somebody else has put.
_NEWEST: Final = 3

PROBE: Final = b"offramp probe\n"
PROBE_ENTITY: Final = Entity(hashlib.sha256(PROBE).hexdigest(), len(PROBE), "text/plain")


def probe_of(period: int, salt: str = "") -> tuple[Entity, bytes]:
    """What targets are probed with in a period, counted from the epoch, and its content."""
    content = f"offramp probe {period} {salt}\n".encode()
    return Entity(hashlib.sha256(content).hexdigest(), len(content), "text/plain"), content


def probes_at(now: float, salt: str = "") -> frozenset[str]:
    """Digests of all that servers may be probing with at ``now``, seconds since the epoch."""
    period = _period(now)
    around = range(period - 2 * _KEPT, period + 2 * _KEPT + 1)
    return frozenset(probe_of(each, salt)[0].digest for each in around) | {PROBE_ENTITY.digest}


async def keep_probe(store: Store, now: float, seconds: float, salt: str = "") -> Entity:
    """Put what targets are to be probed with at ``now`` into a store that does not have it.

    A store that is read but takes nothing, such as a full disk, is none that is down: it gives what
    is there, and its targets can be probed with what another server has put there, or at last with
    :data:`PROBE_ENTITY`.

    Args:
        store: which.
        now: seconds since the epoch.
        seconds: that the store has to take it.
        salt: the generation of the main store; empty while that is not known.

    Returns:
        What the store has now, to probe with.

    Raises:
        stores.base.StoreError: it does not answer, is not the one that it was, or takes no probe
            and has none.
        OSError: no temporary file can be written, and it has none.
    """
    period = _period(now)
    fresh, content = probe_of(period, salt)
    if await store.stat(fresh.digest) is not None:
        return fresh
    try:
        async with asyncio.timeout(seconds):
            await _put(store, fresh, content)
    except (StoreUnavailable, OSError):
        found = await newest_probe(store, now, salt)
        if found is None:
            raise
        return found
    # What cannot be put now is put in the next period, and what cannot be deleted collected later.
    with suppress(StoreError, OSError):
        async with asyncio.timeout(seconds):
            if await store.stat(PROBE_ENTITY.digest) is None:
                await _put(store, PROBE_ENTITY, PROBE)
            await store.delete(probe_of(period - 2 * _KEPT, salt)[0].digest)
    return fresh


async def newest_probe(store: Store, now: float, salt: str = "") -> Entity | None:
    """What some server has put into a store to probe with, the newest first; writes nothing.

    Raises:
        stores.base.StoreError: it does not answer.
    """
    period = _period(now)
    for each in (*(probe_of(period - ago, salt)[0] for ago in range(_NEWEST)), PROBE_ENTITY):
        if await store.stat(each.digest) is not None:
            return each
    return None


def _period(now: float) -> int:
    return int(now // PERIOD)


async def _put(store: Store, entity: Entity, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "probe")
        path.write_bytes(content)
        await store.put(entity, path)
