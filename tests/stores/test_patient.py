# Law of this file: a store that hangs is waited for once, and only for so long.

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from stores.base import Missing, Store, StoreUnavailable
from stores.entity import Entity
from stores.faulty import FaultyStore, Hang, Method
from stores.memory import MemoryStore
from stores.patient import PatientStore

ENTITY = Entity("ab" * 32, 3)


async def opened(store: Store) -> None:
    """Read an entity."""
    async for _ in store.open(ENTITY.digest):
        pass


async def listed(store: Store) -> None:
    """List what there is."""
    async for _ in store.list():
        pass


async def names(store: Store) -> None:
    """List the documents."""
    async for _ in store.list_documents(""):
        pass


CALLS: dict[Method, Callable[[Store], Awaitable[object]]] = {
    "put": lambda store: store.put(ENTITY, Path("nowhere")),
    "stat": lambda store: store.stat(ENTITY.digest),
    "open": opened,
    "delete": lambda store: store.delete(ENTITY.digest),
    "list": listed,
    "read_document": lambda store: store.read_document("a"),
    "write_document": lambda store: store.write_document("a", b"", None),
    "delete_document": lambda store: store.delete_document("a"),
    "list_documents": names,
}


@pytest.mark.parametrize("method", CALLS)
async def test_what_hangs_has_a_time(method: Method) -> None:
    """When that is over it is said, and nothing is asked of that store any more."""
    inner = FaultyStore(MemoryStore(), {method: Hang(asyncio.Event())})
    store = PatientStore(inner, -ENTITY.size / (64 << 10))
    said = "faulty memory has not answered within -?0 s"
    with pytest.raises(StoreUnavailable, match=f"^{said}$"):
        await CALLS[method](store)
    for again in CALLS.values():
        with pytest.raises(StoreUnavailable, match=f"^{said}, and is not asked again$"):
            await again(store)
    assert inner.calls.total() == 1


async def test_what_is_missing_is_not_late() -> None:
    """What a store says counts as an answer."""
    store = PatientStore(MemoryStore())
    for _ in range(2):
        with pytest.raises(Missing):
            await opened(store)
    assert await store.stat(ENTITY.digest) is None
