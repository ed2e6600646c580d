# Law of this file: a store that does not answer keeps its turn, and the patience of others, for a
# time that has an end.

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest

from server import turns as module
from server.turns import COPIES, PublishRefused, Turns
from stores.base import StoreUnavailable
from stores.entity import Entity
from stores.faulty import Fail, FaultyStore, Hang, Method
from stores.memory import MemoryStore

CONTENT = b"content"
ENTITY = Entity(hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


@pytest.fixture
def store() -> FaultyStore:
    """One that works."""
    return FaultyStore(MemoryStore())


@pytest.fixture
def turns(store: FaultyStore) -> Turns:
    """Of this store, and of another one."""
    return Turns({"main": store, "eu": MemoryStore()}, monotonic=lambda: 0.0)


@pytest.mark.parametrize("method", ["put", "stat"])
async def test_a_store_that_hangs_has_a_time(
    turns: Turns,
    store: FaultyStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: Method,
) -> None:
    """When that is over it has failed, is left alone, and the other one is not."""
    monkeypatch.setattr(module, "_BASE", 0.0)
    monkeypatch.setattr(module, "_RATE", 1 << 60)
    store.faults[method] = Hang(asyncio.Event())
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    asked = turns.put("main", ENTITY, path) if method == "put" else turns.holds("main", ENTITY)
    with pytest.raises(StoreUnavailable, match="has not done what it was asked"):
        await asked
    assert (turns.is_down("main"), turns.is_down("eu")) == (True, False)
    with pytest.raises(PublishRefused, match="again in 30 s"):
        turns.refuse_while_down("main")


async def test_a_store_that_fails_is_left_alone(turns: Turns, store: FaultyStore) -> None:
    """For a time of its own."""
    store.faults["stat"] = Fail()
    with pytest.raises(StoreUnavailable):
        await turns.holds("main", ENTITY)
    assert turns.is_down("main")
    turns.monotonic = lambda: 30.0
    assert not turns.is_down("main")


async def test_a_store_that_others_found_away(turns: Turns) -> None:
    """It is not to be asked for as long as they say so."""
    turns.is_away = lambda name: name == "main"
    with pytest.raises(PublishRefused, match="when a probe"):
        turns.refuse_while_down("main")
    turns.refuse_while_down("eu")


async def test_who_waits_for_a_turn_is_counted(turns: Turns) -> None:
    """Whoever works as well as whoever waits, until the last has gone."""
    go_on = asyncio.Event()

    async def work() -> None:
        async with turns.turn("eu"):
            await go_on.wait()

    async with asyncio.TaskGroup() as working:
        for _ in range(COPIES):
            assert not turns.is_crowded("eu")
            working.create_task(work())
            await asyncio.sleep(0)
        assert (turns.is_crowded("eu"), turns.is_crowded("main")) == (True, False)
        go_on.set()
    assert not turns.is_crowded("eu")
