# Law of this file: a full text is made of a snapshot and the deltas after it, and is not given to
# anybody before it has hashed to its node.

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from repos.hg.database import IndexBroken, Packing
from wire.hg import delta as deltas
from wire.hg.texts import NULL, node_of

# Texts that were made last, in bytes: the next one is mostly a delta against one of them.
KEPT_BYTES: Final = 32 << 20

_READ: Final = "SELECT base, chain, kind, data, node, p1, p2 FROM revision WHERE id = ?"
_READ_SNAPSHOT: Final = "SELECT kind, data FROM snapshot WHERE id = ?"


@dataclass(slots=True)
class Recent:
    """The texts used last, by id, bounded by their bytes; the newest is always kept."""

    limit: int = KEPT_BYTES
    _texts: OrderedDict[int, bytes] = field(default_factory=OrderedDict)
    _size: int = 0

    def get(self, number: int) -> bytes | None:
        """A text, if it is still there."""
        text = self._texts.get(number)
        if text is not None:
            self._texts.move_to_end(number)
        return text

    def put(self, number: int, text: bytes) -> None:
        """Keep a text."""
        if number not in self._texts:
            self._size += len(text)
        self._texts[number] = text
        self._texts.move_to_end(number)
        while self._size > self.limit and len(self._texts) > 1:
            _, dropped = self._texts.popitem(last=False)
            self._size -= len(dropped)

    def clear(self) -> None:
        """Forget all."""
        self._texts.clear()
        self._size = 0


@dataclass(slots=True)
class Chains:
    """Makes full texts of revisions; for one thread at a time.

    Attributes:
        db: where they are read.
        packing: how they are stored.
        recent: texts that need not be made again.
    """

    db: sqlite3.Connection
    packing: Packing = field(default_factory=Packing)
    recent: Recent = field(default_factory=Recent)

    def text(self, number: int) -> bytes:
        """The full text of the revision with this id.

        Raises:
            IndexBroken: it, or what it is made of, is not there, or does not hash to its node.
        """
        known = self.recent.get(number)
        if known is not None:
            return known
        pending: list[bytes] = []
        current = number
        identity: tuple[bytes, bytes, bytes] | None = None
        while True:
            text = self.recent.get(current)
            if text is not None:
                break
            row = self.db.execute(_READ, (current,)).fetchone()
            if row is None:
                raise IndexBroken(f"the index has no revision {current}, part of {number}")
            base, chain, kind, data, node, p1, p2 = row
            identity = identity or (node, p1 or NULL, p2 or NULL)
            if base < 0:
                text = self.packing.unpack(kind, data)
                break
            if chain == 0:
                text = self._snapshot(current)
                break
            pending.append(self.packing.unpack(kind, data))
            current = base
        while pending:
            try:
                text = deltas.apply(text, pending.pop())
            except deltas.DeltaError as error:
                raise IndexBroken(f"revision {number} of the index: {error}") from error
        assert identity is not None  # noqa: S101 - it was not among the recent ones
        check(number, text, *identity)
        self.recent.put(number, text)
        return text

    def _snapshot(self, number: int) -> bytes:
        row = self.db.execute(_READ_SNAPSHOT, (number,)).fetchone()
        if row is None:
            raise IndexBroken(f"the index has no snapshot of revision {number}")
        return self.packing.unpack(*row)


def check(number: int, text: bytes, node: bytes, p1: bytes, p2: bytes) -> None:
    """See that a text is the one that its node names.

    Raises:
        IndexBroken: it is not.
    """
    if node_of(text, p1, p2) != node:
        raise IndexBroken(f"revision {number} of the index does not hash to its node {node.hex()}")
