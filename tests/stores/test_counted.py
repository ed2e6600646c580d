# Law of this file: what a store failed at is counted by name, and what it only did not have is not.

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from stores.base import Conflict, Corrupt, Missing, StoreUnavailable
from stores.counted import CountedStore
from stores.entity import Entity
from stores.faulty import Fail, FaultyStore
from stores.memory import MemoryStore

CONTENT = bytes(range(200))
ENTITY = Entity(hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


@pytest.fixture
def inner() -> FaultyStore:
    """A store that works until told otherwise."""
    return FaultyStore(MemoryStore())


@pytest.fixture
def failures() -> list[str]:
    """What was counted."""
    return []


@pytest.fixture
def store(inner: FaultyStore, failures: list[str]) -> CountedStore:
    """Counts the failures of the inner store."""
    return CountedStore(inner, failures.append)


async def call_all(store: CountedStore, path: Path) -> list[str]:
    """Call every method; the names of those that said the store does not answer."""
    failed = []

    async def read() -> list[bytes]:
        return [chunk async for chunk in store.open(ENTITY.digest)]

    async def listed() -> list[object]:
        return [stored async for stored in store.list()]

    async def names() -> list[str]:
        return [name async for name in store.list_documents("")]

    for name, called in (
        ("put", store.put(ENTITY, path)),
        ("stat", store.stat(ENTITY.digest)),
        ("open", read()),
        ("list", listed()),
        ("delete", store.delete(ENTITY.digest)),
        ("write_document", store.write_document("a", b"1", None)),
        ("read_document", store.read_document("a")),
        ("list_documents", names()),
        ("delete_document", store.delete_document("a")),
    ):
        try:
            await called
        except StoreUnavailable:
            failed.append(name)
    return failed


async def test_every_method_that_fails_is_counted(
    store: CountedStore, inner: FaultyStore, failures: list[str], tmp_path: Path
) -> None:
    """Once, by its name, and the caller is told as before."""
    (tmp_path / "content").write_bytes(CONTENT)
    assert await call_all(store, tmp_path / "content") == []
    assert failures == []
    inner.faults = dict.fromkeys(inner.calls, Fail())
    assert await call_all(store, tmp_path / "content") == failures
    assert len(failures) == len(inner.calls) == 9


async def test_answers_are_no_failures(store: CountedStore, failures: list[str]) -> None:
    """What is not there, and a document that somebody else wrote first, are not counted."""
    with pytest.raises(Missing):
        _ = [chunk async for chunk in store.open(ENTITY.digest)]
    await store.write_document("a", b"1", None)
    with pytest.raises(Conflict):
        await store.write_document("a", b"2", None)
    assert failures == []


async def test_what_is_corrupt_is_counted(
    store: CountedStore, failures: list[str], tmp_path: Path
) -> None:
    """A file that is not what its name promises is a failure."""
    (tmp_path / "content").write_bytes(b"other")
    with pytest.raises(Corrupt):
        await store.put(ENTITY, tmp_path / "content")
    assert failures == ["put"]


async def test_the_rest_is_the_inner_store(store: CountedStore, inner: FaultyStore) -> None:
    """Its name and its files."""
    assert store.name == inner.name
    assert store.local_path(ENTITY.digest) is None
    await store.close()
