# Law of this file: the single values that requests of every protocol version are made of. Each is
# checked where it is read, so that what is handed to a program later is known to be well-formed.

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from wire.git.pktline import MAX_PAYLOAD, Packet, ProtocolError, Special, shown

OID_LENGTHS: Final = {"sha1": 40, "sha256": 64}
"""Object formats, and how many hex digits their object ids have."""

LONGEST_LINE: Final = MAX_PAYLOAD - 1
"""Longest line, bytes without its line feed, that fits into a packet with it."""

_OIDS: Final = {name: re.compile(rb"[0-9a-f]{%d}" % length) for name, length in OID_LENGTHS.items()}
_DEPTH_MAX: Final = 2**31 - 1  # git keeps a depth in an int; --unshallow is this number
_TIME_MAX: Final = 2**63 - 1


def object_id(value: bytes, object_format: str) -> str:
    """``value`` as an object id of the format, in hex.

    Raises:
        ProtocolError: it is not as many lower-case hex digits as the format has.
    """
    if _OIDS[object_format].fullmatch(value) is None:
        raise ProtocolError(f"expected a {object_format} object id, got '{shown(value)}'")
    return value.decode("ascii")


def known_format(name: bytes) -> str:
    """``name`` as an object format.

    Raises:
        ProtocolError: it is neither ``sha1`` nor ``sha256``.
    """
    for known in OID_LENGTHS:
        if name == known.encode("ascii"):
            return known
    raise ProtocolError(f"unknown object format '{shown(name)}'")


def number(value: bytes, least: int, most: int, line: bytes) -> int:
    """A decimal number out of ``line``, between ``least`` and ``most``.

    Raises:
        ProtocolError: it is none, or out of these bounds.
    """
    if len(value) <= 19 and value.isdigit() and least <= int(value) <= most:
        return int(value)
    raise ProtocolError(f"invalid number: '{shown(line)}'; expected {least} to {most}")


def depth(value: bytes, line: bytes) -> int:
    """The number of a ``deepen`` line, in commits; ProtocolError if it is none."""
    return number(value, 1, _DEPTH_MAX, line)


def since(value: bytes, line: bytes) -> int:
    """The time of a ``deepen-since`` line, in seconds; ProtocolError if it is none."""
    return number(value, 1, _TIME_MAX, line)


def filter_spec(value: bytes, line: bytes) -> str:
    """The specification of a ``filter`` line; ProtocolError if it is empty or no UTF-8."""
    try:
        spec = value.decode("utf-8")
    except UnicodeDecodeError:
        spec = ""
    if not spec:
        raise ProtocolError(f"invalid filter-spec: '{shown(line)}'")
    return spec


def lines(packets: Iterable[Packet]) -> list[bytes]:
    """The text lines of ``packets``, without their line feeds.

    Raises:
        ProtocolError: among them is a special packet, a NUL (where C programs stop reading), or a
            line that is too long to be sent on with a line feed.
    """
    found: list[bytes] = []
    for packet in packets:
        if isinstance(packet, Special):
            raise ProtocolError("expected flush after the arguments")
        if b"\0" in packet:
            raise ProtocolError(f"a NUL in the line '{shown(packet)}'")
        line = packet.removesuffix(b"\n")
        if len(line) > LONGEST_LINE:
            raise ProtocolError(f"the line '{shown(line)}' is {len(line)} bytes long")
        found.append(line)
    return found
