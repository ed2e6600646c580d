# Law of this file: a file revision belongs to every changeset that introduced it, and a bundle
# names only one. The others are found by what the manifests say: a graft, or the same change on two
# branches, introduces the same file revision twice, and whoever asks for one of them must get it.

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from wire.hg.texts import find, parse_changeset

_BATCH: Final = 5000


@dataclass(slots=True)
class Introduced:
    """The file revisions that changesets of a bundle introduced, until each was seen to come.

    They lie in a temporary table, which may be as large as it must: memory is not.

    Attributes:
        db: the index that is being built.
        first: the number of the first changeset of the bundle.
    """

    db: sqlite3.Connection
    first: int = 0
    _noted: bytearray = field(default_factory=bytearray)
    _batch: list[tuple[bytes, bytes, int]] = field(default_factory=list)
    _seen: set[tuple[bytes, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.db.execute("DROP TABLE IF EXISTS temp.introduced")
        self.db.execute("CREATE TEMP TABLE introduced (path BLOB, node BLOB, rev INTEGER)")

    def begin(self, first: int) -> None:
        """Say that the changesets of the bundle have numbers from ``first`` on."""
        self.first = first
        self._noted.clear()

    def note(self, rev: int, changeset: bytes, manifest: bytes) -> None:
        """Note what a changeset introduced: the files it names, as its manifest has them.

        Raises:
            TextError: one of the texts is not what it should be.
        """
        for path in parse_changeset(changeset).files:
            node = find(manifest, path)
            if node is not None:  # else it removed the file
                self.add(path, node, rev)
        if rev >= self.first:
            place = rev - self.first
            if len(self._noted) <= place:
                self._noted.extend(bytes(place + 1 - len(self._noted)))
            self._noted[place] = 1

    def is_noted(self, rev: int) -> bool:
        """Whether :meth:`note` was called for a changeset of the bundle."""
        place = rev - self.first
        return place < len(self._noted) and bool(self._noted[place])

    def add(self, path: bytes, node: bytes, rev: int) -> None:
        """Note one revision; an empty path is the manifest."""
        self._batch.append((path, node, rev))
        if len(self._batch) >= _BATCH:
            self._flush()

    def sort(self) -> None:
        """Make them found by their path; when all changesets were noted."""
        self._flush()
        self.db.execute("CREATE INDEX temp.introduced_path ON introduced (path)")

    def seen(self, node: bytes, rev: int) -> None:
        """A revision of the log that is being read came, as introduced by ``rev``."""
        self._seen.add((node, rev))

    def take(self, path: bytes) -> Iterator[tuple[bytes, int]]:
        """What was noted of a path, and did not come with that changeset; forgets it all."""
        self._flush()
        rows = self.db.execute(
            "SELECT node, rev FROM introduced WHERE path = ?", (path,)
        ).fetchall()
        self.db.execute("DELETE FROM introduced WHERE path = ?", (path,))
        yield from (row for row in rows if row not in self._seen)
        self._seen.clear()

    def rest(self) -> Iterator[tuple[bytes, bytes, int]]:
        """What was noted and never taken, then forgets it."""
        self._flush()
        yield from self.db.execute("SELECT path, node, rev FROM introduced").fetchall()
        self.db.execute("DROP TABLE temp.introduced")

    def _flush(self) -> None:
        self.db.executemany("INSERT INTO introduced VALUES (?, ?, ?)", self._batch)
        self._batch.clear()
