# Law of this file: an index is built anew when it is damaged, and not when it cannot be read just
# now; and a process has no more of its files open than it can.

from __future__ import annotations

import asyncio
import errno
import gc
import os
import resource
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from repos.hg import database, generation
from repos.hg import repository as module
from repos.hg.database import IndexBroken, IndexUnreadable, failure_of
from repos.hg.generation import Generation, built, current, locked, open_current
from repos.hg.keeper import Keeper
from repos.hg.repository import HgRepository
from repos.hg.upkeep import measure, remove_vanished
from server.repositories import Repositories, hg_kind
from tests.hg.repositories import empty, linear
from tests.hg.versions import hg
from tests.repos.hg_replay import served, stock

BUSY = sqlite3.SQLITE_BUSY


def failing(code: int | None, message: str = "it failed") -> sqlite3.OperationalError:
    """An error as SQLite raises it."""
    error = sqlite3.OperationalError(message)
    if code is not None:
        error.sqlite_errorcode = code
    return error


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """In this block nothing can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def opened_below(place: Path) -> list[str]:
    """The files below ``place`` that this process has open."""
    found = []
    for each in Path("/proc/self/fd").iterdir():
        try:
            target = str(each.readlink())
        except FileNotFoundError:
            continue  # what the directory was listed with
        if target.startswith(f"{place}/"):
            found.append(target)
    return sorted(found)


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many indexes were built."""
    counted = [0]
    build = Keeper._build

    def counting(self: Keeper, state: object) -> object:
        counted[0] += 1
        return build(self, state)  # type: ignore[arg-type]

    monkeypatch.setattr(Keeper, "_build", counting)
    return counted


@pytest.fixture
def repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, builds: list[int]
) -> Iterator[HgRepository]:
    """A repository that is served; its builds are counted."""
    assert builds == [0]
    monkeypatch.setattr(module, "LOOK_SECONDS", -1.0)
    monkeypatch.setattr(module, "UNREADABLE_SECONDS", 0.0)
    path = linear(hg(), tmp_path / "p")
    for each in path.rglob("*"):  # as if it had not changed for years
        os.utime(each, (1_000_000_000, 1_000_000_000), follow_symlinks=False)
    with ThreadPoolExecutor(2) as executor:
        yield served(path, tmp_path, executor)


def made(directory: Path) -> Generation:
    """An index without changesets."""
    with locked(directory), built(directory) as path:
        db = database.open_new(path)
        database.write_meta(db, "format", database.FORMAT)
        database.seal(db, path)
    found = open_current(directory)
    assert found is not None
    return found


# --- what is damage -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "missing", "broken"),
    [
        (sqlite3.SQLITE_CORRUPT, False, True),
        (sqlite3.SQLITE_CORRUPT_INDEX, False, True),
        (sqlite3.SQLITE_NOTADB, False, True),
        (sqlite3.SQLITE_FORMAT, False, True),
        (sqlite3.SQLITE_ERROR, False, True),
        (sqlite3.SQLITE_MISMATCH, False, True),
        (sqlite3.SQLITE_CONSTRAINT_UNIQUE, False, True),
        (sqlite3.SQLITE_CANTOPEN, True, True),
        (sqlite3.SQLITE_CANTOPEN, False, False),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, False, False),
        (sqlite3.SQLITE_LOCKED, False, False),
        (sqlite3.SQLITE_IOERR_READ, False, False),
        (sqlite3.SQLITE_NOMEM, False, False),
        (sqlite3.SQLITE_FULL, False, False),
        (sqlite3.SQLITE_READONLY, False, False),
        (sqlite3.SQLITE_PERM, False, False),
        (None, False, False),
    ],
)
def test_what_an_error_says(tmp_path: Path, code: int | None, missing: bool, broken: bool) -> None:
    """Only what is wrong with a file's content is damage, and that there is no file."""
    path = tmp_path / "index.sqlite"
    if not missing:
        path.touch()
    failure = failure_of(path, failing(code))
    assert isinstance(failure, IndexBroken if broken else IndexUnreadable)
    assert str(failure) == f"{path}: it failed"


