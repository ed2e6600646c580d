# Law of this file: a name means whatever is served at it, or was: a repository below ROOT, of git,
# of Mercurial or of both, or a mirror.

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cli.errors import UserError
from indexer.purge import Subject
from repos.git import discovery as git_discovery
from repos.git.mirror import Mirror, mirror_path
from repos.git.program import Git
from repos.hg import discovery as hg_discovery
from repos.hg.repository import index_directory
from repos.hg.upkeep import IndexPlace
from server.repositories import HG_INDEXES
from server.settings import Settings
from server.upstreams.mirrors import MIRRORS
from server.upstreams.routes import Routes


def subjects(settings: Settings, git: Git, name: str, object_id: str | None) -> Iterator[Subject]:
    """What ``name`` may mean, as clients may write it; the likeliest first.

    Raises:
        UserError: ``object_id`` names an object of git, and the repository is one of Mercurial.
    """
    root = settings.local_root
    git_found = None if root is None else git_discovery.locate(root, name, settings.data)
    hg_found = None if root is None else hg_discovery.locate(root, name, settings.data)
    if hg_found is not None and (git_found is None or git_found.name != name):
        if object_id is not None:
            raise UserError(
                f"{name} is a Mercurial repository, in whose answers nothing is searched for:"
                " --object is for git; purge all of it, without --object"
            )
        yield _of_hg(settings, hg_found)
    elif git_found is not None:
        both = _of_hg(settings, hg_found) if hg_found is not None else Subject("", frozenset())
        yield Subject(
            git_found.name,
            both.identities | {str(git_found.git_dir)},
            git_found.git_dir,
            object_id=object_id,
            hg_dir=both.hg_dir,
            index=both.index,
        )
    else:
        yield from _gone(settings, git, name, object_id)


def _of_hg(settings: Settings, found: hg_discovery.Found) -> Subject:
    return Subject(
        found.name,
        frozenset((str(found.path),)),
        hg_dir=found.path,
        index=_index(settings, found.path),
    )


def _gone(settings: Settings, git: Git, name: str, object_id: str | None) -> Iterator[Subject]:
    """What is not below ROOT: what was there, and mirrors."""
    root = settings.local_root
    mirrors = settings.data.absolute() / MIRRORS  # git runs elsewhere
    remote = Routes(settings.upstreams).named(name)
    spelt = (name, f"{name}.git", name.removesuffix(".git"))
    for candidate in dict.fromkeys(spelt if remote is None else (remote.name, *spelt)):
        mirror = mirror_path(mirrors, candidate)
        # Where it lay, if it was below ROOT and is not any more.
        paths = [] if root is None else [root / candidate, root / candidate / ".git"]
        hg_dir = None if root is None else root / candidate / ".hg"
        places = [*paths, mirror] if hg_dir is None else [*paths, hg_dir, mirror]
        yield Subject(
            candidate,
            frozenset(each for path in places for each in (str(path), str(path.resolve()))),
            mirror=Mirror(mirror, git) if mirrors.is_dir() else None,
            object_id=object_id,
            index=None if hg_dir is None else _index(settings, hg_dir.resolve()),
        )


def _index(settings: Settings, hg_dir: Path) -> IndexPlace:
    return IndexPlace(index_directory(settings.data.absolute() / HG_INDEXES, hg_dir))
