# Law of this file: what the catalog said last is served from memory, whatever the store does.

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from cache.epochs import Epochs
from cache.records import Part
from indexer.catalog import Bundle, Catalog, CloneBundle, catalog_name, encode
from server import catalogs as module
from server.catalogs import Catalogs
from server.main_seal import SKEW
from stores.entity import Entity
from stores.faulty import Fail, FaultyStore, Hang
from stores.memory import MemoryStore

READABLE = ("0123456789abcdef",)


def bundle(name: str, created: float) -> Bundle:
    """A bundle of one commit."""
    entity = Entity(hashlib.sha256(name.encode()).hexdigest(), 100)
    blobless = "blob:none" if name.startswith("blobless") else None
    return Bundle(
        id=name,
        filter=blobless,
        pack=Part(entity, "ab" * 20),
        bundle_file=None,
        objects=3,
        tips=("cd" * 20,),
        peeled={},
        created=created,
        creation_token=int(created),
        readable=READABLE,
    )


async def publish(
    store: FaultyStore,
    *bundles: Bundle,
    repository: str = "p.git",
    epoch: int = 0,
    clone_bundles: tuple[CloneBundle, ...] = (),
) -> None:
    """Write the catalog of a repository."""
    document = await store.inner.read_document(catalog_name(repository))
    await store.inner.write_document(
        catalog_name(repository),
        encode(Catalog(repository, "sha1", bundles, epoch=epoch, clone_bundles=clone_bundles)),
        None if document is None else document.version,
    )


def clone_bundle(name: str) -> CloneBundle:
    """A clone bundle of one changeset."""
    entity = Entity(hashlib.sha256(name.encode()).hexdigest(), 100)
    return CloneBundle(name, "gzip-v2", "gzip-v2", entity, ("cd" * 20,), 1, 1.0, READABLE)


@pytest.fixture
def store() -> FaultyStore:
    """A store that works."""
    return FaultyStore(MemoryStore())


@pytest.fixture
def catalogs(store: FaultyStore) -> Catalogs:
    """Read from it."""
    return Catalogs(store, 0.0)


async def ids(catalogs: Catalogs, repository: str = "p.git") -> list[str]:
    """The bundles of a repository."""
    return [found.id for found in await catalogs.bundles(repository)]


async def test_a_repository_without_a_catalog(catalogs: Catalogs, store: FaultyStore) -> None:
    """It has no bundles, and its requests ask the store once for all."""
    for _ in range(5):
        assert await ids(catalogs) == []
    assert store.calls["read_document"] == 1


async def test_the_newest_bundle_comes_first(catalogs: Catalogs, store: FaultyStore) -> None:
    """Bundles are in the order in which they are tried."""
    await publish(store, bundle("a", 1.0), bundle("blobless", 2.0))
    assert await ids(catalogs) == ["blobless", "a"]


async def test_requests_are_answered_from_memory(catalogs: Catalogs, store: FaultyStore) -> None:
    """A catalog is read when it is first asked for and when it is refreshed, and not between."""
    await publish(store, bundle("a", 1.0))
    for _ in range(5):
        assert await ids(catalogs) == ["a"]
    assert store.calls["read_document"] == 1
    await publish(store, bundle("b", 2.0))
    assert await ids(catalogs) == ["a"]
    await catalogs.refresh_all()
    assert await ids(catalogs) == ["b"]


async def test_many_ask_at_once(catalogs: Catalogs, store: FaultyStore) -> None:
    """The first hundred requests of a repository share one look at the store."""
    await publish(store, bundle("a", 1.0))
    answers = await asyncio.gather(*(ids(catalogs) for _ in range(100)))
    assert answers == [["a"]] * 100
    assert store.calls["read_document"] == 1


async def test_what_is_readable(catalogs: Catalogs, store: FaultyStore) -> None:
    """The targets of what a catalog names are known, and forgotten when it names it no more."""
    first, second = bundle("a", 1.0), bundle("b", 2.0)
    digest = first.pack.entity.digest
    assert catalogs.readable(digest) == frozenset()
    await publish(store, first)
    await ids(catalogs)
    assert catalogs.readable(digest) == set(READABLE)
    await publish(store, second)
    await catalogs.refresh_all()
    assert catalogs.readable(digest) == frozenset()
    assert catalogs.readable(second.pack.entity.digest) == set(READABLE)


