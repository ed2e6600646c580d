# Law of this file: what a conditional or partial request asks for, by RFC 9110, of content that
# never changes. Text in, a choice out; what cannot be read is as if it were not there.

from __future__ import annotations

import re
from dataclasses import dataclass

# Positions have at most 40 digits here: int() of a whole header of digits would cost more than it
# is worth, and Python refuses it from 4300 digits on.
_RANGE = re.compile(
    r"bytes=[ \t]*(?:([0-9]{1,40})-([0-9]{0,40})|-([0-9]{1,40}))[ \t]*", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Whole:
    """Send everything, with status 200."""


@dataclass(frozen=True, slots=True)
class Part:
    """Send the bytes ``start <= i < end`` (at least one), with status 206."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Unsatisfiable:
    """No byte of the content is in the range: status 416."""


def parse_range(header: str | None, size: int) -> Whole | Part | Unsatisfiable:
    """What a ``Range`` header asks for of content of ``size`` bytes (RFC 9110 section 14.2).

    A server may ignore any range. Those that are malformed, of another unit, or several at once
    are: no client of ours asks for several, and an answer in pieces is an attacker's tool.
    """
    match = _RANGE.fullmatch(header) if header is not None else None
    if match is None:
        return Whole()
    first, last, suffix = match.groups()
    if suffix is not None:
        if int(suffix) == 0:
            return Unsatisfiable()
        # The last bytes of nothing are satisfiable, says section 14.1.2; 206 has no way to say so.
        return Part(max(size - int(suffix), 0), size) if size else Whole()
    if last and int(last) < int(first):
        return Whole()
    if int(first) >= size:
        return Unsatisfiable()
    return Part(int(first), min(int(last) + 1, size) if last else size)


def range_applies(if_range: str | None, etag: str) -> bool:
    """Whether ``Range`` is to be heeded (RFC 9110 section 13.1.5); ``etag`` has its quotes.

    A date never fits: we send no Last-Modified that it could have come from.
    """
    return if_range is None or if_range.strip() == etag


def names(header: str | None, etag: str, *, weak: bool) -> bool:
    """Whether the list of an ``If-None-Match`` or ``If-Match`` header names ``etag``.

    ``weak`` lets ``W/"..."`` count (RFC 9110 section 8.8.3.2). Our own tags hold no comma.
    """
    if header is None:
        return False
    tags = [tag.strip() for tag in header.split(",")]
    return tags == ["*"] or etag in tags or (weak and f"W/{etag}" in tags)
