# Law of this file: a directory of this machine as a store. A file appears under its name complete
# and synced, by one rename, and readers never see halves, in whatever process they are.
#
#   root/entities/ab/<sha256>   mode 0644, for a static server to read
#   root/documents/<name>       likewise
#   root/incoming/<random>      being written; left over only by a crash, removed by `list`
#   root/documents.lock         held (flock) while a document is compared and swapped

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from stores.base import Conflict, Document, Missing, Stored, StoreUnavailable
from stores.checks import (
    check_document_name,
    check_range,
    checked_key,
    is_document_name,
    verify_file,
    verify_size,
)
from stores.durable import make_directory, publish
from stores.entity import Entity, entity_key, is_digest
from stores.streaming import stream

_T = TypeVar("_T")

# No copy takes a day; what is older was left by a process that died.
_STALE_AFTER: Final = 86400.0
# Reads of a page cache and of one disk; more threads would only queue at the disk.
_THREADS: Final = 16

# Seconds for which the end of these threads is waited for.
_CLOSE_SECONDS: Final = 5.0
# Why a file cannot be linked though it can be copied: another file system, a file system without
# links, a file with too many, or a kernel that forbids links to files of others.
_NO_LINK: Final = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP}
# Names of closed stores of which a thread has not ended yet.
_hanging: Final[set[str]] = set()
# Not there: no such name, or a document's name where another one needs a directory.
_ABSENT: Final = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


def hanging() -> tuple[str, ...]:
    """Names of the stores that were closed in this process, and of which threads still run.

    They hang in the file system. Python waits for every thread when a process ends, and so for
    these: whoever has nothing else to do ends by :func:`os._exit`.
    """
    return tuple(sorted(_hanging))


