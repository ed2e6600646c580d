# Law of this file: a name from outside leads to a repository below ROOT or to nothing. No `..`, no
# NUL, no symbolic link that leaves ROOT gets through.

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from repos.names import inside, servable

_OWN: Final = frozenset((".git",))


@dataclass(frozen=True, slots=True)
class Found:
    """A git repository below ROOT.

    Attributes:
        name: the path at which it is served, without a leading slash.
        git_dir: its git directory, all symbolic links resolved.
    """

    name: str
    git_dir: Path


def git_dir_of(directory: Path) -> Path | None:
    """The git directory of the repository at ``directory`` (bare or with a work tree), or None.

    A linked work tree is no repository of its own; a submodule's checkout is. What cannot be read,
    or can be no path, is no repository.
    """
    try:
        return _git_dir_of(directory)
    except OSError:
        return None


def _git_dir_of(directory: Path) -> Path | None:
    if _is_git_dir(directory):
        return directory
    dot_git = directory / ".git"
    if _is_git_dir(dot_git):
        return dot_git
    return _follow_gitfile(dot_git)


def discover(root: Path, apart: Path | None = None) -> Iterator[Found]:
    """Every repository below ``root``, by name; work trees are not searched for nested ones.

    ``root`` itself may be a repository: it is served under its directory's name. Nothing in the
    directory ``apart`` is found, wherever it lies.
    """
    root = root.resolve()
    apart = None if apart is None else apart.resolve()
    own = git_dir_of(root)
    if own is not None:
        yield Found(root.name, own.resolve())
    for directory, subdirectories, _files in os.walk(root):
        if Path(directory) == own:
            subdirectories.clear()
            continue
        kept = []
        for name in sorted(subdirectories):
            path = Path(directory, name)
            if path == apart:
                continue
            if name == ".git" or not servable(name, _OWN):
                continue
            found = git_dir_of(path)
            if found is None:
                kept.append(name)
            elif (place := inside(root, found, apart)) is not None:
                yield Found(str(path.relative_to(root)), place)
        subdirectories[:] = kept


def locate(root: Path, name: str, apart: Path | None = None) -> Found | None:
    """The repository that a client calls ``name``, or None.

    As stock git's http-backend does, ``name``, ``name.git`` and ``name/.git`` are tried. Nothing in
    the directory ``apart`` is found.
    """
    root = root.resolve()
    apart = None if apart is None else apart.resolve()
    name = name.strip("/")
    name = name.removesuffix("/.git")
    if not name or not all(servable(segment, _OWN) for segment in name.split("/")):
        return None
    aliases = {root.name, f"{root.name}.git", root.name.removesuffix(".git")}
    if name in aliases and (own := git_dir_of(root)) is not None:
        return Found(root.name, own.resolve())
    for candidate in (name, f"{name}.git"):
        try:
            git_dir = git_dir_of(root / candidate)
            place = None if git_dir is None else inside(root, git_dir, apart)
        except OSError:  # too long, a loop of links, or not ours to read
            return None
        if place is not None:
            return Found(candidate, place)
    return None


def _is_git_dir(path: Path) -> bool:
    head = path / "HEAD"
    return (
        (path / "objects").is_dir()
        and (path / "refs").is_dir()
        and (head.is_file() or head.is_symlink())
    )


def _follow_gitfile(dot_git: Path) -> Path | None:
    """Follow a ``.git`` file (``gitdir: <path>``, see gitrepository-layout)."""
    if not dot_git.is_file():
        return None
    with dot_git.open("rb") as file:
        line = file.read(4096)
    if not line.startswith(b"gitdir: "):
        return None
    target = dot_git.parent / os.fsdecode(line.removeprefix(b"gitdir: ").rstrip(b"\r\n"))
    return target if _is_git_dir(target) else None
