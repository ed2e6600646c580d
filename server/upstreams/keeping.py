# Law of this file: of all processes of this machine one at a time keeps the mirrors: there from the
# start if they are listed, quick to answer from, and no more than was set. None goes that a program
# may still read: for as long as one may run after its last use, which is noted up to two minutes
# late. What goes can be had again, and its bundles stay in the store, with their catalog.

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from repos.git.mirror import USED_SECONDS, Mirror, MirrorBusy, existing, sweep
from repos.git.mirror_lock import locked
from repos.git.program import GitFailed
from server.settings_upstreams import MirrorSettings
from server.upstreams.aside import aside
from server.upstreams.asking import Down, Refused
from server.upstreams.mirrors import Mirrors
from server.upstreams.routes import Remote, Routes

_log = logging.getLogger("offramp.mirrors")

KEEPER: Final = "keeping"
"""In the mirrors' directory; its lock is held by the process that keeps them."""

# Marks in a mirror; when it was repacked last, and when with all that is old dropped.
_REPACKED: Final = "offramp-repacked"
_FULL: Final = "offramp-repacked-fully"
_FULL_SECONDS: Final = 7 * 86400.0

# This process's note that it used a mirror, and the mirror's own, are each made once a minute.
_LATE: Final = 2 * USED_SECONDS
# Nobody waits for what is done here.
_NICENESS: Final = 10

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Found:
    """One mirror, as a round found it.

    Attributes:
        name: at which it is served.
        used: when it was used last, in seconds since the epoch.
        size: bytes on disk.
    """

    name: str
    mirror: Mirror
    used: float
    size: int


