# Law of this file: a compressed bundle is the header that says so, and one compressed stream of
# what follows the header of the uncompressed one. Equal bundles give equal files.

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

import zstandard

from wire.hg.bundle2 import MAGIC

ZSTD: Final = "zstd-v2"
GZIP: Final = "gzip-v2"

# zlib's own choice; higher levels take much longer for little.
GZIP_LEVEL: Final = 6

# Who has not even this much to spare does not clone.
LEAST_RAM: Final = 32 << 20

# How each compression is called in a bundle's header.
_ENGINES: Final = {ZSTD: b"ZS", GZIP: b"GZ"}

# The longest header of a frame (RFC 8878, 3.1.1.1).
_FRAME_HEADER: Final = 18


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


def _compressor(kind: str, level: int) -> _Compressor:
    if kind == ZSTD:
        return zstandard.ZstdCompressor(level=level).compressobj()
    if kind == GZIP:
        return zlib.compressobj(GZIP_LEVEL)
    raise ValueError(f"{kind!r} is no kind of compressed bundle; {ZSTD!r} and {GZIP!r} are")


@dataclass(frozen=True, slots=True)
class Written:
    """A file that is complete.

    Attributes:
        digest: its SHA-256, hex.
        size: in bytes.
        required_ram: bytes that decompression needs, where that is much; else None.
    """

    digest: str
    size: int
    required_ram: int | None = None


class BundleFile:
    """A compressed bundle that is being written, for a ``with`` block.

    Args:
        kind: ``zstd-v2`` or ``gzip-v2``.
        path: where.
        level: of zstd, 1 to 22.
    """

    def __init__(self, kind: str, path: Path, level: int) -> None:
        self.kind = kind
        self.path = path
        self._compressor = _compressor(kind, level)
        self._digest = hashlib.sha256()
        self._size = 0
        self._file = path.open("wb")
        params = b"Compression=" + _ENGINES[kind]
        self._put(MAGIC + len(params).to_bytes(4, "big") + params)
        self._begins = self._size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def write(self, data: bytes) -> None:
        """Take more of what follows the uncompressed bundle's header."""
        self._put(self._compressor.compress(data))

    def finish(self) -> Written:
        """That was all of it."""
        self._put(self._compressor.flush())
        self._file.close()
        return Written(self._digest.hexdigest(), self._size, self._required_ram())

    def _put(self, data: bytes) -> None:
        self._digest.update(data)
        self._size += len(data)
        self._file.write(data)

    def _required_ram(self) -> int | None:
        if self.kind != ZSTD:
            return None  # zlib's window is 32 KiB
        with self.path.open("rb") as file:
            file.seek(self._begins)
            frame = zstandard.get_frame_parameters(file.read(_FRAME_HEADER))
        return frame.window_size if frame.window_size >= LEAST_RAM else None
