# Law of this file: a store whose failures are counted, around one that does the work. What it does
# and raises is the inner store's.

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stores.base import Conflict, Document, Missing, Store, Stored, StoreError
from stores.entity import Entity


@dataclass(frozen=True, slots=True)
class CountedStore:
    """Counts calls that fail, by the name of the method.

    An entity that is not there and a document that somebody else wrote first are answers, not
    failures.

    Attributes:
        inner: the store that does the work.
        failed: told the method's name, once for each call that failed.
    """

    inner: Store
    failed: Callable[[str], None]

    @property
    def name(self) -> str:
        """The inner store's name."""
        return self.inner.name

    @contextmanager
    def _counted(self, method: str) -> Iterator[None]:
        try:
            yield
        except (Missing, Conflict):
            raise
        except StoreError:
            self.failed(method)
            raise

    async def put(self, entity: Entity, path: Path) -> None:
        """See :meth:`stores.base.Store.put`."""
        with self._counted("put"):
            await self.inner.put(entity, path)

    async def stat(self, digest: str) -> Stored | None:
        """See :meth:`stores.base.Store.stat`."""
        with self._counted("stat"):
            return await self.inner.stat(digest)

    async def open(
        self, digest: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        """See :meth:`stores.base.Store.open`."""
        with self._counted("open"):
            async for chunk in self.inner.open(digest, start, end):
                yield chunk

    async def delete(self, digest: str) -> None:
        """See :meth:`stores.base.Store.delete`."""
        with self._counted("delete"):
            await self.inner.delete(digest)

    async def list(self) -> AsyncIterator[Stored]:
        """See :meth:`stores.base.Store.list`."""
        with self._counted("list"):
            async for stored in self.inner.list():
                yield stored

    async def read_document(self, name: str) -> Document | None:
        """See :meth:`stores.base.Store.read_document`."""
        with self._counted("read_document"):
            return await self.inner.read_document(name)

    async def write_document(self, name: str, body: bytes, expect: str | None) -> str:
        """See :meth:`stores.base.Store.write_document`."""
        with self._counted("write_document"):
            return await self.inner.write_document(name, body, expect)

    async def delete_document(self, name: str) -> None:
        """See :meth:`stores.base.Store.delete_document`."""
        with self._counted("delete_document"):
            await self.inner.delete_document(name)

    async def list_documents(self, prefix: str) -> AsyncIterator[str]:
        """See :meth:`stores.base.Store.list_documents`."""
        with self._counted("list_documents"):
            async for name in self.inner.list_documents(prefix):
                yield name

    def local_path(self, digest: str) -> Path | None:
        """As the inner store; asks nobody."""
        return self.inner.local_path(digest)

    async def close(self) -> None:
        """Close the inner store."""
        await self.inner.close()
