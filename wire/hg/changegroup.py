# Law of this file: a changegroup of version 02 is taken apart into logs and their revisions, in any
# chunking; a reader holds one revision at most.
#
# The format: chunks `u32 n` and n - 4 bytes; n = 0 ends a group. First the group of the changelog,
# then that of the manifest, then for each file a chunk with its path and its group, then an empty
# chunk. A revision's chunk: node, both parents, the delta's base, the changeset that introduced it
# (20 bytes each), then the delta. The base of a text that stands alone is the null node.

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

# The revlog format itself stops at 2 GiB; who has larger files has them somewhere else.
MAX_REVISION: Final = 1 << 31
MAX_PATH: Final = 64 << 10

_U32: Final = struct.Struct(">I")
_HEADER: Final = struct.Struct(">20s20s20s20s20s")


class ChangegroupError(ValueError):
    """These bytes are no changegroup of version 02."""


class Log(Enum):
    """Which log a group of revisions belongs to."""

    CHANGELOG = "changelog"
    MANIFEST = "manifest"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class LogBegin:
    """The revisions that follow are of this log.

    Attributes:
        log: which one.
        path: the file's path, empty for the other logs.
    """

    log: Log
    path: bytes


@dataclass(frozen=True, slots=True)
class RevisionDelta:
    """One revision, by its difference to another one.

    Attributes:
        node: what names it.
        p1: its first parent, null if there is none.
        p2: its second parent.
        base: what the delta is made against; null for nothing.
        link: the changeset that introduced it.
        delta: see :mod:`wire.hg.delta`.
    """

    node: bytes
    p1: bytes
    p2: bytes
    base: bytes
    link: bytes
    delta: bytes


@dataclass(frozen=True, slots=True)
class LogEnd:
    """The log that began last has no more revisions."""


Event = LogBegin | RevisionDelta | LogEnd


class _State(Enum):
    REVISION = "revision"
    PATH = "path"
    END = "end"


@dataclass(slots=True)
class ChangegroupReader:
    """Takes a changegroup apart as its bytes come."""

    _held: bytearray = field(default_factory=bytearray)
    _log: Log | None = None
    _state: _State = _State.REVISION
    _missing: int = 0

    def feed(self, data: bytes) -> Iterator[Event]:
        """What ``data`` completes; take every event before the next call.

        Raises:
            ChangegroupError: this is no changegroup.
        """
        held = self._held
        held += data
        if len(held) < self._missing:
            return
        position = 0
        while self._state is not _State.END:
            if self._log is None:
                self._log = Log.CHANGELOG
                yield LogBegin(Log.CHANGELOG, b"")
            if len(held) - position < 4:
                self._missing = 4
                break
            size = self._size(_U32.unpack_from(held, position)[0])
            if len(held) - position < size + 4:
                self._missing = size + 4
                break
            chunk = bytes(memoryview(held)[position + 4 : position + 4 + size])
            position += size + 4
            yield from self._take(chunk)
        else:
            self._missing = 0  # whatever follows is too much
            if len(held) > position:
                raise ChangegroupError(f"{len(held) - position} bytes follow the changegroup")
        del held[:position]

    def end(self) -> None:
        """Say that no more bytes come.

        Raises:
            ChangegroupError: the changegroup is not complete.
        """
        if self._state is not _State.END:
            raise ChangegroupError(f"the changegroup is cut off where a {self._state.value} starts")

    def _size(self, length: int) -> int:
        """The size of a chunk's content; its length counts itself, and 0 is the end of a group."""
        limit = MAX_PATH if self._state is _State.PATH else MAX_REVISION
        if 0 < length <= 4 or length > limit:
            raise ChangegroupError(f"a {self._state.value} of {length} bytes, of {limit} at most")
        return max(length - 4, 0)

    def _take(self, chunk: bytes) -> Iterator[Event]:
        if self._state is _State.PATH:
            if not chunk:
                self._state = _State.END
                return
            self._state = _State.REVISION
            yield LogBegin(Log.FILE, chunk)
        elif chunk:
            if len(chunk) < _HEADER.size:
                raise ChangegroupError(f"a revision of {len(chunk)} bytes is cut off in its header")
            node, p1, p2, base, link = _HEADER.unpack_from(chunk)
            yield RevisionDelta(node, p1, p2, base, link, chunk[_HEADER.size :])
        else:
            yield LogEnd()
            if self._log is Log.CHANGELOG:
                self._log = Log.MANIFEST
                yield LogBegin(Log.MANIFEST, b"")
            else:
                self._log = Log.FILE
                self._state = _State.PATH
