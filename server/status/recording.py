# Law of this file: of all workers of a server one adds to the history what all have counted, again
# and again; when it ends, another one goes on where it stopped.

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from server import metrics_directory
from server.metrics import Metrics
from server.sparing import Sparing
from server.status.counting import Counters, counters
from server.status.history import History, HistoryUnavailable

_log = logging.getLogger("offramp.status")

# What is shown is no older than that, and a crash loses no more.
EVERY_SECONDS: Final = 15.0

# Of a machine that slept, nobody says that it was watched.
_LONGEST: Final = 4 * EVERY_SECONDS


@dataclass(slots=True)
class Recorder:
    """Adds what is counted to the history.

    Attributes:
        metrics: what is counted.
        history: where it goes.
        clock: seconds since the epoch.
        steady: seconds of a clock that never jumps.
    """

    metrics: Metrics
    history: History
    clock: Callable[[], float] = time.time
    steady: Callable[[], float] = time.monotonic
    _generation: str = ""
    _lock: int | None = None
    _before: Counters | None = None
    _recorded: float = 0.0
    _failing: bool = False
    _turn: threading.Lock = field(default_factory=threading.Lock)
    _sparing: Sparing[None] = field(init=False)

    def __post_init__(self) -> None:
        self._sparing = Sparing(self.record_now)
        together = metrics_directory.prepared()
        # Counters of several workers began at 0 when their parent did.
        self._generation = uuid.uuid4().hex if together is None else _process(os.getppid())
        self._recorded = self.steady()

    async def run(self) -> None:
        """Record again and again, until cancelled."""
        while True:
            try:
                await self.record()
            except Exception:  # noqa: BLE001 - whatever it is, recording goes on
                _log.exception("nothing could be added to the history")
            await asyncio.sleep(EVERY_SECONDS)

    async def record(self) -> None:
        """Record what was counted up to now, if that is for this worker to do.

        Where that costs much, what was recorded a little before is enough.
        """
        await self._sparing.result()

    def record_now(self) -> None:
        """See :meth:`record`; blocks."""
        with self._turn:
            self._record()

    def _record(self) -> None:
        if not self._is_ours():
            return
        try:
            at = self.clock()
            if self._before is None:
                self._before = self.history.begin(self._generation, at)
            now, steady = counters(self.metrics), self.steady()
            watched = min(max(steady - self._recorded, 0.0), _LONGEST)
            self.history.record(self._generation, now, self._before, watched, at)
        except (HistoryUnavailable, OSError) as error:
            # What was counted meanwhile is added when it can be written again.
            if not self._failing:
                _log.warning("nothing can be added to the history: %s", error)
            self._failing = True
            return
        self._failing = False
        self._before, self._recorded = now, steady

    def close(self) -> None:
        """Record the last of it, and let another worker go on."""
        self.record_now()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _is_ours(self) -> bool:
        """Whether this worker records; another one of the same server may."""
        together = metrics_directory.prepared()
        if together is None or self._lock is not None:
            return True
        try:
            lock = os.open(together, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False  # the parent has ended
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        self._lock = lock
        return True


def _process(pid: int) -> str:
    """What names a process and no other one, of any time (proc(5): field 22 is when it began)."""
    began = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {pid} {began.rpartition(')')[2].split()[19]}"
