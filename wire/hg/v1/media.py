# Law of this file: how a stream is written down in an answer of version 1: media type, engine, and
# the bytes before it. What comes out of reading is in pieces of bounded size, and a body that ends
# early is never taken for a whole one.
#
#   application/mercurial-0.1   a stream is zlib; a string, or what was sent plain, as it is
#   application/mercurial-0.2   one byte n, n bytes of the engine's name, the stream in that engine;
#                               only for clients that say 0.2 in X-HgProto
#   application/hg-error        a text that the client shows; never the answer of a command

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import zstandard

from wire.hg.encodings import ZLIB_LEVEL, ZSTD_LEVEL
from wire.hg.errors import shown
from wire.hg.v1.requests import ClientProtocol

MERCURIAL_0_1: Final = "application/mercurial-0.1"
MERCURIAL_0_2: Final = "application/mercurial-0.2"
HG_ERROR: Final = "application/hg-error"

ZSTD: Final = "zstd"
ZLIB: Final = "zlib"
NONE: Final = "none"

ENGINES: Final = (ZSTD, ZLIB, NONE)
"""That we read and write, in hgweb's order. Stock clients take bzip2 too, which nobody wants."""

# What hgweb assumes of a client that says 0.2 and nothing of compression.
_UNSAID: Final = (ZLIB, NONE)

# Bytes that zlib makes at a time.
_ZLIB_STEP: Final = 1 << 20

# Bytes that zstd is given at a time: it can only be told how much to read. A block is of at least
# four bytes and tells at most 128 KiB, so these tell 8 MiB.
_ZSTD_STEP: Final = 256

# Bytes that make a piece worth passing on; zstd's steps tell far less.
_PIECE: Final = 128 << 10

# As stock clients grant: zstd's own limit, reached by its highest levels.
_ZSTD_WINDOW: Final = 128 << 20


class BadAnswer(Exception):  # noqa: N818 - what the server sent
    """These bytes are no answer of a Mercurial server; the message says why."""


@dataclass(frozen=True, slots=True)
class Framing:
    """How one stream is sent.

    Attributes:
        media_type: `MERCURIAL_0_1` or `MERCURIAL_0_2`.
        engine: that compresses it, one of `ENGINES`.
    """

    media_type: str
    engine: str

    @property
    def prefix(self) -> bytes:
        """What the body begins with, before the compressed stream."""
        return engine_prefix(self.engine) if self.media_type == MERCURIAL_0_2 else b""


def engine_prefix(engine: str) -> bytes:
    """What a body of media type 0.2 begins with."""
    name = engine.encode("ascii")
    return bytes((len(name),)) + name


def choose(
    protocol: ClientProtocol, offered: Sequence[str] = ENGINES[:2], *, uncompressed: bool
) -> Framing:
    """What hgweb would send to this client.

    Args:
        protocol: of the client.
        offered: our engines, best first.
        uncompressed: the stream is of what compresses badly. Then a client of 0.2 gets it as it
            is, even if it did not say that it takes that: every one does.
    """
    if "0.2" in protocol.media:
        if uncompressed:
            return Framing(MERCURIAL_0_2, NONE)
        accepted = protocol.compression or _UNSAID
        for engine in offered:
            if engine in accepted:
                return Framing(MERCURIAL_0_2, engine)
    return Framing(MERCURIAL_0_1, ZLIB)


# --- writing --------------------------------------------------------------------------------


class Compressor(Protocol):
    """Compresses one stream. Not for two threads at a time."""

    def compress(self, data: bytes, /) -> bytes:
        """What can be sent after taking ``data`` in; may be nothing."""
        ...

    def flush(self) -> bytes:
        """The rest, with the end of the stream; nothing can follow."""
        ...


class _Plain:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def compressor(engine: str) -> Compressor:
    """A new stream, at the levels that hgweb has by default.

    Raises:
        ValueError: it is none of `ENGINES`.
    """
    if engine == ZSTD:
        return zstandard.ZstdCompressor(level=ZSTD_LEVEL).compressobj()
    if engine == ZLIB:
        return zlib.compressobj(ZLIB_LEVEL)
    if engine == NONE:
        return _Plain()
    raise ValueError(f"{engine!r} is no engine that we write; these are: {', '.join(ENGINES)}")


# --- reading --------------------------------------------------------------------------------


