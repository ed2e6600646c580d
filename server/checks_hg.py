# Law of this file: Mercurial is spoken of only where a Mercurial repository is served; which of
# these are not, is said in hg's own words or the protocol's. hg is tried as the server runs it.

from __future__ import annotations

import asyncio
import os
import re
import shutil
import tempfile
from collections.abc import AsyncGenerator, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from indexer.hg import keeps_out
from repos.hg.backend import Backend, BackendFailed
from repos.hg.discovery import Found, discover
from repos.hg.errors import Unservable
from repos.hg.keeper import Keeper, configuration_files
from repos.hg.peer import Peer, PeerFailed, PeerRefused
from repos.hg.program import Hg, HgFailed
from repos.hg.repository import index_directory
from server.settings import Settings
from server.settings_upstreams import matches
from server.verdict import Level, Verdict

# Older ones may do as well; nobody has tried.
_TESTED: Final = (5, 9)

# hg is asked about this many repositories; each costs as much as a start of hg.
_ASKED: Final = 25

_VERSION: Final = re.compile(rb"\(version (\d+)\.(\d+)(\S*?)\)")

_NO_PROGRAM: Final = 127
_UNAUTHORIZED: Final = 401

# How hg begins to say that it does not open a repository.
_OF_HG: Final = ("abort:", "config error")

_INSTALL: Final = "install Mercurial 5.9 or later, or say in hg.program where it is"


def check_hg(root: Path | None, data: Path, hg: Hg) -> Iterator[Verdict]:
    """The hg program, and the Mercurial repositories below ``root``; blocks.

    Whether all content of a repository can be served is known only when its index is made.
    """
    found = [] if root is None else list(islice(discover(root, data), _ASKED))
    if not found:
        return
    yield from _configuration(hg)
    version = _version(hg, found)
    yield version
    if version.level is not Level.FAIL:
        yield from _zstd(hg, found[0])
        yield from _refused(found, data, hg)


def _configuration(hg: Hg) -> Iterator[Verdict]:
    """Files of ``HGRCPATH`` that hg passes over in silence."""
    for path in configuration_files(hg.environ):
        if not os.access(path, os.R_OK):
            yield Verdict(
                Level.WARN,
                f"HGRCPATH names {path}, which is not there or cannot be read: hg passes it over",
                "write the path of a file that this user can read, from the root directory on; or"
                " do without HGRCPATH",
            )


def _version(hg: Hg, found: list[Found]) -> Verdict:
    output = None
    said, refused = "", False
    for repository in found:
        try:
            output = hg.run("version", repository=repository.path.parent)
        except HgFailed as error:
            if error.status == _NO_PROGRAM:
                return Verdict(
                    Level.FAIL,
                    f"{hg.executable} cannot be run: {_line(error.stderr)}",
                    _INSTALL,
                )
            said = said or _line(error.stderr)
            if any(word in error.stderr for word in _OF_HG):
                refused = True
        else:
            break  # hg reads the configuration of a repository first: one may be broken
    if output is None and refused:
        return Verdict(Level.WARN, f"{hg.executable}: refuses every repository, see below")
    match = _VERSION.search(output or b"")
    if match is None:
        said = _line(output.decode(errors="replace")) if output is not None else said
        return Verdict(
            Level.FAIL,
            f"{hg.executable}: this is no Mercurial: asked for its version, it says {said!r}",
            _INSTALL,
        )
    name = f"hg {int(match[1])}.{int(match[2])}{match[3].decode(errors='replace')}"
    if (int(match[1]), int(match[2])) < _TESTED:
        return Verdict(Level.WARN, f"{name}: reading repositories with it was not tested", _INSTALL)
    return Verdict(Level.OK, f"{name}: reads Mercurial repositories")


