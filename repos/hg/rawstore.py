# Law of this file: a store is streamed as it was at one moment without a writer, or not at all; and
# only if everything in it is served.

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from repos.hg.errors import CommandError, Moved
from repos.hg.repository import HgSnapshot
from repos.hg.state import count_revisions, is_inline
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
    with _at_rest(store, names, snapshot.index.count, wait_seconds) as opened:
        total = sum(each.size for each in opened)
        write(encode({b"filecount": len(opened), b"totalsize": total}))
        for each in opened:
            _write_file(each, write)


def _write_file(opened: _Open, write: Callable[[bytes], object]) -> None:
    path = opened.name.encode()
    write(encode({b"location": b"store", b"path": path, b"size": opened.size}))
    write(INDEFINITE_BYTES)
    left = opened.size
    opened.file.seek(0)
    while left:
        piece = opened.file.read(min(PIECE, left))
        if not piece:
            raise Moved(f"{opened.name} was cut while it was read")
        left -= len(piece)
        write(bytes_header(len(piece)) + piece)
    write(BREAK)


@contextmanager
def _at_rest(
    store: Path, names: Sequence[str], changesets: int, wait_seconds: float
) -> Iterator[list[_Open]]:
    """Open files of a store, at a moment at which nobody writes to it.

    The changelog must have just ``changesets`` revisions: then everything in it is served.
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
                    _check_count(opened, changelog, changesets)
                    yield [each for each in opened if each.name in names and each.size]
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
        return path.open("rb")
    except FileNotFoundError:
        return None


def _check_count(opened: Sequence[_Open], changelog: str, changesets: int) -> None:
    count: int | None = 0
    for each in opened:
        if each.name == changelog:
            head = each.file.read(4)
            index = head + each.file.read(each.size - 4) if is_inline(head) else head
            count = count_revisions(index, each.size)
    if count != changesets:
        raise Moved(f"the store has {count} changesets, of which {changesets} are served")
