# Law of this file: if one object is purged, what holds it goes, and what cannot be searched.

from __future__ import annotations

import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from cache.cache import Cache
from indexer.ownership import claims
from indexer.purge import Subject
from stores.memory import MemoryStore
from tests.indexer.conftest import Bench, Publishing, Served
from tests.indexer.purge.scene import NOWHERE, House, Mirror, digest_of


async def test_only_what_holds_the_object_goes(house: House) -> None:
    """A pack that lacks it stays, with its claim and lease; every earlier record goes."""
    secret = house.oid("main:file-2")
    with_it = await house.record(house.pack("main"))
    without = await house.record(house.pack("side"))
    report = await house.purge(secret)
    assert report.records == 2
    assert not any(found.unread for found in report.removed)
    assert digest_of(with_it) in {found.digest for found in report.removed}
    assert house.local() == {digest_of(without)}
    left = await house.stored()
    assert digest_of(without) in left
    assert digest_of(with_it) not in left
    assert await claims(house.store, house.served.name) == {digest_of(without)}
    assert house.cache.publications.readable(digest_of(without), house.bench.now)


async def test_bundles_without_the_object_stay(house: House) -> None:
    """A blob is in the full bundle and in its file, and not in the blobless one."""
    blobless = await house.bench.bundle("blob:none")
    report = await house.purge(house.oid("main:file-0"))
    catalog = await house.catalog()
    assert catalog.bundles == (blobless,)
    assert len(report.removed) == 2
    assert await house.stored() == {entity.digest for entity in blobless.entities()}
    assert catalog.epoch == 1


async def test_retired_bundles_are_searched(house: House) -> None:
    """Packs and bundle files that no catalog names, but that a URL may still lead to."""
    old = await house.bench.bundle()
    house.bench.values = replace(house.bench.values, growth=0.0)
    house.served.commit("more")
    await house.bench.index()
    report = await house.purge(house.oid("main:file-0"))
    assert {e.digest for e in old.entities()} <= {found.digest for found in report.removed}
    assert not any(found.unread for found in report.removed)


async def test_an_object_that_is_nowhere(house: House) -> None:
    """Nothing is removed but records, for the epoch has risen."""
    before = await house.stored()
    await house.record(house.pack("main"))
    report = await house.purge(NOWHERE)
    assert (report.removed, report.bundles, report.records) == ((), (), 1)
    assert not report.remains
    assert before <= await house.stored()


async def test_a_thin_pack_is_searched(house: House) -> None:
    """Its bases are found in the repository; without these it counts as holding the object."""
    big = "".join(f"{number}\n" for number in range(5000))
    house.served.commit("big", big)
    house.served.commit("big", big + "end\n")
    thin = house.pack("main", "^main~1", thin=True)
    with pytest.raises(subprocess.CalledProcessError):
        house.served.run("index-pack", "-o", "/dev/null", str(_written(house.directory, thin)))
    record = await house.record(thin, publish=False)
    assert (await house.purge(house.oid("main:file-0"), dry_run=True)).removed
    found = {r.digest for r in (await house.purge(house.oid("side"), dry_run=True)).removed}
    assert digest_of(record) not in found
    new, base = house.oid("main:big"), house.oid("main~1:big")
    for held in (new, base):  # a delta tells of its base, too
        removed = (await house.purge(held, dry_run=True)).removed
        assert [r.unread for r in removed if r.digest == digest_of(record)] == [""]
    house.mirror = Mirror(house.directory / "no-mirror", exists=False)
    removed = (await house.purge(house.oid("side"), dry_run=True)).removed
    assert [bool(r.unread) for r in removed if r.digest == digest_of(record)] == [True]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"0008NAK\n0010\x01PACK", "another form"),
        (b"", "another form"),
        (b"PACK", "cannot be indexed"),
        (b"# v2 git bundle\nnonsense\n", "object id|bundle"),
        (b"# v2 git bundle\n" + b"a" * 40 + b" refs/heads/main\n", "goes on"),
        (b"# v2 git bundle\n\nPACK", "cannot be indexed"),
    ],
)
async def test_what_cannot_be_searched_counts_as_holding_it(
    house: House, content: bytes, why: str
) -> None:
    """Answers of protocol v0 and what is damaged go, and the report says why."""
    record = await house.record(content)
    report = await house.purge(NOWHERE)
    assert [found.digest for found in report.removed] == [digest_of(record)]
    assert report.removed[0].unread
    assert digest_of(record) not in await house.stored()


async def test_what_is_only_in_the_store_is_searched(house: House) -> None:
    """It is fetched from there; what is in neither place is no matter."""
    there = await house.record(house.pack("main"))
    await house.evict(there)
    gone = await house.record(b"gone")
    await house.evict(gone)
    await house.store.delete(digest_of(gone))
    report = await house.purge(house.oid("main:file-2"))
    found = {removed.digest: removed for removed in report.removed}
    assert (found[digest_of(there)].local, found[digest_of(there)].stored) == (False, True)
    assert digest_of(gone) not in found
    assert await claims(house.store, house.served.name) == set()


async def test_objects_of_sha256(make_served: Callable[..., Served], tmp_path: Path) -> None:
    """Their packs are searched in their own format."""
    served = make_served("long.git", "sha256")
    served.commit("a")
    served.commit("b")
    store = MemoryStore()
    bench = Bench(served, store, tmp_path / "index", Publishing(store))
    await bench.index()
    executor = ThreadPoolExecutor(2)
    cache = await Cache.open(tmp_path / "data", 1 << 30, executor)
    house = House(served, bench, store, cache, tmp_path)
    try:
        record = await house.record(house.pack("main~1"))
        report = await house.purge(house.oid("main:b"))
        assert not any(found.unread for found in report.removed)
        assert digest_of(record) not in {found.digest for found in report.removed}
        assert [bundle.filter for bundle in (await house.catalog()).bundles] == ["blob:none"]
    finally:
        await cache.close()
        executor.shutdown()


@pytest.mark.parametrize("object_id", ["", "abc", "g" * 40, "a_" * 20, "A" * 40, "a" * 41])
def test_only_full_ids_name_objects(object_id: str) -> None:
    """What is abbreviated could mean more than one."""
    with pytest.raises(ValueError, match="object id"):
        Subject("a.git", frozenset(), object_id=object_id)


async def test_a_repository_that_still_has_the_object(house: House) -> None:
    """It is said, for it will be packed again; not of one that has not."""
    assert (await house.purge(house.oid("main:file-0"))).remains
    assert not (await house.purge(NOWHERE)).remains


def _written(directory: Path, content: bytes) -> Path:
    path = directory / "written.pack"
    path.write_bytes(content)
    return path
