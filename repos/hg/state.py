# Law of this file: which of a repository's files any change touches, and what hg said when they
# were as they are. Whoever finds them unchanged has the same answer, in this process or another.

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from repos.hg.asking import Told
from repos.stamps import Stamp, stamp
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
    """Stat everything that a change of the repository, or of hg's configuration, touches."""
    base = str(hg_dir)
    found = [stamp(f"{base}/{name}") for name in _FILES]
    if found[-1][1]:
        found.append(stamp(f"{base}/{_DIRSTATE}"))
    configuration = environ.get("HGRCPATH", "")
    found += (stamp(path) for path in configuration.split(os.pathsep) if path)
    return tuple(found)


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
# to 12 are the size of the data; inline, the data follows its entry.
_ENTRY: Final = 64
_INLINE: Final = 1
_VERSION: Final = 1


def count_revisions(index: bytes | memoryview, size: int) -> int | None:
    """How many revisions a revlog has, by its index file.

    Args:
        index: the file, or of one that is not inline its beginning.
        size: of the whole file, in bytes.

    Returns:
        None if it is no revlog of version 1, or is cut off.
    """
    if size == 0:
        return 0
    if len(index) < 4:
        return None
    flags, version = struct.unpack_from(">HH", index)
    if version != _VERSION:
        return None
    if not flags & _INLINE:
        return None if size % _ENTRY else size // _ENTRY
    count = position = 0
    while position + _ENTRY <= len(index):
        position += _ENTRY + struct.unpack_from(">I", index, position + 8)[0]
        count += 1
    return count if position == size else None


def is_inline(index: bytes | memoryview) -> bool:
    """Whether a revlog's data is in its index file."""
    return len(index) >= 4 and bool(struct.unpack_from(">H", index)[0] & _INLINE)


def stored_changesets(hg_dir: Path) -> int | None:
    """How many changesets the store has, served or not; None if it cannot be told."""
    try:
        with (hg_dir / "store" / "00changelog.i").open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(4)
            index = head + file.read(size - len(head)) if is_inline(head) else head
            return count_revisions(index, size)
    except FileNotFoundError:
        return 0
    except OSError:
        return None
