# Law of this file: which of a repository's files any change touches, and what hg said when they
# were as they are. Whoever finds them unchanged has the same answer, in this process or another.

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from repos.hg.asking import Told
from repos.stamps import Stamp
from wire.hg.cbor import CborError, Limits, Value, decode_one, encode

_FILES: Final = (
    "requires",
    "hgrc",
    "hgrc-not-shared",
    "bookmarks",
    "localtags",
    "store/requires",
    "store/00changelog.i",
    "store/00changelog.d",
    "store/00manifest.i",
    "store/phaseroots",
    "store/bookmarks",
    "store/obsstore",
)
# Where the working directory is keeps an obsolete changeset visible.
_DIRSTATE: Final = "dirstate"

# Our own notes, not a stranger's: as large as repositories with very many heads make them.
_LIMITS: Final = Limits(item_size=1 << 30, members=1 << 24)


@dataclass(frozen=True, slots=True)
class State:
    """What an index serves.

    Attributes:
        stamps: of the files that it was made from; empty if one may have changed unnoticed.
        epoch: changes whenever something that was answered may not be answered any more.
        told: what hg said.
        stored: changesets in the repository's own store, served or not; None if it cannot be told.
    """

    stamps: tuple[Stamp, ...]
    epoch: str
    told: Told
    stored: int | None

    def encode(self) -> bytes:
        """What :func:`decode` reads."""
        told = self.told
        return encode(
            {
                b"stamps": [list(each) for each in self.stamps],
                b"epoch": self.epoch.encode(),
                b"heads": list(told.heads),
                b"branches": {name: list(heads) for name, heads in told.branches.items()},
                b"keys": {name: dict(keys) for name, keys in told.keys.items()},
                b"capabilities": sorted(told.capabilities),
                b"stored": self.stored,
            }
        )


def decode(data: bytes) -> State | None:
    """Read a state; None if it is none that we wrote."""
    try:
        value = decode_one(data, _LIMITS)
        return _state(_map(value))
    except (CborError, KeyError, TypeError, ValueError):
        return None


def _state(value: Mapping[bytes, Value]) -> State:
    stored = value[b"stored"]
    branches = {name: tuple(_strings(heads)) for name, heads in _map(value[b"branches"]).items()}
    keys = {
        name: dict(zip(names, _strings(list(names.values())), strict=True))
        for name, names in ((name, _map(keys)) for name, keys in _map(value[b"keys"]).items())
    }
    epoch = value[b"epoch"]
    if not isinstance(epoch, bytes) or not (stored is None or isinstance(stored, int)):
        raise TypeError("not a state")
    return State(
        tuple(_stamp(each) for each in _list(value[b"stamps"])),
        epoch.decode("ascii"),
        Told(
            heads=tuple(_strings(value[b"heads"])),
            branches=branches,
            keys=keys,
            known=(),
            capabilities=frozenset(_strings(value[b"capabilities"])),
        ),
        stored,
    )


def _map(value: Value) -> dict[bytes, Value]:
    if not isinstance(value, dict):
        raise TypeError("not a map")
    return {key: each for key, each in value.items() if isinstance(key, bytes)}


def _list(value: Value) -> list[Value]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return value


def _strings(value: Value) -> list[bytes]:
    return [each for each in _list(value) if isinstance(each, bytes)]


def _stamp(value: Value) -> Stamp:
    mtime, size, inode = (each for each in _list(value) if isinstance(each, int))
    return mtime, size, inode


