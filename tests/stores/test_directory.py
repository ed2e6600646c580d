# Law of this file: what only a directory can do wrong: modes, crashes, full disks, other processes.

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from stores import directory
from stores.base import Corrupt, Missing, StoreUnavailable
from stores.directory import DirectoryStore
from stores.entity import Entity

MakeFile = Callable[[bytes], tuple[Entity, Path]]

# Puts, but stops for ever in the function named: half a copy is written, or nothing is renamed.
PUT_AND_HANG = """
import asyncio, os, shutil, sys, threading
from pathlib import Path
from stores.directory import DirectoryStore
from stores.entity import Entity

root, source, digest, size, where = sys.argv[1:]

def hang(*_):
    print("there", flush=True)
    threading.Event().wait()

def no_link(path, staged):
    raise OSError(18, "Invalid cross-device link")

def half_a_copy(path, staged):
    Path(staged).write_bytes(Path(path).read_bytes()[: int(size) // 2])
    hang()

if where == "copy":
    os.link = no_link
    shutil.copyfile = half_a_copy
else:
    setattr(os, where, hang)
asyncio.run(DirectoryStore(Path(root)).put(Entity(digest, int(size)), Path(source)))
"""

# Adds one to a document, again and again, against others who do the same.
COUNT = """
import asyncio, sys
from pathlib import Path
from stores.base import Conflict
from stores.directory import DirectoryStore

async def main():
    store = DirectoryStore(Path(sys.argv[1]))
    done = 0
    while done < int(sys.argv[2]):
        found = await store.read_document("count")
        body = b"%d" % (int(found.body) + 1 if found else 1)
        try:
            await store.write_document("count", body, found and found.version)
        except Conflict:
            continue
        done += 1

asyncio.run(main())
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where the store is; not there yet."""
    return tmp_path / "deep" / "store"


@pytest.fixture
async def store(root: Path) -> AsyncIterator[DirectoryStore]:
    """A store."""
    made = DirectoryStore(root)
    yield made
    await made.close()


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every source is on another file system."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)


@pytest.fixture
def strict_umask() -> Iterator[None]:
    """A process that shares nothing unless it says so."""
    before = os.umask(0o077)
    yield
    os.umask(before)


async def listed(store: DirectoryStore) -> set[str]:
    """The digests that ``list`` yields."""
    return {stored.digest async for stored in store.list()}


async def read(store: DirectoryStore, digest: str) -> bytes:
    """The bytes that ``open`` yields."""
    return b"".join([chunk async for chunk in store.open(digest)])


def files_below(path: Path) -> set[str]:
    """Every file, relative."""
    return {str(file.relative_to(path)) for file in path.rglob("*") if not file.is_dir()}


