# Law of this file: requests for packs in the bytes of either protocol, and what the packs hold that
# came; git itself unpacks them, in a repository that has nothing else.

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from tests.conformance.clones import packet, v2_request
from tests.conformance.repositories import run_git
from tests.server.asking import pack as pack_of

WHOLE: Final = "deepen 2147483647"
"""What a client says who wants all that is behind its shallow commits."""

V2: Final = {"Git-Protocol": "version=2"}
V0: Final = {"Git-Protocol": "version=0"}


def fetch_v2(*arguments: str) -> bytes:
    """A fetch of protocol v2 that is done, whose content is to come inline."""
    return v2_request("fetch", "ofs-delta", "no-progress", *arguments, "done")


def fetch_v0(
    want: str, *lines: str, haves: tuple[str, ...] = (), words: str = "ofs-delta"
) -> bytes:
    """A fetch of protocol v0 that is done; ``words`` are its capabilities."""
    wanted = (f"want {want} {words}\n", *(f"{line}\n" for line in lines))
    told = (*(f"have {oid}\n" for oid in haves), "done\n")
    return b"".join((*map(packet, wanted), b"0000", *map(packet, told)))


def pack_in(body: bytes) -> bytes:
    """The pack of an answer, in protocol v2 or in v0 without bands."""
    if b"packfile\n" in body[: body.find(b"PACK")]:
        return pack_of(body)
    return body[body.index(b"PACK") :]


def objects_in(body: bytes, directory: Path) -> set[str]:
    """Ids of the objects in an answer's pack, which has to stand alone.

    Args:
        body: of the answer.
        directory: is made.
    """
    directory.mkdir()
    run_git(directory, "init", "--quiet", "--bare")
    run_git(directory, "index-pack", "--stdin", stdin=pack_in(body))
    words = ("cat-file", "--batch-all-objects", "--batch-check=%(objectname)")
    return set(run_git(directory, *words).split())


def stands_alone(body: bytes, directory: Path) -> bool:
    """Whether nothing in an answer's pack is a difference to an object that is not in it."""
    try:
        objects_in(body, directory)
    except subprocess.CalledProcessError as error:
        if b"unresolved delta" in error.stderr:
            return False
        raise
    return True
