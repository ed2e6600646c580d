# Law of this file: wherever a purge was interrupted, and whoever writes or publishes meanwhile, the
# next one leaves what an undisturbed one does.

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from indexer import purge as module
from indexer.catalog import Retired, catalog_name, encode, load
from indexer.ownership import claims
from stores.base import Conflict, Store, StoreUnavailable
from stores.faulty import Fail, FaultyStore, Method
from tests.indexer.purge.scene import House, digest_of

METHODS: tuple[Method, ...] = (
    "stat",
    "open",
    "delete",
    "read_document",
    "write_document",
    "delete_document",
    "list_documents",
)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("object_", [False, True], ids=["all", "object"])
async def test_an_interrupted_purge_is_finished_by_the_next(
    house: House, method: Method, object_: bool
) -> None:
    """Whichever call of the store fails, the second run leaves what an undisturbed one does."""
    inner = house.store
    secret = house.oid("main:file-2") if object_ else None
    for nth in range(1, 12):
        with_it = await house.record(house.pack("main"))
        evicted = await house.record(house.pack("main", "^main~1"))
        await house.evict(evicted)
        without = await house.record(house.pack("side"))
        faulty = FaultyStore(inner, {method: Fail(nth)})
        house.store = faulty
        try:
            await house.purge(secret)
        except StoreUnavailable:
            faulty.faults.clear()
            await house.purge(secret)
        house.store = inner
        for record in (with_it, evicted, without):
            assert house.cache.records.load(record.key) is None
        left = {digest_of(without)} if object_ else set()
        assert house.local() == left
        assert await claims(inner, house.served.name) == left
        assert {digest_of(with_it), digest_of(evicted)}.isdisjoint(await house.stored())
        assert house.cache.epochs.of(house.served.name) == (await house.catalog()).epoch
        if faulty.calls[method] < nth:
            return
    assert method in {"stat", "list_documents", "read_document", "delete", "delete_document"}


async def test_a_catalog_that_others_write(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read again, and nothing that they wrote is lost; but not for ever."""
    faulty = _Racing(house.store, house.served.name, 2)
    house.store = faulty
    report = await house.purge()
    catalog = await house.catalog()
    assert catalog.epoch == report.epoch
    assert [retired.digest for retired in catalog.retired if retired.since == 7.0] == [
        "1" * 64,
        "2" * 64,
    ]
    faulty.left = 100
    monkeypatch.setattr(module, "ATTEMPTS", 3)
    with pytest.raises(Conflict, match="run the same command again"):
        await house.purge()


class _Racing(FaultyStore):
    """Somebody changes the catalog just before each of the next ``left`` writes of it."""

    def __init__(self, inner: Store, repository: str, left: int) -> None:
        super().__init__(inner)
        self.repository = repository
        self.left = left
        self.wrote = 0

    async def write_document(self, name: str, body: bytes, expect: str | None) -> str:
        """See :meth:`stores.base.Store.write_document`."""
        if self.left and name == catalog_name(self.repository):
            self.left -= 1
            self.wrote += 1
            loaded = await load(self.inner, self.repository)
            assert loaded is not None
            catalog, version = loaded
            retired = Retired(str(self.wrote % 10) * 64, 7.0)
            changed = replace(catalog, retired=(*catalog.retired, retired))
            await self.inner.write_document(name, encode(changed), version)
        return await super().write_document(name, body, expect)


async def test_it_waits_for_the_lock_of_who_publishes(house: House) -> None:
    """What is being published is deleted when that has ended, not before and found again."""
    record = await house.record(house.pack("main"))
    async with house.cache.publications.lock(digest_of(record)):
        running = asyncio.create_task(house.purge())
        while house.local():  # noqa: ASYNC110 - it goes on until it needs the lock
            await asyncio.sleep(0)
        assert digest_of(record) in await house.stored()
    await running
    assert await house.stored() == set()