class _Stream(Protocol):
    """Reads what one engine wrote."""

    def pieces(self, data: bytes) -> Iterator[bytes]: ...

    @property
    def complete(self) -> bool: ...


class _PlainStream:
    # Says nothing of its end: only HTTP, and what is in the stream, do.
    complete = True

    def pieces(self, data: bytes) -> Iterator[bytes]:
        if data:
            yield data


class _ZlibStream:
    def __init__(self) -> None:
        self._object = zlib.decompressobj()

    @property
    def complete(self) -> bool:
        return self._object.eof

    def pieces(self, data: bytes) -> Iterator[bytes]:
        rest, more = data, bool(data)
        while more:
            if self._object.eof:
                raise BadAnswer("bytes after the end of a zlib stream")
            try:
                piece = self._object.decompress(rest, _ZLIB_STEP)
            except zlib.error as error:
                raise BadAnswer(f"a body that is no zlib: {error}") from None
            if piece:
                yield piece
            # All may have been read and not all be told: a full piece asks for another one.
            rest = self._object.unconsumed_tail or self._object.unused_data
            more = bool(rest) or (len(piece) == _ZLIB_STEP and not self._object.eof)


class _ZstdStream:
    def __init__(self) -> None:
        self._object = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()

    @property
    def complete(self) -> bool:
        return self._object.eof

    def pieces(self, data: bytes) -> Iterator[bytes]:
        held: list[bytes] = []
        size = 0
        for offset in range(0, len(data), _ZSTD_STEP):
            if self._object.eof:
                raise BadAnswer("bytes after the end of a zstd frame")
            try:
                piece = self._object.decompress(data[offset : offset + _ZSTD_STEP])
            except zstandard.ZstdError as error:
                raise BadAnswer(f"a body that is no zstd: {error}") from None
            if self._object.unused_data:
                raise BadAnswer("bytes after the end of a zstd frame")
            held.append(piece)
            size += len(piece)
            if size >= _PIECE:
                yield b"".join(held)
                held, size = [], 0
        if size:
            yield b"".join(held)


def _stream(engine: str) -> _Stream:
    return _ZstdStream() if engine == ZSTD else _ZlibStream() if engine == ZLIB else _PlainStream()


class Decompressor:
    """Reads the body of one answer that is a stream, as its bytes come.

    Attributes:
        engine: that wrote it; empty until the body has said so.
    """

    def __init__(self, media_type: str, engines: Collection[str]) -> None:
        self.engine = ""
        self._engines = engines
        self._held = b""
        self._stream: _Stream | None = None
        if media_type == MERCURIAL_0_1:
            self.engine, self._stream = ZLIB, _stream(ZLIB)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """All that ``data`` tells, in pieces of at most 8 MiB, however much it is.

        To be taken to the end before the next call. May be nothing.

        Raises:
            BadAnswer: it is no such body.
        """
        if self._stream is None:
            data = self._begin(data)
        if self._stream is not None:
            yield from self._stream.pieces(data)

    def end(self) -> None:
        """Say that no more bytes come.

        Raises:
            BadAnswer: the body is not complete. One of the engine none always seems to be: where
                its content ends is known to who reads that.
        """
        if self._stream is None:
            raise BadAnswer("a body that ends before it names its engine")
        if not self._stream.complete:
            raise BadAnswer(f"a body that ends before its {self.engine} stream does")

    def _begin(self, data: bytes) -> bytes:
        held = self._held + data
        if not held or len(held) <= held[0]:
            self._held = held
            return b""
        name = held[1 : 1 + held[0]]
        engine = name.decode("ascii", "replace")
        if engine not in self._engines:
            known = ", ".join(self._engines)
            raise BadAnswer(f"a body in the engine {shown(name)}; these were asked for: {known}")
        self.engine, self._stream, self._held = engine, _stream(engine), b""
        return held[1 + len(name) :]


def decompressor(media_type: str, engines: Collection[str] = ENGINES) -> Decompressor:
    """A reader for the body of an answer that is a stream.

    Args:
        media_type: of the answer, without parameters.
        engines: that a body of 0.2 may name.

    Raises:
        BadAnswer: no stream is of this media type.
    """
    if media_type not in {MERCURIAL_0_1, MERCURIAL_0_2}:
        raise BadAnswer(f"an answer of the media type {media_type[:100]!a}")
    return Decompressor(media_type, engines)
