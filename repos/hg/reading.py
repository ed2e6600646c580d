# Law of this file: revisions are read from the index in its own order, and sent as deltas only
# against what the other side has.

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from repos.hg.build import find
from repos.hg.chains import Chains, check
from repos.hg.database import FIRST_FILE_ID, IndexBroken
from repos.hg.nodes import Revs
from wire.hg import delta as deltas
from wire.hg.texts import NULL

# Ids that are this near to each other on average are read by one scan, not one by one.
_NEAR: Final = 4
_ALONE: Final = 64

COLUMNS: Final = "id, node, p1, p2, link, base, role, kind, data"
BARE_COLUMNS: Final = "id, node, p1, p2, link, base, role, 0, NULL"

Row = tuple[int, bytes, bytes | None, bytes | None, int, int, int, int, bytes | None]


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision of a manifest or file.

    Attributes:
        node: what names it.
        p1: its first parent.
        p2: its second parent.
        linknode: a changeset that introduced it, of those that were asked for.
        base: the revision that ``data`` is a delta against; None if it is the text.
        data: the full text or a delta; None if it was not asked for.
    """

    node: bytes
    p1: bytes
    p2: bytes
    linknode: bytes
    base: bytes | None
    data: bytes | None


@dataclass(frozen=True, slots=True)
class Selection:
    """Revisions of one log to be answered.

    Attributes:
        path: the file; empty for the manifest.
        count: how many.
        revisions: reads them; a base comes before its user.
    """

    path: bytes
    count: int
    revisions: Callable[[], Iterator[Revision]]


@dataclass(frozen=True, slots=True)
class FileSelections:
    """Revisions of many files to be answered.

    Attributes:
        paths: how many files.
        items: how many revisions in all.
        selections: one per file, by path.
    """

    paths: int
    items: int
    selections: Callable[[], Iterator[Selection]]


def data_of(
    chains: Chains, row: Row, emitted: dict[int, bytes], haveparents: bool
) -> tuple[bytes | None, bytes | None]:
    """What to send of a revision: its delta if the other side has the base, else its text."""
    number, node, p1, p2, _link, base, role, kind, packed = row
    if packed is None:
        return None, None
    if base < 0:
        text = chains.packing.unpack(kind, packed)
        check(number, text, node, p1 or NULL, p2 or NULL)
        chains.recent.put(number, text)
        return None, text
    parent = (None, p1, p2)[role] if haveparents else None
    base_node = emitted.get(base) or parent
    if base_node is not None:
        return base_node, chains.packing.unpack(kind, packed)
    text = chains.text(number)
    if haveparents and p1 is not None:
        # A text that shares most of itself with its parent need not be sent whole.
        parent_id = find(chains.db, p1, number & ~0xFFFFFFFF)
        if parent_id is not None:
            made = deltas.single(chains.text(parent_id), text)
            if 2 * len(made) < len(text):
                return p1, made
    return None, text


def log_of(db: sqlite3.Connection, path: bytes) -> int:
    """The number of a file's log.

    Raises:
        IndexBroken: it has none, and something refers to it.
    """
    row = db.execute("SELECT id FROM log WHERE path = ?", (path,)).fetchone()
    if row is None:
        raise IndexBroken(f"the index has no log of {path!r}")
    number: int = row[0]
    return number


def introduced(db: sqlite3.Connection, revs: Revs) -> array[int]:
    """The ids of the file revisions that these changesets introduced, ascending."""
    ids: list[int] = []
    for first, last in revs.runs():
        for table, column in (("revision", "link"), ("relink", "rev")):
            ids += (
                number
                for (number,) in db.execute(
                    f"SELECT id FROM {table} WHERE {column} BETWEEN ? AND ? AND id >= ?",  # noqa: S608 - the names are ours
                    (first, last, FIRST_FILE_ID),
                )
            )
    ids.sort()
    found = array("q")
    for number in ids:
        if not found or found[-1] != number:
            found.append(number)
    return found


def by_path(db: sqlite3.Connection, ids: array[int]) -> list[tuple[bytes, int, int]]:
    """Where in ``ids`` each file's are: path, start, end; by path."""
    groups = []
    start = 0
    while start < len(ids):
        log = ids[start] >> 32
        end = start + 1
        while end < len(ids) and ids[end] >> 32 == log:
            end += 1
        row = db.execute("SELECT path FROM log WHERE id = ?", (log,)).fetchone()
        if row is None:
            raise IndexBroken(f"the index has no path for log {log}")
        groups.append((row[0], start, end))
        start = end
    groups.sort()
    return groups


def rows_of(db: sqlite3.Connection, ids: array[int], columns: str) -> Iterator[Row]:
    """The rows of these ids, ascending, by as few looks as is sensible."""
    start = 0
    while start < len(ids):
        end = start + 1
        while end < len(ids) and ids[end] - ids[end - 1] <= _NEAR + _ALONE // (end - start):
            end += 1
        wanted = start
        select = f"SELECT {columns} FROM revision WHERE id BETWEEN ? AND ? ORDER BY id"  # noqa: S608 - the names are ours
        for row in db.execute(select, (ids[start], ids[end - 1])):
            if row[0] == ids[wanted]:
                wanted += 1
                yield row
        if wanted != end:
            raise IndexBroken(f"the index has no revision {ids[wanted]}")
        start = end
