# Law of this file: every promise of stores.base.Store, kept by every store.

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from stores.base import Conflict, Corrupt, Document, Missing, Store, Stored
from stores.entity import Entity

MakeFile = Callable[[bytes], tuple[Entity, Path]]
Put = Callable[[bytes], Awaitable[Entity]]

UNKNOWN = "ab" * 32
LARGE = random.Random(1).randbytes(11 << 20)

UNUSUAL_NAMES = [
    "a",
    "catalogs/group/project.json",
    "catalogs/group%2Fproject.json",
    "catalogs/100%25.json",
    "catalogs/a+b c.json",
    "catalogs/?query#fragment&x=y;z",
    "catalogs/grüße/世界.json",
    "catalogs/.hidden/...",
    "documents/entities",
    ".lock",
    "'quoted'/\"twice\"/<tag>",
    "s" * 255,
]
IMPOSSIBLE_NAMES = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "a/../b",
    "a/./b",
    "a\\b",
    "a\0b",
    "\ud800",
    "s" * 256,
    "/".join(["s" * 200] * 5),
]


async def read(store: Store, digest: str, start: int = 0, end: int | None = None) -> bytes:
    """The bytes that ``open`` yields."""
    return b"".join([chunk async for chunk in store.open(digest, start, end)])


async def listed(store: Store) -> dict[str, Stored]:
    """What ``list`` yields, by digest."""
    return {stored.digest: stored async for stored in store.list()}


async def document_names(store: Store, prefix: str = "") -> set[str]:
    """What ``list_documents`` yields."""
    return {name async for name in store.list_documents(prefix)}


class TestEntities:
    async def test_what_was_put_can_be_read(self, store: Store, put: Put) -> None:
        """The content comes back as it was."""
        entity = await put(b"some content")
        assert await read(store, entity.digest) == b"some content"

    async def test_what_was_put_is_known_with_its_size(self, store: Store, put: Put) -> None:
        """Stat tells digest and size."""
        entity = await put(b"some content")
        found = await store.stat(entity.digest)
        assert found is not None
        assert (found.digest, found.size) == (entity.digest, 12)

    async def test_the_empty_entity_is_an_entity(self, store: Store, put: Put) -> None:
        """No bytes can be stored and read back."""
        entity = await put(b"")
        assert await read(store, entity.digest) == b""
        assert await read(store, entity.digest, 5) == b""
        assert set(await listed(store)) == {entity.digest}

    async def test_a_large_entity_comes_in_chunks(self, store: Store, put: Put) -> None:
        """11 MiB (three parts, where there are parts) are yielded 1 MiB at a time at most."""
        entity = await put(LARGE)
        chunks = [chunk async for chunk in store.open(entity.digest)]
        assert b"".join(chunks) == LARGE
        assert max(map(len, chunks)) <= 1 << 20
        found = await store.stat(entity.digest)
        assert found is not None
        assert found.size == len(LARGE)

    @pytest.mark.parametrize(
        ("start", "end"),
        [(0, None), (0, 100), (3, None), (3, 7), (3, 4), (99, 100), (99, 500), (0, 500)],
    )
    async def test_a_range_is_what_it_says(
        self, store: Store, put: Put, start: int, end: int | None
    ) -> None:
        """The bytes start <= i < end, as far as there are any."""
        content = bytes(range(100))
        entity = await put(content)
        assert await read(store, entity.digest, start, end) == content[start:end]

    @pytest.mark.parametrize(
        ("start", "end"), [(0, 0), (5, 5), (7, 3), (100, None), (100, 200), (1000, None)]
    )
    async def test_an_empty_range_yields_nothing(
        self, store: Store, put: Put, start: int, end: int | None
    ) -> None:
        """Not even an empty chunk."""
        entity = await put(bytes(100))
        assert [chunk async for chunk in store.open(entity.digest, start, end)] == []

    @pytest.mark.parametrize(("start", "end"), [(0, None), (0, 0), (5, 10), (10, 5), (7, None)])
    async def test_a_missing_entity_is_missing(
        self, store: Store, put: Put, start: int, end: int | None
    ) -> None:
        """Open says so on its first step, whatever the range; stat says None."""
        await put(b"another one")
        with pytest.raises(Missing, match=UNKNOWN):
            await anext(store.open(UNKNOWN, start, end))
        assert await store.stat(UNKNOWN) is None

    @pytest.mark.parametrize(("start", "end"), [(-1, None), (0, -1), (-5, -2)])
    async def test_a_negative_range_is_refused(
        self, store: Store, put: Put, start: int, end: int
    ) -> None:
        """Positions do not count from the end."""
        entity = await put(b"content")
        with pytest.raises(ValueError, match="negative"):
            await anext(store.open(entity.digest, start, end))

    @pytest.mark.parametrize("digest", ["", "..", "ab" * 31, "AB" * 32, "../../../etc/passwd"])
    async def test_only_digests_are_names(self, store: Store, digest: str) -> None:
        """Nothing else leads into a store, let alone out of it."""
        for call in (store.stat(digest), store.delete(digest), anext(store.open(digest))):
            with pytest.raises(ValueError, match="not a SHA-256"):
                await call
        with pytest.raises(ValueError, match="not a SHA-256"):
            store.local_path(digest)

    async def test_a_reader_may_go_away(self, store: Store, put: Put) -> None:
        """An abandoned iterator disturbs nobody."""
        entity = await put(LARGE)
        for _ in range(3):
            async with aclosing(store.open(entity.digest)) as chunks:
                await anext(chunks)
        assert await read(store, entity.digest, 0, 5) == LARGE[:5]

    async def test_a_cancelled_reader_disturbs_nobody(self, store: Store, put: Put) -> None:
        """Cancellation in the midst of a read leaves the entity readable."""
        entity = await put(LARGE)
        reading = asyncio.create_task(read(store, entity.digest))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        assert await read(store, entity.digest, 0, 5) == LARGE[:5]

    async def test_a_local_path_is_a_file_with_the_content(self, store: Store, put: Put) -> None:
        """Where there are files; and never for what is not there."""
        entity = await put(b"some content")
        path = store.local_path(entity.digest)
        assert path is None or path.read_bytes() == b"some content"
        assert store.local_path(UNKNOWN) is None


