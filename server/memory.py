# Law of this file: what nobody needs any more goes back to the system, and soon. What an allocator
# keeps, and a collector leaves for later, looks to whoever watches a server like a leak.

from __future__ import annotations

import ctypes
import gc
from collections.abc import Mapping
from typing import Final

# mallopt(3); malloc.h has the numbers.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_ARENA_MAX: Final = -8

# By default 8 for each core: each thread that once read a pack keeps its own. Two are what people
# set for servers with threads; Python's lock lets one of them allocate at a time nearly always.
_ARENAS: Final = 2

# glibc's own beginning. Without being told it raises it, up to 32 MiB, whenever a larger block is
# freed, and buffers of answers then lie between small blocks that outlive them.
_LARGE: Final = 128 << 10

_OURS: Final = (
    (_ARENA_MAX, _ARENAS),
    (_MMAP_THRESHOLD, _LARGE),
    (_TRIM_THRESHOLD, _LARGE),
)

# Whoever sets one of these knows better. All names of mallopt's variables begin so.
_THEIRS: Final = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")


def economise(environ: Mapping[str, str]) -> bool:
    """Have this process' allocator give back what was freed; whether it does.

    To be called before there are threads: an arena that was made stays. Programs that are run are
    not affected, as they would be by environment variables: git computes in many threads. Where the
    allocator is not glibc's, or was set up by ``environ``, nothing is changed.
    """
    if any(name.startswith(_THEIRS) for name in environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False  # another C library
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return all([mallopt(*each) for each in _OURS])  # noqa: C419 - each of them is to be set


def settle() -> None:
    """Let the garbage collector look no more at what is there now, which stays.

    It looks at what has lived through two of its looks only when that is a quarter of all that it
    looks at. Without modules and settings, which are nearly all of it, that is soon, and costs
    little.
    """
    gc.collect()
    gc.freeze()
