# Law of this file: an index that is being read stays where it is. A new one is built beside it and
# takes its place by the rename of one small file; the old one goes when nobody has it open.
#
#     <directory>/lock              held by who changes anything here
#     <directory>/current           the name of the generation that counts
#     <directory>/hg-output         while hg gives what the index grows by
#     <directory>/<name>/index.sqlite, and `open`, on which its readers hold a shared lock

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final

from repos.flock import held, remove_unless_held
from repos.hg.database import (
    FORMAT,
    IndexBroken,
    IndexUnreadable,
    failure_of,
    open_to_read,
    read_meta,
)

# Connections that this process keeps for their next readers. Each has three files open, and pages.
KEPT_CONNECTIONS: Final = 32

_FILE: Final = "index.sqlite"
_OPEN: Final = "open"
_CURRENT: Final = "current"
_NAME: Final = re.compile(r"[0-9a-f]{16}")


@dataclass(slots=True)
class _Idle:
    """The connections that no reader has just now, of all indexes, the longest unused first.

    Each belongs to an owner, a number. The lock can be taken twice by a thread, and no step relies
    on the one before: an owner may be let go of by the garbage collector, in the middle of any.
    """

    _lock: threading.RLock = field(default_factory=threading.RLock)
    _connections: OrderedDict[tuple[int, int], sqlite3.Connection] = field(
        default_factory=OrderedDict
    )

    def take(self, owner: int) -> sqlite3.Connection | None:
        """The owner's connection that was used last, if there is one."""
        with self._lock:
            for place in reversed(list(self._connections)):
                if place[0] == owner:
                    db = self._connections.pop(place, None)
                    if db is not None:
                        return db
        return None

    def put(self, owner: int, db: sqlite3.Connection) -> None:
        """Keep a connection, in place of another one if there are too many."""
        surplus = []
        with self._lock:
            self._connections[owner, id(db)] = db
            while len(self._connections) > KEPT_CONNECTIONS:
                surplus.append(self._connections.popitem(last=False)[1])
        for each in surplus:
            each.close()  # may take a while: the last one of a file writes its log into it

    def drop(self, owner: int) -> None:
        """Close all of one owner's."""
        while (db := self.take(owner)) is not None:
            db.close()


_idle: Final = _Idle()
_owners: Final = count()


@dataclass(slots=True)
class Generation:
    """One index that is open.

    Attributes:
        path: its SQLite file.
    """

    path: Path
    _descriptor: int
    _owner: int = field(default_factory=_owners.__next__)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for this block alone.

        Raises:
            IndexBroken: the file is damaged.
            IndexUnreadable: it cannot be read now.
        """
        db = _idle.take(self._owner) or _opened(self.path)
        try:
            try:
                yield db
            finally:
                db.rollback()
        except sqlite3.Error as error:
            db.close()
            raise failure_of(self.path, error) from error
        except BaseException:
            _idle.put(self._owner, db)
            raise
        _idle.put(self._owner, db)

    def close(self) -> None:
        """Let it go; nobody may read from it any more."""
        _idle.drop(self._owner)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()


def _opened(path: Path) -> sqlite3.Connection:
    try:
        return open_to_read(path)
    except sqlite3.Error as error:
        raise failure_of(path, error) from error


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of an index's directory in this block; makes the directory."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with held(os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)):
        yield


def current(directory: Path) -> str | None:
    """The name of the generation that counts, if there is one.

    Raises:
        IndexUnreadable: nobody can tell.
    """
    try:
        return (directory / _CURRENT).read_text("ascii")
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:
        raise IndexUnreadable(str(error)) from error


def open_current(directory: Path) -> Generation | None:
    """The generation that counts; None if there is none, or none of our format; under the lock.

    Raises:
        IndexUnreadable: there may be one.
    """
    name = current(directory)
    if name is None or _NAME.fullmatch(name) is None:
        return None
    path = directory / name / _FILE
    try:
        descriptor = os.open(directory / name / _OPEN, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise IndexUnreadable(str(error)) from error
    generation = Generation(path, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        with generation.reading() as db:
            if read_meta(db, "format") == FORMAT:
                return generation
    except IndexBroken:
        pass
    except BaseException:
        generation.close()
        raise
    generation.close()
    return None


def forget(directory: Path) -> None:
    """Let no generation count any more; under the lock."""
    (directory / _CURRENT).unlink(missing_ok=True)


@contextmanager
def built(directory: Path) -> Iterator[Path]:
    """Where to build a new generation; it counts when this block ended well; under the lock."""
    _sweep(directory)
    name = secrets.token_hex(8)
    place = directory / name
    place.mkdir()
    try:
        (place / _OPEN).touch()
        yield place / _FILE
        _synced(place)
        fresh = directory / f"{_CURRENT}.new"
        with fresh.open("w") as file:
            file.write(name)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(directory / _CURRENT)
        _synced(directory)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def _synced(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(directory: Path) -> None:
    """Remove generations that neither count nor are open, and builds that were given up."""
    keep = current(directory)
    for place in directory.iterdir():
        if not place.is_dir() or place.name == keep:
            continue
        try:
            descriptor = os.open(place / _OPEN, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            shutil.rmtree(place, ignore_errors=True)
            continue
        except OSError:
            continue  # it may be open
        remove_unless_held(place, descriptor)
