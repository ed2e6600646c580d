# Law of this file: a process that indexes tells the others how far it is by a file that it holds a
# lock on. A file that nobody holds is of a process that died, and is removed by who finds it.
#
# `status/indexing/<process id>.json` in the data directory: an object with `repository`, `step`,
# `done`, `total` (null if nobody knows) and `began` (seconds since the epoch).

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from indexer.report import Progress

_log = logging.getLogger("offramp.status")

STATUS: Final = "status"
"""Where, in the data directory, everything lies that the status page shows."""

INDEXING: Final = "indexing"

# A run that counts objects says so many times a second.
_PAUSE_SECONDS: Final = 0.5


class Step(BaseModel):
    """What a process that indexes is at.

    Attributes:
        repository: served name; empty before the first one.
        step: such as ``full: writing objects``.
        done: objects that are done.
        total: of how many; None if nobody knows.
        began: when the run began, in seconds since the epoch.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    repository: str
    step: str
    done: int
    total: int | None
    began: float


@dataclass(slots=True)
class _Told:
    """Passes a progress on, and writes it down."""

    progress: Progress
    file: int
    began: float = field(default_factory=time.time)
    _step: Step | None = None
    _written: float = 0.0

    def start(self, repository: str, what: str, total: int | None) -> None:
        """See :meth:`Progress.start`."""
        self.progress.start(repository, what, total)
        shown = repository.encode(errors="backslashreplace").decode()
        self._write(Step(repository=shown, step=what, done=0, total=total, began=self.began))

    def advance(self, n: int) -> None:
        """See :meth:`Progress.advance`."""
        self.progress.advance(n)
        if self._step is not None:
            step = self._step.model_copy(update={"done": self._step.done + n})
            if time.monotonic() - self._written >= _PAUSE_SECONDS:
                self._write(step)
            self._step = step

    def done(self) -> None:
        """See :meth:`Progress.done`."""
        self.progress.done()

    def begin(self) -> None:
        """Say that there is a run."""
        self._write(Step(repository="", step="looking", done=0, total=None, began=self.began))

    def _write(self, step: Step) -> None:
        self._step, self._written = step, time.monotonic()
        body = step.model_dump_json().encode()
        # In place, for the lock is of this file. Who reads in between takes what does not parse for
        # nothing.
        with suppress(OSError):
            os.pwrite(self.file, body, 0)
            os.ftruncate(self.file, len(body))


@contextmanager
def told(directory: Path, progress: Progress) -> Iterator[Progress]:
    """Let the other processes of this machine know, for the time of a run, how far it is.

    Args:
        directory: the status directory in the data directory.
        progress: hears the same.
    """
    place = directory / INDEXING
    path = place / f"{os.getpid()}.json"
    try:
        directory.mkdir(0o700, parents=True, exist_ok=True)
        place.mkdir(exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        _log.info("nobody is told how far indexing is: %s", error)
        yield progress
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        tells = _Told(progress, file)
        tells.begin()
        yield tells
    finally:
        path.unlink(missing_ok=True)
        os.close(file)


def running(directory: Path) -> tuple[Step, ...]:
    """What is being indexed on this machine, the run that began first at the front."""
    found = []
    try:
        paths = sorted((directory / INDEXING).glob("*.json"))
    except OSError:
        return ()
    for path in paths:
        with suppress(OSError, ValidationError), path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                found.append(Step.model_validate_json(file.read()))
            else:
                path.unlink(missing_ok=True)
    return tuple(sorted(found, key=lambda step: step.began))


# --- what the last run did ---------------------------------------------------------------------


class Last(BaseModel):
    """What the last run on this machine that ended did.

    Attributes:
        ended: when, in seconds since the epoch.
        seconds: how long it took.
        outcomes: how many bundles and indexes came to which outcome.
        failures: the first of those that failed: repository, kind and reason.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    ended: float
    seconds: float
    outcomes: dict[str, int]
    failures: tuple[tuple[str, str, str], ...]


def remember(directory: Path, last: Last) -> None:
    """Write down what a run did, in place of the one before."""
    part = directory / f"last-run.{os.getpid()}"
    try:
        directory.mkdir(0o700, parents=True, exist_ok=True)
        part.write_text(json.dumps(last.model_dump()), encoding="ascii")
        part.replace(directory / "last-run.json")
    except OSError as error:
        _log.info("it cannot be noted what was indexed: %s", error)


def last_run(directory: Path) -> Last | None:
    """What the last run did; None if there was none, or nobody can read it."""
    try:
        return Last.model_validate_json((directory / "last-run.json").read_bytes())
    except (OSError, ValidationError):
        return None
