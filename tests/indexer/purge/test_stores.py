# Law of this file: what is purged goes from every store, and a store that does not answer keeps it
# in no other.

from __future__ import annotations

import asyncio

import pytest

from indexer import purge as module
from indexer.ownership import claim, claims
from indexer.purge import Unfinished
from stores.entity import Entity
from stores.faulty import Fail, FaultyStore, Hang, Method
from stores.memory import MemoryStore
from tests.indexer.purge.scene import OTHER, House, digest_of


async def copied(house: House) -> FaultyStore:
    """Another store, with all that the main one has."""
    replica = MemoryStore()
    async for stored in house.store.list():
        path = house.directory / stored.digest
        path.write_bytes(b"".join([chunk async for chunk in house.store.open(stored.digest)]))
        await replica.put(Entity(stored.digest, stored.size), path)
    return FaultyStore(replica)


async def held(store: FaultyStore) -> set[str]:
    """What is in a store."""
    return {stored.digest async for stored in store.inner.list()}


async def test_it_goes_from_every_store(house: House) -> None:
    """What is only in another one, too; a dry run leaves it and says the same."""
    record = await house.record(house.pack("main"))
    replica = await copied(house)
    await house.store.delete(digest_of(record))
    await house.evict(record)
    would = await house.purge(replicas={"eu": replica}, dry_run=True)
    assert len(await held(replica)) == len(would.removed) == 5
    report = await house.purge(replicas={"eu": replica})
    assert report.removed == would.removed
    assert all(found.stored for found in report.removed)
    assert (await held(replica), await house.stored(), report.unreached) == (set(), set(), ())


async def test_a_store_that_does_not_answer_may_have_it_still(house: House) -> None:
    """It is told, the rest is done, and a second run finds what is left there."""
    record = await house.record(house.pack("main"))
    replica, other = await copied(house), await copied(house)
    replica.faults |= {"delete": Fail(), "stat": Fail()}
    report = await house.purge(replicas={"eu": replica, "us": other})
    assert len(report.unreached) == 1
    assert (await house.stored(), await held(other), house.local()) == (set(), set(), set())
    assert digest_of(record) in await held(replica)
    assert digest_of(record) in await claims(house.store, house.served.name)
    replica.faults.clear()
    report = await house.purge(replicas={"eu": replica, "us": other})
    assert {found.digest for found in report.removed} >= {digest_of(record)}
    assert (await held(replica), report.unreached) == (set(), ())
    assert await claims(house.store, house.served.name) == set()


async def test_what_others_have_goes_from_where_it_is_not_for_them(house: House) -> None:
    """Content that two repositories share stays in the stores of the one that is not purged."""
    shared = await house.record(house.pack("main"))
    await claim(house.store, OTHER, digest_of(shared), 1.0)
    eu, us = await copied(house), await copied(house)
    placed = {OTHER: frozenset({"us"})}
    report = await house.purge(replicas={"eu": eu, "us": us}, placed=placed.__getitem__)
    assert [kept.digest for kept in report.kept] == [digest_of(shared)]
    assert (await held(eu), await held(us)) == (set(), {digest_of(shared)})
    assert await house.stored() == {digest_of(shared)}
    now = house.bench.now
    assert not house.cache.publications.readable(digest_of(shared), now)


async def test_what_goes_from_a_store_is_not_named_before(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other processes may believe for a while that it is there, also if it stays for others."""
    shared = await house.record(house.pack("main"))
    await claim(house.store, OTHER, digest_of(shared), 1.0)
    replica = await copied(house)
    settled: list[tuple[float, bool]] = []

    async def sleep(seconds: float) -> None:
        settled.append((seconds, digest_of(shared) in await held(replica)))

    monkeypatch.setattr(asyncio, "sleep", sleep)
    await house.purge(replicas={"eu": replica}, placed=lambda _: frozenset({"main"}))
    assert settled == [(0.0, True)]
    assert digest_of(shared) not in await held(replica)


@pytest.mark.parametrize("method", ["stat", "delete"])
async def test_a_store_that_fails_is_not_asked_again(house: House, method: Method) -> None:
    """Each time could take as long as the first."""
    await house.record(house.pack("main"))
    replica = await copied(house)
    replica.faults[method] = Fail()
    report = await house.purge(replicas={"eu": replica})
    assert (replica.calls[method], len(report.unreached)) == (1, 1)


async def test_a_store_that_hangs_keeps_nothing_in_the_main_one(house: House) -> None:
    """All has gone from there before any other is asked."""
    await house.record(house.pack("main"))
    replica, released = await copied(house), asyncio.Event()
    replica.faults["stat"] = Hang(released)
    running = asyncio.create_task(house.purge(replicas={"eu": replica}))
    while not replica.calls["stat"]:  # noqa: ASYNC110 - it goes on until it asks
        await asyncio.sleep(0)
    assert (await house.stored(), house.local()) == (set(), set())
    released.set()
    assert (await running).unreached == ()
    assert await held(replica) == set()


async def test_what_is_being_published_for_long_keeps_nothing_in_the_main_store(
    house: House,
) -> None:
    """A copy to a store that hangs holds the entity; it has gone from the main one before."""
    digest = digest_of(await house.record(house.pack("main")))
    async with house.cache.publications.lock(digest):
        running = asyncio.create_task(house.purge())
        while digest in await house.stored():  # noqa: ASYNC110 - it goes on until it is gone
            await asyncio.sleep(0)
        assert not running.done()
    await running
    assert await house.stored() == set()


async def test_what_is_being_published_for_too_long_is_not_waited_for(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has gone from everywhere all the same; that is not said, and the next purge looks."""
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    digest = digest_of(await house.record(house.pack("main")))
    replica = await copied(house)
    async with house.cache.publications.lock(digest):
        report = await house.purge(replicas={"eu": replica})
        (said,) = report.unreached
        assert said.startswith("1 entities were still being published by a process of this machine")
        assert digest in said
        assert (await house.stored(), await held(replica), house.local()) == (set(), set(), set())
        # Whoever holds it may be about to put it there.
        assert digest in await claims(house.store, house.served.name)
    assert (await house.purge(replicas={"eu": replica})).unreached == ()
    assert await claims(house.store, house.served.name) == set()


async def test_what_was_done_before_the_main_store_failed(house: House) -> None:
    """It is told, so that whoever waits knows what is answered no more."""
    await house.record(house.pack("main"))
    house.store = FaultyStore(house.store, {"delete": Fail(2)})
    with pytest.raises(Unfinished) as raised:
        await house.purge()
    done = str(raised.value).partition("; done before: ")[2]
    assert done.split("; ") == [
        "this machine answers from nothing before epoch 1",
        "its catalog names no bundle with it",
        "1 records of this machine removed",
        "5 entities removed from this machine's disk",
        "1 of them from faulty memory",
    ]


async def test_a_store_that_hangs_has_a_time(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """When that is over it was not reached."""
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    replica = await copied(house)
    replica.faults["delete"] = Hang(asyncio.Event())
    report = await house.purge(replicas={"eu": replica})
    assert report.unreached == ("faulty memory has not answered within 0 s",)
