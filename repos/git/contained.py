# Law of this file: git's own programs say whether a pack holds an object. What they cannot read is
# an error, never a no. These calls block; async callers use a thread.

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from repos.git.packs import object_format_of
from repos.git.program import Git, GitFailed
from wire.git.bundle import Incomplete, parse_header
from wire.git.pktline import ProtocolError

_PACK: Final = b"PACK"
_BUNDLE: Final = b"# v"
# A bundle's header has a line for each ref; the first look is enough for some thousands of them.
_FIRST_LOOK: Final = 256 << 10


class Unreadable(Exception):  # noqa: N818 - what it is
    """A file cannot be searched for objects; the message says why."""


def holds(git: Git, path: Path, object_id: str) -> bool:
    """Tell whether the repository at ``path`` (a git directory) has an object, reachable or not.

    Raises:
        GitFailed: git refuses the repository.
    """
    said = git.run(
        f"--git-dir={path}", "cat-file", "--batch-check", stdin=f"{object_id}\n".encode("ascii")
    )
    return not said.endswith(b" missing\n")


def pack_holds(
    git: Git, file: Path, object_id: str, *, scratch: Path, objects: Path | None
) -> bool:
    """Tell whether a pack, or the pack of a bundle file, holds an object.

    A thin pack that has deltas against the object holds it too: it says how the object was
    changed, and nobody who lacks the object can use it.

    Args:
        git: how programs are run.
        file: the pack or bundle file; it is only read.
        object_id: full, in hex; it tells the object format too.
        scratch: an empty directory on a disk with room for the pack; what is left in it is the
            caller's to remove.
        objects: the ``objects`` directory where the bases of a thin pack may be.

    Raises:
        Unreadable: it is neither, is damaged, or lacks bases that are not in ``objects``.
        OSError: the disk refused.
    """
    pack = _pack_of(file, scratch)
    repository = scratch / "search.git"
    try:
        _make(git, repository, object_format_of(object_id))
        _index(git, repository, pack, objects)
        return holds(git, repository, object_id)
    except GitFailed as failure:
        raise Unreadable(f"it cannot be indexed: {_last_line(failure)}") from failure


def _pack_of(file: Path, scratch: Path) -> Path:
    """The file itself, if it is a pack, or a copy of what follows a bundle's header."""
    with file.open("rb") as source:
        head = source.read(_FIRST_LOOK)
        if head.startswith(_PACK):
            return file
        if not head.startswith(_BUNDLE):
            raise Unreadable("it is neither a pack nor a bundle, but an answer of another form")
        while True:
            try:
                header = parse_header(head)
                break
            except Incomplete as error:
                more = source.read(len(head))
                if not more:
                    raise Unreadable(str(error)) from error
                head += more
            except ProtocolError as error:
                raise Unreadable(str(error)) from error
        pack = scratch / "behind-the-header"
        source.seek(header.size)
        with pack.open("wb") as sink:
            shutil.copyfileobj(source, sink)
    return pack


def _make(git: Git, repository: Path, object_format: str) -> None:
    git.run(
        "init",
        "--quiet",
        "--bare",
        "--template=",
        f"--object-format={object_format}",
        str(repository),
    )


def _index(git: Git, repository: Path, pack: Path, objects: Path | None) -> None:
    """Let ``repository`` have what ``pack`` holds, and nothing else."""
    packs = repository / "objects" / "pack"
    packs.mkdir(parents=True, exist_ok=True)
    name = packs / "pack-searched.pack"
    name.symlink_to(pack.absolute())
    index = name.with_suffix(".idx")
    try:
        git.run(f"--git-dir={repository}", "index-pack", "-o", str(index), str(name))
    except GitFailed:
        if objects is None:
            raise
    else:
        return
    # Perhaps it is thin: then git writes a copy with the bases, which it finds in `objects`.
    for left in packs.iterdir():
        left.unlink()
    alternates = repository / "objects" / "info" / "alternates"
    alternates.parent.mkdir(exist_ok=True)
    alternates.write_bytes(bytes(objects.absolute()) + b"\n")
    try:
        with (
            pack.open("rb") as source,
            git.start(f"--git-dir={repository}", "index-pack", "--stdin", "--fix-thin") as running,
        ):
            try:
                shutil.copyfileobj(source, running.stdin)
                running.stdin.close()
            except BrokenPipeError:  # it gave up early; its exit code says why
                pass
            running.stdout.read()
    finally:
        alternates.unlink()


def _last_line(failure: GitFailed) -> str:
    return failure.stderr.rpartition("\n")[2] or str(failure)
