# Law of this file: what others have too stays for them; mirrors and other machines forget as well.

from __future__ import annotations

import pytest

from indexer.catalog import Catalog, CatalogError, catalog_name, encode
from indexer.local import forget_local
from indexer.ownership import claim, claims
from indexer.purge import Subject, purge
from repos.git.program import Git
from tests.indexer.purge.scene import NOWHERE, OTHER, House, Mirror, digest_of


async def test_what_another_catalog_names_stays(house: House) -> None:
    """The entity and its lease; the report says whose it is; our bundle and claim go."""
    shared = await house.bench.bundle()
    body = encode(Catalog(OTHER, "sha1", (shared,)))
    await house.store.write_document(catalog_name(OTHER), body, None)
    report = await house.purge()
    digests = {entity.digest for entity in shared.entities()}
    assert {kept.digest for kept in report.kept} == digests
    assert {kept.repositories for kept in report.kept} == {(OTHER,)}
    assert await house.stored() == digests
    assert (await house.catalog()).bundles == ()


async def test_what_another_repository_claims_stays(house: House) -> None:
    """Until that one is purged too."""
    pack = house.pack("main")
    record = await house.record(pack)
    await claim(house.store, OTHER, digest_of(record), 1.0)
    report = await house.purge()
    assert [(kept.digest, kept.repositories) for kept in report.kept] == [
        (digest_of(record), (OTHER,))
    ]
    assert await house.stored() == {digest_of(record)}
    assert await claims(house.store, house.served.name) == set()
    assert house.cache.publications.readable(digest_of(record), house.bench.now)
    subject = Subject(OTHER, frozenset(("/srv/other.git",)))
    work = house.directory / "work"
    await purge(subject, house.store, house.cache, Git(), work, now=1.0, settle=0.0)
    assert await house.stored() == set()


async def test_a_catalog_that_cannot_be_read_stops_the_deletion(house: House) -> None:
    """It may name anything; the epoch has risen all the same."""
    record = await house.record(house.pack("main"))
    version = await house.store.write_document(catalog_name(OTHER), b"{}", None)
    with pytest.raises(CatalogError):
        await house.purge()
    assert digest_of(record) in await house.stored()
    assert house.cache.epochs.of(house.served.name) == 1
    await house.store.write_document(catalog_name(OTHER), encode(Catalog(OTHER, "sha1")), version)
    await house.purge()
    assert await house.stored() == set()


async def test_a_mirror_goes_with_everything(house: House) -> None:
    """What was made from it after the epoch rose is not used either."""
    mirror = house.mirror = Mirror(house.served.path)
    mirror.tell = lambda: house.cache.epochs.of(house.served.name)
    report = await house.purge()
    assert mirror.removed == [1]
    assert (report.mirror, report.epoch, report.remains) == (True, 2, False)


async def test_a_mirror_goes_if_it_holds_the_object(house: House) -> None:
    """And stays if it does not."""
    mirror = house.mirror = Mirror(house.served.path)
    assert not (await house.purge(NOWHERE)).mirror
    assert mirror.removed == []
    assert (await house.purge(house.oid("main:file-0"), dry_run=True)).mirror
    assert mirror.removed == []
    assert (await house.purge(house.oid("main:file-0"))).mirror
    assert len(mirror.removed) == 1


async def test_another_machine_forgets(house: House) -> None:
    """Its records of earlier epochs, what only they name, and leases that no record needs."""
    ours = await house.record(house.pack("main"))
    newer = await house.record(house.pack("side"), epoch=2)
    theirs = await house.record(b"theirs", identity="/srv/other.git", owner=OTHER)
    shared = await house.record(b"theirs")
    evicted = await house.record(b"evicted")
    await house.evict(evicted)
    assert await forget_local(house.cache, frozenset((house.identity,)), 2) == 2
    assert [house.cache.records.load(r.key) for r in (ours, shared)] == [None, None]
    assert [house.cache.records.load(r.key) for r in (newer, theirs)] == [newer, theirs]
    assert house.local() == {digest_of(newer), digest_of(theirs)}
    readable = [
        bool(house.cache.publications.readable(digest_of(r), house.bench.now))
        for r in (ours, evicted, newer, theirs)
    ]
    # Whatever it had in common with the others may be gone from one store or another.
    assert not any(readable)
