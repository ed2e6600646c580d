# Law of this file: several worker processes keep their figures in files of one directory, and that
# is settled before prometheus_client is imported, because it decides at its import. What a server
# left there that was killed is removed by the next.
#
#     <data>/metrics/<pid>-<random>/     of one server
#         held                           the parent holds its lock

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from repos.flock import held, remove_unless_held

_log = logging.getLogger("offramp.figures")

VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"

_HELD: Final = "held"

# Where the data directory takes none; both are in memory nearly everywhere.
_SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 - a directory of our own is made there


@dataclass(frozen=True, slots=True)
class Prepared:
    """The directory of one server.

    Attributes:
        path: where it is.
    """

    path: Path
    _lock: int

    def remove(self) -> None:
        """Remove it: all workers have ended."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def prepare(directory: Path) -> Prepared:
    """Let the workers that are started from now on keep their figures together.

    Called once by the parent, before it starts them: they inherit the variable. In ``directory``
    every server of one data directory has a directory of its own, and so begins to count at 0.
    Where it takes none, because the disk is full or read-only, there is a temporary one.

    Raises:
        OSError: there is no place for a directory at all.
    """
    try:
        prepared = _below(directory)
    except OSError as error:
        prepared = _elsewhere()
        _log.warning("figures of the workers are kept in %s: %s", prepared.path, error)
    os.environ[VARIABLE] = str(prepared.path)
    return prepared


def prepared() -> Path | None:
    """The directory that :func:`prepare` made, for this process or for its parent."""
    directory = os.environ.get(VARIABLE)
    return Path(directory) if directory else None


def _below(directory: Path) -> Prepared:
    directory.mkdir(parents=True, exist_ok=True)
    # Nobody removes what another one has made and does not hold yet.
    with held(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)):
        for left in directory.iterdir():
            with suppress(OSError):
                _remove_left(left)
        return _made(directory, f"{os.getpid()}-")


def _elsewhere() -> Prepared:
    try:
        return _made(Path(tempfile.gettempdir()), "offramp-metrics-")
    except OSError:
        return _made(Path(_SHARED_MEMORY), "offramp-metrics-")


def _made(directory: Path, prefix: str) -> Prepared:
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=directory))
    try:
        lock = os.open(path / _HELD, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:
        shutil.rmtree(path, ignore_errors=True)
        raise
    return Prepared(path, lock)


def _remove_left(left: Path) -> None:
    """Remove what a server left that has ended without a word.

    Raises:
        OSError: it cannot be removed, or is no directory of figures.
    """
    if left.name.isdecimal():
        # Of a version that held no lock.
        if not Path("/proc", left.name).exists():
            shutil.rmtree(left)
        return
    try:
        lock = os.open(left / _HELD, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        shutil.rmtree(left)  # it ended as it was made: nobody else makes one just now
        return
    remove_unless_held(left, lock)
