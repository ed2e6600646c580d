# Law of this file: a client never waits for more than its own content, and never for longer than
# was set: what the mirror cannot give now, the upstream gives itself. One fetch serves all.

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from repos.git.mirror import USED_SECONDS, Mirror, MirrorBusy, Source, existing, mirror_path
from repos.git.program import Git, GitFailed
from repos.git.repository import GitRepository
from server.upstreams.aside import aside
from server.upstreams.asking import Down, Refused, SpeaksV0
from server.upstreams.routes import Remote, Routes
from server.upstreams.views import View, Views
from wire.git.refs import Refs

_log = logging.getLogger("offramp.mirrors")

MIRRORS: Final = "mirrors"
"""Where mirrors lie, below the data directory."""

# Repositories that a process has in mind; beyond, those that nothing is done with are forgotten.
_KEPT: Final = 4096
# First mirrorings that wait for their turn; who asks for another is passed through.
_QUEUED: Final = 100
# Refs that were asked for longer ago than this are asked for again before they are fetched.
_OLD: Final = 5.0
# A mirror that seems to be damaged is looked at once in so long.
_CHECKED: Final = 600.0
# A client of an upstream that speaks protocol v0 only, and so cannot answer in our place, waits
# for the mirror at least so long.
_PATIENCE: Final = 300.0
_HEADS: Final = b"refs/heads/"


@dataclass(slots=True)
class _Rest:
    """After a failure the upstream is left alone, each time for twice as long."""

    first: float
    second: float
    longest: float
    _next: float | None = None

    def after_failure(self) -> float:
        """When to try again, by the monotonic clock."""
        length = self.first if self._next is None else self._next
        self._next = min(max(self.second, 2 * length), self.longest)
        return time.monotonic() + length

    def after_success(self) -> None:
        """Begin anew."""
        self._next = None


@dataclass(slots=True)
class _Held:
    """One mirror, as this process knows it.

    ``asked`` is who waits for a first mirroring that has not begun; ``wanted`` names objects, and
    by the fingerprint of a credential who wants them.
    """

    mirror: Mirror
    repository: GitRepository
    making: asyncio.Task[None] | None = None
    updating: asyncio.Task[None] | None = None
    checking: asyncio.Task[None] | None = None
    asked: tuple[View, str | None] | None = field(default=None, repr=False)
    wanted: dict[str, str] = field(default_factory=dict)
    failures: int = 0
    paused_until: float = 0.0
    resting_until: float = 0.0
    checked: float = -_CHECKED
    touched: float = -USED_SECONDS
    between_makings: _Rest = field(default_factory=lambda: _Rest(60.0, 120.0, 3600.0))
    between_updates: _Rest = field(default_factory=lambda: _Rest(0.0, 5.0, 300.0))

    @property
    def idle(self) -> bool:
        """Nothing is done with it."""
        return self.making is None and self.updating is None and self.checking is None