class TestPut:
    @pytest.mark.parametrize("claim", [b"other content", b"longer than the file", b""])
    async def test_wrong_content_is_refused(
        self, store: Store, make_file: MakeFile, claim: bytes
    ) -> None:
        """Of the promised size or not: Corrupt, and nothing is visible."""
        _, path = make_file(b"given content")
        promised = Entity(hashlib.sha256(claim).hexdigest(), len(claim))
        with pytest.raises(Corrupt, match=promised.digest):
            await store.put(promised, path)
        assert await store.stat(promised.digest) is None
        assert await listed(store) == {}

    async def test_wrong_content_is_refused_of_what_is_there(
        self, store: Store, put: Put, make_file: MakeFile
    ) -> None:
        """The check does not depend on whether there is anything to write."""
        entity = await put(b"given content")
        _, path = make_file(b"other content")
        with pytest.raises(Corrupt):
            await store.put(entity, path)
        assert await read(store, entity.digest) == b"given content"

    async def test_wrong_content_of_several_parts_is_refused(
        self, store: Store, make_file: MakeFile
    ) -> None:
        """One wrong bit at the end of 11 MiB is found."""
        entity, _ = make_file(LARGE)
        _, path = make_file(LARGE[:-1] + bytes([LARGE[-1] ^ 1]))
        with pytest.raises(Corrupt):
            await store.put(entity, path)
        assert await listed(store) == {}

    async def test_a_file_that_is_not_there_is_no_entity(
        self, store: Store, tmp_path: Path
    ) -> None:
        """A missing file, or a directory, does not hold what was promised."""
        for path in (tmp_path / "absent", tmp_path):
            with pytest.raises(Corrupt, match="no such file"):
                await store.put(Entity(UNKNOWN, 0), path)

    async def test_the_given_file_stays(self, store: Store, make_file: MakeFile) -> None:
        """It is its owner's, who may delete it as soon as put is done."""
        entity, path = make_file(b"some content")
        await store.put(entity, path)
        assert path.read_bytes() == b"some content"
        path.unlink()
        assert await read(store, entity.digest) == b"some content"

    async def test_a_symbolic_link_is_followed(
        self, store: Store, make_file: MakeFile, tmp_path: Path
    ) -> None:
        """What is stored is the content, not the link."""
        entity, path = make_file(b"some content")
        link = tmp_path / "link"
        link.symlink_to(path)
        await store.put(entity, link)
        link.unlink()
        path.unlink()
        assert await read(store, entity.digest) == b"some content"

    async def test_a_second_put_renews_the_age(
        self, store: Store, put: Put, age: Callable[[str, float], None]
    ) -> None:
        """The age starts anew, and the content stays."""
        entity = await put(b"some content")
        fresh = await store.stat(entity.digest)
        age(entity.digest, 7200.0)
        old = await store.stat(entity.digest)
        await put(b"some content")
        renewed = await store.stat(entity.digest)
        assert fresh is not None
        assert old is not None
        assert renewed is not None
        assert old.modified == pytest.approx(fresh.modified - 7200, abs=2)
        assert renewed.modified >= fresh.modified - 1
        assert await read(store, entity.digest) == b"some content"

    async def test_what_was_cut_short_is_replaced(
        self, store: Store, put: Put, damage: Callable[[str], None]
    ) -> None:
        """An entity of the wrong size is not taken for what it should be."""
        entity = await put(b"some content")
        damage(entity.digest)
        await put(b"some content")
        assert await read(store, entity.digest) == b"some content"

    async def test_concurrent_puts_of_one_entity_are_harmless(
        self, store: Store, make_file: MakeFile
    ) -> None:
        """Ten from files of their own, ten from one file: all succeed, one entity is there."""
        content = b"some content" * 1000
        entity, shared = make_file(content)
        paths = [make_file(content)[1] for _ in range(10)] + [shared] * 10
        await asyncio.gather(*(store.put(entity, path) for path in paths))
        assert await read(store, entity.digest) == content
        assert set(await listed(store)) == {entity.digest}

    async def test_concurrent_puts_of_one_large_entity_are_harmless(
        self, store: Store, make_file: MakeFile
    ) -> None:
        """Also where it is sent in parts."""
        entity, path = make_file(LARGE)
        await asyncio.gather(*(store.put(entity, path) for _ in range(3)))
        assert await read(store, entity.digest) == LARGE


