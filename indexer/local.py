# Law of this file: what this machine has recorded of a repository in earlier epochs is found by
# looking at every record, and forgetting it never touches what another repository's records name.

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from cache.cache import Cache
from cache.epochs import epoch_of
from stores.entity import Entity


@dataclass(frozen=True, slots=True)
class Survey:
    """What the records of this machine say.

    Attributes:
        keys: of the repository's records of earlier epochs.
        entities: what these name, by digest.
        others: digests that any other record names.
    """

    keys: tuple[str, ...]
    entities: Mapping[str, Entity]
    others: frozenset[str]


def survey(cache: Cache, identities: AbstractSet[str], below: int) -> Survey:
    """Look at every record; blocks.

    Args:
        cache: of this machine.
        identities: what names the repository in records of epoch 0: where it lies, or lay.
        below: records of this epoch, and later ones, are not the repository's earlier ones.
    """
    keys = []
    entities: dict[str, Entity] = {}
    others: set[str] = set()
    for record in cache.records.scan():
        identity, epoch = epoch_of(record.repository)
        if identity in identities and epoch < below:
            keys.append(record.key)
            entities |= {part.entity.digest: part.entity for part in record.parts}
        else:
            others |= {part.entity.digest for part in record.parts}
    return Survey(tuple(keys), entities, frozenset(others))


async def forget_local(cache: Cache, identities: AbstractSet[str], below: int) -> int:
    """Drop this machine's records of earlier epochs, and what only they name; returns how many.

    For a machine that learns that another one has purged the repository. It is not known what that
    one has deleted from which store: what this repository had of others, whose records name it,
    may be gone from a store that it is not in for them, and a record that told of it may have been
    evicted. So nothing counts as readable any more, and what is asked for is published again.

    Args:
        cache: of this machine.
        identities: see :func:`survey`.
        below: the repository's epoch now.

    Raises:
        CacheUnavailable: the disk refused; what is left is never used, and is evicted one day.
    """
    found = await asyncio.to_thread(survey, cache, identities, below)
    await asyncio.to_thread(drop_records, cache, found.keys)
    for digest in await asyncio.to_thread(lambda: list(cache.publications.digests())):
        cache.publications.forget(digest)
    await asyncio.to_thread(drop_entities, cache, found.entities.keys() - found.others)
    return len(found.keys)


def drop_records(cache: Cache, keys: tuple[str, ...]) -> None:
    """Remove records; blocks. Raises CacheUnavailable if the disk refuses."""
    for key in keys:
        cache.records.take_back(key)


def drop_entities(cache: Cache, digests: AbstractSet[str]) -> None:
    """Remove entities from this machine's disk; blocks. Raises as :func:`drop_records`."""
    for digest in digests:
        cache.entities.take_back(digest)
