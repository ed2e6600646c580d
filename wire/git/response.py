# Law of this file: an answer to a v2 fetch is a head and a pack. The head is kept to the byte, the
# pack passes through, and an answer without its end was not given.
# The format is described in git's gitprotocol-v2(5), "fetch", and gitprotocol-capabilities(5).

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, TypeAlias

from wire.git import pktline
from wire.git.arguments import OID_LENGTHS
from wire.git.pktline import Packet, ProtocolError, Special, printable, shown

PACKFILE: Final = b"000dpackfile\n"
"""The line that opens the pack's section, as it is on the wire."""

FRAME_PAYLOAD: Final = pktline.MAX_PAYLOAD - 1
"""Bytes of content in the longest sideband packet: one byte of it says which band."""

KEEPALIVE: Final = b"0005\x01"
"""A sideband packet with no content, for a client that would grow tired of waiting."""

_FRAME_COST: Final = 5
_BAND_DATA: Final = 1
_BAND_PROGRESS: Final = 2
_BAND_ERROR: Final = 3

_CHECKSUM: Final = re.compile("|".join(f"[0-9a-f]{{{n}}}" for n in OID_LENGTHS.values()))
_URI: Final = re.compile(r"https?://(?![/?#])[!-~]+")


class RemoteError(ProtocolError):
    """The backend answered with an error; the message is its own."""


class Truncated(ProtocolError):  # noqa: N818 - a state of the answer, by the field's habit
    """The answer ended before its final flush."""


@dataclass(frozen=True, slots=True)
class Head:
    """All that comes before the pack; the first event, exactly once.

    Attributes:
        raw: the packets of the sections before the pack, each section that another one follows
            with its delimiter; without the line ``packfile`` and without the final flush.
        has_pack: a pack follows.
    """

    raw: bytes
    has_pack: bool


@dataclass(frozen=True, slots=True)
class PackData:
    """The next bytes of the pack; never empty."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Progress:
    """What the backend tells the user; never empty."""

    text: bytes


@dataclass(frozen=True, slots=True)
class End:
    """The answer is complete."""


Event: TypeAlias = Head | PackData | Progress | End


class _State(Enum):
    SECTION = auto()  # a section's title is due
    LINES = auto()  # in a section before the pack
    PACK = auto()
    ENDED = auto()


class FetchResponseParser:
    """A backend's answer to a v2 fetch, in chunks of any size."""

    __slots__ = ("_decoder", "_head", "_state")

    def __init__(self) -> None:
        self._decoder = pktline.Decoder()
        self._state = _State.SECTION
        self._head = bytearray()

    def feed(self, data: bytes) -> list[Event]:
        """Take the next bytes and return what they tell.

        Raises:
            RemoteError: the backend says that it failed.
            ProtocolError: this is no answer to a fetch, or it goes on after its end.
        """
        return [event for packet in self._decoder.feed(data) for event in self._events(packet)]

    def close(self) -> None:
        """Say that the backend's output has ended.

        Raises:
            Truncated: it ended before the answer did.
            PktLineError: it went on after its end with a part of a packet.
        """
        if self._state is not _State.ENDED:
            raise Truncated("the answer ended before its final flush")
        self._decoder.close()

    def _events(self, packet: Packet) -> Iterator[Event]:
        if self._state is _State.PACK:
            yield from self._pack(packet)
        elif self._state is _State.ENDED:
            raise ProtocolError("the answer goes on after its final flush")
        elif isinstance(packet, Special):
            yield from self._section_ends(packet)
        elif packet.startswith(b"ERR "):
            raise RemoteError(_message(packet[4:]))
        elif self._state is _State.SECTION and packet.removesuffix(b"\n") == b"packfile":
            self._state = _State.PACK
            yield Head(bytes(self._head), has_pack=True)
        else:
            self._state = _State.LINES
            self._head += pktline.encode(packet)

    def _section_ends(self, packet: Special) -> Iterator[Event]:
        """At a delimiter another section follows, at a flush none; nothing at all is a head too."""
        if packet is Special.DELIM and self._state is _State.LINES:
            self._state = _State.SECTION
            self._head += pktline.DELIM
        elif packet is Special.FLUSH and (self._state is _State.LINES or not self._head):
            self._state = _State.ENDED
            yield Head(bytes(self._head), has_pack=False)
            yield End()
        else:
            raise ProtocolError(f"unexpected {packet.name} packet where a section begins")

    def _pack(self, packet: Packet) -> Iterator[Event]:
        if packet is Special.FLUSH:
            self._state = _State.ENDED
            yield End()
        elif isinstance(packet, Special) or not packet:
            raise ProtocolError("a packet without a band inside the pack")
        elif packet[0] == _BAND_DATA:
            if len(packet) > 1:
                yield PackData(packet[1:])
        elif packet[0] == _BAND_PROGRESS:
            if len(packet) > 1:
                yield Progress(packet[1:])
        elif packet[0] == _BAND_ERROR:
            raise RemoteError(_message(packet[1:]))
        else:
            raise ProtocolError(f"unknown band {packet[0]} inside the pack")


