# Law of this file: a lock of flock(2) is of an open file, so it ends with whoever holds it, however
# that ends. Who holds one in a block has let it go when the block ended.

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def held(descriptor: int) -> Iterator[None]:
    """Hold the lock of an open file alone in this block; waits for it, and closes the file."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            # Closing is not enough: a program that another thread starts just now has a copy of
            # the descriptor until it begins to run, and the lock with it.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def remove_unless_held(directory: Path, descriptor: int) -> None:
    """Remove a directory, unless somebody holds the lock that says it is in use; closes the file.

    Args:
        directory: what cannot be removed of it stays.
        descriptor: of the file whose lock its users hold.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(directory, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(descriptor)
