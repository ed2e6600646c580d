# Law of this file: the index is one SQLite file that only grows, by whole transactions. What was
# written for a changeset stays as it is; who may see it is decided by who reads.
#
# A log is the manifest's (number 0) or a file's. A revision's id is its log's number times 2^32
# plus its place in the log: the table is in this order on disk, so a log is read front to back.

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import zstandard


class IndexBroken(Exception):  # noqa: N818 - what it is
    """The index does not hold what it says; it must be built anew."""


class IndexUnreadable(Exception):  # noqa: N818 - what it is
    """The index cannot be read or written now; it may be whole."""


FORMAT: Final = b"1"
"""An index of another format is built anew."""

MANIFEST: Final = 0
"""The number of the manifest's log."""

FIRST_FILE_ID: Final = 1 << 32

_TABLES: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE changeset (
    rev INTEGER PRIMARY KEY, node BLOB NOT NULL, p1 INTEGER NOT NULL, p2 INTEGER NOT NULL,
    kind INTEGER NOT NULL, text BLOB NOT NULL
);
CREATE TABLE log (id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE);
CREATE TABLE revision (
    id INTEGER PRIMARY KEY,
    node BLOB NOT NULL,
    p1 BLOB,                    -- NULL for the null node
    p2 BLOB,
    link INTEGER NOT NULL,      -- the changeset that introduced it
    base INTEGER NOT NULL,      -- id of the delta's base; -1: data is the text itself
    role INTEGER NOT NULL,      -- the base is parent 1 or 2, or 0: neither
    chain INTEGER NOT NULL,     -- how many deltas it takes from a text; 0: there is a snapshot
    weight INTEGER NOT NULL,    -- and how many bytes they have
    kind INTEGER NOT NULL,
    data BLOB NOT NULL
);
CREATE TABLE snapshot (id INTEGER PRIMARY KEY, kind INTEGER NOT NULL, data BLOB NOT NULL);
-- Further changesets that introduced the same revision: on another branch, or again.
CREATE TABLE relink (id INTEGER, rev INTEGER, PRIMARY KEY (id, rev)) WITHOUT ROWID;
INSERT INTO log VALUES (0, x'');
"""
_INDEXES: Final = (
    "CREATE INDEX revision_node ON revision (node)",
    "CREATE INDEX revision_link ON revision (link)",
    "CREATE INDEX relink_rev ON relink (rev)",
)

# Below this, zstd's frame costs more than it saves.
_WORTH_BYTES: Final = 96
_WORTH_RATIO: Final = 0.9
_LEVEL: Final = 3
RAW: Final = 0
ZSTD: Final = 1

# Pages that one connection keeps: for readers, which are many, and for the one that builds.
_READER_KIB: Final = 2 << 10
_BUILDER_KIB: Final = 64 << 10


def open_new(path: Path) -> sqlite3.Connection:
    """A new file for a first build: fast, and worth nothing before :func:`seal`."""
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA page_size = 8192")
    db.execute("PRAGMA journal_mode = OFF")
    db.execute("PRAGMA synchronous = OFF")
    db.execute(f"PRAGMA cache_size = -{_BUILDER_KIB}")
    db.executescript(_TABLES)
    db.execute("BEGIN")
    return db


def add_indexes(db: sqlite3.Connection) -> None:
    """Make what nodes and changesets are found by; after the bulk of rows, which is faster."""
    for statement in _INDEXES:
        db.execute(statement)


def seal(db: sqlite3.Connection, path: Path) -> None:
    """Close a built file, durable and as one that is read while it grows."""
    db.execute("COMMIT")
    db.execute("PRAGMA journal_mode = WAL").fetchone()
    db.close()
    with path.open("rb") as file:
        os.fsync(file.fileno())


def open_to_grow(path: Path) -> sqlite3.Connection:
    """The one connection that writes."""
    db = _open(path)
    db.execute("PRAGMA synchronous = FULL")
    db.execute(f"PRAGMA cache_size = -{_BUILDER_KIB}")
    return db


def open_to_read(path: Path) -> sqlite3.Connection:
    """A connection for one reader at a time, in whichever thread."""
    db = _open(path)
    db.execute("PRAGMA query_only = ON")
    db.execute(f"PRAGMA cache_size = -{_READER_KIB}")
    return db


def _open(path: Path) -> sqlite3.Connection:
    # Not `connect(path)`: that would make an empty database where there is none.
    uri = f"{path.absolute().as_uri()}?mode=rw"
    return sqlite3.connect(
        uri, uri=True, isolation_level=None, check_same_thread=False, timeout=60.0
    )


# What SQLite finds wrong with the content of a file: no database, or none that has our tables, or
# rows that contradict each other. All else (no descriptor or memory left, a full disk, a lock that
# somebody holds) says nothing about the index, of which a new one may take hours to build.
_DAMAGE: Final = frozenset(
    (
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_FORMAT,
        sqlite3.SQLITE_NOTADB,
    )
)
_PRIMARY: Final = 0xFF


def failure_of(path: Path, error: sqlite3.Error) -> IndexBroken | IndexUnreadable:
    """What an error of SQLite says about the index at ``path``."""
    # Errors of Python's module itself have no code.
    code: int | None = getattr(error, "sqlite_errorcode", None)
    damaged = (code is not None and code & _PRIMARY in _DAMAGE) or _is_missing(path)
    return (IndexBroken if damaged else IndexUnreadable)(f"{path}: {error}")


def _is_missing(path: Path) -> bool:
    """There is no such file; of one that we may not look at we do not know."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        pass
    return False


def read_meta(db: sqlite3.Connection, key: str) -> bytes | None:
    """One of the index's own notes."""
    row: tuple[bytes] | None = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if row is None else row[0]


def write_meta(db: sqlite3.Connection, key: str, value: bytes) -> None:
    """Note something, in the transaction that is open."""
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))


@dataclass(slots=True)
class Packing:
    """How texts and deltas are kept: as they are, or as zstd frames; for one thread at a time."""

    _decompressor: zstandard.ZstdDecompressor = field(default_factory=zstandard.ZstdDecompressor)
    _compressor: zstandard.ZstdCompressor | None = None

    def pack(self, data: bytes) -> tuple[int, bytes]:
        """What to store for ``data``: its kind and bytes."""
        if len(data) >= _WORTH_BYTES:
            if self._compressor is None:
                self._compressor = zstandard.ZstdCompressor(level=_LEVEL)
            packed = self._compressor.compress(data)
            if len(packed) < _WORTH_RATIO * len(data):
                return ZSTD, packed
        return RAW, data

    def unpack(self, kind: int, data: bytes) -> bytes:
        """What was stored.

        Raises:
            IndexBroken: it is not what was stored.
        """
        if kind == RAW:
            return data
        try:
            return self._decompressor.decompress(data)
        except zstandard.ZstdError as error:
            raise IndexBroken(f"the index has a text that is no zstd frame: {error}") from error