def wanted_refs(head: bytes) -> dict[bytes, str]:
    """What a head (:attr:`Head.raw`) says of the refs that were wanted by name: ref -> object id.

    Raises:
        ProtocolError: the section ``wanted-refs`` is malformed.
    """
    found: dict[bytes, str] = {}
    title: bytes | None = None
    for packet in pktline.parse(head):
        if isinstance(packet, Special):
            title = None
            continue
        line = packet.removesuffix(b"\n")
        if title is None:
            title = line
        elif title == b"wanted-refs":
            oid, _, ref = line.partition(b" ")
            found[ref] = _hex(oid, line)
    return found


def is_cut_off(head: bytes) -> bool:
    """Whether :attr:`Head.raw` tells of commits whose parents are missing: ``shallow-info``.

    Raises:
        ProtocolError: it is not made of packets.
    """
    packets = pktline.parse(head)
    return any(
        not isinstance(packet, Special) and packet.startswith(b"shallow ") for packet in packets
    )


def packfile_uris_section(items: Sequence[tuple[str, str]]) -> bytes:
    """The section that names packs, as ``(checksum, URI)``, up to and with its delimiter.

    A pack's checksum is the one in its own trailer, in hex. No items make no section.

    Raises:
        ValueError: a checksum is not hex of an object format's length, or a URI is not http(s),
            not printable ASCII without spaces, or too long for a packet.
    """
    if not items:
        return b""
    rows: list[bytes] = []
    for checksum, uri in items:
        if _CHECKSUM.fullmatch(checksum) is None:
            raise ValueError(f"not the checksum of a pack: {checksum!r}")
        if _URI.fullmatch(uri) is None:
            # The URI is not repeated: it may carry a signature.
            raise ValueError(f"the location of pack {checksum} is no plain http or https URI")
        rows.append(pktline.text(f"{checksum} {uri}".encode("ascii")))
    return b"".join((pktline.text(b"packfile-uris"), *rows, pktline.DELIM))


def sideband(data: bytes, band: int = _BAND_DATA) -> bytes:
    """``data`` of any length as packets of a band (1 pack, 2 progress, 3 error)."""
    view = memoryview(data)
    parts: list[bytes | memoryview] = []
    for start in range(0, len(data), FRAME_PAYLOAD):
        part = view[start : start + FRAME_PAYLOAD]
        parts += (b"%04x%c" % (len(part) + _FRAME_COST, band), part)
    return b"".join(parts)


def framed_size(size: int) -> int:
    """How many bytes :func:`sideband` makes of ``size`` bytes."""
    return size + -(-size // FRAME_PAYLOAD) * _FRAME_COST


def error_packet(message: str) -> bytes:
    """The packet that tells a client why there is no answer; in place of an answer's first one."""
    return pktline.encode(b"ERR " + _one_line(message, pktline.MAX_PAYLOAD - 4))


def band_error(message: str) -> bytes:
    """What ends an answer whose pack has begun: the reason on band 3, and a flush."""
    return sideband(_one_line(message, FRAME_PAYLOAD), _BAND_ERROR) + pktline.FLUSH


def _one_line(message: str, most: int) -> bytes:
    """``message`` as one printable line, in at most ``most`` bytes of whole UTF-8 characters."""
    line = printable(" ".join(message.split())) or "unknown error"
    return line.encode()[:most].decode("utf-8", "ignore").encode()


def _message(said: bytes) -> str:
    return said.decode("utf-8", "replace").strip() or "unknown error"


def _hex(oid: bytes, line: bytes) -> str:
    text = oid.decode("ascii", "replace")
    if _CHECKSUM.fullmatch(text) is None:
        raise ProtocolError(f"expected an object id and a ref, got '{shown(line)}'")
    return text
