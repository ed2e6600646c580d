# Law of this file: what is purged is in no cache, no store and no catalog any more, wherever a
# purge was interrupted; and nothing else has gone.

from __future__ import annotations

import asyncio
import hashlib
import subprocess
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from cache.cache import Cache
from cache.epochs import in_epoch
from cache.keys import record_key
from cache.records import Part, Record
from indexer import purge as module
from indexer.catalog import Catalog, CatalogError, Retired, catalog_name, encode, load
from indexer.local import forget_local
from indexer.ownership import claim, claims
from indexer.purge import PurgeReport, Subject, Unfinished, purge
from repos.git.program import Git
from stores.base import Conflict, Store, StoreUnavailable
from stores.entity import Entity
from stores.faulty import Fail, FaultyStore, Hang, Method
from stores.memory import MemoryStore
from tests.indexer.conftest import Bench, Publishing, Served

OTHER = "other.git"
NOWHERE = "d" * 40


@dataclass
class House:
    """A repository that was indexed, and a machine that has answered from it."""

    served: Served
    bench: Bench
    store: Store
    cache: Cache
    directory: Path
    mirror: Mirror | None = None
    made: int = 0

    @property
    def identity(self) -> str:
        """What names the repository in records."""
        return str(self.served.path)

    async def purge(self, object_id: str | None = None, **options: Any) -> PurgeReport:
        """Purge the repository of everything, or of one object."""
        subject = Subject(
            self.served.name,
            frozenset((self.identity,)),
            None if self.mirror else self.served.path,
            self.mirror,
            object_id,
        )
        return await purge(
            subject,
            self.store,
            self.cache,
            Git(),
            self.directory / "work",
            now=self.bench.now,
            settle=0.0,
            **options,
        )

    def pack(self, *revisions: str, thin: bool = False) -> bytes:
        """A pack of what some revisions reach."""
        arguments = ["pack-objects", "--revs", "--stdout", "-q", *(["--thin"] if thin else [])]
        done = subprocess.run(
            ["git", "-C", str(self.served.tree), *arguments],
            input="".join(f"{revision}\n" for revision in revisions).encode(),
            capture_output=True,
            check=True,
        )
        return done.stdout

    async def record(
        self,
        content: bytes,
        *,
        identity: str = "",
        owner: str = "",
        publish: bool = True,
        epoch: int = 0,
    ) -> Record:
        """What a server does that computed an answer."""
        self.made += 1
        entity = Entity(hashlib.sha256(content).hexdigest(), len(content))
        incoming = self.directory / f"computed-{self.made}"
        incoming.write_bytes(content)
        if publish:
            await claim(self.store, owner or self.served.name, entity.digest, self.bench.now)
            await self.store.put(entity, incoming)
            self.cache.publications.record(entity.digest, ["t"], self.bench.now, 1e6)
        self.cache.entities.adopt(incoming, entity)
        key = record_key("git-v2", identity or self.identity, b"%d" % self.made)
        named = in_epoch(identity or self.identity, epoch)
        record = Record(key, named, b"head", (Part(entity, ""),), self.bench.now)
        self.cache.records.save(record)
        return record

    async def evict(self, record: Record) -> None:
        """Let this machine know nothing of a record any more."""
        self.cache.records.delete(record.key)
        self.cache.entities.take_back(record.parts[0].entity.digest)

    async def stored(self) -> set[str]:
        """What is in the store."""
        return {found.digest async for found in self.store.list()}

    async def documents(self) -> set[str]:
        """Names of the store's documents."""
        return {name async for name in self.store.list_documents("")}

    def local(self) -> set[str]:
        """What is on this machine's disk."""
        return set(self.cache.entities.digests())

    async def catalog(self) -> Catalog:
        """As it is now."""
        loaded = await load(self.store, self.served.name)
        assert loaded is not None
        return loaded[0]

    def oid(self, revision: str) -> str:
        """An object's id."""
        return self.served.run("rev-parse", revision)


@dataclass
class Mirror:
    """Stands in for a mirror."""

    path: Path
    exists: bool = True
    removed: list[int] = field(default_factory=list)
    tell: Callable[[], int] = lambda: 0

    def remove(self) -> None:
        """Remove it."""
        self.exists = False
        self.removed.append(self.tell())


def digest_of(record: Record) -> str:
    """The entity that a record names."""
    return record.parts[0].entity.digest


@pytest.fixture
async def house(served: Served, tmp_path: Path) -> AsyncIterator[House]:
    """A repository that was indexed into a store in memory."""
    store = MemoryStore()
    bench = Bench(served, store, tmp_path / "index", Publishing(store))
    await bench.index()
    executor = ThreadPoolExecutor(2)
    cache = await Cache.open(tmp_path / "data", 1 << 30, executor)
    yield House(served, bench, store, cache, tmp_path)
    await cache.close()
    executor.shutdown()


# --- everything -----------------------------------------------------------------------------


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


# --- one object -----------------------------------------------------------------------------


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


# --- who else has it ------------------------------------------------------------------------


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


# --- faults ---------------------------------------------------------------------------------

METHODS: tuple[Method, ...] = (
    "stat",
    "open",
    "delete",
    "read_document",
    "write_document",
    "delete_document",
    "list_documents",
)


# --- several stores ---------------------------------------------------------------------------


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


# --- mirrors --------------------------------------------------------------------------------


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


# --- other machines -------------------------------------------------------------------------


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


def _written(directory: Path, content: bytes) -> Path:
    path = directory / "written.pack"
    path.write_bytes(content)
    return path
