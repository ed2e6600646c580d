# Law of this file: a bundle2 container is taken apart into its parts, in any chunking, and a
# mandatory word that we do not know is an error: what follows may not mean what we think.
#
# The format (HG20): the magic, `u32 n` and n bytes of stream parameters (space separated, quoted
# like URLs), then parts. A part: `u32 n` and n bytes of header, then chunks `i32 n` and n bytes
# until n = 0. A header: `u8 n` and the part's type, `u32 id`, `u8` number of mandatory and `u8` of
# advisory parameters, for each `u8` size of key and value, then keys and values. A header of size 0
# ends the bundle. A type or a stream parameter that begins with a capital letter is mandatory.

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote_to_bytes

MAGIC: Final = b"HG20"

# Parameters and headers are a few words; more than this is not one of Mercurial's.
MAX_HEADER: Final = 64 << 10
# Mercurial cuts payloads into 32 KiB. Chunks are passed on as they come, so this bounds nothing but
# how long a length that lies is believed.
MAX_CHUNK: Final = 64 << 20

_U32: Final = struct.Struct(">I")
_I32: Final = struct.Struct(">i")
_INTERRUPT: Final = -1


class BundleError(ValueError):
    """These bytes are no bundle, or one that needs what we do not know."""


@dataclass(frozen=True, slots=True)
class Part:
    """The beginning of a part.

    Attributes:
        type: its type, in lower case.
        mandatory: who does not know the type must refuse the bundle.
        params: its parameters.
        advisory: those of ``params`` that a reader may ignore.
    """

    type: bytes
    mandatory: bool
    params: Mapping[bytes, bytes]
    advisory: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class PartData:
    """A piece of the part's payload that began last."""

    data: bytes


@dataclass(frozen=True, slots=True)
class PartEnd:
    """The payload of the part that began last is complete."""


Event = Part | PartData | PartEnd


@dataclass(slots=True)
class BundleReader:
    """Takes a bundle apart as its bytes come; keeps no more than one header or chunk."""

    _held: bytearray = field(default_factory=bytearray)
    _state: str = "magic"
    _left: int = 0

    def feed(self, data: bytes) -> Iterator[Event]:
        """What ``data`` completes; take every event before the next call.

        Raises:
            BundleError: this is no bundle that we can read.
        """
        held = self._held
        held += data
        position = 0
        while self._state != "end":
            if self._state == "chunk":
                piece = bytes(held[position : position + self._left])
                position += len(piece)
                self._left -= len(piece)
                if piece:
                    yield PartData(piece)
                if self._left:
                    break
                self._state = "size"
            wanted = self._left if self._state in {"params", "header"} else 4
            if len(held) - position < wanted:
                break
            piece = bytes(held[position : position + wanted])
            position += wanted
            yield from self._take(piece)
        else:
            if len(held) > position:
                raise BundleError(f"{len(held) - position} bytes follow the end of the bundle")
        del held[:position]

    def end(self) -> None:
        """Say that no more bytes come.

        Raises:
            BundleError: the bundle is not complete.
        """
        if self._state != "end":
            raise BundleError(f"the bundle is cut off where its {self._state} is expected")

    def _take(self, piece: bytes) -> Iterator[Event]:
        if self._state == "magic":
            if piece != MAGIC:
                raise BundleError(f"{piece!r} does not begin a bundle; {MAGIC!r} does")
            self._state = "params size"
        elif self._state == "params size":
            self._expect("params", piece)
        elif self._state == "params":
            _check_stream_params(piece)
            self._state = "header size"
        elif self._state == "header size":
            self._expect("header", piece)
            if self._left == 0:
                self._state = "end"
        elif self._state == "header":
            self._state = "size"
            yield parse_part(piece)
        elif self._state == "size":
            self._left = _I32.unpack(piece)[0]
            if self._left == _INTERRUPT:
                raise BundleError("a part is interrupted by another, which no stored bundle does")
            if not 0 <= self._left <= MAX_CHUNK:
                raise BundleError(f"a chunk of {self._left} bytes; at most {MAX_CHUNK} are read")
            self._state = "chunk" if self._left else "header size"
            if not self._left:
                yield PartEnd()

    def _expect(self, state: str, piece: bytes) -> None:
        self._left = _U32.unpack(piece)[0]
        if self._left > MAX_HEADER:
            raise BundleError(f"a {state} of {self._left} bytes; at most {MAX_HEADER} are read")
        self._state = state


def _check_stream_params(params: bytes) -> None:
    for word in params.split(b" "):
        name = unquote_to_bytes(word.partition(b"=")[0])
        if name[:1].isupper():
            # Compression is the only one that there is, and asked for by whoever made the bundle.
            raise BundleError(f"the bundle needs {word!r}; only uncompressed ones are read")


def parse_part(header: bytes) -> Part:
    """Read a part's header.

    Raises:
        BundleError: its sizes do not add up.
    """
    try:
        length = header[0]
        kind = header[1 : 1 + length]
        mandatory, advisory = header[5 + length], header[6 + length]
        sizes = header[7 + length : 7 + length + 2 * (mandatory + advisory)]
        position = 7 + length + 2 * (mandatory + advisory)
        params: list[tuple[bytes, bytes]] = []
        for number in range(mandatory + advisory):
            key_size, value_size = sizes[2 * number], sizes[2 * number + 1]
            middle = position + key_size
            params.append((header[position:middle], header[middle : middle + value_size]))
            position = middle + value_size
    except IndexError:
        raise BundleError(f"a part's header is cut off: {header[:60]!r}") from None
    if position != len(header) or not kind:
        raise BundleError(f"a part's header of {len(header)} bytes does not add up")
    names = frozenset(key for key, _ in params[mandatory:])
    return Part(kind.lower(), kind != kind.lower(), dict(params), names)
