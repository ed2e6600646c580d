# Law of this file: of what an upstream says of its refs, only what git itself would allow reaches a
# git program; a mirror's refs become exactly that, and change only when their objects are there.

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from repos.git.mirror_fetch import PLAIN
from repos.git.mirror_upkeep import OURS, wants_ref
from repos.git.program import Git, GitFailed

_REFS: Final = b"refs/"
_OID: Final = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")

# What git-check-ref-format(1) forbids.
_FORBIDDEN: Final = re.compile(
    rb"[\0-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock/|^/|/$|\.$|\.lock$|^[^/]*$"
)


def mirrored(refs: Mapping[bytes, str]) -> dict[bytes, str]:
    """The refs that a mirror has of ``refs``: all below ``refs/``, but none that is called ours.

    Raises:
        GitFailed: a name is none, or an object id is none: git would not fetch it either.
    """
    kept = {
        name: oid
        for name, oid in refs.items()
        if name.startswith(_REFS) and not name.startswith(OURS)
    }
    for name in kept:
        _check_name(name)
    check_oids(refs.values())
    return kept


def check_oids(oids: Iterable[str]) -> None:
    """Refuse what is no object id.

    Raises:
        GitFailed: one of ``oids`` is none.
    """
    for oid in oids:
        if _OID.fullmatch(oid) is None:
            raise GitFailed("fetch", 128, f"the upstream names the object {oid[:80]!r}")


def current(git: Git, path: Path) -> dict[bytes, str]:
    """All refs of the repository at ``path``, those that are ours too: name -> object id in hex.

    Raises:
        GitFailed: it cannot be read.
    """
    listed = git.run(
        f"--git-dir={path}", "for-each-ref", "--format=%(objectname) %(refname)", env=PLAIN
    )
    pairs = (line.partition(b" ") for line in listed.splitlines())
    return {name: oid.decode("ascii") for oid, _, name in pairs}


def move(
    git: Git,
    path: Path,
    before: Mapping[bytes, str],
    after: Mapping[bytes, str],
    wanted: Iterable[str],
) -> None:
    """Bring the refs from ``before`` to ``after``, and give each of ``wanted`` one of ours.

    What goes away goes first: ``refs/heads/a`` and ``refs/heads/a/b`` cannot be at once.

    Raises:
        GitFailed: git refuses one; then none of a step is changed.
    """
    gone = [name for name in before if name not in after and not name.startswith(OURS)]
    updates = {name: oid for name, oid in after.items() if before.get(name) != oid}
    updates.update((wants_ref(oid), oid) for oid in wanted)
    steps = (
        [b"delete %b\n" % name for name in gone],
        [b"update %b %b\n" % (name, oid.encode("ascii")) for name, oid in updates.items()],
    )
    for lines in filter(None, steps):
        git.run(f"--git-dir={path}", "update-ref", "--stdin", stdin=b"".join(lines), env=PLAIN)


def point_head(git: Git, path: Path, target: bytes) -> None:
    """Let HEAD stand for ``target``, which need not be there.

    Raises:
        GitFailed: it is no name below ``refs/``.
    """
    _check_name(target)
    if (path / "HEAD").read_bytes() != b"ref: %b\n" % target:
        git.run(f"--git-dir={path}", "symbolic-ref", "HEAD", os.fsdecode(target), env=PLAIN)


def _check_name(name: bytes) -> None:
    if not name.startswith(_REFS) or _FORBIDDEN.search(name):
        shown = name[:200].decode("utf-8", "backslashreplace")
        raise GitFailed("fetch", 128, f"the upstream names a ref {shown!r}, which git forbids")