class DirectoryStore:
    """Entities and documents below a directory, which is made when first written to.

    An entity whose file lies on the same file system is not copied but linked, and its
    modification time and mode change: a file given to :meth:`put` must not be written to later.

    Safe for any number of processes that share the directory. Unlike in other stores, a document
    cannot be called ``a`` while another is called ``a/b``; writing it is refused as
    :class:`StoreUnavailable`.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._documents = self._root / "documents"
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="directory-store")

    @property
    def name(self) -> str:
        """``directory <root>``."""
        return f"directory {self._root}"

    async def put(self, entity: Entity, path: Path) -> None:
        """See :meth:`stores.base.Store.put`; the age is the file's modification time."""
        await self._run(self._put, entity, path)

    async def stat(self, digest: str) -> Stored | None:
        """See :meth:`stores.base.Store.stat`."""
        return await self._run(self._stat, digest, self._root / checked_key(digest))

    async def open(
        self, digest: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        """See :meth:`stores.base.Store.open`."""
        check_range(start, end)
        checked_key(digest)
        async for chunk in stream(self._executor, partial(self._open, digest, start, end)):
            yield chunk

    async def delete(self, digest: str) -> None:
        """See :meth:`stores.base.Store.delete`."""
        path = self._root / checked_key(digest)

        def unlink() -> None:
            with self._reported(f"delete entity {digest}"):
                path.unlink(missing_ok=True)

        await self._run(unlink)

    async def list(self) -> AsyncIterator[Stored]:
        """See :meth:`stores.base.Store.list`; also removes what crashes left in ``incoming``."""
        await self._run(self._remove_stale)
        for shard in await self._run(self._shards):
            for stored in await self._run(self._scan, shard):
                yield stored

    async def read_document(self, name: str) -> Document | None:
        """See :meth:`stores.base.Store.read_document`; the version is the body's SHA-256."""
        path = self._documents / check_document_name(name)

        def read() -> Document | None:
            with self._reported(f"read document {name}"):
                return _read_document(path)

        return await self._run(read)

    async def write_document(self, name: str, body: bytes, expect: str | None) -> str:
        """See :meth:`stores.base.Store.write_document`."""
        return await self._run(self._write_document, check_document_name(name), body, expect)

    async def delete_document(self, name: str) -> None:
        """See :meth:`stores.base.Store.delete_document`; folders that are left empty stay."""
        path = self._documents / check_document_name(name)

        def unlink() -> None:
            # Not between the comparing and the swapping of who replaces it.
            with self._reported(f"delete document {name}"):
                if path.is_file():
                    with self._locked(), suppress(*_ABSENT):
                        path.unlink()

        await self._run(unlink)

    async def list_documents(self, prefix: str) -> AsyncIterator[str]:
        """See :meth:`stores.base.Store.list_documents`."""
        for name in await self._run(self._document_names, prefix):
            yield name

    def local_path(self, digest: str) -> Path | None:
        """The entity's file, if it is there (one ``stat``)."""
        path = self._root / checked_key(digest)
        return path if path.is_file() else None

    async def close(self) -> None:
        """End the threads, when they have finished what they are at.

        One that hangs, as on a mount whose server is gone, is waited for a few seconds and no more.
        """
        loop = asyncio.get_running_loop()
        ended = loop.create_future()

        def end() -> None:
            self._executor.shutdown()
            _hanging.discard(self.name)
            with suppress(RuntimeError):  # nobody waits any more
                loop.call_soon_threadsafe(ended.set_result, None)

        _hanging.add(self.name)
        # One of the loop's own threads would be waited for at its end.
        threading.Thread(target=end, daemon=True).start()
        await asyncio.wait((ended,), timeout=_CLOSE_SECONDS)

    # --- on threads ---------------------------------------------------------------------

    async def _run(self, function: Callable[..., _T], *args: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *args)

    @contextmanager
    def _reported(self, doing: str) -> Iterator[None]:
        """Say of a system call's error which store met it, at what and where."""
        try:
            yield
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            raise StoreUnavailable(
                f"{self.name}: cannot {doing}: {error.strerror or error}{where}"
            ) from error

    def _put(self, entity: Entity, path: Path) -> None:
        final = self._root / entity.key
        verify_size(entity, path)
        with self._reported(f"store entity {entity.digest}"):
            if _has_size(final, entity.size):
                verify_file(entity, path)
                # Deleted since we looked: then it is stored like any other.
                with suppress(FileNotFoundError):
                    os.utime(final)
                    return
            with self._staged() as staged:
                _link_or_copy(path, staged)
                # What was linked or copied is verified, whatever has become of `path`.
                verify_file(entity, staged, given=path)
                os.utime(staged)
                publish(staged, final)

    @contextmanager
    def _staged(self) -> Iterator[Path]:
        """A fresh name in ``incoming``; what is left under it afterwards is removed."""
        staged = make_directory(self._root / "incoming") / secrets.token_hex(16)
        try:
            yield staged
        finally:
            with suppress(OSError):
                staged.unlink()

    def _stat(self, digest: str, path: Path) -> Stored | None:
        with self._reported(f"look for entity {digest}"):
            try:
                found = path.stat()
            except _ABSENT:
                return None
        if not stat.S_ISREG(found.st_mode):
            return None
        return Stored(digest, found.st_size, found.st_mtime)

    def _open(self, digest: str, start: int, end: int | None) -> _Slice:
        with self._reported(f"open entity {digest}"):
            try:
                file = (self._root / entity_key(digest)).open("rb")
            except _ABSENT:
                raise Missing(f"{self.name}: no entity {digest}") from None
            size = os.fstat(file.fileno()).st_size
            file.seek(start)
        left = max((size if end is None else min(end, size)) - start, 0)
        return _Slice(file, left, partial(self._reported, f"read entity {digest}"))

    def _shards(self) -> tuple[Path, ...]:
        with self._reported("list entities"), suppress(*_ABSENT):
            return tuple((self._root / "entities").iterdir())
        return ()

    def _scan(self, shard: Path) -> tuple[Stored, ...]:
        """The entities of ``entities/ab``; what else lies there is somebody else's."""
        with self._reported("list entities"):
            try:
                names = [path.name for path in shard.iterdir()]
            except _ABSENT:
                return ()
        ours = (name for name in names if is_digest(name) and name[:2] == shard.name)
        return tuple(found for name in ours if (found := self._stat(name, shard / name)))

    def _remove_stale(self) -> None:
        limit = time.time() - _STALE_AFTER
        with self._reported("tidy incoming"), suppress(*_ABSENT):
            for path in (self._root / "incoming").iterdir():
                with suppress(FileNotFoundError):
                    # A fresh link to an old file has the file's modification time, but its
                    # change time is that of the link.
                    if path.lstat().st_ctime < limit:
                        path.unlink()

    def _write_document(self, name: str, body: bytes, expect: str | None) -> str:
        path = self._documents / name
        with self._reported(f"write document {name}"), self._locked():
            found = _read_document(path)
            if (found and found.version) != expect:
                raise Conflict(
                    f"{self.name}: document {name} is at version {found and found.version},"
                    f" not {expect}"
                )
            with self._staged() as staged:
                staged.write_bytes(body)
                publish(staged, path)
        return _version(body)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the documents against every other writer, in this process or another."""
        lock = make_directory(self._root) / "documents.lock"
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _document_names(self, prefix: str) -> tuple[str, ...]:
        with self._reported("list documents"):
            names = _files_below(self._documents, prefix)
            return tuple(n for n in names if n.startswith(prefix) and is_document_name(n))


class _Slice:
    """A range of an open file."""

    def __init__(
        self, file: BinaryIO, left: int, reported: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._file = file
        self._left = left
        self._reported = reported

    def read(self, amount: int, /) -> bytes:
        with self._reported():
            chunk = self._file.read(min(amount, self._left))
        self._left -= len(chunk)
        return chunk

    def close(self) -> None:
        self._file.close()


def _link_or_copy(path: Path, staged: Path) -> None:
    """Give the content of ``path`` a second name, or a second body where that cannot be.

    Only a plain file of our own is linked: we must be able to set its mode and times, and a link
    to a symbolic link would name that.
    """
    found = path.lstat()
    if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
        try:
            os.link(path, staged)
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
        else:
            return
    shutil.copyfile(path, staged)


def _has_size(path: Path, size: int) -> bool:
    """Tell whether a complete file is there; one of another size was damaged and is replaced."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == size


def _read_document(path: Path) -> Document | None:
    try:
        body = path.read_bytes()
    except _ABSENT:
        return None
    return Document(body, _version(body))


def _files_below(top: Path, prefix: str) -> Iterator[str]:
    """Slash-separated names of the files below ``top``, from folders that ``prefix`` may mean."""
    for folder, below, files in os.walk(top, onerror=_raise_unless_absent):
        base = "".join(f"{part}/" for part in Path(folder).relative_to(top).parts)
        below[:] = [
            child
            for child in below
            if f"{base}{child}/".startswith(prefix) or prefix.startswith(f"{base}{child}/")
        ]
        yield from (base + file for file in files)


def _version(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _raise_unless_absent(error: OSError) -> None:
    if not isinstance(error, _ABSENT):
        raise error
