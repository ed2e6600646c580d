# Law of this file: whatever happens, nothing that a catalog names is deleted.

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from cache.records import Part
from indexer.catalog import Bundle, Catalog, CatalogError, Retired, catalog_name, encode, load
from indexer.gc import collect
from indexer.ownership import claim, claim_name, claims, read_claim
from stores.base import Conflict, Stored, StoreUnavailable
from stores.entity import Entity
from stores.faulty import Fail, FaultyStore
from stores.memory import MemoryStore
from stores.replica import Replica

DAY = 86400.0
NOW = 100 * DAY
KEEP = 7 * DAY


class Shelf:
    """A store in memory whose content is of any age."""

    def __init__(self, tmp_path: Path) -> None:
        self.now = NOW
        self.store = MemoryStore(lambda: self.now)
        self.tmp_path = tmp_path

    async def put(self, content: str, age: float) -> Entity:
        """Something that was put ``age`` seconds ago."""
        path = self.tmp_path / "file"
        path.write_text(content)
        entity = Entity(hashlib.sha256(content.encode()).hexdigest(), len(content))
        self.now = NOW - age
        await self.store.put(entity, path)
        self.now = NOW
        return entity

    async def write(self, catalog: Catalog) -> None:
        """Write a catalog."""
        name = catalog_name(catalog.repository)
        await self.store.write_document(name, encode(catalog), None)

    async def retired(self, repository: str) -> set[str]:
        """What its catalog calls retired."""
        loaded = await load(self.store, repository)
        assert loaded is not None
        return {retired.digest for retired in loaded[0].retired}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """An empty one."""
    return Shelf(tmp_path)


def bundle(pack: Entity, file: Entity | None = None) -> Bundle:
    """A bundle of these entities."""
    return Bundle(
        id="full-1",
        filter=None,
        pack=Part(pack, "c" * 40),
        bundle_file=file,
        objects=1,
        tips=("a" * 40,),
        peeled={},
        created=1.0,
        creation_token=1,
        readable=("t",),
    )


async def test_what_is_named_stays_at_any_age(shelf: Shelf) -> None:
    """Packs and bundle files of catalogued bundles are kept; the rest goes when it is old."""
    pack, file = await shelf.put("pack", 90 * DAY), await shelf.put("file", 90 * DAY)
    old, young = await shelf.put("old", 8 * DAY), await shelf.put("young", 6 * DAY)
    await shelf.write(Catalog("a", "sha1", (bundle(pack, file),)))
    report = await collect(shelf.store, NOW, KEEP)
    assert report.deleted == (old.digest,)
    assert set(shelf.store.entities) == {pack.digest, file.digest, young.digest}
    assert (report.freed, report.kept, report.named, report.forgotten) == (3, 3, 2, 0)


async def test_an_empty_store_is_fine(shelf: Shelf) -> None:
    """Nothing is deleted where nothing is."""
    assert (await collect(shelf.store, NOW, KEEP)).deleted == ()


async def test_what_was_retired_waits_from_then(shelf: Shelf) -> None:
    """However old an entity is, it stays `keep` after a catalog last named it."""
    early, late = await shelf.put("early", 90 * DAY), await shelf.put("late", 90 * DAY)
    retired = (Retired(early.digest, NOW - 8 * DAY), Retired(late.digest, NOW - 6 * DAY))
    await shelf.write(Catalog("a", "sha1", (), retired))
    report = await collect(shelf.store, NOW, KEEP)
    assert report.deleted == (early.digest,)
    assert report.forgotten == 1
    assert await shelf.retired("a") == {late.digest}


async def test_the_last_to_retire_it_counts(shelf: Shelf) -> None:
    """Forks can share a pack: it waits for the later of them, and for none that still names it."""
    shared, named = await shelf.put("shared", 90 * DAY), await shelf.put("named", 90 * DAY)
    long_ago = Retired(shared.digest, NOW - 30 * DAY), Retired(named.digest, NOW - 30 * DAY)
    await shelf.write(Catalog("a", "sha1", (), long_ago))
    await shelf.write(Catalog("b", "sha1", (bundle(named),), (Retired(shared.digest, NOW - DAY),)))
    report = await collect(shelf.store, NOW, KEEP)
    assert report.deleted == ()
    assert await shelf.retired("a") == {shared.digest, named.digest}


async def test_a_retired_entity_that_was_put_again_stays(shelf: Shelf) -> None:
    """Somebody names it, or is about to."""
    again = await shelf.put("again", DAY)
    await shelf.write(Catalog("a", "sha1", (), (Retired(again.digest, NOW - 30 * DAY),)))
    assert (await collect(shelf.store, NOW, KEEP)).deleted == ()
    assert await shelf.retired("a") == {again.digest}


async def test_entries_of_what_is_gone_are_dropped(shelf: Shelf) -> None:
    """A collection that was killed between deleting and forgetting is finished by the next."""
    await shelf.write(Catalog("a", "sha1", (), (Retired("d" * 64, NOW - 30 * DAY),)))
    assert (await collect(shelf.store, NOW, KEEP)).forgotten == 1
    assert await shelf.retired("a") == set()


