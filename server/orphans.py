# Law of this file: a process that works for another ends with it, however that ended, and takes the
# programs that it runs along.

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType


def end_with_parent() -> None:
    """Have this process end as soon as the one that started it has, or when it is told to.

    A parent that is killed ends nobody, and a daemon of multiprocessing's is ended by a signal
    that its own programs do not get. What was begun is left as a crash would leave it.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 - who calls this was started by multiprocessing
    signal.signal(signal.SIGTERM, _terminated)
    threading.Thread(target=_end_after, args=(parent.sentinel,), name="parent", daemon=True).start()


def end_programs() -> None:
    """End the programs that we run, with what they started; each leads a group of its own."""
    for children in Path("/proc/self/task").glob("*/children"):
        with suppress(FileNotFoundError):  # the thread has just ended
            for child in map(int, children.read_text().split()):
                with suppress(ProcessLookupError):
                    if os.getpgid(child) == child:
                        os.killpg(child, signal.SIGKILL)


def _end_after(sentinel: int) -> None:
    wait([sentinel])
    end_programs()
    os._exit(1)


def _terminated(number: int, frame: FrameType | None) -> None:
    """End as the signal would have ended us, which whoever sent it may look at."""
    del frame
    end_programs()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
