# Law of this file: a file that was changed looks changed, or is not believed to be unchanged.

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

# Two changes within one tick of the file system's clock look like one. What was seen less than
# this many seconds after a change is not remembered (git calls such an entry "racily clean").
RACY_SECONDS: Final = 0.1

Stamp = tuple[int, int, int]  # mtime in ns, size, inode


def stamp(path: str) -> Stamp:
    """What changes when a file or directory does; zeros when there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116 - half the cost of Path.stat, on every request
    except OSError:
        return (0, 0, 0)
    return (status.st_mtime_ns, status.st_size, status.st_ino)


def is_racy(stamps: Iterable[Stamp], now: float) -> bool:
    """Tell whether a change could hide in the clock tick of the newest of ``stamps``."""
    newest = max((mtime for mtime, _, _ in stamps), default=0)
    return newest / 1e9 > now - RACY_SECONDS