async def test_a_dry_run_changes_nothing(shelf: Shelf) -> None:
    """It says what would be deleted and forgotten."""
    old = await shelf.put("old", 90 * DAY)
    await shelf.write(Catalog("a", "sha1", (), (Retired(old.digest, NOW - 30 * DAY),)))
    report = await collect(shelf.store, NOW, KEEP, dry_run=True)
    assert (report.deleted, report.freed, report.forgotten) == ((old.digest,), 3, 1)
    assert old.digest in shelf.store.entities
    assert await shelf.retired("a") == {old.digest}
    assert await collect(shelf.store, NOW, KEEP) == report


@pytest.mark.parametrize("body", [b"", b"{}", b'{"version":2}'])
async def test_an_unreadable_catalog_stops_it(shelf: Shelf, body: bytes) -> None:
    """It may name anything, so nothing is deleted; the error names it."""
    old = await shelf.put("old", 90 * DAY)
    await shelf.store.write_document("catalogs/broken.json", body, None)
    with pytest.raises(CatalogError, match=r"catalogs/broken\.json"):
        await collect(shelf.store, NOW, KEEP)
    assert old.digest in shelf.store.entities


@pytest.mark.parametrize("method", ["list", "list_documents", "read_document"])
async def test_a_store_that_fails_stops_it(shelf: Shelf, method: str) -> None:
    """Without knowing every catalog, nothing is deleted."""
    old, pack = await shelf.put("old", 90 * DAY), await shelf.put("pack", 90 * DAY)
    await shelf.write(Catalog("a", "sha1", (bundle(pack),)))
    faulty = FaultyStore(shelf.store, {method: Fail()})  # type: ignore[dict-item]
    with pytest.raises(StoreUnavailable):
        await collect(faulty, NOW, KEEP)
    assert {old.digest, pack.digest} == set(shelf.store.entities)


class Meanwhile(FaultyStore):
    """A store in which something happens right after the entities were listed."""

    async def list(self) -> AsyncIterator[Stored]:
        """List, then let it happen."""
        async for stored in super().list():
            yield stored
        await self.happens()

    async def happens(self) -> None:
        """What happens."""


async def test_what_is_put_meanwhile_stays(shelf: Shelf) -> None:
    """An old entity that an indexer puts again during the collection is young then."""
    await shelf.put("pack", 90 * DAY)

    class PutAgain(Meanwhile):
        async def happens(self) -> None:
            await shelf.put("pack", 0)

    assert (await collect(PutAgain(shelf.store), NOW, KEEP)).deleted == ()


async def test_what_is_catalogued_meanwhile_stays(shelf: Shelf) -> None:
    """Catalogs are read after the entities were listed."""
    pack = await shelf.put("pack", 90 * DAY)

    class Catalogued(Meanwhile):
        async def happens(self) -> None:
            await shelf.write(Catalog("a", "sha1", (bundle(pack),)))

    assert (await collect(Catalogued(shelf.store), NOW, KEEP)).deleted == ()


async def test_a_catalog_that_changes_meanwhile_is_not_overwritten(shelf: Shelf) -> None:
    """On a conflict the entries stay until the next collection, and the change is kept."""
    old, pack = await shelf.put("old", 90 * DAY), await shelf.put("pack", 0)
    catalog = Catalog("a", "sha1", (), (Retired(old.digest, NOW - 30 * DAY),))
    await shelf.write(catalog)

    class Changed(FaultyStore):
        async def write_document(self, name: str, body: bytes, expect: str | None) -> str:
            """Somebody else is faster."""
            new = encode(replace(catalog, bundles=(bundle(pack),)))
            await self.inner.write_document(name, new, expect)
            raise Conflict("changed")

    report = await collect(Changed(shelf.store), NOW, KEEP)
    assert (report.deleted, report.forgotten) == ((old.digest,), 0)
    loaded = await load(shelf.store, "a")
    assert loaded is not None
    assert loaded[0].bundles == (bundle(pack),)
    assert (await collect(shelf.store, NOW, KEEP)).forgotten == 1


async def test_claims_go_with_their_entities(shelf: Shelf) -> None:
    """Of what is gone for long; not of what is there, nor of what may just be being put."""
    there, old = await shelf.put("there", DAY), await shelf.put("old", 90 * DAY)
    for digest, age in (
        (there.digest, 90 * DAY),
        (old.digest, 90 * DAY),
        ("a" * 64, 8 * DAY),
        ("b" * 64, 6 * DAY),
    ):
        await claim(shelf.store, "p.git", digest, NOW - age)
    assert (await collect(shelf.store, NOW, KEEP, dry_run=True)).disowned == 2
    assert len(await claims(shelf.store, "p.git")) == 4
    assert (await collect(shelf.store, NOW, KEEP)).disowned == 2
    assert await claims(shelf.store, "p.git") == {there.digest, "b" * 64}


