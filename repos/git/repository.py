# Law of this file: what a repository advertises is what stock git says it does. We ask git once
# and keep its answer for as long as the files it was made from have not changed.

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from repos.git.presence import Presence, Stamp, is_racy, stamp
from repos.git.program import Git, GitFailed
from wire.git.capabilities import Capabilities, parse_advertisement
from wire.git.refs import Refs, parse_ls_refs
from wire.git.v2 import encode_ls_refs

V2: Final = {"GIT_PROTOCOL": "version=2"}

# A change of configuration may take this long to be noticed; one of a ref is noticed at once.
CONFIG_SECONDS: Final = 1.0

# Requests that come within this time share one look at the files. Nobody can have been told of a
# change, and have asked us for it, in less.
LOOK_SECONDS: Final = 0.001

_REF_FILES: Final = ("HEAD", "packed-refs", "reftable/tables.list")
_KEYS: Final = frozenset({"uploadpack.allowfilter", "http.uploadpack", "http.receivepack"})
_HIDING: Final = frozenset({"transfer.hiderefs", "uploadpack.hiderefs"})


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a repository advertises at one moment.

    Attributes:
        capabilities: stock git's own, for protocol v2.
        object_format: ``sha1`` or ``sha256``.
        refs: the advertised refs, hidden ones left out.
        config: ``-c`` settings with which git is run for clients of this repository.
        config_digest: changes whenever the repository's configuration or grafts may have.
        readable: ``http.uploadpack`` is not switched off.
        pushable: ``http.receivepack`` as the repository says, or None if it does not.
        hides_refs: some may be left out (``transfer.hideRefs``, ``uploadpack.hideRefs``).
    """

    capabilities: Capabilities
    object_format: str
    refs: Refs
    config: tuple[tuple[str, str], ...]
    config_digest: str
    readable: bool
    pushable: bool | None
    hides_refs: bool = False


@dataclass(frozen=True, slots=True)
class _Advertised:
    """The part of a snapshot that only the configuration decides."""

    stamps: tuple[Stamp, ...]
    capabilities: Capabilities
    config: tuple[tuple[str, str], ...]
    values: dict[str, bool]


@dataclass(slots=True)
class GitRepository:
    """One git repository that is served.

    Attributes:
        name: the path at which it is served.
        path: its git directory.
        git: how programs are run.
        executor: threads in which they are waited for.
        allow_filter: partial clones, unless the repository's configuration says otherwise.
    """

    name: str
    path: Path
    git: Git
    executor: Executor
    allow_filter: bool = True
    presence: Presence = field(init=False)
    _directories: tuple[str, ...] = ()
    _seen: tuple[Stamp, ...] = ()
    _snapshot: Snapshot | None = None
    _advertised: _Advertised | None = None
    _refreshing: asyncio.Task[Snapshot] | None = None
    _failure: tuple[int, GitFailed] | None = None
    _begun: int = 0
    _answered: int = 0
    _looked: float = 0.0
    _config_seen: tuple[Stamp, ...] = ()
    _config_checked: float = 0.0
    _included: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.presence = Presence(self.git, self.path, self.executor)

    @property
    def identity(self) -> str:
        """What names this repository in keys: where it lies."""
        return str(self.path)

    async def in_thread(self, question: Callable[[], T]) -> T:
        """Put a blocking question to git in one of this repository's threads."""
        return await asyncio.get_running_loop().run_in_executor(self.executor, question)

    async def refs(self) -> Refs:
        """The advertised refs, now."""
        return (await self.snapshot()).refs

    async def snapshot(self) -> Snapshot:
        """What the repository advertises now; git is asked only if it changed.

        Who comes while git is being asked waits for the next answer, which all who came
        meanwhile share: this one may have been read before the change that they know of.

        Raises:
            GitFailed: git refuses the repository (its message says why).
        """
        now = time.monotonic()
        if self._snapshot is not None and now < self._looked + LOOK_SECONDS:
            return self._snapshot
        arrived = self._begun
        while True:
            seen = self._stamps()
            same = self._config_is_known() and seen == self._seen
            fresh = same or self._answered > arrived
            if self._snapshot is not None and fresh:
                self._looked = now
                return self._snapshot
            if self._failure is not None and self._failure[0] > arrived:
                raise self._failure[1]
            if self._refreshing is None:
                self._begun += 1
                self._refreshing = asyncio.create_task(self._refresh(seen))
                return await asyncio.shield(self._refreshing)
            await asyncio.wait({self._refreshing})

    async def _refresh(self, seen: tuple[Stamp, ...]) -> Snapshot:
        began = time.time()
        try:
            snapshot = await self.in_thread(self._ask)
        except GitFailed as failure:
            self._failure = (self._begun, failure)
            raise
        finally:
            self._refreshing = None
        self._snapshot = snapshot
        self._answered = self._begun
        # A change in the same tick of the clock would go unseen: then ask again next time.
        self._seen = () if is_racy(seen, began) else seen
        return snapshot

    def state(self) -> tuple[Stamp, ...]:
        """What differs as soon as a ref was changed; for threads, it keeps nothing."""
        base = str(self.path)
        directories = tuple(path for path, _, _ in os.walk(f"{base}/refs"))
        return tuple(stamp(path) for path in (*(f"{base}/{n}" for n in _REF_FILES), *directories))

    def _stamps(self) -> tuple[Stamp, ...]:
        """Stat everything that the list of refs is made from.

        git replaces a ref by renaming a lock file over it, which changes the directory; so the
        directories below ``refs/`` speak for all loose refs in them. As long as none of them has
        changed, the list of them has not either.
        """
        base = str(self.path)
        files = tuple(stamp(f"{base}/{name}") for name in _REF_FILES)
        directories = tuple(stamp(path) for path in self._directories)
        if not directories or directories != self._seen[len(files) :]:
            self._directories = tuple(path for path, _, _ in os.walk(f"{base}/refs"))
            directories = tuple(stamp(path) for path in self._directories)
        return files + directories

    def _config_is_known(self) -> bool:
        """The configuration is still that of what we advertise."""
        now = time.monotonic()
        if now - self._config_checked > CONFIG_SECONDS:
            self._config_checked = now
            self._config_seen = self._stat_config()
        return self._advertised is not None and self._advertised.stamps == self._config_seen

    def _stat_config(self) -> tuple[Stamp, ...]:
        environ = self.git.environ
        home = environ.get("HOME", "")
        xdg = environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
        paths = (
            f"{self.path}/config",
            f"{self.path}/shallow",
            f"{self.path}/info/grafts",
            environ.get("GIT_CONFIG_GLOBAL") or f"{home}/.gitconfig",
            f"{xdg}/git/config",
            environ.get("GIT_CONFIG_SYSTEM") or "/etc/gitconfig",
            *self._included,
        )
        return tuple(stamp(path) for path in paths)

    def _ask(self) -> Snapshot:
        """Ask git; blocks."""
        advertised = self._advertised
        if advertised is None or advertised.stamps != self._config_seen:
            values = self._read_config()
            self._config_seen = self._stat_config()
            advertised = self._ask_capabilities(self._config_seen, values)
            self._advertised = advertised
        request = encode_ls_refs(
            advertised.capabilities.object_format,
            peel=True,
            symrefs=True,
            unborn=advertised.capabilities.has("ls-refs"),
            prefixes=(),
        )
        body = self.git.run(
            "upload-pack",
            "--stateless-rpc",
            "--strict",
            str(self.path),
            stdin=request,
            config=advertised.config,
            env=V2,
        )
        return Snapshot(
            capabilities=advertised.capabilities,
            object_format=advertised.capabilities.object_format,
            refs=parse_ls_refs(body),
            config=advertised.config,
            config_digest=repr(advertised.stamps[:3]),
            readable=advertised.values.get("http.uploadpack", True),
            pushable=advertised.values.get("http.receivepack"),
            hides_refs=any(key in advertised.values for key in _HIDING),
        )

    def _ask_capabilities(self, stamps: tuple[Stamp, ...], values: dict[str, bool]) -> _Advertised:
        filters = values.get("uploadpack.allowfilter", self.allow_filter)
        config = (("uploadpack.allowFilter", "true" if filters else "false"),)
        body = self.git.run(
            "upload-pack",
            "--stateless-rpc",
            "--advertise-refs",
            "--strict",
            str(self.path),
            config=config,
            env=V2,
        )
        return _Advertised(stamps, parse_advertisement(body), config, values)

    def _read_config(self) -> dict[str, bool]:
        """The settings that concern us; notes which files git reads, included ones too."""
        output = self.git.run(
            f"--git-dir={self.path}", "config", "--null", "--show-origin", "--list"
        ).decode(errors="surrogateescape")
        entries = output.split("\0")
        settings = [entry.partition("\n") for entry in entries[1::2]]
        files = [origin.removeprefix("file:") for origin in entries[:-1:2]]
        # A file that sets nothing yet is only named by who includes it.
        included = [
            os.path.join(os.path.dirname(file), os.path.expanduser(value))  # noqa: PTH111, PTH118, PTH120
            for file, (key, _, value) in zip(files, settings, strict=True)
            if key == "include.path" or (key.startswith("includeif.") and key.endswith(".path"))
        ]
        self._included = tuple(dict.fromkeys(files + included))
        # Of those that hide, that there is one says enough.
        known = _KEYS | _HIDING
        return {key: _is_true(is_set, value) for key, is_set, value in settings if key in known}


def _is_true(is_set: str, value: str) -> bool:
    """A boolean as git-config(1) reads it; a key alone, without ``=``, is true."""
    if not is_set or value.lower() in {"true", "yes", "on"}:
        return True
    return value.lstrip("+-").isdigit() and int(value) != 0