async def test_no_descriptor_is_left(repository: HgRepository, builds: list[int]) -> None:
    """A process that can open no more files says so, and has its index as soon as it can."""
    snapshot = await repository.snapshot()
    assert builds == [1]
    index, keeper = snapshot.index, Keeper(repository.hg, repository.path, repository.data / "own")
    keeper.refresh()
    index.generation.close()  # no connection waits
    with no_descriptor_left():
        with pytest.raises(IndexUnreadable, match="unable to open"):
            list(index.changesets(index.revs))
        with pytest.raises(IndexUnreadable, match="Too many open files"):
            current(repository.index_directory)
        with pytest.raises(IndexUnreadable, match="Too many open files"):
            measure(repository.index_directory)
        with pytest.raises(OSError, match="Too many open files"):
            keeper.refresh()
        with pytest.raises(IndexUnreadable, match="Too many open files"):
            await repository.renewed(snapshot)
    assert len(list(index.changesets(index.revs))) == index.count
    assert (await repository.snapshot()).epoch == snapshot.epoch
    assert builds == [2]  # the one of each


async def test_an_index_that_is_busy(
    repository: HgRepository, builds: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All who wait for an index that cannot be read now are told; it stays, and is read later."""
    snapshot = await repository.snapshot()
    name = current(repository.index_directory)
    fresh = served(repository.path.parent, repository.data.parent, repository.executor)
    with monkeypatch.context() as patched:
        tries = []

        def busy(path: Path) -> sqlite3.Connection:
            tries.append(path)
            raise failing(BUSY, "database is locked")

        patched.setattr(generation, "open_to_read", busy)
        told = await asyncio.gather(*(fresh.snapshot() for _ in range(4)), return_exceptions=True)
        assert [type(each) for each in told] == [IndexUnreadable] * 4
        assert len(tries) == 2  # of the first, and of all who came after it
        assert remove_vanished(repository.data) == ()
    assert (await fresh.snapshot()).digest == snapshot.digest
    assert current(repository.index_directory) == name
    assert builds == [1]


async def test_an_index_that_cannot_grow(
    repository: HgRepository, builds: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change that cannot be noted now is noted later, in the same index."""
    before = await repository.snapshot()
    (repository.path / "localtags").write_text(f"{before.heads[0].hex()} here\n")

    def busy(_path: Path) -> sqlite3.Connection:
        raise failing(BUSY, "database is locked")

    with monkeypatch.context() as patched:
        patched.setattr(database, "open_to_grow", busy)
        with pytest.raises(IndexUnreadable, match="database is locked"):
            await repository.snapshot()
    after = await repository.snapshot()
    assert (after.epoch, after.digest == before.digest) == (before.epoch, False)
    assert builds == [1]


@pytest.mark.parametrize("damage", ["table", "pages", "gone"])
async def test_damage(repository: HgRepository, builds: list[int], damage: str) -> None:
    """An index without its tables, with broken pages or without its file is built anew, once."""
    before = await repository.snapshot()
    generation = before.index.generation
    generation.close()
    if damage == "table":
        db = database.open_to_grow(generation.path)
        db.execute("DROP TABLE changeset")
        db.close()
    elif damage == "pages":
        generation.path.write_bytes(generation.path.read_bytes()[:8192] + b"\xff" * 200_000)
    else:
        generation.path.unlink()
    with pytest.raises(IndexBroken):
        list(before.index.changesets(before.index.revs))
    after = await repository.renewed(before, broken=True)
    assert len(list(after.index.changesets(after.index.revs))) == before.index.count
    assert after.epoch != before.epoch
    assert builds == [2]


async def test_what_is_broken_is_not_forgotten_about(
    repository: HgRepository, builds: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That an index is damaged is still known when it could not be built anew at first."""
    before = await repository.snapshot()

    def locked_out(_directory: Path) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patched:
        patched.setattr("repos.hg.keeper.locked", locked_out)
        with pytest.raises(IndexUnreadable, match="Too many open files"):
            await repository.renewed(before, broken=True)
    assert (await repository.snapshot()).epoch != before.epoch
    assert builds == [2]


def test_what_cannot_be_looked_at_is_not_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older index that may be open is not removed when nobody can tell whether it is."""
    first = made(tmp_path)
    open_file = os.open

    def failing_open(path: str | Path, *args: int, **more: int) -> int:
        if str(path) in hidden:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return open_file(path, *args, **more)

    made(tmp_path).close()
    hidden = {str(first.path.with_name("open"))}
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", failing_open)
        with locked(tmp_path), built(tmp_path) as path:
            path.touch()
        hidden.add(str(path.with_name("open")))
        with locked(tmp_path), pytest.raises(IndexUnreadable, match="Too many open files"):
            open_current(tmp_path)
    first.close()
    assert first.path.exists()
    made(tmp_path).close()
    assert not first.path.exists()


@pytest.mark.parametrize("name", ["", "../elsewhere", "a" * 5000, "a\0b", "é"])
def test_a_name_that_is_none(tmp_path: Path, name: str) -> None:
    """Where no index can lie there is none, and a new one can be made."""
    (tmp_path / "current").write_text(name, "utf-8")
    assert open_current(tmp_path) is None
    made(tmp_path).close()


# --- how much is open ---------------------------------------------------------------------------


def test_connections_are_closed_least_recently_used_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many indexes only those that were read last have connections open."""
    monkeypatch.setattr(generation, "KEPT_CONNECTIONS", 2)
    directories = [tmp_path / str(number) for number in range(4)]
    opened = [made(directory) for directory in directories]

    def connected() -> list[int]:
        paths = {path for path in opened_below(tmp_path) if path.endswith("/index.sqlite")}
        return [at for at, each in enumerate(opened) if str(each.path) in paths]

    def read(at: int) -> None:
        with opened[at].reading() as db:
            database.read_meta(db, "format")

    assert connected() == [2, 3]
    read(2)
    read(0)
    assert connected() == [0, 2]
    with opened[1].reading() as one, opened[1].reading() as other:
        assert one is not other
        assert connected() == [0, 1, 2]
    assert connected() == [1]
    opened[1].close()
    assert connected() == []
    for each in opened:
        each.close()
    assert opened_below(tmp_path) == []


def test_a_connection_is_used_again(tmp_path: Path) -> None:
    """A reader gets the connection of the one before; after an error, a new one."""
    opened = made(tmp_path)

    def connection(fails: Callable[[], None] = lambda: None) -> int:
        with opened.reading() as db:
            known.append(db)
            fails()
        return id(db)

    def fails() -> None:
        raise failing(sqlite3.SQLITE_IOERR, "disk I/O error")

    known: list[sqlite3.Connection] = []
    first = connection()
    assert connection() == first
    with pytest.raises(IndexUnreadable, match="disk I/O error"):
        connection(fails)
    assert connection() != first
    opened.close()


async def test_many_repositories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks all repositories once leaves few of their files open."""
    monkeypatch.setattr(generation, "KEPT_CONNECTIONS", 1)
    root, data = tmp_path / "root", tmp_path / "data"
    root.mkdir()
    empty(hg(), root / "0")
    for number in range(1, 5):
        shutil.copytree(root / "0", root / str(number))
    with ThreadPoolExecutor(2) as executor:
        kind = hg_kind(stock(tmp_path), executor, data)
        assert kind.kept < 1000
        repositories = Repositories(root, replace(kind, kept=2))
        for number in (0, 1, 2, 3, 0, 4):
            found = repositories.get(str(number))
            assert found is not None
            assert (await found.snapshot()).index.count == 0
        last = [repositories.get(str(number)) for number in (0, 4)]
        assert last[1] is found
        del found
        gc.collect()
        opened = opened_below(data)
        kept = {each.index_directory for each in last if each is not None}
        assert {Path(path).parents[1] for path in opened} == kept
        assert sum(path.endswith("/open") for path in opened) == 2
        assert sum(path.endswith("/index.sqlite") for path in opened) == 1
