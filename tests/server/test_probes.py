# Law of this file: what targets are probed with is new to every cache once a minute, the same for
# all servers, there when it is asked for, and gone when nobody can ask any more.

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from indexer.report import Silent
from server.indexing import index_all
from server.probes import (
    PERIOD,
    PROBE,
    PROBE_ENTITY,
    keep_probe,
    newest_probe,
    probe_of,
    probes_at,
)
from stores.base import StoreUnavailable
from stores.entity import Entity
from stores.faulty import Fail, FaultyStore, Hang
from stores.memory import MemoryStore
from tests.conftest import Serve

NOW = 1_700_000_000.0
MINUTE = int(NOW // PERIOD)
SOON = 60.0


@pytest.fixture
def store() -> FaultyStore:
    """A store that works."""
    return FaultyStore(MemoryStore())


def held(store: FaultyStore) -> set[str]:
    """What is in it."""
    inner = store.inner
    assert isinstance(inner, MemoryStore)
    return set(inner.entities)


async def test_one_for_each_minute(store: FaultyStore) -> None:
    """It is put once, and says which minute it is of: no cache has seen it before."""
    for seconds in (0.0, 1.0, 59.0):
        found = await keep_probe(store, MINUTE * PERIOD + seconds, SOON)
        assert found == probe_of(MINUTE)[0]
    assert store.calls["put"] == 2  # with the one that is there for ever
    assert await keep_probe(store, (MINUTE + 1) * PERIOD, SOON) == probe_of(MINUTE + 1)[0]
    assert store.calls["put"] == 3


async def test_the_last_twenty_are_kept(store: FaultyStore) -> None:
    """Clocks of servers may differ by half as much; nothing is left behind."""
    for later in range(50):
        await keep_probe(store, NOW + later * PERIOD, SOON)
    kept = {probe_of(MINUTE + later)[0].digest for later in range(30, 50)}
    assert held(store) == kept | {PROBE_ENTITY.digest}


@pytest.mark.parametrize("how", ["refused", "silent", "no temporary file"])
async def test_a_store_that_takes_nothing(
    store: FaultyStore, how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is read on, by the newest that is there, at last the one for ever; none is deleted."""
    await keep_probe(store, NOW, SOON)
    had = held(store)
    match how:
        case "refused":
            store.faults["put"] = Fail()
        case "silent":
            store.faults["put"] = Hang(asyncio.Event())
        case _:
            monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    for later in range(1, 20):
        newest = probe_of(MINUTE)[0] if later < 3 else PROBE_ENTITY
        assert await keep_probe(store, NOW + later * PERIOD, 0.001) == newest
    assert held(store) == had


async def test_a_store_that_never_took_anything(store: FaultyStore) -> None:
    """There is nothing to probe with, and that is said."""
    store.faults["put"] = Fail()
    with pytest.raises(StoreUnavailable):
        await keep_probe(store, NOW, SOON)


async def test_a_store_that_deletes_nothing(store: FaultyStore) -> None:
    """It grows by a few bytes a minute, and is probed as any other."""
    store.faults["delete"] = Fail()
    for later in range(12):
        found = await keep_probe(store, NOW + later * PERIOD, SOON)
        assert found == probe_of(MINUTE + later)[0]


async def test_the_newest_is_found_and_nothing_written(store: FaultyStore) -> None:
    """By who looks without a server; if none of the last minutes is there, the one for ever."""
    assert await newest_probe(store, NOW) is None
    await keep_probe(store, NOW, SOON)
    writes = store.calls["put"]
    found = [await newest_probe(store, NOW + later * PERIOD) for later in range(4)]
    assert found == [probe_of(MINUTE)[0]] * 3 + [PROBE_ENTITY]
    assert store.calls["put"] == writes


def test_contents_are_what_entities_say() -> None:
    """So is the one that is there for ever, which no minute has."""
    named = {probe_of(MINUTE + later) for later in range(3)} | {(PROBE_ENTITY, PROBE)}
    assert len({entity for entity, _ in named}) == len(named)
    assert all(len(content) == entity.size for entity, content in named)


async def test_no_collection_takes_one_that_is_used(serve: Serve, tmp_path: Path) -> None:
    """However short content is kept; those of long ago go as all else does."""
    (tmp_path / "root").mkdir()
    served = await serve(
        tmp_path / "root",
        redirect={"lifetime": "1s", "window": "1s"},
        retention={"keep": "10s"},
    )
    store = served.runtime.store
    now, salt = served.runtime.health.wall(), served.runtime.seal.known.generation
    used = await newest_probe(store, now, salt)
    assert used is not None
    assert used != PROBE_ENTITY
    source = tmp_path / "old"
    old, content = probe_of(MINUTE)
    source.write_bytes(content)
    await store.put(old, source)
    for each in (used, PROBE_ENTITY, old):
        path = store.local_path(each.digest)
        assert path is not None
        os.utime(path, (NOW, NOW))

    async def there(entity: Entity) -> bool:
        return await store.stat(entity.digest) is not None

    await index_all(served.settings, Silent(), gc=True)
    assert [await there(each) for each in (used, PROBE_ENTITY, old)] == [True, True, False]
    assert used.digest in probes_at(now, salt)
    # Who could tell its path beforehand could have a CDN remember that nothing is there.
    assert salt
    assert used.digest not in probes_at(now)
