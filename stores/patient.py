# Law of this file: whoever does one thing and ends does not wait for a store without an end. One
# that has not answered once, such as a mount whose server is gone, is not asked again.

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from stores.base import Document, Store, Stored, StoreUnavailable
from stores.entity import Entity

_T = TypeVar("_T")

# Seconds that a store has to answer, and bytes a second that a copy to it takes at the most.
SECONDS: Final = 60.0
_RATE: Final = 64 << 10


class PatientStore:
    """A store whose every answer has a time; for commands, which have an end.

    What it was asked may be done later all the same: nobody can take back what a thread hangs in.

    Args:
        inner: does the work.
        seconds: that each answer may take, and each piece of one; a ``put`` as many more as its
            content takes at 64 KiB/s.
    """

    def __init__(self, inner: Store, seconds: float = SECONDS) -> None:
        self.inner = inner
        self._seconds = seconds
        self._late = ""

    @property
    def name(self) -> str:
        """The inner store's name."""
        return self.inner.name

    async def put(self, entity: Entity, path: Path) -> None:
        """See :meth:`stores.base.Store.put`."""
        seconds = self._seconds + entity.size / _RATE
        await self._ask(partial(self.inner.put, entity, path), seconds)

    async def stat(self, digest: str) -> Stored | None:
        """See :meth:`stores.base.Store.stat`."""
        return await self._ask(partial(self.inner.stat, digest))

    async def open(
        self, digest: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        """See :meth:`stores.base.Store.open`."""
        async for chunk in self._each(self.inner.open(digest, start, end)):
            yield chunk

    async def delete(self, digest: str) -> None:
        """See :meth:`stores.base.Store.delete`."""
        await self._ask(partial(self.inner.delete, digest))

    async def list(self) -> AsyncIterator[Stored]:
        """See :meth:`stores.base.Store.list`."""
        async for stored in self._each(self.inner.list()):
            yield stored

    async def read_document(self, name: str) -> Document | None:
        """See :meth:`stores.base.Store.read_document`."""
        return await self._ask(partial(self.inner.read_document, name))

    async def write_document(self, name: str, body: bytes, expect: str | None) -> str:
        """See :meth:`stores.base.Store.write_document`."""
        return await self._ask(partial(self.inner.write_document, name, body, expect))

    async def delete_document(self, name: str) -> None:
        """See :meth:`stores.base.Store.delete_document`."""
        await self._ask(partial(self.inner.delete_document, name))

    async def list_documents(self, prefix: str) -> AsyncIterator[str]:
        """See :meth:`stores.base.Store.list_documents`."""
        async for name in self._each(self.inner.list_documents(prefix)):
            yield name

    def local_path(self, digest: str) -> Path | None:
        """As the inner store."""
        return self.inner.local_path(digest)

    async def close(self) -> None:
        """Close the inner store, which waits for none that hangs."""
        await self.inner.close()

    async def _ask(self, ask: Callable[[], Awaitable[_T]], seconds: float | None = None) -> _T:
        """What the inner store answers in time.

        Raises:
            StoreUnavailable: it does not, or did not before.
        """
        if self._late:
            raise StoreUnavailable(f"{self._late}, and is not asked again")
        if seconds is None:
            seconds = self._seconds
        try:
            async with asyncio.timeout(seconds):
                return await ask()
        except TimeoutError:
            self._late = f"{self.name} has not answered within {seconds:.0f} s"
            raise StoreUnavailable(self._late) from None

    async def _each(self, items: AsyncIterator[_T]) -> AsyncIterator[_T]:
        """The items, each in time."""
        while True:
            try:
                item = await self._ask(partial(anext, items))
            except StopAsyncIteration:
                return
            yield item
