# Law of this file: what is written here is what `wire.hg.bundle2` reads, part for part, and byte
# for byte what Mercurial writes of the same parts. The format is described there.

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from wire.hg.bundle2 import MAGIC, MAX_CHUNK, BundleError, Part

# The sizes of a type, of a parameter's key and of its value, and the number of either kind of
# parameters, are one byte each.
_MAX_WORD: Final = 255
_TYPE: Final = re.compile(rb"[a-z0-9_:-]+")

_U32: Final = struct.Struct(">I")
_I32: Final = struct.Struct(">i")
_BOOKMARK: Final = struct.Struct(">20sH")
_PHASE_HEAD: Final = struct.Struct(">i20s")

PUBLIC: Final = 0
DRAFT: Final = 1


def bundle(
    parts: Iterable[tuple[Part, Iterable[bytes]]], stream_params: bytes = b""
) -> Iterator[bytes]:
    """An uncompressed bundle2, in pieces; parts are numbered from 0 in their order.

    Args:
        parts: each with the pieces of its payload. A piece becomes a chunk, an empty one nothing.
        stream_params: as they are written: space separated, quoted like URLs.

    Raises:
        BundleError: a part cannot be written.
    """
    yield MAGIC + _U32.pack(len(stream_params)) + stream_params
    for number, (part, payload) in enumerate(parts):
        header = _header(part, number)
        yield _U32.pack(len(header)) + header
        for piece in payload:
            # Larger ones would be read by Mercurial, and by us not.
            for start in range(0, len(piece), MAX_CHUNK):
                chunk = piece[start : start + MAX_CHUNK]
                yield _I32.pack(len(chunk)) + chunk
        yield _I32.pack(0)
    yield _U32.pack(0)


def _header(part: Part, number: int) -> bytes:
    if not _TYPE.fullmatch(part.type) or len(part.type) > _MAX_WORD:
        raise BundleError(
            f"{part.type[:60]!r} is no part's type: at most {_MAX_WORD} of a-z, 0-9, _, : and -"
        )
    mandatory = [(key, value) for key, value in part.params.items() if key not in part.advisory]
    advisory = [(key, value) for key, value in part.params.items() if key in part.advisory]
    kind = part.type.upper() if part.mandatory else part.type
    if part.mandatory and kind == part.type:
        raise BundleError(f"{part.type!r} has no letter, whose capital says that it is mandatory")
    counts = len(mandatory), len(advisory)
    if max(counts) > _MAX_WORD:
        raise BundleError(
            f"the part {part.type!r} has {counts} parameters; {_MAX_WORD} can be told"
        )
    words = [word for pair in mandatory + advisory for word in pair]
    for word in words:
        if len(word) > _MAX_WORD:
            raise BundleError(
                f"{word[:60]!r}, a parameter of {part.type!r}, has {len(word)} bytes;"
                f" {_MAX_WORD} can be told"
            )
    return b"".join(
        [
            bytes((len(kind),)) + kind + _U32.pack(number) + bytes(counts),
            bytes(map(len, words)),
            *words,
        ]
    )


def bookmarks_payload(bookmarks: Mapping[bytes, bytes]) -> bytes:
    """The payload of a part ``bookmarks``: for each a node, `u16 n` and n bytes of name.

    They are sorted by name, as the file is from which Mercurial reads them.
    """
    return b"".join(
        _BOOKMARK.pack(node, len(name)) + name for name, node in sorted(bookmarks.items())
    )


def phase_heads_payload(phases: Mapping[int, Iterable[bytes]]) -> bytes:
    """The payload of a part ``phase-heads``: for each head `i32 phase` and its node.

    Args:
        phases: heads by phase, :data:`PUBLIC` or :data:`DRAFT`.
    """
    return b"".join(
        _PHASE_HEAD.pack(phase, node) for phase in sorted(phases) for node in sorted(phases[phase])
    )
