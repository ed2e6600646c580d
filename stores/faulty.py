# Law of this file: a store that fails as it is told to, around one that does not; for tests of
# what must be lost by no fault.

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stores.base import Document, Missing, Store, Stored, StoreUnavailable
from stores.entity import Entity

Method = Literal[
    "put",
    "stat",
    "open",
    "delete",
    "list",
    "read_document",
    "write_document",
    "delete_document",
    "list_documents",
]


@dataclass(frozen=True, slots=True)
class Fail:
    """The ``nth`` call (the first is 1) raises StoreUnavailable; every call if None."""

    nth: int | None = None


@dataclass(frozen=True, slots=True)
class Hang:
    """Calls wait until ``released`` is set, and then go on as if nothing had been."""

    released: asyncio.Event


@dataclass(frozen=True, slots=True)
class Lose:
    """``open`` finds no entity."""


@dataclass(frozen=True, slots=True)
class Truncate:
    """``open`` ends in silence at this position of the entity."""

    size: int


@dataclass(frozen=True, slots=True)
class Flip:
    """``open`` gives the byte at this position of the entity with its lowest bit inverted."""

    at: int


Fault = Fail | Hang | Lose | Truncate | Flip


class FaultyStore:
    """A store with one fault a method; ``Lose``, ``Truncate`` and ``Flip`` are for ``open``.

    Attributes:
        inner: the store that does the work.
        faults: by method; change it as the test goes on.
        calls: how often each method was called.
    """

    def __init__(self, inner: Store, faults: Mapping[Method, Fault] | None = None) -> None:
        self.inner = inner
        self.faults: dict[Method, Fault] = dict(faults or {})
        self.calls: Counter[Method] = Counter()

    @property
    def name(self) -> str:
        """``faulty`` and the inner store's name."""
        return f"faulty {self.inner.name}"

    async def _call(self, method: Method) -> Fault | None:
        self.calls[method] += 1
        fault = self.faults.get(method)
        if isinstance(fault, Fail) and fault.nth in {None, self.calls[method]}:
            raise StoreUnavailable(f"{self.name}: {method} fails as the test wants it")
        if isinstance(fault, Hang):
            await fault.released.wait()
        return fault

    async def put(self, entity: Entity, path: Path) -> None:
        """See :meth:`stores.base.Store.put`."""
        await self._call("put")
        await self.inner.put(entity, path)

    async def stat(self, digest: str) -> Stored | None:
        """See :meth:`stores.base.Store.stat`."""
        await self._call("stat")
        return await self.inner.stat(digest)

    async def open(
        self, digest: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        """See :meth:`stores.base.Store.open`."""
        fault = await self._call("open")
        if isinstance(fault, Lose):
            raise Missing(f"{self.name}: no entity {digest}")
        at = start
        async for chunk in self.inner.open(digest, start, end):
            if spoiled := _spoil(chunk, at, fault):
                yield spoiled
            at += len(chunk)

    async def delete(self, digest: str) -> None:
        """See :meth:`stores.base.Store.delete`."""
        await self._call("delete")
        await self.inner.delete(digest)

    async def list(self) -> AsyncIterator[Stored]:
        """See :meth:`stores.base.Store.list`."""
        await self._call("list")
        async for stored in self.inner.list():
            yield stored

    async def read_document(self, name: str) -> Document | None:
        """See :meth:`stores.base.Store.read_document`."""
        await self._call("read_document")
        return await self.inner.read_document(name)

    async def write_document(self, name: str, body: bytes, expect: str | None) -> str:
        """See :meth:`stores.base.Store.write_document`."""
        await self._call("write_document")
        return await self.inner.write_document(name, body, expect)

    async def delete_document(self, name: str) -> None:
        """See :meth:`stores.base.Store.delete_document`."""
        await self._call("delete_document")
        await self.inner.delete_document(name)

    async def list_documents(self, prefix: str) -> AsyncIterator[str]:
        """See :meth:`stores.base.Store.list_documents`."""
        await self._call("list_documents")
        async for name in self.inner.list_documents(prefix):
            yield name

    def local_path(self, digest: str) -> Path | None:
        """As the inner store; never fails, as it asks nobody."""
        return self.inner.local_path(digest)

    async def close(self) -> None:
        """Close the inner store."""
        await self.inner.close()


def _spoil(chunk: bytes, at: int, fault: Fault | None) -> bytes:
    """What ``fault`` leaves of the bytes from position ``at`` on."""
    match fault:
        case Truncate(size):
            return chunk[: max(size - at, 0)]
        case Flip(where) if at <= where < at + len(chunk):
            spoiled = bytearray(chunk)
            spoiled[where - at] ^= 1
            return bytes(spoiled)
        case _:
            return chunk
