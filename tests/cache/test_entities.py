# Law of this file: an entity is visible complete or not at all, and stays while it is open.

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache.errors import CacheUnavailable
from stores.base import Corrupt, Missing
from stores.entity import Entity

if TYPE_CHECKING:
    from conftest import House

CONTENT = b"some content, " * 100
ENTITY = Entity(hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


async def chunks(*pieces: bytes, error: Exception | None = None) -> AsyncIterator[bytes]:
    """What a store gives."""
    for piece in pieces:
        yield piece
    if error is not None:
        raise error


def test_an_adopted_file_can_be_opened(house: House) -> None:
    """Its content, size and name are right, and others may read it whatever the umask."""
    before = os.umask(0o077)
    try:
        assert house.put(CONTENT) == ENTITY
    finally:
        os.umask(before)
    with house.entities.open(ENTITY.digest) as opened:
        assert os.pread(opened.fd, 10_000, 0) == CONTENT
        assert (opened.size, opened.digest) == (ENTITY.size, ENTITY.digest)
    assert opened.fd == -1
    path = house.entities.path(ENTITY.digest)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert path == house.layout.data / "entities" / ENTITY.digest[:2] / ENTITY.digest
    assert house.incoming() == []


def test_what_is_not_here_is_none(house: House) -> None:
    """A missing entity is an answer, not an error."""
    assert house.entities.open("00" * 32) is None


def test_adopting_again_keeps_the_file_that_readers_have_locked(house: House) -> None:
    """Law 2: writing an entity twice is harmless."""
    house.put(CONTENT)
    with house.entities.open(ENTITY.digest) as opened:
        house.put(CONTENT)
        assert os.path.samestat(os.fstat(opened.fd), house.entities.path(ENTITY.digest).stat())
    assert house.incoming() == []


def test_law_9_a_file_that_was_cut_short_is_removed(house: House) -> None:
    """Who knows the size is never given what a power failure has left."""
    house.put(CONTENT)
    os.truncate(house.entities.path(ENTITY.digest), 5)
    assert house.entities.open(ENTITY.digest, ENTITY.size) is None
    assert not house.entities.path(ENTITY.digest).exists()
    house.put(CONTENT)
    assert house.entities.open(ENTITY.digest, ENTITY.size) is not None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.binary(max_size=100)))
def test_what_a_store_gives_is_filled_in(house: House, pieces: list[bytes]) -> None:
    """In whatever chunks it comes."""
    content = b"".join(pieces)
    entity = Entity(hashlib.sha256(content).hexdigest(), len(content))
    asyncio.run(house.entities.fill(entity, chunks(*pieces)))
    assert house.entities.path(entity.digest).read_bytes() == content
    assert house.incoming() == []


@pytest.mark.parametrize(
    "pieces", [(CONTENT[:-1],), (CONTENT, b"x"), (CONTENT[:-1], b"?"), (), (CONTENT * 1000,)]
)
async def test_law_3_other_content_is_never_visible(
    house: House, pieces: tuple[bytes, ...]
) -> None:
    """What a store gives is verified before it gets its name; nothing is left of it."""
    with pytest.raises(Corrupt, match=ENTITY.digest):
        await house.entities.fill(ENTITY, chunks(*pieces))
    assert house.entities.open(ENTITY.digest) is None
    assert house.incoming() == []


async def test_a_store_that_fails_leaves_nothing(house: House) -> None:
    """Its own error reaches the caller."""
    with pytest.raises(Missing):
        await house.entities.fill(ENTITY, chunks(CONTENT[:50], error=Missing("gone")))
    assert house.entities.open(ENTITY.digest) is None
    assert house.incoming() == []


async def test_a_full_disk_is_said_so(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store is not blamed for our disk."""

    def full(file: int, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cache.entities.write_all", full)
    with pytest.raises(CacheUnavailable, match="No space left"):
        await house.entities.fill(ENTITY, chunks(CONTENT))
    assert house.incoming() == []


async def test_many_who_fill_at_once_read_the_store_once(house: House) -> None:
    """The others wait for the first, and find the entity."""
    reads = 0

    async def read() -> AsyncIterator[bytes]:
        nonlocal reads
        reads += 1
        yield CONTENT

    await asyncio.gather(*(house.entities.fill(ENTITY, read()) for _ in range(10)))
    assert reads == 1


async def test_a_cancelled_fill_leaves_nothing(house: House) -> None:
    """A client that goes away while we fetch does no harm; the next one fetches again."""
    reading = asyncio.Event()
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            yield CONTENT[:10]
            reading.set()
            await asyncio.Event().wait()
        finally:
            closed.set()

    task = asyncio.create_task(house.entities.fill(ENTITY, endless()))
    await reading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed.is_set()
    assert house.incoming() == []
    await house.entities.fill(ENTITY, chunks(CONTENT))
