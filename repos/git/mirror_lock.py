# Law of this file: of all processes of this machine one at a time changes a mirror. The lock is a
# flock(2), so it ends with whoever holds it, however that ends; its file is never removed.

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

# How often a lock that somebody has is tried again, in seconds.
_RETRY_SECONDS: Final = 0.05


class MirrorBusy(Exception):  # noqa: N818 - a state, not an error
    """Somebody else works on the same mirror now."""


@contextmanager
def locked(path: Path, timeout: float | None) -> Iterator[None]:
    """Hold the lock of the mirror at ``path`` in this block.

    It is not re-entrant: who holds it and asks again is told that it is busy, or waits for ever.

    Args:
        path: the mirror's git directory; the lock is a file beside it.
        timeout: seconds to wait for it; 0 tries once, None waits as long as it takes.

    Raises:
        MirrorBusy: it was not free in time.
        OSError: there is no such lock to be had, as on a file system without locks.
    """
    descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take(descriptor, path, timeout)
        try:
            yield
        finally:
            # Closing is not enough: a program that another thread starts just now has a copy of
            # the descriptor until it begins to run, and the lock with it.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _take(descriptor: int, path: Path, timeout: float | None) -> None:
    if timeout is None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            left = deadline - time.monotonic()
            if left <= 0:
                raise MirrorBusy(f"somebody else works on the mirror {path.name}") from None
            time.sleep(min(left, _RETRY_SECONDS))
        else:
            return
