# Law of this file: the example repository is the same, byte by byte, wherever it is made, and
# making it needs nothing but git.

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

COMMITS: Final = 300
_DIRECTORIES: Final = 16
_FILES: Final = 240
_LINES: Final = 300
_ASSETS: Final = 8
_ASSET_BYTES: Final = 96 << 10
# Of each commit: files in which some lines change. Every so many commits an asset is replaced.
_TOUCHED: Final = 4
_NEW_ASSET_EVERY: Final = 10
_BEGIN: Final = 1_700_000_000
_PERSON: Final = b"Demo <demo@example.org>"

Git = Callable[..., Awaitable[str]]
"""Runs git with these arguments, and ``stdin``; returns what it printed."""


@dataclass(frozen=True, slots=True)
class Example:
    """The repository that was made.

    Attributes:
        path: of the bare repository.
        objects: how many objects it has.
        size: bytes of its packs.
    """

    path: Path
    objects: int
    size: int


async def make_example(path: Path, git: Git) -> Example:
    """Make the repository at ``path``, packed as that of a forge is: small, with a bitmap."""
    await git("init", "--quiet", "--bare", path)
    await git("-C", path, "symbolic-ref", "HEAD", "refs/heads/main")
    await git("-C", path, "fast-import", "--quiet", "--done", stdin=b"".join(history()))
    # -f, because fast-import hardly looks for deltas, and git would keep what it left.
    await git("-C", path, "repack", "-a", "-d", "-f", "-q", "--write-bitmap-index")
    counted = dict(
        line.split(": ") for line in (await git("-C", path, "count-objects", "-v")).splitlines()
    )
    size = sum(pack.stat().st_size for pack in path.glob("objects/pack/*.pack"))
    return Example(path, int(counted["in-pack"]), size)


def history() -> Iterator[bytes]:
    """The stream for ``git fast-import`` (see its manual): commits on main, and tags."""
    source = random.Random("offramp demo")  # noqa: S311 - content, no secret
    letters = "etaoinshrdlucmwfgypbvk"
    words = ["".join(source.choices(letters, k=source.randint(2, 9))) for _ in range(8000)]

    def line() -> bytes:
        return " ".join(source.choices(words, k=9)).encode() + b"\n"

    files = {
        f"src/part{number % _DIRECTORIES:02}/module{number:03}.txt": [line() for _ in range(_LINES)]
        for number in range(_FILES)
    }
    names = list(files)
    for number in range(COMMITS):
        yield _commit(number)
        touched = names if number == 0 else source.sample(names, _TOUCHED)
        for name in touched:
            if number:
                at = source.randrange(_LINES - 8)
                files[name][at : at + 8] = [line() for _ in range(8)]
            yield _file(name, b"".join(files[name]))
        if number == 0:
            for asset in range(_ASSETS):
                yield _file(f"assets/image{asset}.bin", source.randbytes(_ASSET_BYTES))
        elif number % _NEW_ASSET_EVERY == 0:
            asset = source.randrange(_ASSETS)
            yield _file(f"assets/image{asset}.bin", source.randbytes(_ASSET_BYTES))
        if number % 100 == 99:
            yield _tag(number)
    yield b"done\n"


def _commit(number: int) -> bytes:
    message = f"Change {number}\n".encode()
    return b"commit refs/heads/main\nmark :%d\ncommitter %b %d +0000\ndata %d\n%b" % (
        number + 1,
        _PERSON,
        _BEGIN + 3600 * number,
        len(message),
        message,
    )


def _file(name: str, content: bytes) -> bytes:
    return b"M 100644 inline %b\ndata %d\n%b\n" % (name.encode(), len(content), content)


def _tag(number: int) -> bytes:
    name = b"v%d" % (number // 100 + 1)
    message = b"Release %b\n" % name
    return b"tag %b\nfrom :%d\ntagger %b %d +0000\ndata %d\n%b" % (
        name,
        number + 1,
        _PERSON,
        _BEGIN + 3600 * number + 60,
        len(message),
        message,
    )
