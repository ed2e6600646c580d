# Law of this file: a mirror is a bare repository that is whole at every moment, whatever is killed.
# Its refs are exactly what its upstream was last seen to have, and change only after all that they
# reach is here. These calls block; async callers use a thread.

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from repos.git import mirror_refs, mirror_upkeep
from repos.git.mirror_directory import (
    GONE,
    NEW,
    USED,
    existing,
    mirror_path,
    name_section,
    sweep,
)
from repos.git.mirror_fetch import PLAIN, Source, fetch_objects
from repos.git.mirror_lock import MirrorBusy, locked
from repos.git.program import Git

__all__ = ["Mirror", "MirrorBusy", "Source", "existing", "mirror_path", "sweep"]

USED_SECONDS: Final = 60.0
"""When a mirror was used last is written down at most this often."""

_HEAD: Final = b"HEAD"
_BLOCK: Final = 512  # bytes of one block in stat(2), whatever the file system
_CONFIG: Final = """\
[gc]
\tauto = 0
[maintenance]
\tauto = false
[repack]
\tupdateServerInfo = false
[transfer]
\thideRefs = refs/offramp
[uploadpack]
\tallowAnySHA1InWant = true
"""


@dataclass(frozen=True, slots=True)
class Mirror:
    """A mirror of an upstream repository, on this machine, which may not be there yet.

    Attributes:
        path: its git directory; see :func:`mirror_path`. What belongs to it lies beside it.
        git: how programs are run; its time limit ends a fetch that takes too long.
    """

    path: Path
    git: Git

    @property
    def exists(self) -> bool:
        """It is there, and whole."""
        return self.path.is_dir()

    def refs(self) -> dict[bytes, str]:
        """Its refs: name -> object id in hex; without HEAD, and without those that are ours.

        Raises:
            GitFailed: it is not there, or cannot be read.
        """
        refs = mirror_refs.current(self.git, self.path)
        return {name: oid for name, oid in refs.items() if not name.startswith(mirror_upkeep.OURS)}

    def lock(self, timeout: float | None) -> AbstractContextManager[None]:
        """Keep everybody else, in any process, from changing it in this block.

        All methods that change it take this lock themselves: do not call them in the block.

        Args:
            timeout: seconds to wait; 0 tries once, None waits as long as it takes.

        Raises:
            MirrorBusy: somebody else had it all that time.
            OSError: there is no place for it.
        """
        return locked(self.path, timeout)

    def create(
        self,
        source: Source,
        refs: Mapping[bytes, str],
        head: bytes | None,
        object_format: str,
        name: str,
    ) -> None:
        """Mirror for the first time; nothing happens if it is there by the time of our turn.

        It is made aside and appears whole.

        Args:
            source: where to fetch.
            refs: what the upstream has: name -> object id in hex. What is not below ``refs/``, or
                below ``refs/offramp/``, is left out; the object of a detached HEAD is kept.
            head: the ref that its HEAD stands for; None if it does not say, or for none.
            object_format: ``sha1`` or ``sha256``.
            name: at which it is served; kept in the mirror, see :func:`existing`.

        Raises:
            GitFailed: a fetch or another program ended badly; there is no mirror then.
            OSError: the disk refuses.
            ValueError: the name is not printable.
        """
        section = name_section(name)
        wanted = mirror_refs.mirrored(refs)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.lock(None):
            if self.exists:
                return
            new = self.path.with_suffix(NEW)
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(mode=0o700)  # what is private upstream is private here
            try:
                self._initialise(new, object_format, section)
                self._bring(new, source, wanted, head, _detached(refs))
                if wanted:
                    self.git.run(f"--git-dir={new}", "pack-refs", "--all", env=PLAIN)
                self._use()
                new.rename(self.path)
            except BaseException:
                shutil.rmtree(new, ignore_errors=True)
                raise

    def update(
        self,
        source: Source,
        refs: Mapping[bytes, str],
        head: bytes | None,
        wants: Sequence[str],
    ) -> None:
        """Bring its refs to exactly ``refs``, and the objects ``wants`` into it.

        What differs is looked at when it is our turn: somebody may have done it meanwhile.

        Args:
            source: where to fetch.
            refs: as for :meth:`create`.
            head: likewise; if it is None, HEAD stays as it is.
            wants: object ids in hex that need not be a ref's; the source must allow each to be
                asked for. They are kept for two weeks, whatever becomes of the refs.

        Raises:
            GitFailed: there is no mirror, or a program ended badly. If that was the fetch, the
                mirror is as it was.
            OSError: the disk refuses.
        """
        wanted = mirror_refs.mirrored(refs)
        mirror_refs.check_oids(wants)
        with self.lock(None):
            mirror_upkeep.clear_leftovers(self.path)
            self._bring(self.path, source, wanted, head, {*wants, *_detached(refs)})
            self._use()

    def touch(self) -> None:
        """Note that it is used now."""
        if self.exists and time.time() - self.last_used() >= USED_SECONDS:
            self._use()

    def last_used(self) -> float:
        """When it was used last, in seconds since the epoch, or up to a minute before; 0: never."""
        try:
            return self.path.with_suffix(USED).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def size(self) -> int:
        """Bytes that it takes on disk; 0 if it is not there."""
        total = 0
        for directory, _, files in os.walk(self.path):
            for file in files:
                with suppress(FileNotFoundError):
                    total += Path(directory, file).lstat().st_blocks * _BLOCK
        return total

    def maintain(self, full: bool) -> None:
        """Make it quick to answer from again; see :func:`repos.git.mirror_upkeep.maintain`.

        Raises:
            MirrorBusy: somebody works on it; there will be another time.
            GitFailed: it is not there, or a program ended badly; nothing is lost then.
        """
        with self.lock(0):
            mirror_upkeep.maintain(self.git, self.path, full)

    def remove(self) -> None:
        """Remove it at once for all who come, then from the disk; no matter if it is not there.

        Raises:
            MirrorBusy: somebody works on it.
            OSError: the disk refuses.
        """
        gone = self.path.with_suffix(GONE)
        with self.lock(0):
            shutil.rmtree(gone, ignore_errors=True)
            with suppress(FileNotFoundError):
                self.path.rename(gone)
            self.path.with_suffix(USED).unlink(missing_ok=True)
            shutil.rmtree(gone, ignore_errors=True)

    def _initialise(self, path: Path, object_format: str, section: str) -> None:
        self.git.run(
            "init",
            "--quiet",
            "--bare",
            "--template=",
            "--initial-branch=main",
            f"--object-format={object_format}",
            str(path),
            env=PLAIN,
        )
        with (path / "config").open("a", encoding="utf-8") as config:
            config.write(_CONFIG + section)

    def _bring(
        self,
        path: Path,
        source: Source,
        refs: Mapping[bytes, str],
        head: bytes | None,
        wants: set[str],
    ) -> None:
        """Fetch what lacks, then move the refs: a fetch that fails has changed nothing."""
        before = mirror_refs.current(self.git, path)
        tips = set(before.values())
        new = set(refs.values()) - tips
        extra = wants - tips - set(refs.values())
        if new or extra:  # git asks only for those of which something lacks
            fetch_objects(self.git, path, source, new | extra)
        mirror_refs.move(self.git, path, before, refs, extra)
        if head is not None:
            mirror_refs.point_head(self.git, path, head)

    def _use(self) -> None:
        with suppress(FileNotFoundError):  # somebody has emptied the data directory
            self.path.with_suffix(USED).touch()


def _detached(refs: Mapping[bytes, str]) -> set[str]:
    """The object of HEAD, if it is named: no ref need reach one that is detached."""
    return {refs[_HEAD]} if _HEAD in refs else set()