async def test_clone_bundles(store: FaultyStore, tmp_path: Path) -> None:
    """They are watched as bundles are, and forgotten by a purge on this machine."""
    epochs = Epochs(tmp_path)
    catalogs = Catalogs(store, 0.0, epochs)
    first, second = clone_bundle("a"), clone_bundle("b")
    await publish(store, clone_bundles=(first,))
    for _ in range(3):
        assert await catalogs.clone_bundles("p.git") == (first,)
    assert await catalogs.bundles("p.git") == ()
    assert store.calls["read_document"] == 1
    assert catalogs.readable(first.entity.digest) == set(READABLE)
    await publish(store, clone_bundles=(second,))
    await catalogs.refresh_all()
    assert await catalogs.clone_bundles("p.git") == (second,)
    assert catalogs.readable(first.entity.digest) == frozenset()
    assert catalogs.readable(second.entity.digest) == set(READABLE)
    epochs.raise_to("p.git", 1)
    assert await catalogs.clone_bundles("p.git") == ()
    assert catalogs.readable(second.entity.digest) == frozenset()


async def test_a_catalog_that_goes(catalogs: Catalogs, store: FaultyStore) -> None:
    """Bundles whose catalog is gone are not named any more."""
    await publish(store, bundle("a", 1.0))
    await ids(catalogs)
    store.inner.documents.clear()  # type: ignore[attr-defined]
    await catalogs.refresh_all()
    assert await ids(catalogs) == []


async def test_a_store_that_fails_at_first(catalogs: Catalogs, store: FaultyStore) -> None:
    """Without its catalog a repository is served without bundles, and with them once it is read."""
    await publish(store, bundle("a", 1.0))
    store.faults["read_document"] = Fail()
    assert await ids(catalogs) == []
    store.faults.clear()
    await catalogs.refresh_all()
    assert await ids(catalogs) == ["a"]


async def test_a_store_that_fails_later(catalogs: Catalogs, store: FaultyStore) -> None:
    """What was read stays."""
    await publish(store, bundle("a", 1.0))
    await ids(catalogs)
    store.faults["read_document"] = Fail()
    await catalogs.refresh_all()
    assert await ids(catalogs) == ["a"]


@pytest.mark.parametrize("body", [b"", b"{}", b"\xff", b"[1", b'{"schema": 99}'])
async def test_a_damaged_catalog(catalogs: Catalogs, store: FaultyStore, body: bytes) -> None:
    """What is no catalog changes nothing, and is looked at again."""
    await publish(store, bundle("a", 1.0))
    await ids(catalogs)
    name = catalog_name("p.git")
    document = await store.read_document(name)
    assert document is not None
    version = await store.write_document(name, body, document.version)
    for _ in range(2):
        await catalogs.refresh_all()
        assert await ids(catalogs) == ["a"]
    good = encode(Catalog("p.git", "sha1", (bundle("b", 2.0),)))
    await store.write_document(name, good, version)
    await catalogs.refresh_all()
    assert await ids(catalogs) == ["b"]


