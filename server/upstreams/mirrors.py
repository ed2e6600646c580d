# Law of this file: a client never waits for more than its own content, and never for longer than
# was set: what the mirror cannot give now, the upstream gives itself. One fetch serves all.

from __future__ import annotations

import asyncio
import functools
import logging
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from repos.git.mirror import USED_SECONDS, Mirror, MirrorBusy, Source, existing, mirror_path
from repos.git.program import Git, GitFailed
from repos.git.repository import V2, GitRepository
from server.upstreams.aside import aside
from server.upstreams.asking import SERVICE, Down, Refused
from server.upstreams.routes import Remote, Routes
from server.upstreams.views import View, Views
from wire.git.capabilities import Capabilities, parse_advertisement, service_preface
from wire.git.refs import Refs
from wire.git.v0_advertisement import parse_advertisement as parse_v0

_log = logging.getLogger("offramp.mirrors")

MIRRORS: Final = "mirrors"
"""Where mirrors lie, below the data directory."""

# After a first mirroring that failed, the upstream is left alone with it for so long; until then
# clients are passed through.
_PAUSE: Final = 60.0
# The refs of a mirror in the name of which exact objects are kept.
_HEADS: Final = b"refs/heads/"


@dataclass(slots=True)
class _Held:
    """One mirror, as this process knows it."""

    mirror: Mirror
    repository: GitRepository
    making: asyncio.Task[None] | None = None
    updating: asyncio.Task[None] | None = None
    # Who wants it, by the fingerprint of the credential.
    wanted: dict[str, str] = field(default_factory=dict, repr=False)
    paused_until: float = 0.0
    touched: float = -USED_SECONDS


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
    _abilities: dict[str, tuple[Capabilities, tuple[str, ...]]] = field(default_factory=dict)

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
        shown = self.views.fingerprints.of(authorization)
        try:
            async with asyncio.timeout(remote.upstream.max_wait):
                while lacking := await self._lacking(held, wants):
                    held.wanted.update(dict.fromkeys(lacking, shown))
                    if held.updating is not None:
                        await asyncio.wait({held.updating})
                        continue
                    await asyncio.shield(self._start_update(held, remote, view, authorization))
                    if await self._lacking(held, wants):
                        return None  # what was fetched does not hold it
        except TimeoutError:
            _log.info("%s: the mirror's fetch takes long; passed through", remote.name)
            return None
        except (GitFailed, MirrorBusy, Refused, Down, OSError) as error:
            _log.warning("mirror of %s is not up to date: %s", remote.name, error)
            return None
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
        """Start the first mirroring, unless it runs, may not be, or has just failed."""
        held = self._of(remote)
        if not remote.mirrored or held.making is not None or time.monotonic() < held.paused_until:
            return
        held.making = asyncio.create_task(self._make(held, remote, view, authorization))

    async def made(self, remote: Remote) -> None:
        """Wait for a first mirroring that runs."""
        making = self._of(remote).making
        if making is not None:
            await asyncio.wait({making})

    async def abilities(self, object_format: str) -> tuple[Capabilities, tuple[str, ...]]:
        """What this machine's git can do as server: in protocol v2, and its words of v0.

        Raises:
            GitFailed: it does not run.
        """
        known = self._abilities.get(object_format)
        if known is None:
            known = await asyncio.get_running_loop().run_in_executor(
                self.questions, self._ask_abilities, object_format
            )
            self._abilities[object_format] = known
        return known

    async def close(self) -> None:
        """Stop waiting for fetches; a git that still runs is left to end by itself."""
        tasks = [
            task
            for held in self._held.values()
            for task in (held.making, held.updating)
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
            held = self._held[remote.name] = _Held(
                Mirror(path, self.git),
                GitRepository(remote.name, path, self.git, self.questions),
            )
        return held

    async def _lacking(self, held: _Held, wants: Collection[str]) -> frozenset[str]:
        return frozenset(wants) - await held.repository.presence.existing(wants)

    def _start_update(
        self, held: _Held, remote: Remote, view: View, authorization: str | None
    ) -> asyncio.Task[None]:
        task = asyncio.create_task(self._update(held, remote, view, authorization))
        held.updating = task
        task.add_done_callback(_consumed)
        return task

    async def _make(
        self, held: _Held, remote: Remote, view: View, authorization: str | None
    ) -> None:
        began = time.monotonic()
        try:
            refs, source = await self._own_view(remote, view, authorization)
            await self._fetching(
                remote,
                functools.partial(
                    held.mirror.create,
                    source,
                    self._kept(remote, refs),
                    _head(refs),
                    view.spoken.object_format,
                    name=remote.name,
                ),
            )
        except (GitFailed, MirrorBusy, Refused, Down, OSError) as error:
            held.paused_until = time.monotonic() + _PAUSE
            _log.warning("%s could not be mirrored: %s", remote.name, error)
            return
        finally:
            held.making = None
        _log.info("%s is mirrored, after %.1f s", remote.name, time.monotonic() - began)
        self.changed()

    async def _update(
        self, held: _Held, remote: Remote, view: View, authorization: str | None
    ) -> None:
        try:
            refs, source = await self._own_view(remote, view, authorization)
            kept = self._kept(remote, refs)
            shown = self.views.fingerprints.of(source.authorization)
            exact = _take(held.wanted, shown, own=self._has_own(remote))
            exact -= set(kept.values())
            await self._fetching(
                remote,
                functools.partial(held.mirror.update, source, kept, _head(refs), sorted(exact)),
            )
        finally:
            held.updating = None
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

    async def _fetching(self, remote: Remote, fetch: Callable[[], None]) -> None:
        """Fetch when it is our turn."""
        with self.views.asking.counted(remote, "mirror"):
            async with self.fetches:
                await aside(fetch)

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

    def _ask_abilities(self, object_format: str) -> tuple[Capabilities, tuple[str, ...]]:
        """Ask git, of a repository with one blob and a tag of it; blocks.

        Of an empty one, git before 2.41 says nothing in protocol v0.
        """
        config = (("uploadpack.allowFilter", "true"), ("uploadpack.allowAnySHA1InWant", "true"))
        with tempfile.TemporaryDirectory(prefix="offramp-") as empty:
            self.git.run(
                "init",
                "--quiet",
                "--bare",
                f"--object-format={object_format}",
                "--template=",
                empty,
            )
            stored = self.git.run(f"--git-dir={empty}", "hash-object", "-w", "--stdin")
            tag = ("update-ref", "refs/tags/one", stored.decode().strip())
            self.git.run(f"--git-dir={empty}", *tag)
            asked = ("upload-pack", "--stateless-rpc", "--advertise-refs", "--strict", empty)
            second = self.git.run(*asked, config=config, env=V2)
            first = self.git.run(*asked, config=config)
        preface = service_preface(SERVICE)
        return parse_advertisement(second), parse_v0(preface + first).capabilities


def mirrored_repositories(
    directory: Path, routes: Routes, git: Git, questions: Executor
) -> Iterator[GitRepository]:
    """Every mirror whose upstream the settings still have; reads the disk."""
    for name, path in existing(directory.absolute()):  # git runs elsewhere
        remote = routes.named(name)
        if remote is not None and remote.mirrored:
            yield GitRepository(name, path, git, questions)


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
