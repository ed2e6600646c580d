# Law of this file: a store is streamed as it was at one moment without a writer, or not at all; and
# only if everything in it is served.

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from repos.hg.errors import CommandError, Moved
from repos.hg.index import HgIndex
from repos.hg.repository import HgSnapshot
from repos.hg.state import nodes_of
from repos.stamps import stamp
from wire.hg.cbor import BREAK, INDEFINITE_BYTES, bytes_header, encode

# In what pieces files are read; each is a chunk of the byte string.
PIECE: Final = 64 << 10

# Writers hold the lock for as long as a push takes. A reader that waits longer gives up.
WAIT_SECONDS: Final = 10.0
_RETRY_SECONDS: Final = 0.05

_LOGS: Final = {b"changelog": "00changelog", b"manifestlog": "00manifest"}


@dataclass(frozen=True, slots=True)
class _Open:
    """A file of the store, and how much of it belongs to the moment."""

    name: str
    file: IO[bytes]
    size: int

    def cut(self) -> Moved:
        """What is raised if less of it is left."""
        return Moved(f"{self.name} was cut while it was read")


@dataclass(slots=True)
class _Changelog:
    """The index file of a changelog, in which every changeset was found to be served.

    It must stay so until the last byte was read: who strips cuts the files of a store in place, and
    appends to them what comes next, secret or not. Others append only behind what we read.
    """

    opened: _Open
    _mark: tuple[int, int] = field(init=False)
    _digest: bytes = field(init=False)

    def __post_init__(self) -> None:
        self._mark = self._look()
        self._digest = self._read()

    def check(self) -> None:
        """Check that what was read of the store up to now is of the same changesets.

        Raises:
            Moved: it may not be.
        """
        mark = self._look()
        if mark != self._mark:
            if self._read() != self._digest:
                raise self.opened.cut()
            self._mark = mark

    def check_served(self, index: HgIndex) -> None:
        """Check that it has what ``index`` serves, and nothing else.

        Raises:
            Moved: it has not.
        """
        opened = self.opened
        opened.file.seek(0)
        nodes = nodes_of(opened.file, opened.size)
        if nodes is None:
            raise Moved(f"{opened.name} has no changesets that could be read")
        served = [rev is not None and rev >= 0 for rev in map(index.rev, nodes)]
        if not all(served) or len(served) != index.count:
            raise Moved(
                f"the store has {len(served)} changesets, of which {sum(served)} are served;"
                f" {index.count} are in all"
            )
        self.check()  # what was looked at is what was digested

    def _look(self) -> tuple[int, int]:
        # Not its mtime: hg sets that, and may set it to what it was.
        status = os.fstat(self.opened.file.fileno())
        return status.st_ctime_ns, status.st_size

    def _read(self) -> bytes:
        digest = hashlib.sha256()
        self.opened.file.seek(0)
        left = self.opened.size
        while piece := self.opened.file.read(min(PIECE, left)):
            digest.update(piece)
            left -= len(piece)
        return digest.digest()


def write_rawstorefiledata(
    snapshot: HgSnapshot,
    files: Sequence[bytes],
    write: Callable[[bytes], object],
    wait_seconds: float = WAIT_SECONDS,
) -> None:
    """Answer ``rawstorefiledata``; blocks.

    Args:
        snapshot: what is served.
        files: of ``changelog``, ``manifestlog``.
        write: takes the bytes, in pieces.
        wait_seconds: how long a writer is waited for.

    Raises:
        CommandError: the store may not be streamed, has no such files, or is being written to all
            the time; nothing was written.
        Moved: the repository changed since the snapshot; nothing was written. Or a file was cut
            while it was read: what was written is worth nothing.
    """
    if not snapshot.stream_allowed:
        raise CommandError(b"stream clone is disabled")
    unknown = sorted(set(files) - set(_LOGS))
    if unknown:
        raise CommandError(b"unknown file type: %s", (b", ".join(unknown),))
    store = snapshot.hg_dir / "store"
    names = [f"{_LOGS[log]}.{kind}" for log in sorted(set(files)) for kind in ("d", "i")]
    with _at_rest(store, names, snapshot.index, wait_seconds) as (opened, check):
        total = sum(each.size for each in opened)
        write(encode({b"filecount": len(opened), b"totalsize": total}))
        for each in opened:
            _write_file(each, check, write)


def _write_file(opened: _Open, check: Callable[[], None], write: Callable[[bytes], object]) -> None:
    path = opened.name.encode()
    write(encode({b"location": b"store", b"path": path, b"size": opened.size}))
    write(INDEFINITE_BYTES)
    left = opened.size
    while left:
        opened.file.seek(opened.size - left)  # a check may have read
        piece = opened.file.read(min(PIECE, left))
        if not piece:
            raise opened.cut()
        check()
        left -= len(piece)
        write(bytes_header(len(piece)) + piece)
    write(BREAK)


@contextmanager
def _at_rest(
    store: Path, names: Sequence[str], index: HgIndex, wait_seconds: float
) -> Iterator[tuple[list[_Open], Callable[[], None]]]:
    """Open files of a store, at a moment at which nobody writes to it.

    The changelog must have just what ``index`` serves. With the files comes what checks that this
    still holds for bytes that were read.
    """
    deadline = time.monotonic() + wait_seconds
    changelog = "00changelog.i"
    while True:
        with ExitStack() as stack:
            before = _marks(store)
            if not _is_written(store):
                opened = [
                    _Open(name, file, os.fstat(file.fileno()).st_size)
                    for name in dict.fromkeys([*names, changelog])
                    if (file := _opened(store / name)) is not None
                    and stack.enter_context(file) is file
                ]
                if not _is_written(store) and _marks(store) == before:
                    check = _checked(opened, changelog, index)
                    yield [each for each in opened if each.name in names and each.size], check
                    return
        if time.monotonic() >= deadline:
            raise CommandError(
                b"the repository is being written to; try again, or clone without --stream"
            )
        time.sleep(_RETRY_SECONDS)


def _marks(store: Path) -> list[tuple[int, int, int]]:
    names = (f"{log}.{kind}" for log in _LOGS.values() for kind in ("i", "d"))
    return [stamp(str(store / name)) for name in names]


def _is_written(store: Path) -> bool:
    """Whether somebody writes to a store, or broke off in the middle of it.

    A lock is a symbolic link to ``<host>:<pid>``, or a file that says so. One whose process is gone
    is a lock no more, as hg sees it; what that process had begun, `hg recover` must undo.
    """
    lock = store / "lock"
    try:
        holder = str(lock.readlink()) if lock.is_symlink() else lock.read_text("ascii")
    except (OSError, ValueError):
        return os.path.lexists(lock)
    return _lives(holder) or os.path.lexists(store / "journal")


def _lives(holder: str) -> bool:
    """Whether who holds a lock may still run; of another machine's processes nobody can tell."""
    host, _, pid = holder.strip().rpartition(":")
    namespace = f"{Path('/proc/self/ns/pid').stat().st_ino:x}"
    if host != f"{socket.gethostname()}/{namespace}" or not pid.isdecimal():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _opened(path: Path) -> IO[bytes] | None:
    try:
        return path.open("rb", buffering=0)  # what is read again may have changed
    except FileNotFoundError:
        return None


def _checked(opened: Sequence[_Open], changelog: str, index: HgIndex) -> Callable[[], None]:
    for each in opened:
        if each.name == changelog:
            log = _Changelog(each)
            log.check_served(index)
            return log.check
    if index.count:
        raise Moved(f"the store has no changesets, and {index.count} are served")
    return lambda: None
