# Law of this file: of a repository that is purged nothing is left in cache, store and catalog, and
# nothing else has gone.

from __future__ import annotations

import pytest

from indexer.catalog import Catalog, catalog_name, encode
from indexer.ownership import claims
from indexer.purge import PurgeReport, Subject, purge
from repos.git.program import Git
from tests.indexer.purge.scene import OTHER, House, digest_of


async def test_everything_of_a_repository_goes(house: House) -> None:
    """Bundles, records, entities, claims and leases; the epoch rises here and in the catalog."""
    bundles = [bundle.id for bundle in (await house.catalog()).bundles]
    record = await house.record(house.pack("main"))
    evicted = await house.record(house.pack("side"))
    await house.evict(evicted)
    report = await house.purge()
    assert report.known
    assert set(report.bundles) == set(bundles)
    assert report.records == 1
    assert {found.digest for found in report.removed} >= {digest_of(record), digest_of(evicted)}
    assert len(report.removed) == 2 + 2 * len(bundles)
    assert await house.stored() == set()
    assert house.local() == set()
    assert house.cache.records.load(record.key) is None
    assert await house.documents() == {catalog_name(house.served.name)}
    assert not house.cache.publications.readable(digest_of(record), house.bench.now)
    catalog = await house.catalog()
    assert (catalog.bundles, catalog.epoch) == ((), 1)
    assert house.cache.epochs.of(house.served.name) == report.epoch == 1
    assert report.remains


async def test_a_second_purge_finds_nothing(house: House) -> None:
    """It raises the epoch once more, and that is all."""
    await house.record(house.pack("main"))
    await house.purge()
    report = await house.purge()
    assert (report.epoch, report.records, report.removed, report.bundles) == (2, 0, (), ())


async def test_a_dry_run_changes_nothing(house: House) -> None:
    """It says what a purge then does."""
    record = await house.record(house.pack("main"))
    before = (await house.stored(), await house.documents(), house.local(), await house.catalog())
    would = await house.purge(dry_run=True)
    now = (await house.stored(), await house.documents(), house.local(), await house.catalog())
    assert now == before
    assert house.cache.records.load(record.key) == record
    assert house.cache.epochs.of(house.served.name) == 0
    assert await house.purge() == would


async def test_other_repositories_stay(house: House) -> None:
    """Their records, entities and claims, whatever is purged beside them."""
    other = await house.record(b"theirs", identity="/srv/other.git", owner=OTHER)
    unpublished = await house.record(b"also", identity="/srv/other.git", publish=False)
    await house.purge()
    assert house.local() == {digest_of(other), digest_of(unpublished)}
    assert await house.stored() == {digest_of(other)}
    assert house.cache.records.load(other.key) == other
    assert await claims(house.store, OTHER) == {digest_of(other)}
    assert house.cache.publications.readable(digest_of(other), house.bench.now)


async def test_a_repository_whose_name_begins_alike_stays(house: House) -> None:
    """A name is no prefix: neither of claims nor of identities."""
    for end in ("x", "#1", "/x", "%2Fx"):
        name, identity = house.served.name + end, house.identity + end
        record = await house.record(end.encode(), identity=identity, owner=name)
        await house.purge()
        assert house.cache.records.load(record.key) == record
        assert await claims(house.store, name) == {digest_of(record)}


async def test_records_of_every_earlier_epoch_go(house: House) -> None:
    """Also those that a run wrote which was begun before the last purge."""
    await house.purge()
    late = await house.record(b"of epoch 0")
    later = await house.record(b"of epoch 1", epoch=1)
    report = await house.purge()
    assert report.records == 2
    assert {found.digest for found in report.removed} == {digest_of(late), digest_of(later)}


async def test_what_nobody_knows_any_more_goes(house: House) -> None:
    """An entity on this disk whose record was evicted, and that was never published."""
    lost = await house.record(b"whose?", publish=False)
    house.cache.records.delete(lost.key)
    await house.purge()
    assert house.local() == set()


async def test_an_unknown_repository(house: House) -> None:
    """Nothing is done, and nothing is written."""
    before = await house.documents()
    subject = Subject("nobody.git", frozenset(("/srv/nobody.git",)))
    work = house.directory / "work"
    report = await purge(subject, house.store, house.cache, Git(), work, now=1.0)
    assert report == PurgeReport("nobody.git", None, known=False)
    assert await house.documents() == before
    assert house.cache.epochs.of("nobody.git") == 0


@pytest.mark.parametrize("left", ["catalog", "claim", "record"])
async def test_a_repository_that_is_gone(house: House, left: str) -> None:
    """What it left behind can be purged though nothing else is known of it."""
    if left == "record":
        await house.record(b"x", identity="/srv/gone.git", publish=False)
    elif left == "claim":
        await house.evict(await house.record(b"x", identity="/srv/x", owner="gone.git"))
    else:
        body = encode(Catalog("gone.git", "sha1"))
        await house.store.write_document(catalog_name("gone.git"), body, None)
    subject = Subject("gone.git", frozenset(("/srv/gone.git",)))
    work = house.directory / "work"
    report = await purge(subject, house.store, house.cache, Git(), work, now=1.0, settle=0.0)
    assert report.known
    assert not report.remains
    assert len(report.removed) == (left != "catalog")