class TestListAndDelete:
    async def test_a_new_store_is_empty(self, store: Store) -> None:
        """No entities, no documents, and no error."""
        assert await listed(store) == {}
        assert await document_names(store) == set()

    async def test_every_entity_is_listed_as_stat_says(self, store: Store, put: Put) -> None:
        """Documents are not."""
        entities = [await put(b"%d" % number) for number in range(20)]
        await store.write_document(f"entities/{UNKNOWN}", b"", None)
        found = await listed(store)
        assert set(found) == {entity.digest for entity in entities}
        for entity in entities:
            assert found[entity.digest].size == entity.size
            stat = await store.stat(entity.digest)
            assert stat is not None
            assert found[entity.digest].modified == pytest.approx(stat.modified, abs=1)

    async def test_what_is_deleted_is_gone(self, store: Store, put: Put) -> None:
        """Only that, and it can be put again."""
        gone, kept = await put(b"gone"), await put(b"kept")
        await store.delete(gone.digest)
        assert await store.stat(gone.digest) is None
        assert set(await listed(store)) == {kept.digest}
        with pytest.raises(Missing):
            await anext(store.open(gone.digest))
        await put(b"gone")
        assert await read(store, gone.digest) == b"gone"

    async def test_deleting_what_is_not_there_is_no_error(self, store: Store, put: Put) -> None:
        """Neither in an empty store nor twice."""
        await store.delete(UNKNOWN)
        entity = await put(b"content")
        await store.delete(entity.digest)
        await store.delete(entity.digest)

    async def test_deleting_during_a_list_is_no_error(self, store: Store, put: Put) -> None:
        """The collector of garbage does just that."""
        for number in range(10):
            await put(b"%d" % number)
        async for stored in store.list():
            await store.delete(stored.digest)
        assert await listed(store) == {}


