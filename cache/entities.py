# Law of this file: under an entity's name lies its whole content or nothing, and while somebody
# holds it open it is not evicted. Only what is taken back goes at once.

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from weakref import WeakValueDictionary

from cache.layout import (
    FILE_MODE,
    Descriptor,
    Layout,
    is_named,
    lock,
    remove,
    unavailable,
    unlock,
    write_all,
)
from cache.usage import Usage
from stores.base import Corrupt
from stores.entity import Entity


@dataclass(slots=True)
class OpenEntity:
    """A complete entity, open and share-locked: it is not evicted before it is closed.

    Attributes:
        fd: for ``preadv`` and ``sendfile`` (-1 when closed); its file position is nobody's.
        size: bytes.
        digest: SHA-256, hex.
    """

    fd: int
    size: int
    digest: str

    def close(self) -> None:
        """Let go of it. May be called again."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class Entities:
    """The entities on the disk of this machine."""

    def __init__(self, layout: Layout, usage: Usage) -> None:
        """Open.

        Args:
            layout: where they lie.
            usage: is told what is used.
        """
        self._layout = layout
        self._usage = usage
        self._filling: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def path(self, digest: str) -> Path:
        """Where an entity lies, if it is there. Only while it is held open does it stay there."""
        return self._layout.place("entities", digest)

    def open(self, digest: str, size: int | None = None) -> OpenEntity | None:
        """Open an entity, or None if it is not here.

        Args:
            digest: its name.
            size: what its size must be, if that is known. A file of another size was cut short by
                a power failure; it is removed.
        """
        path = self.path(digest)
        while True:
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return None
            # Only eviction locks a complete entity against us: then it is as good as gone.
            if not lock(fd, fcntl.LOCK_SH):
                os.close(fd)
                return None
            if is_named(fd, path):
                break
            os.close(fd)
        opened = OpenEntity(fd, os.fstat(fd).st_size, digest)
        self._usage.touch("entities", digest)
        if size is None or opened.size == size:
            return opened
        with opened:
            remove(path)
        return None

    def hold(self, entity: Entity) -> Descriptor | None:
        """As :meth:`open`, for as long as anybody holds the descriptor."""
        opened = self.open(entity.digest, entity.size)
        if opened is None:
            return None
        with opened:
            return Descriptor(os.dup(opened.fd))  # the lock belongs to both

    def adopt(self, incoming: Path, entity: Entity) -> None:
        """Give a complete file, whose content is known to be ``entity``, its name.

        If the entity is here already, the file is removed and the older one stays, because its
        readers have locked that.

        Raises:
            CacheUnavailable: the disk refused; the file is where it was.
        """
        present = self.open(entity.digest, entity.size)
        if present is not None:
            with present:
                remove(incoming)
            return
        try:
            incoming.chmod(FILE_MODE)
        except OSError as error:
            raise unavailable(f"keep {incoming}", error) from error
        self._layout.move(incoming, "entities", entity.digest)
        self._usage.add("entities", entity.digest, entity.size)

    def digests(self) -> Iterator[str]:
        """Digests of all that is here, in no order. Blocks."""
        return (digest for digest, _ in self._layout.walk("entities"))

    def take_back(self, digest: str) -> int:
        """Remove an entity though somebody may read it; who has it open reads it to its end.

        Returns:
            Its size in bytes; 0 if it was not here.

        Raises:
            CacheUnavailable: the disk refused.
        """
        size = self._layout.take_back("entities", digest)
        self._usage.touch("entities", digest)
        return size

    async def fill(self, entity: Entity, chunks: AsyncIterator[bytes]) -> None:
        """Bring an entity here from a store; it becomes visible once it is verified.

        If several ask for it at once, in this process, one reads and the others wait for that.

        Raises:
            stores.base.Corrupt: the chunks are not ``entity``.
            stores.base.StoreError: what reading the chunks raised.
            CacheUnavailable: the disk refused.
        """
        turn = self._filling.setdefault(entity.digest, asyncio.Lock())
        async with turn:
            present = self.open(entity.digest, entity.size)
            if present is not None:
                present.close()
                return
            if isinstance(chunks, AsyncGenerator):
                async with aclosing(chunks):
                    await self._fill(entity, chunks)
            else:
                await self._fill(entity, chunks)

    async def _fill(self, entity: Entity, chunks: AsyncIterator[bytes]) -> None:
        name = f"fill-{secrets.token_hex(8)}"
        path = self._layout.incoming(name)
        file = Descriptor(self._layout.create(name))
        hasher = hashlib.sha256()
        size = 0

        def take(chunk: bytes) -> None:
            write_all(file.number, chunk)
            hasher.update(chunk)

        try:
            lock(file.number, fcntl.LOCK_SH)  # against the sweep
            async for chunk in chunks:
                size += len(chunk)
                if size > entity.size:
                    break
                try:
                    await asyncio.to_thread(take, chunk)
                except OSError as error:
                    raise unavailable(f"write {path}", error) from error
            if size != entity.size or hasher.hexdigest() != entity.digest:
                raise Corrupt(
                    f"the store gave other content for entity {entity.digest} of {entity.size}"
                    f" bytes: {'at least ' if size > entity.size else ''}{size} bytes, SHA-256"
                    f" {hasher.hexdigest()} of what fits; delete it there"
                )
            self.adopt(path, entity)
        finally:
            remove(path)
            unlock(file.number)
