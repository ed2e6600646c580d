# Law of this file: questions of protocol version 1 are put here as any client could put them, well
# or badly, and answers are kept as they came.

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlencode, urlsplit

import zstandard

from tests.conftest import Served
from tests.hg.v1.conftest import NEWEST, REPO
from tests.server.asking import Reply, ask

Arguments = Mapping[str, str | bytes]

HG_ERROR: Final = "application/hg-error"
STRING: Final = "application/mercurial-0.1"
STREAM: Final = "application/mercurial-0.2"

NULL: Final = "0" * 40

BUNDLE2: Final = quote("HG20\nbookmarks\nchangegroup=01,02\ndigests=md5,sha1\nphases=heads")


def headers(arguments: Arguments, version: str = NEWEST) -> dict[str, str]:
    """What a client of a version sends with its arguments."""
    text = urlencode(sorted(arguments.items()))
    pieces = [text[start : start + 1000] for start in range(0, len(text), 1000)]
    found = {f"X-HgArg-{number}": piece for number, piece in enumerate(pieces, 1)}
    found["X-HgProto-1"] = "0.1 0.2 comp=zstd,zlib,none,bzip2 partial-pull"
    found["User-Agent"] = f"mercurial/proto-1.0 (Mercurial {version})"
    return found


@dataclass(frozen=True, slots=True)
class Said:
    """An answer.

    Attributes:
        reply: as it came.
    """

    reply: Reply

    @property
    def kind(self) -> str:
        """Its media type."""
        return self.reply.headers.get("content-type", "")

    @property
    def error(self) -> str:
        """The sentence that clients show."""
        assert (self.reply.status, self.kind) == (200, HG_ERROR), self.reply
        assert self.reply.body.count(b"\n") == 1, self.reply
        return self.reply.body.decode().rstrip("\n")

    @property
    def string(self) -> bytes:
        """A string."""
        assert (self.reply.status, self.kind) == (200, STRING), self.reply
        assert self.reply.whole
        return self.reply.body

    @property
    def stream(self) -> bytes:
        """A stream, without compression."""
        assert (self.reply.status, self.kind) == (200, STREAM), self.reply
        assert self.reply.whole
        return unpacked(self.reply.body)


async def put(
    served: Served,
    command: str,
    arguments: Arguments | None = None,
    extra: Mapping[str, str] | None = None,
    *,
    version: str = NEWEST,
    repository: str = REPO,
) -> Said:
    """Put a question; ``extra`` are headers that win over the usual ones."""
    fields = {
        "Host": urlsplit(served.url).netloc,
        **headers(arguments or {}, version),
        **(extra or {}),
    }
    reply = await ask(served, "GET", f"/{repository}?cmd={command}", headers=fields)
    return Said(reply)


def bundle_arguments(
    heads: str, common: str = NULL, bundlecaps: str = f"HG20,bundle2={BUNDLE2}", **more: str
) -> dict[str, str]:
    """What a stock client asks of `getbundle`."""
    return {
        "bookmarks": "1",
        "bundlecaps": bundlecaps,
        "cg": "1",
        "common": common,
        "heads": heads,
        "listkeys": "bookmarks",
        "phases": "1",
        **more,
    }


def unpacked(body: bytes) -> bytes:
    """What is in a body, or in a clone bundle, however Mercurial compresses it."""
    for name, unpack in (("zstd", _zstd), ("zlib", zlib.decompress), ("none", bytes)):
        prefix = bytes((len(name),)) + name.encode()
        if body.startswith(prefix):
            return unpack(body.removeprefix(prefix))
    for words, unpack in ((b"Compression=ZS", _zstd), (b"Compression=GZ", zlib.decompress)):
        prefix = b"HG20" + len(words).to_bytes(4, "big") + words
        if body.startswith(prefix):
            return unpack(body.removeprefix(prefix))
    return body


def _zstd(body: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(body)