async def test_a_claim_that_is_made_again_is_young(shelf: Shelf) -> None:
    """What was collected once may be computed and published again."""
    for age in (90 * DAY, DAY):
        await claim(shelf.store, "p.git", "a" * 64, NOW - age)
    assert (await collect(shelf.store, NOW, KEEP)).disowned == 0


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'{"repository": 1, "since": "x"}'])
async def test_a_damaged_claim_is_old(shelf: Shelf, body: bytes) -> None:
    """It goes when its entity has gone, and its name says whose it was."""
    name = claim_name("group/p.git", "a" * 64)
    await shelf.store.write_document(name, body, None)
    assert await read_claim(shelf.store, name) == ("group/p.git", 0.0)
    assert (await collect(shelf.store, NOW, KEEP)).disowned == 1
    assert await claims(shelf.store, "group/p.git") == frozenset()


# --- several stores -------------------------------------------------------------------------------


async def test_copies_go_when_they_are_due(shelf: Shelf, tmp_path: Path) -> None:
    """By their own age; what a catalog names stays in each store."""
    other = Shelf(tmp_path)
    for each in (shelf, other):
        old, pack = await each.put("old", 8 * DAY), await each.put("pack", 90 * DAY)
    only, young = await other.put("only there", 8 * DAY), await shelf.put("young", 8 * DAY)
    await other.put("young", DAY)
    await shelf.write(Catalog("a", "sha1", (bundle(pack),)))
    report = await collect(shelf.store, NOW, KEEP, replicas=(other.store,))
    assert set(report.deleted) == {old.digest, only.digest, young.digest}
    assert report.freed == 2 * old.size + only.size + young.size
    assert (report.kept, report.named, report.unreached) == (1, 1, ())
    assert set(shelf.store.entities) == {pack.digest}
    assert set(other.store.entities) == {pack.digest, young.digest}


@pytest.mark.parametrize("method", ["list", "stat", "delete"])
async def test_a_store_of_copies_that_fails(shelf: Shelf, tmp_path: Path, method: str) -> None:
    """It stops no other, and until it answers nothing is forgotten of what may be there."""
    other = Shelf(tmp_path)
    for each in (shelf, other):
        old = await each.put("old", 30 * DAY)
    await shelf.write(Catalog("a", "sha1", retired=(Retired(old.digest, NOW - 20 * DAY),)))
    await claim(shelf.store, "a", old.digest, NOW - 20 * DAY)
    faulty = FaultyStore(other.store, {method: Fail()})  # type: ignore[dict-item]
    report = await collect(shelf.store, NOW, KEEP, replicas=(faulty,))
    assert len(report.unreached) == 1
    assert (set(shelf.store.entities), set(other.store.entities)) == (set(), {old.digest})
    assert (report.forgotten, report.disowned) == (0, 0)
    assert await claims(shelf.store, "a") == {old.digest}
    # Nor while it is known that it does not answer.
    report = await collect(shelf.store, NOW, KEEP, away=("it does not answer",))
    assert (report.forgotten, report.disowned) == (0, 0)
    assert report.unreached == ("it does not answer",)
    report = await collect(shelf.store, NOW, KEEP, replicas=(other.store,))
    assert (report.deleted, report.unreached) == ((old.digest,), ())
    assert (report.forgotten, report.disowned) == (1, 1)


async def test_what_a_store_of_copies_still_has_is_not_forgotten(
    shelf: Shelf, tmp_path: Path
) -> None:
    """It may be young there, though it is gone from the main store."""
    other = Shelf(tmp_path)
    young = await other.put("young there", DAY)
    await shelf.write(Catalog("a", "sha1", retired=(Retired(young.digest, NOW - 20 * DAY),)))
    report = await collect(shelf.store, NOW, KEEP, replicas=(other.store,))
    assert (report.deleted, report.forgotten) == ((), 0)


async def test_what_is_permanent_is_never_due(shelf: Shelf, tmp_path: Path) -> None:
    """In no store, though no catalog names it and nobody puts it again."""
    probe, old = await shelf.put("probe", 90 * DAY), await shelf.put("old", 90 * DAY)
    copies = Shelf(tmp_path)
    await copies.put("probe", 90 * DAY)
    report = await collect(
        shelf.store,
        NOW,
        KEEP,
        replicas=(copies.store,),
        permanent=frozenset((probe.digest,)),
    )
    assert report.deleted == (old.digest,)
    assert set(shelf.store.entities) == set(copies.store.entities) == {probe.digest}


async def test_nothing_is_forgotten_of_one_that_is_not_the_same(
    shelf: Shelf, tmp_path: Path
) -> None:
    """An empty store in its place does not say that what it had is gone."""
    copies = Shelf(tmp_path)
    replica = Replica("eu", copies.store, shelf.store)
    await replica.check()
    old = await shelf.put("old", 90 * DAY)
    await claim(shelf.store, "r", old.digest, NOW - 90 * DAY)
    copies.store.entities.clear()
    report = await collect(shelf.store, NOW, KEEP, replicas=(replica,))
    assert report.deleted == (old.digest,)
    assert [said.partition(" is not the one")[0] for said in report.unreached] == [
        "the store eu (memory)"
    ]
    assert await claims(shelf.store, "r") == {old.digest}
    await replica.renew()
    await collect(shelf.store, NOW, KEEP, replicas=(replica,))
    assert await claims(shelf.store, "r") == frozenset()
