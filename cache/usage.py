# Law of this file: the file system is the truth. The index only remembers sizes and last use, so
# that eviction need not walk the disk; lost or damaged, it is made again from a walk. What is in
# use is not evicted. Nothing here is on the way of a request but `touch` and `add`.

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeVar

from cache.errors import CacheUnavailable
from cache.layout import Layout, is_named, lock, unavailable, unlock

_T = TypeVar("_T")

Evictable = Literal["entities", "records"]
EVICTABLE: Final[tuple[Evictable, ...]] = ("entities", "records")

# Eviction makes room for a while, not for the next record only.
EVICT_TO: Final = 0.9

# How long another program (a person's sqlite3, a backup) may hold the index.
_BUSY_SECONDS: Final = 10.0
# Primary result codes (sqlite.org/rescode.html) after which the index is kept: another program has
# it, or the disk is in the way.
_IN_USE: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_REFUSED: Final = _IN_USE | {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}
_VERSION: Final = 1
_SCHEMA: Final = (
    "DROP TABLE IF EXISTS files",
    """
    CREATE TABLE files (
        kind TEXT NOT NULL,
        name TEXT NOT NULL,
        size INTEGER NOT NULL,
        used REAL NOT NULL,
        PRIMARY KEY (kind, name)
    ) WITHOUT ROWID
    """,
    f"PRAGMA user_version = {_VERSION}",
)
_USED: Final = (
    "INSERT INTO files VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE"
    " SET size = excluded.size, used = max(used, excluded.used)"
)
_GONE: Final = "DELETE FROM files WHERE kind = ? AND name = ?"


@dataclass(frozen=True, slots=True)
class _File:
    """A row of the index; times are seconds since the epoch, sizes bytes."""

    kind: Evictable
    name: str
    size: int
    used: float


