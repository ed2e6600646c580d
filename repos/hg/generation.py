# Law of this file: an index that is being read stays where it is. A new one is built beside it and
# takes its place by the rename of one small file; the old one goes when nobody has it open.
#
#     <directory>/lock              held by who changes anything here
#     <directory>/current           the name of the generation that counts
#     <directory>/<name>/index.sqlite, and `open`, on which its readers hold a shared lock

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from repos.hg.database import FORMAT, IndexBroken, open_to_read, read_meta

# Connections of readers that are kept for the next one.
_KEPT_CONNECTIONS: Final = 8

_FILE: Final = "index.sqlite"
_OPEN: Final = "open"
_CURRENT: Final = "current"


@dataclass(slots=True)
class Generation:
    """One index that is open.

    Attributes:
        path: its SQLite file.
    """

    path: Path
    _descriptor: int
    _idle: list[sqlite3.Connection] = field(default_factory=list)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for this block alone.

        Raises:
            IndexBroken: the file is damaged.
        """
        try:
            db = self._idle.pop()
        except IndexError:
            db = _opened(self.path)
        try:
            yield db
        except sqlite3.DatabaseError as error:
            raise IndexBroken(f"{self.path}: {error}") from error
        finally:
            db.rollback()
            if len(self._idle) < _KEPT_CONNECTIONS:
                self._idle.append(db)
            else:
                db.close()

    def close(self) -> None:
        """Let it go; nobody may read from it any more."""
        while self._idle:
            self._idle.pop().close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()


def _opened(path: Path) -> sqlite3.Connection:
    try:
        return open_to_read(path)
    except sqlite3.Error as error:
        raise IndexBroken(f"{path}: {error}") from error


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of an index's directory in this block; makes the directory."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            # Closing is not enough: a program that another thread starts just now has a copy of
            # the descriptor until it begins to run, and the lock with it.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def current(directory: Path) -> str | None:
    """The name of the generation that counts, if there is one."""
    try:
        return (directory / _CURRENT).read_text("ascii")
    except (OSError, ValueError):
        return None


def open_current(directory: Path) -> Generation | None:
    """The generation that counts; None if there is none, or none of our format; under the lock."""
    name = current(directory)
    if not name or "/" in name:
        return None
    path = directory / name / _FILE
    try:
        descriptor = os.open(directory / name / _OPEN, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    generation = Generation(path, descriptor)
    with suppress(IndexBroken), generation.reading() as db:
        if read_meta(db, "format") == FORMAT:
            return generation
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
        except OSError:
            shutil.rmtree(place, ignore_errors=True)
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(place, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(descriptor)
