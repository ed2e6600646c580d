# Law of this file: a pack is whole, or it is no pack. What is checked is its frame: signature,
# version, and the checksum in its end. The format is described in git's gitformat-pack(5).

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from wire.git.pktline import ProtocolError, shown

HASH_SIZES: Final = {"sha1": 20, "sha256": 32}
"""Object formats, and how many bytes their object ids and checksums have."""

_SIGNATURE: Final = b"PACK"
_VERSIONS: Final = (2, 3)
_HEADER: Final = 12  # signature, version, number of objects: four bytes each, big-endian


class BadPack(ProtocolError):  # noqa: N818 - a state of the pack, by the field's habit
    """These bytes are not one whole pack."""


@dataclass(frozen=True, slots=True)
class PackInfo:
    """What the frame of a pack says.

    Attributes:
        objects: how many objects its header promises.
        checksum: its last bytes, in hex: the hash of all bytes before them.
        size: its length in bytes, with header and checksum.
    """

    objects: int
    checksum: str
    size: int


class PackChecker:
    """Checks a pack that comes in chunks of any size, and keeps none of it.

    A pack has no length field: its checksum is whatever comes last, so as many bytes are held
    back as a checksum has. Objects are not looked at; that is ``git index-pack``'s work.
    """

    __slots__ = ("_hash", "_header", "_held", "_keep", "_size")

    def __init__(self, object_format: str) -> None:
        self._keep = HASH_SIZES[object_format]
        self._hash = hashlib.new(object_format, usedforsecurity=False)
        self._header = b""
        self._held = b""
        self._size = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            BadPack: they cannot belong to a pack; nothing more needs to be read.
        """
        self._size += len(data)
        if len(self._header) < _HEADER:
            self._header += data[: _HEADER - len(self._header)]
            _check_header(self._header)
        keep = self._keep
        if len(data) >= keep:
            self._hash.update(self._held)
            self._hash.update(memoryview(data)[:-keep])
            self._held = data[-keep:]
        else:
            held = self._held + data
            self._hash.update(held[:-keep])
            self._held = held[-keep:]

    def finish(self) -> PackInfo:
        """Say that the pack has ended.

        Raises:
            BadPack: it was cut short, or its content does not match its checksum.
        """
        if self._size < _HEADER + self._keep:
            raise BadPack(f"the pack ends after {self._size} bytes, before its checksum")
        promised, found = self._held.hex(), self._hash.hexdigest()
        if promised != found:
            raise BadPack(
                f"the pack of {self._size} bytes ends with the checksum {promised}, but its"
                f" content has {found}: it was cut short or damaged"
            )
        return PackInfo(int.from_bytes(self._header[8:], "big"), promised, self._size)


def _check_header(header: bytes) -> None:
    """Check as much of a pack's header as there is."""
    if not _SIGNATURE.startswith(header[:4]):
        raise BadPack(f"a pack begins with 'PACK', not with '{shown(header[:4])}'")
    if len(header) >= 8:
        version = int.from_bytes(header[4:8], "big")
        if version not in _VERSIONS:
            raise BadPack(f"packs have version 2 or 3, not {version}")


def empty_pack(object_format: str) -> bytes:
    """A whole pack with no objects, for answers whose content is elsewhere."""
    header = _SIGNATURE + (2).to_bytes(4, "big") + (0).to_bytes(4, "big")
    return header + hashlib.new(object_format, header, usedforsecurity=False).digest()
