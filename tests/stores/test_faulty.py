# Law of this file: a fault strikes where and when it was told to, and nowhere else.

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest

from stores.base import Missing, StoreUnavailable
from stores.entity import Entity
from stores.faulty import Fail, Fault, FaultyStore, Flip, Hang, Lose, Truncate
from stores.memory import MemoryStore

CONTENT = bytes(range(200)) * 6000
ENTITY = Entity(hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


@pytest.fixture
async def store(tmp_path: Path) -> FaultyStore:
    """A store without faults that holds CONTENT in two chunks."""
    (tmp_path / "content").write_bytes(CONTENT)
    made = FaultyStore(MemoryStore())
    await made.put(ENTITY, tmp_path / "content")
    return made


async def read(store: FaultyStore, start: int = 0, end: int | None = None) -> bytes:
    """The bytes of CONTENT that ``open`` yields."""
    return b"".join([chunk async for chunk in store.open(ENTITY.digest, start, end)])


async def test_without_faults_it_is_the_inner_store(store: FaultyStore) -> None:
    """Every method reaches it."""
    assert await read(store) == CONTENT
    found = await store.stat(ENTITY.digest)
    assert [stored async for stored in store.list()] == [found]
    version = await store.write_document("a", b"1", None)
    document = await store.read_document("a")
    assert document is not None
    assert (document.body, document.version) == (b"1", version)
    assert [name async for name in store.list_documents("")] == ["a"]
    assert store.local_path(ENTITY.digest) is None
    await store.delete_document("a")
    assert await store.read_document("a") is None
    await store.delete(ENTITY.digest)
    assert await store.stat(ENTITY.digest) is None
    await store.close()
    assert store.name == "faulty memory"


async def test_the_nth_call_fails(store: FaultyStore) -> None:
    """That one, of that method."""
    store.faults["stat"] = Fail(nth=2)
    await store.stat(ENTITY.digest)
    with pytest.raises(StoreUnavailable):
        await store.stat(ENTITY.digest)
    await store.stat(ENTITY.digest)
    assert await read(store) == CONTENT
    assert store.calls == {"put": 1, "stat": 3, "open": 1}


async def test_every_call_fails(store: FaultyStore, tmp_path: Path) -> None:
    """Of every method that was told to."""
    store.faults = dict.fromkeys(
        [
            *("put", "stat", "open", "delete", "list"),
            *("read_document", "write_document", "delete_document", "list_documents"),
        ],
        Fail(),
    )
    for call in (
        store.put(ENTITY, tmp_path / "content"),
        store.stat(ENTITY.digest),
        anext(store.open(ENTITY.digest)),
        store.delete(ENTITY.digest),
        anext(store.list()),
        store.read_document("a"),
        store.write_document("a", b"", None),
        store.delete_document("a"),
        anext(store.list_documents("")),
    ):
        with pytest.raises(StoreUnavailable, match="as the test wants it"):
            await call
    assert ENTITY.digest in store.inner.entities


async def test_a_hanging_call_goes_on_when_released(store: FaultyStore) -> None:
    """And not before."""
    released = asyncio.Event()
    store.faults["stat"] = Hang(released)
    call = asyncio.create_task(store.stat(ENTITY.digest))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not call.done()
    released.set()
    assert await call is not None


async def test_a_lost_entity_is_missing(store: FaultyStore) -> None:
    """Open says so on its first step."""
    store.faults["open"] = Lose()
    with pytest.raises(Missing):
        await anext(store.open(ENTITY.digest))


@pytest.mark.parametrize("start", [0, 10, 1_100_000])
@pytest.mark.parametrize(
    ("fault", "spoiled"),
    [
        (Truncate(0), b""),
        (Truncate(5), CONTENT[:5]),
        (Truncate(1_150_000), CONTENT[:1_150_000]),
        (Truncate(9_999_999), CONTENT),
        (Flip(0), b"\x01" + CONTENT[1:]),
        (Flip(1_150_001), CONTENT[:1_150_001] + b"\x00" + CONTENT[1_150_002:]),
    ],
)
async def test_spoiled_content_is_spoiled_in_its_place(
    store: FaultyStore, start: int, fault: Fault, spoiled: bytes
) -> None:
    """Positions are those of the entity, whatever range is read."""
    store.faults["open"] = fault
    assert await read(store, start) == spoiled[start:]
