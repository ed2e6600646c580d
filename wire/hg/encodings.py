# Law of this file: the content encodings of streams. A context lives as long as its stream, so a
# thousand small answers compress as one; what comes out of decoding is bounded before it is held.
# A context need not have come to its end when its stream has: the end of an encoding says nothing,
# the flags of frames do. But nothing can follow where an encoding does end.
#
#   identity    bytes unchanged
#   zlib        one RFC 1950 stream per stream id, never finished; flushed after each answer
#   zstd-8mb    one zstd frame per stream id, blocks flushed after each answer; readers grant a
#               window of 8 MiB

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Final, Protocol

import zstandard

from wire.hg.errors import LimitExceeded, ProtocolViolation


class Encoding(StrEnum):
    """The profiles, in the order in which we prefer them."""

    ZSTD = "zstd-8mb"
    ZLIB = "zlib"
    IDENTITY = "identity"


PREFERENCE: Final = tuple(Encoding)

_WINDOW: Final = 8 << 20

# What Mercurial's server uses; higher levels of zstd want windows of more than 8 MiB from 17 on.
ZSTD_LEVEL: Final = 3
ZLIB_LEVEL: Final = 6

# Of one frame's payload, where it must be held as a whole. 64 KiB of zstd can say two gigabytes of
# one letter; no honest request, error or text comes near this.
MAX_DECODED: Final = 4 << 20

# Bytes that a decoder makes at a time.
_ZLIB_STEP: Final = 1 << 20

# Bytes that zstd is given at a time, for it can only be told how much to read. A block is of at
# least four bytes and tells at most 128 KiB, so these tell 8 MiB: no more than its window holds.
_ZSTD_STEP: Final = 256


class Encoder(Protocol):
    """Encodes one stream. Not for two threads at a time."""

    def encode(self, data: bytes | memoryview) -> bytes:
        """What can be sent after taking ``data`` in; may be nothing."""
        ...

    def flush(self) -> bytes:
        """The rest, so that a reader can decode all that was taken in."""
        ...


class Decoder(Protocol):
    """Decodes one stream."""

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """All that ``data`` tells, in pieces of at most about 8 MiB, however much it is.

        To be taken to the end before the next payload. May be nothing.

        Raises:
            ProtocolViolation: it is not of this encoding.
        """
        ...

    def decode(self, data: bytes) -> bytes:
        """All that ``data`` tells, at once.

        Raises:
            ProtocolViolation: it is not of this encoding.
            LimitExceeded: it tells more than the limit; no more than a piece beyond was made.
        """
        ...


def _whole(pieces: Iterator[bytes], limit: int) -> bytes:
    found: list[bytes] = []
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > limit:
            raise LimitExceeded(f"a payload that decodes to more than {limit} bytes")
        found.append(piece)
    return found[0] if len(found) == 1 else b"".join(found)


class _Identity:
    def encode(self, data: bytes | memoryview) -> bytes:
        return bytes(data)

    def flush(self) -> bytes:
        return b""

    def pieces(self, data: bytes) -> Iterator[bytes]:
        yield data

    def decode(self, data: bytes) -> bytes:
        return data


class _ZlibEncoder:
    def __init__(self, level: int) -> None:
        self._object = zlib.compressobj(level)

    def encode(self, data: bytes | memoryview) -> bytes:
        return self._object.compress(data)

    def flush(self) -> bytes:
        return self._object.flush(zlib.Z_SYNC_FLUSH)


class _ZlibDecoder:
    def __init__(self, limit: int) -> None:
        self._object = zlib.decompressobj()
        self._limit = limit

    def pieces(self, data: bytes) -> Iterator[bytes]:
        rest, more = data, bool(data)
        while more:
            if self._object.eof:
                raise ProtocolViolation("bytes after the end of a zlib stream")
            try:
                piece = self._object.decompress(rest, _ZLIB_STEP)
            except zlib.error as error:
                raise ProtocolViolation(f"a payload that is no zlib: {error}") from None
            yield piece
            # All may have been read and not all be told: a full piece asks for another one.
            rest = self._object.unconsumed_tail or self._object.unused_data
            more = bool(rest) or (len(piece) == _ZLIB_STEP and not self._object.eof)

    def decode(self, data: bytes) -> bytes:
        return _whole(self.pieces(data), self._limit)


class _ZstdEncoder:
    def __init__(self, level: int) -> None:
        parameters = zstandard.ZstdCompressionParameters.from_level(level)
        if parameters.window_log > 23:  # 2**23 is 8 MiB
            parameters = zstandard.ZstdCompressionParameters.from_level(level, window_log=23)
        compressor = zstandard.ZstdCompressor(compression_params=parameters)
        self._object = compressor.compressobj()

    def encode(self, data: bytes | memoryview) -> bytes:
        return self._object.compress(data)

    def flush(self) -> bytes:
        return self._object.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)


class _ZstdDecoder:
    def __init__(self, limit: int) -> None:
        # Not its stream_writer: that keeps what a flushed block of more than 128 KiB tells until
        # there is a next one.
        self._object = zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompressobj()
        self._limit = limit

    def pieces(self, data: bytes) -> Iterator[bytes]:
        for offset in range(0, len(data), _ZSTD_STEP):
            if self._object.eof:
                raise ProtocolViolation("bytes after the end of a zstd frame")
            try:
                piece = self._object.decompress(data[offset : offset + _ZSTD_STEP])
            except zstandard.ZstdError as error:
                raise ProtocolViolation(f"a payload that is no zstd: {error}") from None
            if self._object.unused_data:
                raise ProtocolViolation("bytes after the end of a zstd frame")
            if piece:
                yield piece

    def decode(self, data: bytes) -> bytes:
        return _whole(self.pieces(data), self._limit)


def encoder(encoding: Encoding, level: int | None = None) -> Encoder:
    """A new context for writing; ``level`` of None is the encoding's usual one."""
    match encoding:
        case Encoding.IDENTITY:
            return _Identity()
        case Encoding.ZLIB:
            return _ZlibEncoder(ZLIB_LEVEL if level is None else level)
        case Encoding.ZSTD:
            return _ZstdEncoder(ZSTD_LEVEL if level is None else level)


def decoder(encoding: Encoding, limit: int = MAX_DECODED) -> Decoder:
    """A new context for reading; a payload that is decoded at once may tell ``limit`` bytes."""
    match encoding:
        case Encoding.IDENTITY:
            return _Identity()
        case Encoding.ZLIB:
            return _ZlibDecoder(limit)
        case Encoding.ZSTD:
            return _ZstdDecoder(limit)


def choose(accepted: Iterable[bytes], ours: Iterable[Encoding] = PREFERENCE) -> Encoding:
    """The first of ``ours`` that a peer accepts; what it prefers itself is left aside.

    Mercurial's server does the same. A peer that names nothing we know gets identity, which
    everybody must be able to read.
    """
    named = set(accepted)
    return next((each for each in ours if each.encode() in named), Encoding.IDENTITY)
