# Law of this file: where things lie below the data directory. A file appears under its name only
# when it is complete; until then it lies in incoming/, and whoever writes it there holds a lock.

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple, Self

from cache.errors import CacheUnavailable
from stores.entity import is_digest

Kind = Literal["entities", "records", "published"]
KINDS: Final[tuple[Kind, ...]] = ("entities", "records", "published")

# A static server that runs as another user reads our entities.
FILE_MODE: Final = 0o644

# A file in incoming/ that nobody holds is left over from a crash; one that is younger may belong
# to a process that has yet to lock it.
LEFT_OVER_SECONDS: Final = 3600.0


class Stamp(NamedTuple):
    """What differs when a path names another file than before."""

    inode: int
    mtime_ns: int
    size: int


class Descriptor:
    """An open file that is closed when nobody holds it any more.

    A thread that is still writing must never find its number given to another file.
    """

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


@dataclass(frozen=True, slots=True)
class Layout:
    """The data directory.

    Attributes:
        data: its absolute path.
    """

    data: Path

    @classmethod
    def make(cls, data: Path) -> Self:
        """Create what is not there yet.

        Raises:
            OSError: it cannot be created.
        """
        layout = cls(data.resolve())
        for folder in (*KINDS, "incoming"):
            (layout.data / folder).mkdir(parents=True, exist_ok=True)
        return layout

    def place(self, kind: Kind, name: str) -> Path:
        """Where a complete file lies: ``<kind>/ab/<name>``.

        Raises:
            ValueError: ``name`` is no SHA-256 in lower-case hex.
        """
        if not is_digest(name):
            raise ValueError(f"{name!r} names nothing in {kind}/: no SHA-256 in lower-case hex")
        return self.data / kind / name[:2] / name

    def incoming(self, name: str) -> Path:
        """Where a file lies that is being written, or only locked."""
        return self.data / "incoming" / name

    def create(self, name: str) -> int:
        """Create ``incoming/<name>`` and open it for reading and writing.

        Raises:
            FileExistsError: it exists.
            CacheUnavailable: it cannot be created.
        """
        path = self.incoming(name)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            try:
                return os.open(path, flags, FILE_MODE)
            except FileNotFoundError:  # somebody has emptied the data directory
                path.parent.mkdir(parents=True, exist_ok=True)
                return os.open(path, flags, FILE_MODE)
        except FileExistsError:
            raise
        except OSError as error:
            raise unavailable(f"create {path}", error) from error

    def create_or_open(self, name: str) -> tuple[Descriptor, bool]:
        """Open ``incoming/<name>``, creating it if need be; True: it was us who created it.

        Raises:
            CacheUnavailable: neither is possible.
        """
        path = self.incoming(name)
        while True:
            try:
                return Descriptor(self.create(name)), True
            except FileExistsError:
                pass
            try:
                return Descriptor(os.open(path, os.O_RDWR | os.O_CLOEXEC)), False
            except FileNotFoundError:  # removed in between
                continue
            except OSError as error:
                raise unavailable(f"open {path}", error) from error

    def move(self, incoming: Path, kind: Kind, name: str) -> None:
        """Give a complete file its name, replacing what has it.

        Raises:
            CacheUnavailable: the disk refused.
        """
        place = self.place(kind, name)
        try:
            try:
                incoming.rename(place)
            except FileNotFoundError:
                place.parent.mkdir(parents=True, exist_ok=True)
                incoming.rename(place)
        except OSError as error:
            raise unavailable(f"rename {incoming} to {place}", error) from error

    def write(self, kind: Kind, name: str, body: bytes) -> Stamp:
        """Write a small file, which appears whole or not at all.

        Raises:
            CacheUnavailable: the disk refused.
        """
        temporary = f"{kind}-{secrets.token_hex(8)}"
        path = self.incoming(temporary)
        file = self.create(temporary)
        try:
            try:
                write_all(file, body)
                # The file system's own clock may stand still for 10 ms: two files written within
                # one tick would look alike, if the second is given the inode of the first.
                now = time.time_ns()
                os.utime(file, ns=(now, now))
                stamp = stamp_of(os.fstat(file))
            except OSError as error:
                raise unavailable(f"write {path}", error) from error
            finally:
                os.close(file)
            self.move(path, kind, name)
        except BaseException:
            remove(path)
            raise
        return stamp

    def take_back(self, kind: Kind, name: str) -> int:
        """Remove a complete file, whoever reads it; they have it open and notice nothing.

        Returns:
            Its size in bytes; 0 if it was not there.

        Raises:
            CacheUnavailable: the disk refused.
        """
        path = self.place(kind, name)
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise unavailable(f"remove {path}", error) from error
        return size

    def walk(self, kind: Kind) -> Iterator[tuple[str, os.stat_result]]:
        """Names and states of the complete files of a kind."""
        for folder in _scan(self.data / kind):
            for entry in _scan(Path(folder.path)):
                with suppress(FileNotFoundError):
                    if is_digest(entry.name) and entry.name.startswith(folder.name):
                        yield entry.name, entry.stat(follow_symlinks=False)

    def sweep(self, now: float) -> None:
        """Remove from incoming/ what crashed processes have left there.

        Args:
            now: seconds since the epoch.
        """
        for entry in _scan(self.data / "incoming"):
            path = Path(entry.path)
            with suppress(OSError):
                if entry.stat(follow_symlinks=False).st_mtime > now - LEFT_OVER_SECONDS:
                    continue
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    if lock(file, fcntl.LOCK_EX) and is_named(file, path):
                        path.unlink()
                finally:
                    os.close(file)


def stamp_of(status: os.stat_result) -> Stamp:
    """The stamp of a file's state."""
    return Stamp(status.st_ino, status.st_mtime_ns, status.st_size)


def write_all(file: int, data: bytes) -> None:
    """Write all of ``data`` where the file's position is.

    Raises:
        OSError: the disk is full or broken; a part may have been written.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def lock(file: int, how: int) -> bool:
    """Take the flock ``LOCK_SH`` or ``LOCK_EX`` of an open file, if that is possible now.

    Raises:
        CacheUnavailable: the file system knows no locks.
    """
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise unavailable("lock files; put the data directory on a local disk", error) from error
    return True


def unlock(file: int) -> None:
    """Give a lock back.

    Closing is not enough: a program that is just being started by another thread has a copy of
    every descriptor until it begins to run, and the lock with it.
    """
    fcntl.flock(file, fcntl.LOCK_UN)


def is_named(file: int, path: Path) -> bool:
    """Tell whether ``path`` still names the open ``file``."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False


def remove(path: Path) -> None:
    """Remove a file; one that is gone, or cannot be removed, is left as it is."""
    with suppress(OSError):
        path.unlink()


def unavailable(doing: str, error: OSError) -> CacheUnavailable:
    """Say what the disk refused."""
    return CacheUnavailable(error.errno, f"the cache cannot {doing}: {error.strerror or error}")


def _scan(path: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