class TestLayout:
    async def test_a_static_server_can_serve_it(
        self, store: DirectoryStore, root: Path, make_file: MakeFile, strict_umask: None
    ) -> None:
        """Files have mode 0644, directories 0755, whatever the umask and the source's mode."""
        entity, path = make_file(b"content")
        path.chmod(0o600)
        await store.put(entity, path)
        await store.write_document("catalogs/a.json", b"{}", None)
        assert files_below(root) - {"documents.lock"} == {
            f"entities/{entity.digest[:2]}/{entity.digest}",
            "documents/catalogs/a.json",
        }
        for top in (root / "entities", root / "documents"):
            for found in (root, top, *top.rglob("*")):
                assert found.stat().st_mode & 0o777 == (0o755 if found.is_dir() else 0o644)

    async def test_a_source_on_the_same_file_system_is_linked(
        self, store: DirectoryStore, make_file: MakeFile
    ) -> None:
        """The cache's file and the store's are one body on disk."""
        entity, path = make_file(b"content")
        await store.put(entity, path)
        local = store.local_path(entity.digest)
        assert local is not None
        assert local.samefile(path)

    async def test_a_source_on_another_file_system_is_copied(
        self, store: DirectoryStore, root: Path, make_file: MakeFile, no_links: None
    ) -> None:
        """Nothing temporary is left of it."""
        entity, path = make_file(b"content")
        await store.put(entity, path)
        local = store.local_path(entity.digest)
        assert local is not None
        assert not local.samefile(path)
        assert await read(store, entity.digest) == b"content"
        assert list((root / "incoming").iterdir()) == []

    async def test_a_source_of_somebody_else_is_copied(
        self, store: DirectoryStore, make_file: MakeFile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """We could set neither its mode nor its times."""
        entity, path = make_file(b"content")
        monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
        await store.put(entity, path)
        assert path.stat().st_nlink == 1

    async def test_foreign_files_are_not_entities(
        self, store: DirectoryStore, root: Path, make_file: MakeFile
    ) -> None:
        """List and stat see complete entities in their places, and nothing else."""
        entity, path = make_file(b"content")
        await store.put(entity, path)
        shard = root / "entities" / entity.digest[:2]
        other = "0" * 64 if entity.digest[0] != "0" else "1" * 64
        (shard / other).write_bytes(b"in the wrong shard")
        (shard / (entity.digest + ".tmp")).write_bytes(b"")
        (root / "entities" / "README").write_bytes(b"")
        directory_named_like_one = root / "entities" / other[:2] / other
        directory_named_like_one.mkdir(parents=True)
        assert await listed(store) == {entity.digest}
        assert await store.stat(other) is None
        assert store.local_path(other) is None

    async def test_only_stale_temporary_files_are_removed(
        self, store: DirectoryStore, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What a crash left is removed by a list a day later, even if it is a link to older."""
        incoming = root / "incoming"
        incoming.mkdir(parents=True)
        (incoming / "left").write_bytes(b"half")
        os.utime(incoming / "left", (0, 0))
        await listed(store)
        assert files_below(incoming) == {"left"}
        monkeypatch.setattr(directory, "_STALE_AFTER", -1.0)
        await listed(store)
        assert files_below(incoming) == set()

    async def test_a_document_is_no_folder(self, store: DirectoryStore) -> None:
        """Where one name is needed for both, the write is refused and says where."""
        await store.write_document("a", b"1", None)
        await store.write_document("b/c", b"2", None)
        for name in ("a/b", "b"):
            with pytest.raises(StoreUnavailable, match=f"document {name}"):
                await store.write_document(name, b"3", None)
        found = await store.read_document("a")
        assert found is not None
        assert found.body == b"1"

    async def test_a_reader_outlives_a_deletion(
        self, store: DirectoryStore, make_file: MakeFile
    ) -> None:
        """Who has begun to read reads to the end."""
        content = b"x" * (3 << 20)
        entity, path = make_file(content)
        await store.put(entity, path)
        chunks = store.open(entity.digest)
        first = await anext(chunks)
        await store.delete(entity.digest)
        assert first + b"".join([chunk async for chunk in chunks]) == content
        with pytest.raises(Missing):
            await anext(store.open(entity.digest))


class TestDurability:
    async def test_the_file_is_synced_before_its_name(
        self,
        store: DirectoryStore,
        root: Path,
        make_file: MakeFile,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """File, rename, directory, in this order, and each new directory in its parent."""
        did: list[str] = []
        fsync, replace = os.fsync, os.replace

        def note_fsync(descriptor: int) -> None:
            did.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().parent.name}/")
            fsync(descriptor)

        def note_replace(source: Path, target: Path) -> None:
            did.append("rename")
            replace(source, target)

        entity, path = make_file(b"content")
        await store.put(entity, path)
        await store.delete(entity.digest)
        monkeypatch.setattr(os, "fsync", note_fsync)
        monkeypatch.setattr(os, "replace", note_replace)
        await store.put(entity, path)
        assert did == ["sync incoming/", "rename", "sync entities/"]
        did.clear()
        await store.write_document("a/b", b"", None)
        made = [f"sync {root.parent.name}/", f"sync {root.name}/"]
        assert did == [*made, "sync incoming/", "rename", "sync documents/"]

    @pytest.mark.parametrize("where", ["copy", "fsync", "replace"])
    async def test_a_killed_process_leaves_nothing_visible(
        self, store: DirectoryStore, root: Path, make_file: MakeFile, where: str
    ) -> None:
        """Killed with half a copy, before the sync, before the rename; a new put succeeds."""
        entity, path = make_file(b"some content")
        arguments = [str(root), str(path), entity.digest, str(entity.size), where]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PUT_AND_HANG, *arguments, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"there\n"
        assert await listed(store) == set()
        process.kill()
        await process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert await listed(store) == set()
        assert await store.stat(entity.digest) is None
        assert store.local_path(entity.digest) is None
        await store.put(entity, path)
        assert await read(store, entity.digest) == b"some content"

    @pytest.mark.usefixtures("no_links")
    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS])
    @pytest.mark.parametrize("call", ["copyfile", "utime", "fsync", "replace"])
    async def test_a_disk_that_refuses_is_unavailable(
        self,
        store: DirectoryStore,
        root: Path,
        make_file: MakeFile,
        call: str,
        code: int,
    ) -> None:
        """Full, broken, forbidden, read-only: the error names it, and nothing is left behind."""

        def refuse(source: object, target: object = None, *_: object) -> None:
            if call == "copyfile":
                Path(str(target)).write_bytes(b"ha")
            raise OSError(code, os.strerror(code))

        entity, path = make_file(b"content")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shutil if call == "copyfile" else os, call, refuse)
            with pytest.raises(StoreUnavailable, match=os.strerror(code)) as raised:
                await store.put(entity, path)
        assert str(root) in str(raised.value)
        assert await listed(store) == set()
        assert files_below(root) == set()
        await store.put(entity, path)
        assert await listed(store) == {entity.digest}

    @pytest.mark.parametrize("call", ["fsync", "replace"])
    async def test_a_refused_document_stays_as_it_was(
        self, store: DirectoryStore, root: Path, call: str
    ) -> None:
        """A full disk loses no catalog."""

        def refuse(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        version = await store.write_document("a", b"1", None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, call, refuse)
            with pytest.raises(StoreUnavailable, match="No space left"):
                await store.write_document("a", b"2", version)
        found = await store.read_document("a")
        assert found is not None
        assert (found.body, found.version) == (b"1", version)
        assert files_below(root / "incoming") == set()

    async def test_a_forbidden_directory_is_unavailable(
        self, store: DirectoryStore, make_file: MakeFile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing is taken for missing because it may not be looked at."""

        def refuse(path: Path, *_: object, **__: object) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

        entity, path = make_file(b"content")
        await store.put(entity, path)
        for call in ("stat", "open", "iterdir", "read_bytes", "unlink"):
            monkeypatch.setattr(Path, call, refuse)
        with pytest.raises(StoreUnavailable, match="Permission denied"):
            await store.stat(entity.digest)
        with pytest.raises(StoreUnavailable, match="Permission denied"):
            await anext(store.open(entity.digest))
        with pytest.raises(StoreUnavailable, match="Permission denied"):
            await anext(store.list())
        with pytest.raises(StoreUnavailable, match="Permission denied"):
            await store.delete(entity.digest)
        with pytest.raises(StoreUnavailable, match="Permission denied"):
            await store.read_document("a")

    async def test_a_file_in_the_way_is_unavailable(self, root: Path, make_file: MakeFile) -> None:
        """A root that is a file is said to be one."""
        root.parent.mkdir()
        root.write_bytes(b"")
        store = DirectoryStore(root)
        entity, path = make_file(b"content")
        with pytest.raises(StoreUnavailable, match=str(root)):
            await store.put(entity, path)
        await store.close()

    async def test_a_wrong_copy_is_refused(
        self,
        store: DirectoryStore,
        root: Path,
        make_file: MakeFile,
        no_links: None,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """What is verified is the copy, not only its source."""

        def miscopy(source: Path, target: Path) -> None:
            target.write_bytes(source.read_bytes()[:-1] + b"!")

        monkeypatch.setattr(shutil, "copyfile", miscopy)
        entity, path = make_file(b"content")
        with pytest.raises(Corrupt, match=path.name):
            await store.put(entity, path)
        assert files_below(root) == set()

    async def test_processes_do_not_lose_updates(self, store: DirectoryStore, root: Path) -> None:
        """Three processes that add one twenty times each make sixty."""
        counters = [
            await asyncio.create_subprocess_exec(sys.executable, "-c", COUNT, str(root), "20")
            for _ in range(3)
        ]
        assert [await counter.wait() for counter in counters] == [0, 0, 0]
        found = await store.read_document("count")
        assert found is not None
        assert found.body == b"60"


async def test_the_end_of_a_mount_that_hangs_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever closes the store goes on, though one of its threads does not."""
    monkeypatch.setattr(directory, "_CLOSE_SECONDS", 0.0)
    began, goes_on = threading.Event(), threading.Event()
    store = DirectoryStore(tmp_path / "store")

    def hang() -> None:
        began.set()
        goes_on.wait()

    hanging = asyncio.create_task(store._run(hang))
    await asyncio.to_thread(began.wait)
    await store.close()
    assert not hanging.done()
    goes_on.set()
    await hanging