@dataclass(slots=True)
class Keeping:
    """Keeps the mirrors of this machine, while it is this process's turn.

    Attributes:
        routes: which mirrors the settings want.
        mirrors: makes those that are listed.
        settings: what is too old, and too large.
        program_time: seconds for which a program may run.
        figures: told the number of mirrors and their bytes, each round.
        clock: seconds since the epoch.
        sleep: waits for so many seconds.
    """

    routes: Routes
    mirrors: Mirrors
    settings: MirrorSettings
    program_time: float
    figures: Callable[[int, int], None]
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def run(self) -> None:
        """Keep them, or wait for the process that does to end, until cancelled."""
        directory = self.mirrors.directory
        while True:
            try:
                directory.mkdir(parents=True, exist_ok=True)
                with locked(directory / KEEPER, 0):
                    await self._keep()
            except MirrorBusy:
                pass
            except OSError as error:
                _log.warning("the mirrors in %s cannot be kept: %s", directory, error)
            await self.sleep(self.settings.interval)

    async def make_listed(self) -> None:
        """Mirror what is listed and not there yet; what fails is logged."""
        at_once = asyncio.Semaphore(self.settings.fetches)

        async def make(remote: Remote) -> None:
            async with at_once:
                await self._make(remote)

        missing = [remote for remote in self.routes.listed() if self.mirrors.get(remote) is None]
        await asyncio.gather(*map(make, missing))

    async def tidy(self) -> None:
        """Drop what is to go, repack what was left alone, and tell the figures."""
        left = await self._drop(await _quietly(self._look))
        self.figures(len(left), sum(found.size for found in left))
        repacked = [await _quietly(functools.partial(self._repack, found)) for found in left]
        if any(repacked):
            sizes = await _quietly(lambda: [found.mirror.size() for found in left])
            self.figures(len(left), sum(sizes))

    # --- within ------------------------------------------------------------------------------

    async def _keep(self) -> None:
        await _quietly(functools.partial(sweep, self.mirrors.directory))
        # A first mirroring may take hours, and the others are kept meanwhile.
        await asyncio.gather(self._again(self.make_listed), self._again(self.tidy))

    async def _again(self, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await step()
            except Exception:  # noqa: BLE001 - one bad round is not the last
                _log.exception("the mirrors could not be kept; it is tried again")
            await self.sleep(self.settings.interval)

    async def _make(self, remote: Remote) -> None:
        own = self.mirrors.own[remote.upstream.title]
        try:
            view = await self.mirrors.views.fresh(remote, own)
        except (Refused, Down) as answer:
            _log.warning("%s is listed and could not be mirrored: %s", remote.name, answer)
            return
        self.mirrors.begin(remote, view, own)
        await self.mirrors.made(remote)

    def _look(self) -> list[_Found]:
        """Find all mirrors, those first that nobody used for longest; reads the disk."""
        found = []
        for name, path in existing(self.mirrors.directory):
            mirror = Mirror(path, self.mirrors.git)
            found.append(_Found(name, mirror, mirror.last_used(), mirror.size()))
        return sorted(found, key=lambda one: one.used)

    async def _drop(self, found: list[_Found]) -> list[_Found]:
        """Drop what is to go; those that are left."""
        now = self.clock()
        listed = {remote.name for remote in self.routes.listed()}
        # Even of one that the settings no longer have: the server before us may still use it.
        idle = [one for one in found if now - one.used > self.program_time + _LATE]
        idle = [one for one in idle if one.name not in listed]
        gone = set()
        for one in idle:
            why = self._why(one, now)
            if why is not None and await _quietly(functools.partial(_remove, one, why)):
                gone.add(one.name)
        size = sum(one.size for one in found if one.name not in gone)
        limit = self.settings.max_size
        for one in idle:
            if size <= limit:
                break
            why = f"all together have {size} bytes, and mirrors.max_size is {limit}"
            if one.name not in gone and await _quietly(functools.partial(_remove, one, why)):
                gone.add(one.name)
                size -= one.size
        if size > limit:
            _log.warning(
                "the mirrors have %d bytes, more than mirrors.max_size (%d); those that are left"
                " are listed or were just used",
                size,
                limit,
            )
        return [one for one in found if one.name not in gone]

    def _why(self, found: _Found, now: float) -> str | None:
        """Why a mirror is to go, however large all are."""
        remote = self.routes.named(found.name)
        if remote is None or remote.name != found.name:
            return "no upstream in the settings has it"
        if not remote.mirrored:
            return "the settings do not mirror it any more"
        if now - found.used > self.settings.unused:
            return f"nobody used it for {(now - found.used) / 86400:.1f} days"
        return None

    def _repack(self, found: _Found) -> bool:
        """Repack a mirror if there is need and nobody uses it; whether that was tried. Blocks."""
        mirror = found.mirror
        now = self.clock()
        if now - mirror.last_used() <= self.settings.idle or not _grown(mirror.path):
            return False
        fully = mirror.path / _FULL
        full = fully.exists() and now - _changed(fully) > _FULL_SECONDS
        try:
            mirror.maintain(full)
        except MirrorBusy:
            return False
        except (GitFailed, OSError) as error:
            # It is tried again when it has grown: it could fail each time, for hours.
            _log.warning("mirror of %s could not be repacked: %s", found.name, error)
        else:
            _log.info("mirror of %s is repacked%s", found.name, " fully" if full else "")
        with suppress(OSError):
            (mirror.path / _REPACKED).touch()
            if full or not fully.exists():  # what has just been mirrored has nothing to drop
                fully.touch()
        return True


def _remove(found: _Found, why: str) -> bool:
    """Remove a mirror from the disk, unless somebody came meanwhile; blocks."""
    if found.mirror.last_used() != found.used:
        return False
    try:
        found.mirror.remove()
    except MirrorBusy:
        return False
    except OSError as error:
        _log.warning("mirror of %s could not be dropped: %s", found.name, error)
        return False
    _log.info("mirror of %s is dropped: %s", found.name, why)
    return True


def _grown(path: Path) -> bool:
    """Whether packs have come since a mirror was repacked last."""
    repacked = _changed(path / _REPACKED)
    return any(_changed(pack) > repacked for pack in (path / "objects" / "pack").glob("*.pack"))


def _changed(path: Path) -> float:
    """Its mtime; 0 if it is not there."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


async def _quietly(work: Callable[[], _T]) -> _T:
    """Do blocking work when nobody else wants the machine."""
    return await aside(work, niceness=_NICENESS)
