# Law of this file: who names a repository at the command line or to the status API may write what
# stands in its URL: the same code finds it. A name that leads nowhere is told with the nearest one.

from __future__ import annotations

import difflib
from collections.abc import Iterator

from repos.git import discovery as git_discovery
from repos.hg import discovery as hg_discovery
from server.settings import Settings
from server.upstreams.routes import Routes


def served_name(settings: Settings, name: str) -> str | None:
    """The name at which a repository is served that a client calls ``name``.

    None if nothing below ROOT is called so, and no upstream is there; whether an upstream has such
    a repository is not asked.
    """
    remote = Routes(settings.upstreams).named(name)
    if remote is not None:
        return remote.name
    root = settings.local_root
    if root is None:
        return None
    git = git_discovery.locate(root, name, settings.data)
    hg = hg_discovery.locate(root, name, settings.data)
    # `name` may be short for `name.git`, and a Mercurial repository is called just so.
    if hg is not None and (git is None or git.name != name):
        return hg.name
    return None if git is None else git.name


def spellings(name: str) -> tuple[str, ...]:
    """What ``name`` may mean where no repository is to be seen, the likeliest first.

    As in :func:`repos.git.discovery.locate`.
    """
    bare = name.removesuffix("/.git")
    return bare, f"{bare}.git"


def nearest(settings: Settings, name: str) -> str | None:
    """The served name of a repository below ROOT that may have been meant; walks the disk."""
    names = list(_below_root(settings))
    last = _last(name)
    same = [each for each in names if _last(each) == last]
    close = same or difflib.get_close_matches(name, names, n=1)
    return close[0] if close else None


def did_you_mean(settings: Settings, name: str) -> str:
    """The end of a sentence about a name that leads nowhere; empty if none is near."""
    close = nearest(settings, name)
    return "" if close is None else f"; did you mean {close}?"


def _below_root(settings: Settings) -> Iterator[str]:
    root = settings.local_root
    if root is None:
        return
    yield from (found.name for found in git_discovery.discover(root, settings.data))
    yield from (found.name for found in hg_discovery.discover(root, settings.data))


def _last(name: str) -> str:
    return name.rpartition("/")[2].removesuffix(".git").lower()
