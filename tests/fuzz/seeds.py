# Law of this file: a fuzzer begins with what stock Mercurial said, as it was recorded, and with
# what its formats describe, written out here without the code under test.

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import zstandard

_GOLDEN: Final = Path(__file__).parent.parent / "hg" / "golden"

# Frames are cut for some seeds, and not for most: see targets.in_pieces.
_CUTS: Final = (b"\x3c", b"\x00")

# Longer ones teach a fuzzer nothing that shorter ones do not, and slow it down.
_LONGEST: Final = 1200


def _recorded(suffix: str) -> list[bytes]:
    bodies = {path.read_bytes() for path in sorted(_GOLDEN.glob(f"*/*.{suffix}"))}
    return sorted(body for body in bodies if body and len(body) <= _LONGEST)


def _frames(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Types and payloads of the frames of a body; of none, nothing."""
    while len(body) >= 8:
        size = int.from_bytes(body[:3], "little")
        if size > len(body) - 8:
            return
        yield body[7] >> 4, body[8 : 8 + size]
        body = body[8 + size :]


def requests() -> list[bytes]:
    """Bodies of requests."""
    return [cut + body for body in _recorded("request") for cut in _CUTS]


def responses() -> list[bytes]:
    """Bodies of responses."""
    return [cut + body for body in _recorded("response") for cut in _CUTS]


def payloads() -> list[bytes]:
    """What one encoded stream carries: odd first bytes are of zstd."""
    text = b"the same text again and again, " * 3
    return [
        b"\x3c" + zlib.compress(text),
        b"\x04" + zlib.compress(text, 0),
        b"\x3b" + zstandard.ZstdCompressor().compress(text),
        b"\x05" + zstandard.ZstdCompressor().compress(bytes(500)),
    ]


def objects() -> list[bytes]:
    """Sequences of CBOR."""
    return [_CUTS[0] + each for each in messages()]


def messages() -> list[bytes]:
    """Payloads of frames that are not encoded."""
    found = {
        payload
        for body in (*_recorded("request"), *_recorded("response"))
        for _, payload in _frames(body)
        if payload
    }
    return [
        *sorted(found),
        b"\xa3\x43pos\x20\x45topic\x41t\x45total\x05",
        b"\x81\xa3\x43msg\x41b\x44args\x81\x41x\x46labels\x81\x41l",
        (
            b"\xa2\x48location\xa4\x43url\x4bhttps://x/y\x44size\x05\x49mediatype\x41m"
            b"\x4afullhashes\x81\x82\x44sha1\x41\x02\x46status\x48redirect"
        ),
        b"\x5f\x42ab\x40\xff",
        b"\xd9\x01\x02\x83\xf4\x41a\x01",
    ]


# --- what Mercurial stores --------------------------------------------------------------

_NULL: Final = bytes(20)
_NODE: Final = bytes(range(20))
_CHANGESET: Final = (
    _NODE.hex().encode() + b"\nA U Thor <a@example.org>\n0 0 branch:stable\na\nb/c\n\nwhat is new"
)
_MANIFEST: Final = b"a\0%s\nb/c\0%sx\n" % (_NODE.hex().encode(), _NODE.hex().encode())


def _hunk(start: int, end: int, data: bytes) -> bytes:
    return struct.pack(">III", start, end, len(data)) + data


def _chunk(data: bytes) -> bytes:
    return struct.pack(">I", len(data) + 4) + data


def _revision(text: bytes) -> bytes:
    return _chunk(_NODE + _NULL + _NULL + _NULL + _NODE + _hunk(0, 0, text))


def _changegroup() -> bytes:
    end = bytes(4)
    logs = _revision(_CHANGESET) + end + _revision(_MANIFEST) + end
    return logs + _chunk(b"a") + _revision(b"a text") * 2 + end + _chunk(b"b/c") + end + end


def changegroups() -> list[bytes]:
    """Changegroups of version 02."""
    return [b"\x3c" + bytes(12), *(cut + _changegroup() for cut in _CUTS)]


def bundles() -> list[bytes]:
    """Bundles of a changegroup and of bookmarks."""
    pieces = b""
    for kind, payload in ((b"CHANGEGROUP", _changegroup()), (b"bookmarks", b"x")):
        header = bytes((len(kind),)) + kind + bytes(4) + bytes((1, 1, 7, 2, 1, 0))
        header += b"version" + b"02" + b"a"
        pieces += struct.pack(">I", len(header)) + header
        pieces += struct.pack(">i", len(payload)) + payload + bytes(4)
    return [
        _CUTS[0] + b"HG20" + bytes(8),
        *(cut + b"HG20" + bytes(4) + pieces + bytes(4) for cut in _CUTS),
        _CUTS[0] + b"HG20\x00\x00\x00\x0eCompression=GZ" + bytes(4),
    ]


def deltas() -> list[bytes]:
    """Deltas, each behind the text that it is for."""
    base = b"a text of some lines\nof which one is new\n"
    return [
        bytes((len(base),)) + base + _hunk(0, 1, b"the") + _hunk(20, 20, b"\nmore"),
        bytes((len(base),)) + base,
        b"\x00" + _hunk(0, 0, base),
    ]


def texts() -> list[bytes]:
    """Texts of changesets and manifests."""
    return [_CHANGESET, _MANIFEST, _MANIFEST[:43]]