@dataclass(slots=True)
class Mirrors:
    """The mirrors below the data directory.

    Attributes:
        directory: where they lie.
        git: how programs are run.
        questions: threads for short questions to git.
        fetches: as many mirrors as it has room for fetch side by side.
        views: asked for the refs that the mirror's own credential sees.
        own: the settings' credential of an upstream as a header's value, by its title.
        changed: called when a mirror has come into being or has been brought up to date.
    """

    directory: Path
    git: Git
    questions: Executor
    fetches: asyncio.Semaphore
    views: Views
    own: dict[str, str | None]
    changed: Callable[[], None]
    _held: dict[str, _Held] = field(default_factory=dict)

    def known(self, name: str) -> bool:
        """There is a mirror of what is served as ``name``."""
        return mirror_path(self.directory, name).is_dir()

    def get(self, remote: Remote) -> GitRepository | None:
        """The mirror as a repository, if there is one."""
        held = self._of(remote)
        return held.repository if held.mirror.exists else None

    async def ready(
        self, remote: Remote, view: View, wants: Collection[str], authorization: str | None
    ) -> GitRepository | None:
        """The mirror, once it holds ``wants``; None if the upstream is to answer itself.

        Args:
            remote: the repository.
            view: what the caller may see.
            wants: object ids that the caller may have.
            authorization: the caller's own, for a mirror that has none in the settings.
        """
        held = self._of(remote)
        if not held.mirror.exists:
            self.begin(remote, view, authorization)
            return None
        limit = remote.upstream.max_wait
        if isinstance(view.spoken, SpeaksV0):
            limit = max(limit, _PATIENCE)
        try:
            async with asyncio.timeout(limit):
                if not await self._is_of_format(held, remote, view, authorization):
                    return None
                if not await self._brought(held, remote, view, wants, authorization):
                    return None
        except TimeoutError:
            _log.info("%s: the mirror's fetch takes long; passed through", remote.name)
            return None
        except (GitFailed, MirrorBusy, Refused, Down, OSError) as error:
            _log.warning("mirror of %s is not up to date: %s", remote.name, error)
            return None
        finally:
            for oid in wants:
                held.wanted.pop(oid, None)
        if time.monotonic() - held.touched > USED_SECONDS:
            held.touched = time.monotonic()
            await asyncio.get_running_loop().run_in_executor(self.questions, held.mirror.touch)
        return held.repository

    async def follow(self, remote: Remote, view: View, authorization: str | None) -> None:
        """Bring the mirror's refs up to date; waits no longer than a client may have to.

        If that fails or takes longer, they stay as they are for now.
        """
        held = self._of(remote)
        updating = held.updating or self._start_update(held, remote, view, authorization)
        await asyncio.wait({updating}, timeout=remote.upstream.max_wait)

    def begin(self, remote: Remote, view: View, authorization: str | None) -> None:
        """Start the first mirroring, unless it runs, may not be, or has just failed.

        One that waits for its turn is begun with what the last who asked has shown.
        """
        held = self._of(remote)
        if held.making is not None:
            if held.asked is not None:
                held.asked = (view, authorization)
            return
        if not remote.mirrored or time.monotonic() < held.paused_until:
            return
        if sum(other.asked is not None for other in self._held.values()) >= _QUEUED:
            return
        held.asked = (view, authorization)
        held.making = asyncio.create_task(self._make(held, remote))

    def suspect(self, remote: Remote) -> None:
        """A program failed in the mirror: see whether it is damaged, and if so drop it."""
        held = self._of(remote)
        if held.checking is None and time.monotonic() - held.checked > _CHECKED:
            held.checked = time.monotonic()
            held.checking = asyncio.create_task(self._check(held, remote))

    async def made(self, remote: Remote) -> None:
        """Wait for a first mirroring that runs."""
        making = self._of(remote).making
        if making is not None:
            await asyncio.wait({making})

    async def close(self) -> None:
        """Stop waiting for fetches; a git that still runs is left to end by itself."""
        tasks = [
            task
            for held in self._held.values()
            for task in (held.making, held.updating, held.checking)
            if task is not None
        ]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- within ------------------------------------------------------------------------------

    def _of(self, remote: Remote) -> _Held:
        held = self._held.get(remote.name)
        if held is None:
            path = mirror_path(self.directory, remote.name)
            held = _Held(Mirror(path, self.git), self._repository(remote))
            self._held[remote.name] = held
            if len(self._held) > _KEPT:
                oldest = next((n for n, h in self._held.items() if h.idle and h is not held), None)
                if oldest is not None:
                    del self._held[oldest]
        return held

    def _repository(self, remote: Remote) -> GitRepository:
        path = mirror_path(self.directory, remote.name)
        return GitRepository(remote.name, path, self.git, self.questions)

    async def _lacking(self, held: _Held, wants: Collection[str]) -> frozenset[str]:
        return frozenset(wants) - await held.repository.presence.existing(wants)

    def _start_update(
        self, held: _Held, remote: Remote, view: View, authorization: str | None
    ) -> asyncio.Task[None]:
        task = asyncio.create_task(self._update(held, remote, view, authorization))
        held.updating = task
        task.add_done_callback(_consumed)
        return task

    async def _brought(
        self,
        held: _Held,
        remote: Remote,
        view: View,
        wants: Collection[str],
        authorization: str | None,
    ) -> bool:
        """Bring the mirror what it lacks of ``wants``; False if that did not help.

        Raises:
            GitFailed, MirrorBusy, Refused, Down, OSError: why.
        """
        shown = self.views.fingerprints.of(authorization)
        while lacking := await self._lacking(held, wants):
            held.wanted.update(dict.fromkeys(lacking, shown))
            if held.updating is not None:
                failures = held.failures
                await asyncio.wait({held.updating})
                if held.failures != failures:
                    return False  # one failure is enough for all who waited for it
                continue
            resting = time.monotonic() < held.resting_until
            if resting and not isinstance(view.spoken, SpeaksV0):  # the upstream answers itself
                return False
            await asyncio.shield(self._start_update(held, remote, view, authorization))
            if missing := await self._lacking(held, wants):
                named = await held.repository.in_thread(held.mirror.refs)
                if not missing.isdisjoint(named.values()):
                    self.suspect(remote)  # its own refs name what cannot be read
                return False  # what was fetched does not hold it
        return True

    async def _is_of_format(
        self, held: _Held, remote: Remote, view: View, authorization: str | None
    ) -> bool:
        """Whether the mirror names objects as the upstream does; if not, it is made anew.

        Raises:
            GitFailed: it is damaged; that is looked into.
        """
        try:
            snapshot = await held.repository.snapshot()
        except GitFailed:
            self.suspect(remote)
            raise
        if snapshot.object_format == view.spoken.object_format:
            return True
        _log.warning("%s was replaced by another repository; mirrored anew", remote.name)
        await self._drop(held, remote)
        self.begin(remote, view, authorization)
        return False

    async def _drop(self, held: _Held, remote: Remote) -> None:
        await aside(held.mirror.remove)
        held.repository = self._repository(remote)

    async def _check(self, held: _Held, remote: Remote) -> None:
        check = functools.partial(
            self.git.run, f"--git-dir={held.mirror.path}", "fsck", "--no-dangling", "--no-progress"
        )
        try:
            await aside(check, niceness=10)
        except GitFailed as failure:
            _log.error("the mirror of %s is damaged and dropped: %s", remote.name, failure)
            try:
                await self._drop(held, remote)
            except (MirrorBusy, OSError) as error:
                _log.warning("the mirror of %s could not be dropped: %s", remote.name, error)
        finally:
            held.checking = None

    async def _make(self, held: _Held, remote: Remote) -> None:
        began = time.monotonic()
        try:
            with self.views.asking.counted(remote, "mirror"):
                async with self.fetches:
                    await self._create(held, remote)
        except (GitFailed, MirrorBusy, Refused, Down, OSError) as error:
            held.paused_until = held.between_makings.after_failure()
            _log.warning("%s could not be mirrored: %s", remote.name, error)
            return
        finally:
            held.making = held.asked = None
        held.between_makings.after_success()
        _log.info("%s is mirrored, after %.1f s", remote.name, time.monotonic() - began)
        self.changed()

    async def _create(self, held: _Held, remote: Remote) -> None:
        assert held.asked is not None  # noqa: S101 - see begin
        (view, authorization), held.asked = held.asked, None
        if self.views.clock() - view.asked > _OLD:
            view = await self.views.fresh(remote, authorization)
        refs, source = await self._own_view(remote, view, authorization)
        await aside(
            functools.partial(
                held.mirror.create,
                source,
                self._kept(remote, refs),
                _head(refs),
                view.spoken.object_format,
                name=remote.name,
            )
        )

    async def _update(
        self, held: _Held, remote: Remote, view: View, authorization: str | None
    ) -> None:
        try:
            refs, source = await self._own_view(remote, view, authorization)
            kept = self._kept(remote, refs)
            with self.views.asking.counted(remote, "mirror"):
                async with self.fetches:
                    shown = self.views.fingerprints.of(source.authorization)
                    exact = _take(held.wanted, shown, own=self._has_own(remote))
                    exact -= set(kept.values())
                    update = held.mirror.update
                    await aside(functools.partial(update, source, kept, _head(refs), sorted(exact)))
        except BaseException:
            held.failures += 1
            held.resting_until = held.between_updates.after_failure()
            raise
        finally:
            held.updating = None
        held.between_updates.after_success()
        self.changed()

    async def _own_view(
        self, remote: Remote, view: View, authorization: str | None
    ) -> tuple[Refs, Source]:
        """The refs and the source of the mirror: by its own credential, else by the caller's."""
        own = self.own[remote.upstream.title]
        if own is not None and own != authorization:
            view = await self.views.fresh(remote, own)
        source = Source(
            url=view.spoken.base,
            authorization=authorization if own is None else own,
            ca_file=remote.upstream.ca_file,
            stall_seconds=remote.upstream.stall_time,
        )
        return view.refs, source

    def _has_own(self, remote: Remote) -> bool:
        return self.own[remote.upstream.title] is not None

    def _kept(self, remote: Remote, refs: Refs) -> dict[bytes, str]:
        """The refs that the mirror keeps."""
        patterns = remote.upstream.refs
        return {
            ref.name: ref.oid
            for ref in refs.refs
            if ref.oid is not None
            # A HEAD that stands for no branch is all that names its commit.
            and (
                (ref.name == b"HEAD" and ref.symref is None)
                or any(fnmatchcase(ref.name.decode(errors="surrogateescape"), p) for p in patterns)
            )
        }


def mirrored_repositories(
    directory: Path, routes: Routes, git: Git, questions: Executor
) -> Iterator[tuple[GitRepository, Remote]]:
    """Every mirror whose upstream the settings still have; reads the disk."""
    for name, path in existing(directory.absolute()):  # git runs elsewhere
        remote = routes.named(name)
        if remote is not None and remote.mirrored:
            yield GitRepository(name, path, git, questions), remote


def _take(wanted: dict[str, str], shown: str, *, own: bool) -> set[str]:
    """Take out what may be fetched with the credential that is shown.

    One object that it may not have would fail the whole fetch; so a caller's fetches only what
    callers with the same credential want.
    """
    taken = {oid for oid, fingerprint in wanted.items() if own or fingerprint == shown}
    for oid in taken:
        del wanted[oid]
    return taken


def _head(refs: Refs) -> bytes | None:
    """The branch that HEAD stands for."""
    for ref in refs.refs:
        if ref.name == b"HEAD":
            return ref.symref if ref.symref and ref.symref.startswith(_HEADS) else None
    return None


def _consumed(task: asyncio.Task[None]) -> None:
    """An update's failure is told to those who waited for it; there may be none left."""
    if not task.cancelled():
        task.exception()
