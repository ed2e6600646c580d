# Law of this file: one indexer per repository and machine. Whoever holds the lock owns the
# repository's work directory; one whose lock is free was left by a run that was killed.
#
#   <work>/index-<sha256 of the name, 16 digits>.lock   held (flock) during a run, never removed
#   <work>/index-<sha256 of the name, 16 digits>/       files being made, removed at the end

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Busy(Exception):  # noqa: N818 - a state, not an error
    """Another process indexes the same repository now."""


@contextmanager
def work_directory(work: Path, repository: str) -> Iterator[Path]:
    """Own an empty directory below ``work`` for one run on ``repository``.

    Whatever killed runs left below ``work``, of any repository, is removed.

    Raises:
        Busy: another process has it.
        OSError: the directory cannot be made.
    """
    work.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(repository.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    directory = work / f"index-{name}"
    with _locked(directory):
        _sweep(work)
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    lock = directory.with_suffix(".lock")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"another process holds {lock}") from None
        yield
    finally:
        os.close(descriptor)


def _sweep(work: Path) -> None:
    """Remove the directories of runs that are over; only a run that was killed leaves one."""
    for leftover in work.glob("index-*/"):
        try:
            with _locked(leftover):
                shutil.rmtree(leftover, ignore_errors=True)
        except Busy:
            continue
