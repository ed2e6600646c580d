# Law of this file: an entity is immutable and named by its content. Nothing here touches a disk.

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

OCTET_STREAM: Final = "application/octet-stream"

# Types without which a client does not take the content: stock Mercurial learns from the
# Content-Type alone how to read an answer, also one that it was redirected to. Whoever reads
# anything else of ours ignores it.
DEMANDED_TYPES: Final = frozenset({"application/mercurial-0.1", "application/mercurial-0.2"})

_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


def is_digest(text: str) -> bool:
    """Tell whether ``text`` is a SHA-256 in lower-case hex, the only name an entity can have."""
    return _DIGEST.match(text) is not None


def entity_key(digest: str) -> str:
    """Where an entity lies below a store's root: ``entities/ab/<digest>`` (64 hex digits).

    Every store uses this layout, so that a static server or a CDN in front of any of them needs
    no rule but a base URL.
    """
    return f"entities/{digest[:2]}/{digest}"


@dataclass(frozen=True, slots=True)
class Entity:
    """Bulk content, named by its SHA-256.

    Attributes:
        digest: SHA-256 of the content, 64 lower-case hex digits.
        size: length of the content in bytes.
        media_type: what a store tells clients as Content-Type, if it keeps types.
    """

    digest: str
    size: int
    media_type: str = OCTET_STREAM

    def __post_init__(self) -> None:
        if not is_digest(self.digest):
            raise ValueError(f"not a SHA-256 in lower-case hex: {self.digest!r}")
        if self.size < 0:
            raise ValueError(f"negative size: {self.size}")

    @property
    def key(self) -> str:
        """Path of this entity below a store's root."""
        return entity_key(self.digest)

    @property
    def demanded_type(self) -> str | None:
        """The Content-Type that clients must be told, to the letter; None if any will do."""
        return self.media_type if self.media_type in DEMANDED_TYPES else None
