# Law of this file: blocking work that may take hours goes on beside the server, and never keeps it
# from ending: what is half done then is done again another time.

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_T = TypeVar("_T")


async def aside(work: Callable[[], _T], *, niceness: int = 0) -> _T:
    """Do ``work`` in a thread of its own; it goes on if who waits is cancelled.

    A process that ends waits for the threads of a pool, and not for this one.

    Args:
        work: may block.
        niceness: by how much it, and the programs that it runs, stand back for others.
    """
    future: Future[_T] = Future()
    future.set_running_or_notify_cancel()

    def do() -> None:
        try:
            os.nice(niceness)  # on Linux of this thread alone, and of what it starts; see nice(2)
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - who waits is told
            future.set_exception(error)

    threading.Thread(target=do, name="aside", daemon=True).start()
    return await asyncio.wrap_future(future)
