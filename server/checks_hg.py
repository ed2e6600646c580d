# Law of this file: Mercurial is spoken of only where a Mercurial repository is served; which of
# these are not, is said in hg's own words or the protocol's.

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from repos.hg.discovery import Found, discover
from repos.hg.errors import Unservable
from repos.hg.keeper import Keeper
from repos.hg.program import Hg, HgFailed
from repos.hg.repository import index_directory
from server.verdict import Level, Verdict

# Older ones may do as well; nobody has tried.
_TESTED: Final = (5, 9)

# hg is asked about this many repositories; each costs as much as a start of hg.
_ASKED: Final = 25

_VERSION: Final = re.compile(rb"\(version (\d+)\.(\d+)(\S*?)\)")

_NO_PROGRAM: Final = 127


def check_hg(root: Path | None, data: Path, hg: Hg) -> Iterator[Verdict]:
    """The hg program, and the Mercurial repositories below ``root``; blocks.

    Whether all content of a repository can be served is known only when its index is made.
    """
    found = [] if root is None else list(islice(discover(root, data), _ASKED))
    if not found:
        return
    version = _version(hg, found)
    yield version
    if version.level is not Level.FAIL:
        yield from _refused(found, data, hg)


def _version(hg: Hg, found: list[Found]) -> Verdict:
    output = None
    for repository in found:
        try:
            output = hg.run("version", repository=repository.path.parent)
        except HgFailed as error:
            if error.status == _NO_PROGRAM:
                return Verdict(
                    Level.FAIL,
                    f"{hg.executable} cannot be run: {_line(error.stderr)}",
                    "install Mercurial 5.9 or later, or say in hg.program where it is",
                )
        else:
            break  # hg reads the configuration of a repository first: one may be broken
    if output is None:
        return Verdict(Level.WARN, f"{hg.executable}: refuses every repository, see below")
    match = _VERSION.search(output)
    if match is None:
        said = _line(output.decode(errors="replace"))
        return Verdict(Level.WARN, f"{hg.executable}: the version is not clear from {said!r}")
    name = f"hg {int(match[1])}.{int(match[2])}{match[3].decode(errors='replace')}"
    if (int(match[1]), int(match[2])) < _TESTED:
        remedy = "install Mercurial 5.9 or later, or say in hg.program where it is"
        return Verdict(Level.WARN, f"{name}: reading repositories with it was not tested", remedy)
    return Verdict(Level.OK, f"{name}: reads Mercurial repositories")


def _refused(found: list[Found], data: Path, hg: Hg) -> Iterator[Verdict]:
    """What hg does not open, or this protocol cannot say."""
    for repository in found:
        name = f"repository {repository.name}"
        directory = index_directory(data, repository.path)
        try:
            Keeper(hg, repository.path, directory).check()
        except HgFailed as error:
            yield Verdict(
                Level.FAIL,
                f"{name}: hg refuses it: {_line(error.stderr)}",
                "mend what hg names: let this user read it, or give hg what it lacks; what it needs"
                " of hg's configuration, name in HGRCPATH",
            )
        except Unservable as error:
            yield Verdict(
                Level.FAIL,
                f"{name}: {error}",
                "mend what is named, serve it with hg itself, or convert a copy of it",
            )


def _line(said: str) -> str:
    return " ".join(said.split())[:200] or "it says nothing"
