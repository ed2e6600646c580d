# Law of this file: a name from outside leads to a repository below ROOT or to nothing. No `..`, no
# NUL, no symbolic link that leaves ROOT gets through.

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from repos.git.discovery import git_dir_of
from repos.names import inside, servable

_OWN: Final = frozenset((".hg", ".git"))


@dataclass(frozen=True, slots=True)
class Found:
    """A Mercurial repository below ROOT.

    Attributes:
        name: the path at which it is served, without a leading slash.
        path: its ``.hg`` directory, all symbolic links resolved.
    """

    name: str
    path: Path


def hg_dir_of(directory: Path) -> Path | None:
    """The ``.hg`` of the repository at ``directory``, or None.

    A working directory that shares another repository's store (``hg share``) is no repository of
    its own. What cannot be read, or can be no path, is no repository; nor is one without a
    ``store``, as Mercurial made them before 0.9.2.
    """
    hg_dir = directory / ".hg"
    try:
        if (hg_dir / "store").is_dir() and not (hg_dir / "sharedpath").exists():
            return hg_dir
    except OSError:
        pass
    return None


def discover(root: Path, apart: Path | None = None) -> Iterator[Found]:
    """Every repository below ``root``, by name; work trees are not searched for nested ones.

    ``root`` itself may be a repository: it is served under its directory's name. Nothing in the
    directory ``apart`` is found, wherever it lies.
    """
    root = root.resolve()
    apart = None if apart is None else apart.resolve()
    own = hg_dir_of(root)
    if own is not None and (place := inside(root, own, apart)) is not None:
        yield Found(root.name, place)
    for directory, subdirectories, _files in os.walk(root):
        kept = []
        for name in sorted(subdirectories):
            path = Path(directory, name)
            if path == apart or not servable(name, _OWN):
                continue
            found = hg_dir_of(path)
            if found is None:
                # Work trees of the others, and their objects, are not ours to search.
                if git_dir_of(path) is None:
                    kept.append(name)
            elif (place := inside(root, found, apart)) is not None:
                yield Found(str(path.relative_to(root)), place)
        subdirectories[:] = kept


def locate(root: Path, name: str, apart: Path | None = None) -> Found | None:
    """The repository that a client calls ``name``, or None.

    Nothing in the directory ``apart`` is found.
    """
    root = root.resolve()
    apart = None if apart is None else apart.resolve()
    name = name.strip("/")
    if not name or not all(servable(segment, _OWN) for segment in name.split("/")):
        return None
    if name == root.name and (own := hg_dir_of(root)) is not None:
        place = inside(root, own, apart)
        return None if place is None else Found(name, place)
    try:
        hg_dir = hg_dir_of(root / name)
        place = None if hg_dir is None else inside(root, hg_dir, apart)
    except OSError:  # too long, a loop of links, or not ours to read
        return None
    return None if place is None else Found(name, place)
