# Law of this file: what is too much is refused at once and in plain words, with the time after
# which it is worth another try. Nothing that can be answered from the cache is refused here.

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, ParamSpec, TypeVar

from aiohttp import web

from redirects.locality import Whereabouts
from server.git.answers import NO_CACHE
from server.rates import Buckets

_P = ParamSpec("_P")
_T = TypeVar("_T")

# Within this time some of the runs that others wait for have ended, or it is no peak that passes.
RETRY_SECONDS: Final = 10


class Excess(StrEnum):
    """What there was too much of, as it is counted."""

    CONNECTIONS = "connections"
    QUEUE = "queue"
    RATE = "rate"


class Busy(Exception):  # noqa: N818 - a state, not an error, by the field's habit
    """So many runs wait already that this one is not begun; the message is for the client."""


@dataclass(slots=True)
class Gate:
    """What decides whether a server process takes a request at all.

    Attributes:
        stopping: we were told to stop; connections end with the answers that are given on them.
        buckets: how often each client has asked.
    """

    stopping: bool = False
    buckets: Buckets = field(default_factory=Buckets)

    def wait(self, where: Whereabouts, rate: float, burst: int, now: float) -> float:
        """Seconds after which a client may ask again; 0.0: it may now.

        Of IPv6 a client is its network: a host has more addresses there than could be remembered.
        See :meth:`server.rates.Buckets.take`.
        """
        client = where.network if ":" in where.address else where.address
        return self.buckets.take(client, rate, burst, now) if rate else 0.0


class Runs(ThreadPoolExecutor):
    """Threads for runs, of which only so many may wait for one."""

    def __init__(self, threads: int, queue: int, name: str) -> None:
        """Prepare ``threads`` threads, for which ``queue`` runs may wait."""
        super().__init__(threads, name)
        self._most = threads + queue
        self._inside = 0
        self._counting = threading.Lock()

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Begin a run as soon as there is a thread for it.

        Raises:
            Busy: too many wait.
            RuntimeError: we are stopping.
        """
        with self._counting:
            if self._inside >= self._most:
                raise busy()
            self._inside += 1
        try:
            future = super().submit(fn, *args, **kwargs)
        except BaseException:
            self._left()
            raise
        future.add_done_callback(self._left)
        return future

    def _left(self, _future: object = None) -> None:
        with self._counting:
            self._inside -= 1


class Places:
    """Places for programs that answer one client each, for which only so many may wait."""

    def __init__(self, places: int, queue: int) -> None:
        """Prepare ``places`` places, for which ``queue`` callers may wait."""
        self._free = asyncio.Semaphore(places)
        self._most = places + queue
        self._inside = 0

    async def __aenter__(self) -> None:
        """Wait for a place.

        Raises:
            Busy: too many wait.
        """
        if self._inside >= self._most:
            raise busy()
        self._inside += 1
        try:
            await self._free.acquire()
        except BaseException:
            self._inside -= 1
            raise

    async def __aexit__(self, *_: object) -> None:
        self._inside -= 1
        self._free.release()


def busy() -> Busy:
    """What a client is told whose run would have to wait for too long."""
    return Busy(f"the server is too busy; try again in {RETRY_SECONDS} s")


def refused(excess: Excess, seconds: float = RETRY_SECONDS) -> web.Response:
    """The answer to a request that is refused, to be tried again in ``seconds``.

    git prints the text where it asks for refs, and the status alone elsewhere; Mercurial prints
    the status and its reason phrase, and no text.
    """
    after = max(1, math.ceil(seconds))
    status, why = 503, "the server is too busy"
    match excess:
        case Excess.RATE:
            status, why = 429, "too many requests from your address"
        case Excess.CONNECTIONS:
            why = "too many connections"
        case Excess.QUEUE:
            pass
    words = f"{why[0].upper()}{why[1:]}; try again in {after} s"
    return web.Response(
        status=status,
        reason=words,
        text=f"{words}.\n",
        headers={**NO_CACHE, "Retry-After": str(after)},
    )
