# Law of this file: an index is removed under its lock, by whoever takes it back or when its
# repository is gone. Whoever reads from it still can, and makes a new one when it must.
#
# The directory and its lock stay: a process that waits for a lock must not get one that is nobody's
# any more, while another one makes the directory anew.

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from repos.hg.database import IndexBroken, IndexUnreadable, read_meta
from repos.hg.generation import current, locked, open_current

# How long a process that works on an index is waited for: as long as it takes to look at a
# repository, not as long as a build takes.
WAIT_SECONDS: Final = 10.0
_RETRY_SECONDS: Final = 0.05

_LOCK: Final = "lock"


class IndexBusy(Exception):  # noqa: N818 - what it is
    """Some process works on the index."""


@dataclass(frozen=True, slots=True)
class Measured:
    """An index, as it lies on the disk.

    Attributes:
        name: of the generation that counts.
        changesets: that it has, served or not.
        size: bytes of its file.
    """

    name: str
    changesets: int
    size: int


def measure(directory: Path) -> Measured | None:
    """The index in a directory; None if there is none that can be used; blocks.

    Raises:
        IndexUnreadable: nobody can tell just now.
    """
    if current(directory) is None:
        return None
    with locked(directory):
        name = current(directory)
        generation = open_current(directory)
        if name is None or generation is None:
            return None
        try:
            with generation.reading() as db:
                row = db.execute("SELECT count(*) FROM changeset").fetchone()
            return Measured(name, row[0], generation.path.stat().st_size)
        except IndexBroken:
            return None
        finally:
            generation.close()


@dataclass(frozen=True, slots=True)
class IndexPlace:
    """Where an index lies, or would lie.

    Attributes:
        directory: its directory.
        wait_seconds: how long who works on it is waited for.
    """

    directory: Path
    wait_seconds: float = WAIT_SECONDS

    @property
    def exists(self) -> bool:
        """There is an index, or a part of one."""
        try:
            return any(place.name != _LOCK for place in self.directory.iterdir())
        except OSError:
            return False

    def remove(self) -> bool:
        """Remove the index; tell whether there was one; blocks.

        Raises:
            IndexBusy: some process has worked on it for as long as we waited.
            OSError: the disk refused.
        """
        if not self.exists:
            return False
        with _tried(self.directory, self.wait_seconds):
            _empty(self.directory)
            return True


def remove_vanished(indexes: Path) -> tuple[Path, ...]:
    """Remove the indexes of repositories that are not on this machine any more; blocks.

    It is by the place noted in an index that this is known, not by what one ROOT has: others may
    share the data directory. One whose disk is not mounted just now is made again later.

    Args:
        indexes: the directory that has the indexes of all repositories.

    Returns:
        Where these repositories were.
    """
    gone = []
    for directory in sorted(indexes.iterdir()) if indexes.is_dir() else ():
        with suppress(IndexBusy, IndexUnreadable, OSError):
            if IndexPlace(directory).exists:
                with _tried(directory, 0):
                    place = _repository_of(directory)
                    if place is not None and _is_gone(place):
                        _empty(directory)
                        gone.append(place)
    return tuple(gone)


def _repository_of(directory: Path) -> Path | None:
    """The ``.hg`` that an index was made from; None if that is not noted; under the lock."""
    generation = open_current(directory)
    if generation is None:
        return None
    try:
        with generation.reading() as db:
            noted = read_meta(db, "repository")
    except IndexBroken:
        return None
    finally:
        generation.close()
    return None if noted is None else Path(os.fsdecode(noted))


def _is_gone(hg_dir: Path) -> bool:
    """There is no repository; one that we may not look at is there."""
    try:
        (hg_dir / "store").stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _empty(directory: Path) -> None:
    # First of all that which makes the rest count.
    (directory / "current").unlink(missing_ok=True)
    found = [place for place in directory.iterdir() if place.name != _LOCK]
    for place in found:
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink()


@contextmanager
def _tried(directory: Path, wait_seconds: float) -> Iterator[None]:
    """Hold the lock of an index's directory in this block, if it is to be had in time."""
    deadline = time.monotonic() + wait_seconds
    descriptor = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise IndexBusy(f"some process works on the index in {directory}") from None
                time.sleep(_RETRY_SECONDS)
        try:
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)