class TestDocuments:
    async def test_an_unwritten_document_is_none(self, store: Store) -> None:
        """Also below a name that is a document itself."""
        assert await store.read_document("catalogs/a") is None
        await store.write_document("catalogs", b"1", None)
        assert await store.read_document("catalogs/a") is None

    async def test_the_folder_of_a_document_is_none(self, store: Store) -> None:
        """Names are names, not paths."""
        await store.write_document("catalogs/a", b"1", None)
        assert await store.read_document("catalogs") is None

    @pytest.mark.parametrize("body", [b"", b"{}\n", bytes(range(256)) * 5000])
    async def test_what_was_written_is_read(self, store: Store, body: bytes) -> None:
        """With the version that the write returned."""
        version = await store.write_document("catalogs/a", body, None)
        assert await store.read_document("catalogs/a") == Document(body, version)

    async def test_a_replacement_names_the_version_it_replaces(self, store: Store) -> None:
        """The new body is there under a new version."""
        first = await store.write_document("a", b"1", None)
        second = await store.write_document("a", b"2", first)
        assert second != first
        assert await store.read_document("a") == Document(b"2", second)

    async def test_a_conflict_changes_nothing(self, store: Store) -> None:
        """Creating what exists, replacing what is not, or is no more, at that version."""
        first = await store.write_document("a", b"1", None)
        second = await store.write_document("a", b"2", first)
        for name, expect in [("a", None), ("a", first), ("b", first)]:
            with pytest.raises(Conflict, match=name):
                await store.write_document(name, b"3", expect)
        assert await store.read_document("a") == Document(b"2", second)
        assert await document_names(store) == {"a"}

    async def test_one_of_twenty_writers_wins_each_version(self, store: Store) -> None:
        """Three rounds of twenty at once, each on the version of the round before."""
        version: str | None = None
        for round_ in range(3):
            bodies = [b"%d-%d" % (round_, writer) for writer in range(20)]
            outcomes = await asyncio.gather(
                *(store.write_document("a", body, version) for body in bodies),
                return_exceptions=True,
            )
            won = [at for at, outcome in enumerate(outcomes) if isinstance(outcome, str)]
            lost = [outcome for outcome in outcomes if isinstance(outcome, Conflict)]
            assert (len(won), len(lost)) == (1, 19)
            version = outcomes[won[0]]
            assert await store.read_document("a") == Document(bodies[won[0]], version)

    async def test_no_update_is_lost(self, store: Store) -> None:
        """Ten writers who each add one, trying again after a conflict, make ten."""

        async def add_one() -> None:
            while True:
                found = await store.read_document("count")
                body = b"%d" % (int(found.body) + 1 if found else 1)
                try:
                    await store.write_document("count", body, found and found.version)
                except Conflict:
                    continue
                return

        await asyncio.gather(*(add_one() for _ in range(10)))
        found = await store.read_document("count")
        assert found is not None
        assert found.body == b"10"

    async def test_unusual_names_are_names(self, store: Store) -> None:
        """Each is its own document, and is listed as it was written."""
        for name in UNUSUAL_NAMES:
            await store.write_document(name, name.encode(), None)
        for name in UNUSUAL_NAMES:
            found = await store.read_document(name)
            assert found is not None
            assert found.body == name.encode()
        assert await document_names(store) == set(UNUSUAL_NAMES)

    @pytest.mark.parametrize("name", IMPOSSIBLE_NAMES)
    async def test_impossible_names_are_refused(self, store: Store, name: str) -> None:
        """What would lead out of the store, or be another name for the same, is no name."""
        with pytest.raises(ValueError, match="cannot name a document"):
            await store.read_document(name)
        with pytest.raises(ValueError, match="cannot name a document"):
            await store.write_document(name, b"", None)
        with pytest.raises(ValueError, match="cannot name a document"):
            await store.delete_document(name)

    async def test_a_deleted_document_is_gone(self, store: Store, put: Put) -> None:
        """Only that one, at whatever version, and it can be created again."""
        entity = await put(b"content")
        version = await store.write_document("owned/a/b", b"1", None)
        await store.write_document("owned/a/b", b"2", version)
        await store.write_document("owned/a/c", b"3", None)
        await store.delete_document("owned/a/b")
        assert await store.read_document("owned/a/b") is None
        assert await document_names(store) == {"owned/a/c"}
        with pytest.raises(Conflict):
            await store.write_document("owned/a/b", b"4", version)
        await store.write_document("owned/a/b", b"5", None)
        assert await read(store, entity.digest) == b"content"

    async def test_deleting_an_absent_document_is_no_error(self, store: Store) -> None:
        """Not in an empty store, not twice, not above or below what is there."""
        await store.delete_document("owned/a")
        await store.write_document("owned/a/b", b"1", None)
        for name in ("owned/a", "owned", "owned/a/b/c", "owned/x"):
            await store.delete_document(name)
        assert await document_names(store) == {"owned/a/b"}
        await store.delete_document("owned/a/b")
        await store.delete_document("owned/a/b")
        assert await document_names(store) == set()

    async def test_documents_are_listed_by_prefix(self, store: Store, put: Put) -> None:
        """The beginning of the name, wherever its slashes are; entities are not documents."""
        names = {"catalogs/a", "catalogs/ab/c", "catalogs/b", "cat", "records/a"}
        for name in names:
            await store.write_document(name, b"", None)
        await put(b"content")
        for prefix in ["", "c", "cat", "catalogs", "catalogs/", "catalogs/a", "catalogs/ab/c"]:
            expected = {name for name in names if name.startswith(prefix)}
            assert await document_names(store, prefix) == expected
        for prefix in ["x", "/", "../", "catalogs//", "catalogs/ab/c/"]:
            assert await document_names(store, prefix) == set()


async def test_a_store_says_who_it_is(store: Store) -> None:
    """Its name is for messages: short, one line, and without secrets."""
    assert store.name
    assert "hush" not in store.name
    assert "\n" not in store.name
