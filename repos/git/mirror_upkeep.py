# Law of this file: what killed programs left in a mirror is removed, what many fetches left is put
# in order, and nothing that a ref reaches is ever lost by it. The caller holds the mirror's lock.

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from repos.git.mirror_fetch import PLAIN
from repos.git.program import Git

OURS: Final = b"refs/offramp/"
"""Below it are refs of ours that keep objects and are shown to nobody."""

WANTS: Final = b"refs/offramp/wants/"
"""Below it an object that was wanted by its id has a ref ``<day>/<object id>``: the day, counted
since the epoch, on which it was fetched. A ref that is packed has no other date."""

WANTS_KEPT_DAYS: Final = 14
"""How long such an object is kept; it is fetched again if it is wanted again."""

_PRUNE: Final = "2.weeks.ago"  # git-gc(1)'s own default: what runs now may refer to younger objects
_TEMPORARY: Final = ("tmp_", ".tmp-")  # of index-pack, and of repack
_DAY: Final = 86_400


def wants_ref(oid: str) -> bytes:
    """The ref that keeps ``oid``, which was fetched today."""
    return b"%b%d/%b" % (WANTS, _today(), oid.encode("ascii"))


def clear_leftovers(path: Path) -> None:
    """Remove the temporary files, locks and marks of programs that were killed.

    No program of ours is at work here, for the lock is ours. One whose starter was killed may be,
    for a moment: it fails when it renames what is removed here, as it should.
    """
    packs = path / "objects" / "pack"
    for entry in _files(packs):
        if entry.name.startswith(_TEMPORARY) or (
            entry.name.endswith(".keep") and _is_of_a_fetch(Path(entry.path))
        ):
            _unlink(entry.path)
    info = path / "objects" / "info"
    for directory in (path, packs, info, info / "commit-graphs", *_directories(path / "refs")):
        for entry in _files(directory):
            if entry.name.endswith(".lock"):  # no ref can be called so
                _unlink(entry.path)
    for name in ("packed-refs.new", "gc.pid"):
        _unlink(path / name)


def maintain(git: Git, path: Path, full: bool) -> None:
    """Make a mirror quick to answer from again.

    Packs are rolled up so that each is at least twice the next smaller one, under one index with
    bitmaps; the commit graph and the packed refs are brought up to date.

    Args:
        git: how programs are run.
        path: the mirror's git directory.
        full: first drop objects that nobody wanted for two weeks and no ref reaches.

    Raises:
        GitFailed: a program ended badly; the mirror is as good as before.
    """
    clear_leftovers(path)
    at = f"--git-dir={path}"
    if full:
        _drop_old_wants(git, at)
        git.run(at, "gc", "--quiet", "--cruft", f"--prune={_PRUNE}", env=PLAIN)
    git.run(at, "pack-refs", "--all", "--prune", env=PLAIN)
    git.run(
        at,
        "repack",
        "--quiet",
        "--geometric=2",
        "-d",
        "--write-midx",
        "--write-bitmap-index",
        env=PLAIN,
    )
    git.run(at, "commit-graph", "write", "--reachable", "--split", "--no-progress", env=PLAIN)


def _drop_old_wants(git: Git, at: str) -> None:
    oldest = _today() - WANTS_KEPT_DAYS
    listed = git.run(at, "for-each-ref", "--format=%(refname)", WANTS.decode(), env=PLAIN)
    old = [name for name in listed.splitlines() if _day_of(name) < oldest]
    if old:
        lines = b"".join(b"delete %b\n" % name for name in old)
        git.run(at, "update-ref", "--stdin", stdin=lines, env=PLAIN)


def _today() -> int:
    return int(time.time() // _DAY)


def _day_of(ref: bytes) -> int:
    """On which day a wanted object was fetched; 0 for a ref that does not say."""
    day = ref.removeprefix(WANTS).partition(b"/")[0]
    return int(day) if day.isdigit() else 0


def _is_of_a_fetch(keep: Path) -> bool:
    """``git fetch`` marks its pack to be kept until refs reach it, and was killed before that."""
    with suppress(OSError):
        return keep.read_bytes().startswith(b"fetch-pack ")
    return False


def _directories(base: Path) -> Iterator[Path]:
    return (Path(directory) for directory, _, _ in os.walk(base))


def _files(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return [entry for entry in entries if entry.is_file(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _unlink(path: str | Path) -> None:
    with suppress(OSError):
        Path(path).unlink()