async def test_a_store_that_hangs(
    catalogs: Catalogs, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first request waits for a bounded time, and goes on without bundles."""
    monkeypatch.setattr(module, "FIRST_WAIT", 0.05)
    await publish(store, bundle("a", 1.0))
    released = asyncio.Event()
    store.faults["read_document"] = Hang(released)
    assert await ids(catalogs) == []
    loading = catalogs._watched["p.git"].loading
    assert loading is not None
    released.set()
    await loading
    assert await ids(catalogs) == ["a"]


async def test_what_nobody_asks_for_is_forgotten(
    catalogs: Catalogs, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repository that was not asked for in a long time costs no looks at the store."""
    await ids(catalogs)
    asked = store.calls["read_document"]
    monkeypatch.setattr(module, "IDLE", -1.0)
    await catalogs.refresh_all()
    assert store.calls["read_document"] == asked
    assert not catalogs._watched


async def test_refreshing_goes_on(catalogs: Catalogs, store: FaultyStore) -> None:
    """Catalogs are read again and again until that is cancelled, whatever one of them is."""
    await publish(store, bundle("a", 1.0))
    await ids(catalogs)
    await ids(catalogs, "other.git")
    store.faults["read_document"] = Fail(store.calls["read_document"] + 1)
    seen = asyncio.Event()
    read_document = store.read_document

    async def counted(name: str) -> object:
        if store.calls["read_document"] > 8:
            seen.set()
        return await read_document(name)

    store.read_document = counted  # type: ignore[method-assign,assignment]
    running = asyncio.create_task(catalogs.run())
    await seen.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await ids(catalogs) == ["a"]


# --- epochs ---------------------------------------------------------------------------------


@pytest.fixture
def epochs(tmp_path: Path) -> Epochs:
    """What this machine knows."""
    return Epochs(tmp_path)


async def test_the_epoch_of_a_catalog(catalogs: Catalogs, store: FaultyStore) -> None:
    """It is 0 where nobody has said more, and what the catalog says once that is read."""
    assert catalogs.epoch("p.git") == 0
    await publish(store, bundle("a", 1.0), epoch=3)
    assert await ids(catalogs) == ["a"]
    assert (catalogs.epoch("p.git"), catalogs.epoch("other.git")) == (3, 0)


async def test_a_purge_on_this_machine_is_seen_at_once(store: FaultyStore, epochs: Epochs) -> None:
    """Bundles of before are named no more, and the catalog is not asked for at each request."""
    catalogs = Catalogs(store, 0.0, epochs)
    old = bundle("a", 1.0)
    await publish(store, old)
    assert await ids(catalogs) == ["a"]
    epochs.raise_to("p.git", 1)
    asked = store.calls["read_document"]
    for _ in range(5):
        assert await ids(catalogs) == []
        assert catalogs.epoch("p.git") == 1
        assert catalogs.readable(old.pack.entity.digest) == frozenset()
    assert store.calls["read_document"] <= asked + 1
    await publish(store, bundle("b", 2.0), epoch=1)
    await catalogs.refresh_all()
    assert await ids(catalogs) == ["b"]
    assert catalogs.epoch("p.git") == 1


async def test_a_catalog_that_is_behind_is_looked_at_again(
    store: FaultyStore, epochs: Epochs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a request too: a purge writes it soon after it has raised the epoch."""
    monkeypatch.setattr(module, "BEHIND", 0.0)
    catalogs = Catalogs(store, 0.0, epochs)
    await publish(store, bundle("a", 1.0))
    await ids(catalogs)
    epochs.raise_to("p.git", 1)
    assert await ids(catalogs) == []
    await publish(store, bundle("b", 2.0), epoch=1)
    assert await ids(catalogs) == ["b"]


async def test_a_purge_on_another_machine(store: FaultyStore, epochs: Epochs) -> None:
    """This one forgets what it has, then knows the epoch; once, and not for its own purges."""
    told: list[tuple[str, int, int]] = []

    async def learned(repository: str, epoch: int) -> None:
        told.append((repository, epoch, epochs.of(repository)))

    catalogs = Catalogs(store, 0.0, epochs, learned)
    await publish(store, bundle("a", 1.0))
    await ids(catalogs)
    await publish(store, bundle("b", 2.0), epoch=2)
    await catalogs.refresh_all()
    assert catalogs.epoch("p.git") == 2
    await asyncio.gather(*catalogs._learning)
    assert told == [("p.git", 2, 0)]
    assert epochs.of("p.git") == 2
    epochs.raise_to("p.git", 3)
    await publish(store, epoch=3)
    await catalogs.refresh_all()
    assert not catalogs._learning
    assert len(told) == 1


async def test_an_epoch_outlives_its_catalog(store: FaultyStore, epochs: Epochs) -> None:
    """A catalog that is made anew from nothing does not bring back what was purged."""
    catalogs = Catalogs(store, 0.0, epochs)
    await publish(store, bundle("a", 1.0), epoch=2)
    await ids(catalogs)
    await asyncio.gather(*catalogs._learning)
    store.inner.documents.clear()  # type: ignore[attr-defined]
    await catalogs.refresh_all()
    assert await ids(catalogs) == []
    assert Catalogs(store, 0.0, epochs).epoch("p.git") == catalogs.epoch("p.git") == 2


# --- a store that is not the one that it was --------------------------------------------


def put(store: FaultyStore, *entities: Entity) -> None:
    """Let the store hold something of their names and sizes."""
    memory = store.inner
    assert isinstance(memory, MemoryStore)
    for entity in entities:
        memory.entities[entity.digest] = bytes(entity.size)
        memory.modified[entity.digest] = 0.0


async def test_what_is_older_than_the_store_is_looked_for(store: FaultyStore) -> None:
    """A bundle counts only if the store has all of it; one that was made long after counts."""
    since = 0.0
    catalogs = Catalogs(store, 0.0, since=lambda: since)
    kept, half = bundle("kept", 1.0), bundle("blobless", 1.0)
    half = replace(half, bundle_file=Entity("f" * 64, 7), bundle_readable=READABLE)
    clones = (clone_bundle("here"), replace(clone_bundle("away"), kind="zstd-v2"))
    await publish(store, kept, half, clone_bundles=clones)
    put(store, kept.pack.entity, half.pack.entity, clones[0].entity)
    assert set(await ids(catalogs)) == {"kept", "blobless"}
    since = 2.0
    catalogs.begin_anew()
    assert catalogs.readable(kept.pack.entity.digest) == frozenset()
    assert await ids(catalogs) == ["kept"]
    assert catalogs.readable(kept.pack.entity.digest)
    assert await catalogs.clone_bundles("p.git") == clones[:1]
    await publish(store, replace(half, created=since + SKEW), kept)
    await catalogs.refresh_all()
    assert await ids(catalogs) == ["blobless", "kept"]


async def test_a_catalog_that_is_read_while_the_store_changes(store: FaultyStore) -> None:
    """It is read again."""
    since = 2.0
    catalogs = Catalogs(store, 0.0, since=lambda: since)
    released = asyncio.Event()
    store.faults["stat"] = Hang(released)
    kept = bundle("kept", 1.0)
    await publish(store, kept)
    put(store, kept.pack.entity)
    asking = asyncio.create_task(ids(catalogs))
    while not store.calls["stat"]:  # noqa: ASYNC110 - it goes on until it asks
        await asyncio.sleep(0)
    catalogs.begin_anew()
    released.set()
    assert await asking == []
    await catalogs.refresh_all()
    assert await ids(catalogs) == ["kept"]


async def test_a_store_that_does_not_say_what_it_has(store: FaultyStore) -> None:
    """Nothing is named before it says so."""
    catalogs = Catalogs(store, 0.0, since=lambda: 2.0)
    kept = bundle("kept", 1.0)
    await publish(store, kept)
    put(store, kept.pack.entity)
    store.faults["stat"] = Fail()
    assert await ids(catalogs) == []
    store.faults.clear()
    await catalogs.refresh_all()
    assert await ids(catalogs) == ["kept"]


async def test_what_was_lost_and_is_put_back(store: FaultyStore) -> None:
    """It is named again, though nobody writes the catalog for that."""
    since = 0.0
    catalogs = Catalogs(store, 0.0, since=lambda: since)
    kept = bundle("kept", 1.0)
    await publish(store, kept)
    put(store, kept.pack.entity)
    assert await ids(catalogs) == ["kept"]
    inner = store.inner
    assert isinstance(inner, MemoryStore)
    inner.entities.clear()
    since = 2.0
    catalogs.begin_anew()
    assert await ids(catalogs) == []
    put(store, kept.pack.entity)
    await catalogs.refresh_all()
    assert await ids(catalogs) == ["kept"]
