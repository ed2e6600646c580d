# Law of this file: what goes into the index has hashed to its node. A bundle that does not fit what
# is there is refused as a whole; the transaction it came in is the caller's to give up.

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from typing import Final

from repos.hg.chains import Chains, Recent
from repos.hg.database import FIRST_FILE_ID, MANIFEST, add_indexes
from repos.hg.introduced import Introduced
from repos.hg.nodes import Dag
from wire.hg import delta as deltas
from wire.hg.changegroup import Event, Log, LogBegin, LogEnd, RevisionDelta
from wire.hg.texts import NULL, manifest_node, node_of

# A snapshot is stored when this many deltas precede a text, or deltas of this many times its size:
# what a text costs to make is bounded by what it costs to read. Short chains are cheap in any case.
CHAIN_LENGTH: Final = 256
CHAIN_WEIGHT: Final = 2
CHAIN_FREE_BYTES: Final = 64 << 10

# Texts of changesets that are kept for the next one's delta.
CHANGESETS_KEPT_BYTES: Final = 1 << 20

# What SQLite takes for a value, less a little.
MAX_TEXT: Final = 999_999_000

# Rows are written in batches; this bounds what waits.
_BATCH_ROWS: Final = 2000
_BATCH_BYTES: Final = 4 << 20

_INSERT: Final = "INSERT INTO revision VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_FIND: Final = "SELECT id FROM revision WHERE node = ? AND id BETWEEN ? AND ?"
_LAST: Final = "SELECT id FROM revision WHERE id BETWEEN ? AND ? ORDER BY id DESC LIMIT 1"

_Row = tuple[int, bytes, bytes | None, bytes | None, int, int, int, int, int, int, bytes]


class Misfit(Exception):  # noqa: N818 - what the bundle is
    """A bundle does not fit the index, or is not what its nodes say."""


