# Law of this file: git's framing and nothing above it. Four hex digits give the length of a packet
# with themselves; 0000, 0001 and 0002 are packets of their own; everything else is an error.
# The format is described in git's gitprotocol-common(5) and gitprotocol-v2(5).

from __future__ import annotations

from binascii import Error as BadHex
from binascii import unhexlify
from enum import Enum
from typing import Final, TypeAlias

MAX_PAYLOAD: Final = 65516
"""Longest payload of one packet, bytes: git reads packets of at most 65520, four of them length."""

FLUSH: Final = b"0000"
"""The flush packet, as it is on the wire: the end of a message."""

DELIM: Final = b"0001"
"""The delimiter packet, as it is on the wire: the end of a section of a message."""

_HEADER: Final = 4
_SHOWN: Final = 200


class ProtocolError(Exception):
    """The other side broke the protocol; the message is what it is told."""


class PktLineError(ProtocolError):
    """Bytes that are no packets: a bad length, or an end in the middle of a packet."""


class Special(Enum):
    """The packets without a payload; each value is its length field."""

    FLUSH = 0
    DELIM = 1
    RESPONSE_END = 2


Packet: TypeAlias = bytes | Special

_SPECIALS: Final = (Special.FLUSH, Special.DELIM, Special.RESPONSE_END)


def encode(payload: bytes) -> bytes:
    """One packet with ``payload``.

    Raises:
        ValueError: it is longer than :data:`MAX_PAYLOAD`.
    """
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"{len(payload)} bytes do not fit into one packet of {MAX_PAYLOAD}")
    return b"%04x%b" % (len(payload) + _HEADER, payload)


def text(line: bytes) -> bytes:
    """One packet with ``line`` and a line feed, as git sends all that is not binary.

    Raises:
        ValueError: the line with its line feed is longer than :data:`MAX_PAYLOAD`.
    """
    return encode(line + b"\n")


def shown(line: bytes) -> str:
    """A line of the other side as a message quotes it: printable, and cut to 200 bytes."""
    return printable(line[:_SHOWN].decode("utf-8", "replace"))


def printable(words: str) -> str:
    """``words`` as one line that does nothing to a terminal or a log."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in words)


def parse(body: bytes) -> list[Packet]:
    """Read a complete body into its packets.

    Raises:
        PktLineError: a length is wrong, or the body ends in the middle of a packet.
    """
    packets: list[Packet] = []
    end = _take(body, packets)
    if end != len(body):
        raise PktLineError(_truncated(len(body) - end))
    return packets


class Decoder:
    """Packets out of a stream that comes in chunks of any size.

    What is kept between two calls is at most one packet, and each byte is copied a fixed number
    of times, however small the chunks are.
    """

    __slots__ = ("_missing", "_rest")

    def __init__(self) -> None:
        self._rest = bytearray()
        self._missing = 0

    def feed(self, data: bytes) -> list[Packet]:
        """Take the next bytes and return the packets that they complete.

        Raises:
            PktLineError: a length is wrong; the stream cannot be read on.
        """
        if self._rest:
            if len(data) < self._missing:
                self._rest += data
                self._missing -= len(data)
                return []
            data = b"".join((self._rest, data))
        packets: list[Packet] = []
        end = _take(data, packets)
        self._rest = bytearray(memoryview(data)[end:])
        if self._rest:
            whole = _length(data, end) if len(self._rest) >= _HEADER else _HEADER
            self._missing = whole - len(self._rest)
        return packets

    def close(self) -> None:
        """Say that the stream has ended.

        Raises:
            PktLineError: it ended in the middle of a packet.
        """
        if self._rest:
            raise PktLineError(_truncated(len(self._rest)))


def _take(data: bytes, packets: list[Packet]) -> int:
    """Append the complete packets of ``data``; return where the first incomplete one begins."""
    at = 0
    size = len(data)
    append = packets.append
    while at + _HEADER <= size:
        length = _length(data, at)
        if length < _HEADER:
            append(_SPECIALS[length])
            at += _HEADER
            continue
        end = at + length
        if end > size:
            break
        append(data[at + _HEADER : end])
        at = end
    return at


def _length(data: bytes, at: int) -> int:
    """The length field at ``at``: 0 to 2, or 4 to 65520. unhexlify is stricter than int()."""
    field = data[at : at + _HEADER]
    try:
        high, low = unhexlify(field)
    except BadHex:
        raise PktLineError(f"bad line length: '{shown(field)}' is not hex") from None
    length = high << 8 | low
    if length == 3 or length > MAX_PAYLOAD + _HEADER:
        raise PktLineError(f"bad line length: {length}")
    return length


def _truncated(left: int) -> str:
    return f"the message ends in the middle of a packet, {left} bytes into it"
