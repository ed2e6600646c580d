# Law of this file: a store that is gone with its process, for tests; it keeps every promise of
# the interface but durability.

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import uuid4

from stores.base import Conflict, Document, Missing, Stored
from stores.checks import CHUNK, check_document_name, check_range, checked_key, verify_file
from stores.entity import Entity


class MemoryStore:
    """Entities and documents in two dictionaries.

    Attributes:
        entities: content by digest; tests may spoil it.
        modified: seconds since the epoch by digest; tests may age it.
        documents: by name.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.entities: dict[str, bytes] = {}
        self.modified: dict[str, float] = {}
        self.documents: dict[str, Document] = {}
        self._clock = clock

    @property
    def name(self) -> str:
        """``memory``."""
        return "memory"

    async def put(self, entity: Entity, path: Path) -> None:
        """See :meth:`stores.base.Store.put`."""
        await asyncio.to_thread(verify_file, entity, path)
        self.entities[entity.digest] = await asyncio.to_thread(path.read_bytes)
        self.modified[entity.digest] = self._clock()

    async def stat(self, digest: str) -> Stored | None:
        """See :meth:`stores.base.Store.stat`."""
        checked_key(digest)
        content = self.entities.get(digest)
        return None if content is None else Stored(digest, len(content), self.modified[digest])

    async def open(
        self, digest: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        """See :meth:`stores.base.Store.open`."""
        check_range(start, end)
        checked_key(digest)
        try:
            content = self.entities[digest][start:end]
        except KeyError:
            raise Missing(f"{self.name}: no entity {digest}") from None
        for at in range(0, len(content), CHUNK):
            yield content[at : at + CHUNK]

    async def delete(self, digest: str) -> None:
        """See :meth:`stores.base.Store.delete`."""
        checked_key(digest)
        self.entities.pop(digest, None)
        self.modified.pop(digest, None)

    async def list(self) -> AsyncIterator[Stored]:
        """See :meth:`stores.base.Store.list`."""
        for digest in tuple(self.entities):
            if (found := await self.stat(digest)) is not None:
                yield found

    async def read_document(self, name: str) -> Document | None:
        """See :meth:`stores.base.Store.read_document`."""
        return self.documents.get(check_document_name(name))

    async def write_document(self, name: str, body: bytes, expect: str | None) -> str:
        """See :meth:`stores.base.Store.write_document`."""
        found = self.documents.get(check_document_name(name))
        if (found and found.version) != expect:
            raise Conflict(
                f"{self.name}: document {name} is at version {found and found.version},"
                f" not {expect}"
            )
        written = Document(bytes(body), uuid4().hex)
        self.documents[name] = written
        return written.version

    async def delete_document(self, name: str) -> None:
        """See :meth:`stores.base.Store.delete_document`."""
        self.documents.pop(check_document_name(name), None)

    async def list_documents(self, prefix: str) -> AsyncIterator[str]:
        """See :meth:`stores.base.Store.list_documents`."""
        for name in tuple(self.documents):
            if name.startswith(prefix):
                yield name

    def local_path(self, digest: str) -> Path | None:
        """None: there are no files."""
        checked_key(digest)
        return None

    async def close(self) -> None:
        """Nothing to let go of; what is stored stays readable."""
