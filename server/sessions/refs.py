# Law of this file: what two servers say of a repository is compared by digests, made here of what
# clients can tell apart, in whatever order and by whatever protocol it was said.

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from repos.hg import v1_answers
from repos.hg.repository import HgSnapshot
from server.upstreams.hg_asking import HgState
from wire.git.capabilities import Capabilities
from wire.git.refs import Refs

# A longer list is put in order in a thread: it would stop the event loop for too long.
_THREAD: Final = 2000

_PUBLISHING: Final = b"publishing\tTrue"


@dataclass(frozen=True, slots=True)
class Ours:
    """What we say of a repository at one moment.

    Attributes:
        state: changes whenever the digest may; at hand for each request.
        digest: to be compared with that of a mirror.
        capabilities: of git's protocol v2, what clients may ask for.
    """

    state: str
    digest: str
    capabilities: Capabilities | None = None


async def git_digest(refs: Refs) -> str:
    """The digest of a git repository's refs: names, what they point to, and HEAD's branch."""
    if len(refs.refs) > _THREAD:
        return await asyncio.to_thread(_git_digest, refs)
    return _git_digest(refs)


def _git_digest(refs: Refs) -> str:
    lines = [
        b"%b %b" % (ref.name, ref.oid.encode("ascii")) for ref in refs.refs if ref.oid is not None
    ]
    lines += [
        b"HEAD > " + ref.symref
        for ref in refs.refs
        if ref.name == b"HEAD" and ref.symref is not None
    ]
    return _of_lines(lines)


async def hg_digest(snapshot: HgSnapshot) -> str:
    """The digest of our Mercurial repository: heads, branches, bookmarks and phases."""

    def digest() -> str:
        return _hg_digest(
            v1_answers.heads(snapshot),
            v1_answers.branchmap(snapshot),
            v1_answers.listkeys(snapshot, b"bookmarks") or b"",
            v1_answers.listkeys(snapshot, b"phases") or b"",
        )

    if len(snapshot.heads) + len(snapshot.bookmarks) > _THREAD:
        return await asyncio.to_thread(digest)
    return digest()


def hg_state_digest(state: HgState) -> str:
    """The same digest, of what another server said."""
    return _hg_digest(
        b" ".join(node.hex().encode() for node in state.heads),
        state.answers["branchmap", b""],
        state.answers["listkeys", b"bookmarks"],
        state.answers["listkeys", b"phases"],
    )


def _hg_digest(heads: bytes, branchmap: bytes, bookmarks: bytes, phases: bytes) -> str:
    roots = phases.split(b"\n")
    if _PUBLISHING in roots:
        # Clients are told that everything is public; which drafts the store has beside that
        # differs between a repository and its copy.
        roots = [_PUBLISHING]
    branches = (line.split() for line in branchmap.split(b"\n"))
    parts = (
        heads.split(),
        [b" ".join((*words[:1], *sorted(words[1:]))) for words in branches],
        bookmarks.split(b"\n"),
        roots,
    )
    return hashlib.sha256("".join(map(_of_lines, parts)).encode("ascii")).hexdigest()


def _of_lines(lines: Iterable[bytes]) -> str:
    return hashlib.sha256(b"\n".join(sorted(lines))).hexdigest()