def stamps_of(hg_dir: Path, environ: Mapping[str, str]) -> tuple[Stamp, ...]:
    """Stat everything that a change of the repository, or of hg's configuration, touches.

    The last one is of no file: in place of a size it has when any of them was last changed (ctime,
    in ns). hg sets the mtime of what it writes, and after an amend it may be what it was before.
    """
    latest = 0

    def look(path: str) -> Stamp:
        nonlocal latest
        try:
            status = os.stat(path)  # noqa: PTH116 - half the cost of Path.stat, on every request
        except OSError:
            return (0, 0, 0)
        latest = max(latest, status.st_ctime_ns)
        return (status.st_mtime_ns, status.st_size, status.st_ino)

    base = str(hg_dir)
    found = [look(f"{base}/{name}") for name in _FILES]
    if found[-1][1]:
        found.append(look(f"{base}/{_DIRSTATE}"))
    configuration = environ.get("HGRCPATH", "")
    found += [look(path) for path in configuration.split(os.pathsep) if path]
    return (*found, (0, latest, 0))


def requirements_of(hg_dir: Path) -> frozenset[bytes]:
    """What a client of the repository's files must understand: its ``requires`` files."""
    words: set[bytes] = set()
    for name in ("requires", "store/requires"):
        try:
            words.update((hg_dir / name).read_bytes().split())
        except FileNotFoundError:
            continue
    return frozenset(words)


# A revlog of version 1: `u16 flags, u16 version` first, and entries of 64 bytes, of which bytes 8
# to 12 are the size of the data, and 32 to 52 the node; inline, the data follows its entry.
_ENTRY: Final = 64
_NODE: Final = slice(32, 52)
_INLINE: Final = 1
_VERSION: Final = 1

# Entries that are read at once.
_AT_ONCE: Final = 1024


def count_revisions(index: bytes | memoryview, size: int) -> int | None:
    """How many revisions a revlog has, by its index file.

    Args:
        index: the file, or of one that is not inline its beginning.
        size: of the whole file, in bytes.

    Returns:
        None if it is no revlog of version 1, or is cut off.
    """
    entries = _entries(index, size)
    return None if entries is None else len(entries)


def nodes_of(file: IO[bytes], size: int) -> Iterator[bytes] | None:
    """The nodes of a revlog, in its order, by its index file.

    Args:
        file: the file, at its beginning.
        size: what of it counts, in bytes.

    Returns:
        None as :func:`count_revisions`. What is cut off while it is read has fewer than that.
    """
    head = file.read(min(4, size))
    if is_inline(head):
        index = head + file.read(size - len(head))
        entries = _entries(index, size)
        return None if entries is None else (index[at : at + _ENTRY][_NODE] for at in entries)
    entries = _entries(head, size)
    file.seek(0)
    return None if entries is None else _read_nodes(file, len(entries))


def _read_nodes(file: IO[bytes], count: int) -> Iterator[bytes]:
    while count:
        piece = file.read(min(count, _AT_ONCE) * _ENTRY)
        for at in range(0, len(piece) - _ENTRY + 1, _ENTRY):
            yield piece[at : at + _ENTRY][_NODE]
        count = count - len(piece) // _ENTRY if piece else 0


def _entries(index: bytes | memoryview, size: int) -> Sequence[int] | None:
    """Where the entries of a revlog's index begin; see :func:`count_revisions`."""
    if size == 0:
        return ()
    if len(index) < 4:
        return None
    flags, version = struct.unpack_from(">HH", index)
    if version != _VERSION:
        return None
    if not flags & _INLINE:
        return None if size % _ENTRY else range(0, size, _ENTRY)
    places = array("q")
    position = 0
    while position + _ENTRY <= len(index):
        places.append(position)
        position += _ENTRY + struct.unpack_from(">I", index, position + 8)[0]
    return places if position == size else None


def is_inline(index: bytes | memoryview) -> bool:
    """Whether a revlog's data is in its index file."""
    return len(index) >= 4 and bool(struct.unpack_from(">H", index)[0] & _INLINE)


def stored_changesets(hg_dir: Path) -> int | None:
    """How many changesets the store has, served or not; None if it cannot be told.

    Raises:
        OSError: it cannot be read now.
    """
    try:
        with (hg_dir / "store" / "00changelog.i").open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(4)
            index = head + file.read(size - len(head)) if is_inline(head) else head
            return count_revisions(index, size)
    except FileNotFoundError:
        return 0