class Usage:
    """Sizes and last use of entities and records. Safe for threads and for processes."""

    def __init__(self, layout: Layout, clock: Callable[[], float] = time.time) -> None:
        """Open; nothing is read or written yet.

        Args:
            layout: where things lie.
            clock: seconds since the epoch.
        """
        self._layout = layout
        self._clock = clock
        self._index = layout.data / "index.sqlite"
        self._guard = threading.Lock()
        self._used: dict[tuple[Evictable, str], float] = {}
        self._added = 0
        self._size = 0
        self._entities = 0

    def touch(self, kind: Evictable, name: str) -> None:
        """Note that a file was used, or has gone; written down by the next :meth:`flush`."""
        now = self._clock()
        with self._guard:
            self._used[kind, name] = now

    def add(self, kind: Evictable, name: str, size: int) -> None:
        """Note a new file of ``size`` bytes."""
        now = self._clock()
        with self._guard:
            self._used[kind, name] = now
            self._added += size

    def figures(self) -> tuple[int, int]:
        """Bytes of entities and records, and how many entities, as of the last :meth:`flush`.

        What this process has added since is in the bytes already.
        """
        with self._guard:
            return self._size + self._added, self._entities

    def has_noted(self) -> bool:
        """Something waits for the next :meth:`flush`."""
        with self._guard:
            return bool(self._used)

    def flush(self) -> None:
        """Write down what was noted. Blocks.

        Raises:
            CacheUnavailable: the index cannot be written; what was noted is kept for next time.
        """
        self._with_index(lambda _: None)

    def reconcile(self) -> None:
        """Make the index say what is on the disk. Blocks.

        To be called at the start: an index that cannot be used now, for whatever reason (damage
        can look like a full disk), is thrown away.

        Raises:
            CacheUnavailable: the index cannot be written.
        """
        self._with_index(self._reconcile, kept_if=_IN_USE)

    def evict(self, max_size: int, *, disk_full: bool = False) -> int:
        """Remove what was not used for longest if there is more than ``max_size``. Blocks.

        Then at most 90 % of it stays, beside what is held open. Other processes wait.

        Args:
            max_size: bytes of entities and records.
            disk_full: what there is now is too much, however little that is.

        Returns:
            How many bytes were removed.

        Raises:
            CacheUnavailable: nothing can be locked, not even in a full directory.
        """
        try:
            return self._with_index(lambda db: self._evict(db, max_size, disk_full))
        except CacheUnavailable:
            # On a full disk the index cannot be opened: just then room must be made without it.
            with self._alone():
                gone = self._make_room(self._walk(), max_size, disk_full)
                return sum(file.size for file in gone)

    def _with_index(
        self, work: Callable[[sqlite3.Connection], _T], kept_if: frozenset[int] = _REFUSED
    ) -> _T:
        """Do ``work`` in one transaction on an index that knows what was noted."""
        with self._guard:
            noted, self._used = self._used, {}
            added, self._added = self._added, 0
        try:
            with self._alone():
                result = self._attempt(noted, work, kept_if)
        except BaseException:
            with self._guard:
                self._used = {**noted, **self._used}
                self._added += added
            raise
        return result

    def _attempt(
        self,
        noted: dict[tuple[Evictable, str], float],
        work: Callable[[sqlite3.Connection], _T],
        kept_if: frozenset[int],
    ) -> _T:
        try:
            try:
                return self._transact(noted, work)
            except (sqlite3.Error, ValueError, TypeError) as error:
                # A damaged index may also give names that are none and sizes that are text.
                if getattr(error, "sqlite_errorcode", 0) & 0xFF in kept_if:
                    raise
                for suffix in ("-wal", "-shm", ""):
                    self._index.with_name(self._index.name + suffix).unlink(missing_ok=True)
                return self._transact(noted, work)
        except sqlite3.Error as error:
            raise CacheUnavailable(None, f"the cache cannot use {self._index}: {error}") from error
        except OSError as error:
            raise unavailable(f"use {self._index}", error) from error

    def _transact(
        self, noted: dict[tuple[Evictable, str], float], work: Callable[[sqlite3.Connection], _T]
    ) -> _T:
        with closing(
            sqlite3.connect(self._index, timeout=_BUSY_SECONDS, isolation_level=None)
        ) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("BEGIN IMMEDIATE")
            if db.execute("PRAGMA user_version").fetchone() != (_VERSION,):
                self._rebuild(db, {})
            self._write_down(db, noted)
            result = work(db)
            size, entities = db.execute(
                "SELECT coalesce(sum(size), 0), coalesce(sum(kind = 'entities'), 0) FROM files"
            ).fetchone()
            db.execute("COMMIT")
        with self._guard:
            self._size, self._entities = size, entities
        return result

    def _write_down(
        self, db: sqlite3.Connection, noted: dict[tuple[Evictable, str], float]
    ) -> None:
        for (kind, name), used in noted.items():
            try:
                size = self._layout.place(kind, name).stat().st_size
            except FileNotFoundError:
                db.execute(_GONE, (kind, name))
            else:
                db.execute(_USED, (kind, name, size, used))

    def _reconcile(self, db: sqlite3.Connection) -> None:
        rows = db.execute("SELECT kind, name, used FROM files")
        self._rebuild(db, {(kind, name): used for kind, name, used in rows})

    def _rebuild(
        self, db: sqlite3.Connection, used: Mapping[tuple[object, object], object]
    ) -> None:
        """Make the table anew, from the disk: in a damaged one, rows cannot even be deleted.

        Args:
            db: in a transaction.
            used: last uses that are known; of other files, their own time counts.
        """
        for statement in _SCHEMA:
            db.execute(statement)
        for file in self._walk():
            known = used.get((file.kind, file.name))
            last = known if isinstance(known, float) else file.used
            db.execute(_USED, (file.kind, file.name, file.size, last))

    def _walk(self) -> Iterator[_File]:
        for kind in EVICTABLE:
            for name, status in self._layout.walk(kind):
                yield _File(kind, name, status.st_size, status.st_mtime)

    def _evict(self, db: sqlite3.Connection, max_size: int, disk_full: bool) -> int:
        rows = db.execute("SELECT kind, name, size, used FROM files")
        gone = self._make_room((_File(*row) for row in rows), max_size, disk_full)
        db.executemany(_GONE, ((file.kind, file.name) for file in gone))
        return sum(file.size for file in gone)

    def _make_room(self, files: Iterable[_File], max_size: int, disk_full: bool) -> list[_File]:
        """Remove files, the longest unused first; returns which."""
        by_use = sorted(files, key=lambda file: file.used)
        total = sum(file.size for file in by_use)
        gone: list[_File] = []
        if total <= max_size and not disk_full:
            return gone
        goal = EVICT_TO * min(max_size, total)
        for file in by_use:
            if total <= goal:
                break
            if _remove_unused(self._layout.place(file.kind, file.name)):
                gone.append(file)
                total -= file.size
        return gone

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process (and thread) at a time works on the index, and evicts."""
        path = self._layout.data / "index.lock"
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise unavailable(f"open {path}", error) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            with suppress(OSError):
                unlock(file)
            os.close(file)


def _remove_unused(path: Path) -> bool:
    """Remove a file unless somebody holds it open; True if it is gone."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        # Nobody can begin to use it between the test and the removal: we hold the lock.
        if not lock(file, fcntl.LOCK_EX) or not is_named(file, path):
            return False
        path.unlink()
    except OSError:
        return False
    finally:
        os.close(file)
    return True