@dataclass(slots=True)
class Builder:
    """Puts the changegroup of a bundle into an index.

    Attributes:
        db: the index, in a transaction or new.
        dag: the changesets that it has; afterwards with those that came.
        growing: it has indexes by node; a new one gets them when the rows are there.
    """

    db: sqlite3.Connection
    dag: Dag
    growing: bool
    chains: Chains = field(init=False)
    changesets: Recent = field(default_factory=lambda: Recent(CHANGESETS_KEPT_BYTES))
    introduced: Introduced = field(init=False)
    _log: Log | None = None
    _path: bytes = b""
    _first: int = 0
    _next: int = 0
    _known: dict[bytes, int] = field(default_factory=dict)
    _measures: dict[int, tuple[int, int]] = field(default_factory=dict)
    _rows: list[_Row] = field(default_factory=list)
    _waiting: int = 0
    _arrived: list[tuple[bytes, int, int]] = field(default_factory=list)
    _logs: int = 0

    def __post_init__(self) -> None:
        self.chains = Chains(self.db)
        self.introduced = Introduced(self.db)
        self._logs = self.db.execute("SELECT max(id) FROM log").fetchone()[0]

    def take(self, event: Event) -> None:
        """Put one event's content in.

        Raises:
            Misfit: it refers to what is not there, or does not hash to its node.
        """
        try:
            if isinstance(event, RevisionDelta):
                if self._log is Log.CHANGELOG:
                    self._take_changeset(event)
                else:
                    self._take_revision(event)
            elif isinstance(event, LogBegin):
                self._begin(event)
            else:
                self._end(event)
        except ValueError as error:  # of a delta, a text, or the number of changesets
            raise Misfit(f"the bundle does not fit: {error}") from error

    def finish(self) -> None:
        """Put in what could not be told before everything was there.

        Raises:
            Misfit: a changeset names a file revision that never came.
        """
        self._flush()
        if not self.growing:
            add_indexes(self.db)
        self._relink_rest()

    def _begin(self, event: LogBegin) -> None:
        self._log, self._path = event.log, event.path
        self._known.clear()
        self._measures.clear()
        self.chains.recent.clear()
        if event.log is Log.CHANGELOG:
            return
        number = MANIFEST
        if event.log is Log.FILE:
            row = self.db.execute("SELECT id FROM log WHERE path = ?", (event.path,)).fetchone()
            if row is None:
                self._logs += 1
                number = self._logs
                self.db.execute("INSERT INTO log VALUES (?, ?)", (number, event.path))
            else:
                number = row[0]
        self._first = number << 32
        last = self.db.execute(_LAST, (self._first, self._first | 0xFFFFFFFF)).fetchone()
        self._next = self._first if last is None else last[0] + 1

    def _end(self, _event: LogEnd) -> None:
        self._flush()
        if self._log is Log.CHANGELOG:
            self.introduced.begin(len(self.dag))
            self.dag = self.dag.grown(self._arrived)
            self._arrived.clear()
        elif self._log is Log.MANIFEST:
            self._share_manifests()
            self.introduced.sort()
        else:
            for node, rev in self.introduced.take(self._path):
                self._relink(self._path, node, rev)

    # --- changesets ---------------------------------------------------------------------

    def _changeset_rev(self, node: bytes) -> int:
        rev = self._known.get(node)
        if rev is None:
            rev = self.dag.rev(node)
        if rev is None:
            raise Misfit(f"changeset {node.hex()} is referred to and has not come")
        return rev

    def _take_changeset(self, new: RevisionDelta) -> None:
        if self.dag.rev(new.node) is not None:
            return
        base = b"" if new.base == NULL else self._changeset_text(self._changeset_rev(new.base))
        text = deltas.apply(base, new.delta)
        self._check(new, text)
        rev = len(self.dag) + len(self._arrived)
        p1, p2 = self._changeset_rev(new.p1), self._changeset_rev(new.p2)
        kind, data = self.chains.packing.pack(text)
        self.db.execute(
            "INSERT INTO changeset VALUES (?, ?, ?, ?, ?, ?)", (rev, new.node, p1, p2, kind, data)
        )
        self._known[new.node] = rev
        self._arrived.append((new.node, p1, p2))
        self.changesets.put(rev, text)

    def _changeset_text(self, rev: int) -> bytes:
        text = self.changesets.get(rev)
        if text is None:
            row = self.db.execute(
                "SELECT kind, text FROM changeset WHERE rev = ?", (rev,)
            ).fetchone()
            text = self.chains.packing.unpack(*row)
        return text

    # --- manifests and files ------------------------------------------------------------

    def _find(self, node: bytes) -> int | None:
        number = self._known.get(node)
        if number is None and self.growing:
            return find(self.db, node, self._first)
        return number

    def _take_revision(self, new: RevisionDelta) -> None:
        link = self.dag.rev(new.link)
        if link is None or link < 0:
            raise Misfit(f"{self._where(new)} belongs to changeset {new.link.hex()}, which is none")
        if self._find(new.node) is not None:
            # It was there, of a changeset that perhaps is not served: now it is of this one too.
            # What holds for the manifest's revisions is found by the changesets themselves.
            if self._log is Log.FILE:
                self.introduced.add(self._path, new.node, link)
            return
        base_id, base = -1, b""
        if new.base != NULL:
            found = self._find(new.base)
            if found is None:
                raise Misfit(f"{self._where(new)} is a delta of {new.base.hex()}, which is missing")
            base_id, base = found, self._text(found)
        text = deltas.apply(base, new.delta)
        self._check(new, text)
        self._store(new, link, base_id, text)
        if self._log is Log.MANIFEST:
            self.introduced.note(link, self._changeset_text(link), text)
        else:
            self.introduced.seen(new.node, link)

    def _text(self, number: int) -> bytes:
        text = self.chains.recent.get(number)
        if text is None:
            self._flush()
            text = self.chains.text(number)
        return text

    def _store(self, new: RevisionDelta, link: int, base: int, text: bytes) -> None:
        number = self._next
        self._next += 1
        chain = weight = role = 0
        data = text
        if base >= 0:
            data = new.delta
            role = 1 if new.base == new.p1 else 2 if new.base == new.p2 else 0
            chain, weight = self._measure(base)
            chain, weight = chain + 1, weight + len(data)
            if chain >= CHAIN_LENGTH or weight > max(CHAIN_WEIGHT * len(text), CHAIN_FREE_BYTES):
                kind, packed = self.chains.packing.pack(text)
                self.db.execute("INSERT INTO snapshot VALUES (?, ?, ?)", (number, kind, packed))
                chain = weight = 0
        kind, packed = self.chains.packing.pack(data)
        p1 = None if new.p1 == NULL else new.p1
        p2 = None if new.p2 == NULL else new.p2
        self._rows.append((number, new.node, p1, p2, link, base, role, chain, weight, kind, packed))
        self._known[new.node] = number
        self._measures[number] = chain, weight
        self.chains.recent.put(number, text)
        self._waiting += len(packed)
        if len(self._rows) >= _BATCH_ROWS or self._waiting > _BATCH_BYTES:
            self._flush()

    def _measure(self, number: int) -> tuple[int, int]:
        known = self._measures.get(number)
        if known is not None:
            return known
        row: tuple[int, int] = self.db.execute(
            "SELECT chain, weight FROM revision WHERE id = ?", (number,)
        ).fetchone()
        return row

    def _flush(self) -> None:
        self.db.executemany(_INSERT, self._rows)
        self._rows.clear()
        self._waiting = 0

    def _check(self, new: RevisionDelta, text: bytes) -> None:
        if len(text) > MAX_TEXT:
            raise Misfit(f"{self._where(new)} has {len(text)} bytes; at most {MAX_TEXT} are served")
        if node_of(text, new.p1, new.p2) != new.node:
            raise Misfit(
                f"{self._where(new)} does not hash to its node: it is censored, or its content"
                " is kept elsewhere, which this protocol cannot say"
            )

    def _where(self, new: RevisionDelta) -> str:
        assert self._log is not None  # noqa: S101 - a revision is in a log
        where = self._path.decode("utf-8", "replace") or f"the {self._log.value}"
        return f"revision {new.node.hex()} of {where}"

    # --- what several changesets introduced ---------------------------------------------

    def _share_manifests(self) -> None:
        """Note the changesets whose manifest came with another one, and what they introduced."""
        first = self.introduced.first
        rows = self.db.execute("SELECT rev, kind, text FROM changeset WHERE rev >= ?", (first,))
        for rev, kind, packed in rows:
            text = self.chains.packing.unpack(kind, packed)
            node = manifest_node(text)
            if node == NULL or self.introduced.is_noted(rev):
                continue
            number = self._find(node)
            if number is None:
                raise Misfit(f"changeset {self.dag.node(rev).hex()} has no manifest")
            self.db.execute("INSERT OR IGNORE INTO relink VALUES (?, ?)", (number, rev))
            self.introduced.note(rev, text, self._text(number))

    def _relink_rest(self) -> None:
        for path, node, rev in self.introduced.rest():
            self._relink(path, node, rev)

    def _relink(self, path: bytes, node: bytes, rev: int) -> None:
        number: int | None = None
        if path == self._path and self._log is Log.FILE:
            number = self._find(node)
        else:
            row = self.db.execute("SELECT id FROM log WHERE path = ?", (path,)).fetchone()
            if row is not None:
                number = find(self.db, node, row[0] << 32)
        if number is None:
            where = path.decode("utf-8", "replace")
            raise Misfit(
                f"changeset {self.dag.node(rev).hex()} has revision {node.hex()} of {where},"
                " which is missing"
            )
        self.db.execute(
            "INSERT OR IGNORE INTO relink SELECT ?, ? WHERE NOT EXISTS"
            " (SELECT 1 FROM revision WHERE id = ? AND link = ?)",
            (number, rev, number, rev),
        )


def find(db: sqlite3.Connection, node: bytes, first: int) -> int | None:
    """The id of the revision ``node`` in the log whose first id is ``first``."""
    row = db.execute(_FIND, (node, first, first + FIRST_FILE_ID - 1)).fetchone()
    return None if row is None else row[0]
