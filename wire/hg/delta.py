# Law of this file: a delta is a list of replacements in ascending order, and one that does not fit
# its base is an error, never a text.
#
# The format is that of changegroups and of the protocol's `delta` field: for each replacement
# `u32 start, u32 end, u32 length` (big-endian) and `length` bytes that take the place of
# base[start:end].

from __future__ import annotations

import struct
from typing import Final

_HUNK: Final = struct.Struct(">III")


class DeltaError(ValueError):
    """These bytes are no delta, or none for this base."""


def apply(base: bytes, delta: bytes) -> bytes:
    """The text that ``delta`` makes of ``base``.

    Raises:
        DeltaError: the delta is cut off, or its replacements overlap or lie outside the base.
    """
    unpack = _HUNK.unpack_from
    size = len(base)
    total = len(delta)
    source = memoryview(base)
    pieces: list[bytes | memoryview] = []
    copied = position = 0
    while position < total:
        if total - position < 12:
            raise DeltaError(f"the delta is cut off in a header at byte {position}")
        start, end, length = unpack(delta, position)
        position += 12
        if not copied <= start <= end <= size:
            raise DeltaError(
                f"the delta replaces bytes {start} to {end} after byte {copied} of {size}"
            )
        if length > total - position:
            raise DeltaError(
                f"the delta is cut off at byte {total}: {length} bytes were promised at {position}"
            )
        if start > copied:
            pieces.append(source[copied:start])
        if length:
            pieces.append(delta[position : position + length])
        position += length
        copied = end
    if copied < size:
        pieces.append(source[copied:])
    return b"".join(pieces)


def whole(text: bytes) -> bytes:
    """The delta that makes ``text`` of nothing."""
    return _HUNK.pack(0, 0, len(text)) + text


def single(base: bytes, text: bytes) -> bytes:
    """A delta of at most one replacement: the lines between the common beginning and end.

    Of whole lines: Mercurial reads the delta of a manifest, by itself, as lines of a manifest.

    Raises:
        DeltaError: a text is too long for the format's 32 bits.
    """
    if len(base) >= 1 << 32 or len(text) >= 1 << 32:
        raise DeltaError("a delta cannot describe texts of 4 GiB or more")
    if base == text:
        return b""
    start = _common(base, text)
    longest = min(len(base), len(text)) - start
    tail = min(longest, _common(base[start:][::-1], text[start:][::-1]))
    start = base.rfind(b"\n", 0, start) + 1
    if not (_begins_line(base, len(base) - tail) and _begins_line(text, len(text) - tail)):
        end_of_line = text.find(b"\n", len(text) - tail)
        tail = 0 if end_of_line < 0 else len(text) - end_of_line - 1
    middle = text[start : len(text) - tail]
    return _HUNK.pack(start, len(base) - tail, len(middle)) + middle


def _begins_line(text: bytes, place: int) -> bool:
    return place == 0 or text[place - 1] == ord("\n")


def _common(one: bytes, other: bytes) -> int:
    """How many bytes both begin with, by halving: comparing slices is fast, bytes are not."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
