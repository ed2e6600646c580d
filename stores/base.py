# Law of this file: one small interface for every store. Content is written under its digest, and
# writing it twice is harmless; only documents change, each by compare-and-swap.

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stores.entity import Entity


class StoreError(Exception):
    """A store could not do what was asked; the message names the store and the cause."""


class StoreUnavailable(StoreError):  # noqa: N818 - states, not errors, by the field's habit
    """The store did not answer, refused our credentials, or is out of space. Try later."""


class Missing(StoreError):  # noqa: N818
    """The store holds no such entity."""


class Corrupt(StoreError):  # noqa: N818
    """What was given or read back does not have the digest or size that its name promises."""


class Conflict(StoreError):  # noqa: N818
    """The document is no longer at the version that the caller expected."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What a store knows of one entity that it holds.

    Attributes:
        digest: SHA-256, hex.
        size: bytes.
        modified: seconds since the epoch of the last ``put``, by the store's clock.
    """

    digest: str
    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class Document:
    """A small mutable document.

    Attributes:
        body: its content.
        version: opaque; hand it back to ``write_document`` to replace just this version.
    """

    body: bytes
    version: str


class Store(Protocol):
    """Where entities durably live. Every method may raise :class:`StoreUnavailable`."""

    @property
    def name(self) -> str:
        """A short name for messages, such as ``directory /srv/store`` or ``s3 bucket/prefix``."""
        ...

    async def put(self, entity: Entity, path: Path) -> None:
        """Write the file at ``path`` as ``entity``.

        Nothing is visible before it is complete. An entity that is there already is not sent
        again, but its age (``Stored.modified``) starts anew, because its caller is about to name
        it to clients.

        Raises:
            Corrupt: the file's content is not ``entity``; nothing was written.
        """
        ...

    async def stat(self, digest: str) -> Stored | None:
        """Say what is stored under ``digest``, or None."""
        ...

    def open(self, digest: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Stream the bytes ``start <= i < end`` of an entity, in chunks of at most 1 MiB.

        Raises:
            Missing: on the first step, if there is no such entity.
        """
        ...

    async def delete(self, digest: str) -> None:
        """Remove an entity; no error if it is not there."""
        ...

    def list(self) -> AsyncIterator[Stored]:
        """Every complete entity, in no particular order."""
        ...

    async def read_document(self, name: str) -> Document | None:
        """The document ``name`` (slash-separated, no ``..``), or None."""
        ...

    async def write_document(self, name: str, body: bytes, expect: str | None) -> str:
        """Create (``expect=None``) or replace (``expect=version``) a document.

        Returns:
            The new version.

        Raises:
            Conflict: it exists already, or is not at ``expect``.
        """
        ...

    async def delete_document(self, name: str) -> None:
        """Remove a document at whatever version; no error if it is not there."""
        ...

    def list_documents(self, prefix: str) -> AsyncIterator[str]:
        """Names of the documents whose name begins with ``prefix``."""
        ...

    def local_path(self, digest: str) -> Path | None:
        """The entity as a file of this machine, for sendfile; None where the store has no files."""
        ...

    async def close(self) -> None:
        """Let go of connections and threads."""
        ...