def _zstd(hg: Hg, any_one: Found) -> Iterator[Verdict]:
    """Stores that hg makes today are compressed with zstd; not every hg has it."""
    template = "{compenginesavail}"
    try:
        engines = hg.run("debuginstall", "--template", template, repository=any_one.path.parent)
    except HgFailed:
        return  # it finds fault with something else, such as an editor: none of our business
    if engines and b"zstd" not in engines.replace(b",", b" ").split():
        yield Verdict(
            Level.WARN,
            f"{hg.executable}: has no zstd, and cannot read repositories that are compressed so",
            "install a Mercurial with its C extensions",
        )


def _refused(found: list[Found], data: Path, hg: Hg) -> Iterator[Verdict]:
    """What hg does not open, or the index cannot hold."""
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
            if keeps_out(error):
                continue  # `check_hg_serve` says it, in fewer words
            yield Verdict(
                Level.WARN,
                f"{name}: {error}",
                "nothing of it is offloaded, hg alone answers for it; mend what is named, or"
                " convert a copy of it",
            )


# --- hg serve ------------------------------------------------------------------------------


async def check_hg_serve(settings: Settings, hg: Hg) -> AsyncGenerator[Verdict, None]:
    """Start the ``hg serve`` that a server has behind it, and ask it for each repository.

    Args:
        settings: of the server.
        hg: how it is run.
    """
    root = settings.local_root
    if root is None or shutil.which(hg.executable) is None:
        return  # of a program that is not there, `check_hg` has told
    names: list[str] = []
    asked: list[Found] = []
    for repository in await asyncio.to_thread(list, discover(root, settings.data)):
        names.append(repository.name)
        if len(asked) < _ASKED:
            asked.append(repository)
    if not names:
        return
    with tempfile.TemporaryDirectory() as directory:
        backend = Backend(hg, Path(directory), push=bool(settings.hg.push))
        try:
            async for verdict in _served(backend, asked, settings.hg.silence):
                yield verdict
        finally:
            await backend.close()
    for verdict in _pushes(settings, names):
        yield verdict


async def _served(
    backend: Backend, asked: list[Found], silence: float
) -> AsyncGenerator[Verdict, None]:
    served = 0
    for repository in asked:
        try:
            url = await backend.url(repository.path)
            await asyncio.to_thread(Peer(url, silence=silence).call, "capabilities")
        except BackendFailed as error:
            yield Verdict(
                Level.FAIL,
                _line(str(error)),
                "let this user run hg serve on 127.0.0.1, and look at what HGRCPATH names",
            )
            return
        except (PeerFailed, PeerRefused) as error:
            if isinstance(error, PeerRefused) and error.status == _UNAUTHORIZED:
                yield _kept_out(repository)
                continue
            said = _line(str(error)).replace(url, "hg serve")
            yield Verdict(
                Level.FAIL,
                f"repository {repository.name}: hg serve does not answer for it: {said}",
                "look at [web] in its hgrc, and whether this user may read it",
            )
        else:
            served += 1
    if served:
        count = "1 repository" if served == 1 else f"{served} repositories"
        yield Verdict(Level.OK, f"hg serve: starts, and answers for {count}")


def _kept_out(repository: Found) -> Verdict:
    return Verdict(
        Level.FAIL,
        f"repository {repository.name}: not served at all: hg's configuration says who may read it"
        " (web.allow_read, web.deny_read or web.allow-pull), and hg is told no user",
        "take that out of its hgrc, or of what HGRCPATH names, and say in [access] who may read",
    )


def _pushes(settings: Settings, names: list[str]) -> Iterator[Verdict]:
    """Patterns that let nobody push."""
    if any(upstream.vcs == "hg" for upstream in settings.upstreams):
        return  # which repositories an upstream has, only it knows
    for pattern in settings.hg.push:
        if not any(matches(name, (pattern,)) for name in names):
            yield Verdict(
                Level.WARN,
                f"hg.push {pattern!r}: no Mercurial repository is served at such a path",
                "write it as in the URL, after the slash that follows the host",
            )


def _line(said: str) -> str:
    return " ".join(said.split())[:200] or "it says nothing"
