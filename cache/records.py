# Law of this file: a record is read whole or not at all. A damaged file is no record, and is
# removed; what is remembered of a file is used only while the path still names that file.

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from cache.errors import CacheUnavailable
from cache.layout import Layout, Stamp, stamp_of
from cache.usage import Usage
from stores.entity import Entity

# What a parsed record costs in memory beside its head: the objects and the paths.
_OVERHEAD: Final = 1024
_MAGIC: Final = b"offramp-record-1"


class BadRecord(ValueError):  # noqa: N818 - what it is
    """These bytes are no record."""


@dataclass(frozen=True, slots=True)
class Part:
    """One entity of an answer.

    Attributes:
        entity: the content.
        checksum: the dialect's own checksum of it (git: the pack's trailer, hex); "" if none.
    """

    entity: Entity
    checksum: str


@dataclass(frozen=True, slots=True)
class Record:
    """An answer that was computed once.

    Attributes:
        key: of the question (see :func:`cache.keys.record_key`).
        repository: what names the repository in keys.
        head: what only the server can say, in the dialect's bytes.
        parts: the entities that follow the head.
        created: seconds since the epoch.
    """

    key: str
    repository: str
    head: bytes
    parts: tuple[Part, ...]
    created: float


def encode_record(record: Record) -> bytes:
    """Write a record down: ``offramp-record-1 <sha256 of the rest> LF <JSON object> LF <head>``."""
    fields = {
        "key": record.key,
        "repository": record.repository,
        "created": record.created,
        "parts": [
            {
                "digest": part.entity.digest,
                "size": part.entity.size,
                "media_type": part.entity.media_type,
                "checksum": part.checksum,
            }
            for part in record.parts
        ],
    }
    # ASCII only, so that a repository's path that is not UTF-8 (surrogates) can be written too.
    rest = json.dumps(fields, separators=(",", ":")).encode("ascii") + b"\n" + record.head
    return b"%s %s\n%s" % (_MAGIC, hashlib.sha256(rest).hexdigest().encode(), rest)


def decode_record(body: bytes) -> Record:
    """Read what :func:`encode_record` wrote.

    Raises:
        BadRecord: it is damaged, or was never a record.
    """
    first, _, rest = body.partition(b"\n")
    if first != b"%s %s" % (_MAGIC, hashlib.sha256(rest).hexdigest().encode()):
        raise BadRecord("the first line does not go with the rest")
    fields, _, head = rest.partition(b"\n")
    try:
        match json.loads(fields):
            case {
                "key": str(key),
                "repository": str(repository),
                "created": int() | float() as created,
                "parts": list(parts),
            }:
                return Record(key, repository, head, tuple(map(_part, parts)), float(created))
    except (ValueError, RecursionError, OverflowError) as error:
        raise BadRecord(f"the second line cannot be read: {error}") from error
    raise BadRecord("the second line is no JSON object of a record's fields")


def _part(fields: object) -> Part:
    match fields:
        case {
            "digest": str(digest),
            "size": int(size),
            "media_type": str(media_type),
            "checksum": str(checksum),
        }:
            return Part(Entity(digest, size, media_type), checksum)
    raise ValueError("a part lacks a field")


@dataclass(frozen=True, slots=True)
class _Remembered:
    path: str
    stamp: Stamp
    record: Record

    @property
    def cost(self) -> int:
        return _OVERHEAD * (1 + len(self.record.parts)) + len(self.record.head)


class Records:
    """The records on disk, with the last used ones parsed in memory. Safe for threads.

    A record in memory costs one ``stat`` a use, so that what another process of this machine
    writes or deletes is seen at once.
    """

    def __init__(
        self,
        layout: Layout,
        usage: Usage,
        max_records: int = 4096,
        max_bytes: int = 64 << 20,
    ) -> None:
        """Open.

        Args:
            layout: where the records lie.
            usage: is told what is used.
            max_records: how many are kept in memory.
            max_bytes: how much memory they may take, about.
        """
        self._layout = layout
        self._usage = usage
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._remembered: OrderedDict[str, _Remembered] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def load(self, key: str) -> Record | None:
        """The record of ``key``, or None."""
        with self._lock:
            known = self._remembered.get(key)
            if known is not None:
                self._remembered.move_to_end(key)
        if known is not None:
            try:
                status = os.stat(known.path)  # noqa: PTH116 - half of Path.stat, on every request
            except OSError:
                status = None
            if status is not None and stamp_of(status) == known.stamp:
                self._usage.touch("records", key)
                return known.record
        return self._read(key)

    def save(self, record: Record) -> None:
        """Write a record, replacing the one of its key.

        Raises:
            CacheUnavailable: the disk refused; what was there before is there still.
        """
        body = encode_record(record)
        stamp = self._layout.write("records", record.key, body)
        self._usage.add("records", record.key, len(body))
        self._remember(record, stamp)

    def delete(self, key: str) -> None:
        """Remove the record of ``key``, if there is one and the disk allows it."""
        with suppress(CacheUnavailable):
            self.take_back(key)

    def take_back(self, key: str) -> None:
        """Remove the record of ``key``, if there is one.

        Raises:
            CacheUnavailable: the disk refused; it may still be there.
        """
        self._forget(key)
        self._layout.take_back("records", key)
        self._usage.touch("records", key)

    def scan(self) -> Iterator[Record]:
        """Every record on disk, in no order; damaged ones are left out. Blocks.

        Looking does not count as use.
        """
        for key, _ in self._layout.walk("records"):
            try:
                record = decode_record(self._layout.place("records", key).read_bytes())
            except (BadRecord, OSError):
                continue
            if record.key == key:
                yield record

    def _read(self, key: str) -> Record | None:
        path = self._layout.place("records", key)
        try:
            with path.open("rb") as file:
                stamp = stamp_of(os.fstat(file.fileno()))
                record = decode_record(file.read())
            if record.key != key:
                raise BadRecord(f"this is the record of {record.key}")
        except BadRecord:
            self.delete(key)
            return None
        except OSError:
            self._forget(key)
            return None
        self._usage.touch("records", key)
        self._remember(record, stamp)
        return record

    def _remember(self, record: Record, stamp: Stamp) -> None:
        path = str(self._layout.place("records", record.key))
        entry = _Remembered(path, stamp, record)
        self._forget(record.key)
        with self._lock:
            self._remembered[record.key] = entry
            self._bytes += entry.cost
            while self._remembered and (
                len(self._remembered) > self._max_records or self._bytes > self._max_bytes
            ):
                _, oldest = self._remembered.popitem(last=False)
                self._bytes -= oldest.cost

    def _forget(self, key: str) -> None:
        with self._lock:
            known = self._remembered.pop(key, None)
            if known is not None:
                self._bytes -= known.cost
