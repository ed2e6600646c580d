# Law of this file: one `hg serve` answers what we do not answer ourselves. It is started when it is
# first needed, and again when it ended; one that does not answer is ended.
#
# A program that is killed in the middle of a push leaves an abandoned transaction, which hg wants
# to be recovered by hand before the next push; readers do not see it. So it is killed only if it
# does not answer at all: hgweb answers in threads, and one that hangs does not hold up a probe.

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Awaitable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Final, TypeVar

from repos.hg.backend_conf import ADDRESS, NOBODY, Premises
from repos.hg.backend_process import HgServe
from repos.hg.program import Hg, environment

T = TypeVar("T")

_log = logging.getLogger("offramp.hg")

# Of what hg said, in a message or a line of the log.
_WORDS: Final = 2000


# hg loads its modules when they are first used, which is not safe in threads: of
# questions that come together right after the start, one finds a module half loaded. To load all at
# once costs 0.2 s of CPU, once. See mercurial/hgdemandimport/__init__.py for the variable.
_THREADED: Final = {"HGDEMANDIMPORT": "disable"}


class BackendFailed(Exception):  # noqa: N818 - what happened
    """There is no ``hg serve`` that could be asked; the message says why, for the log."""


@dataclass(frozen=True, slots=True)
class BackendLimits:
    """Bounds on waiting for the program, in seconds.

    Attributes:
        start: until it answers. It takes a third of a second, and much longer on a machine that is
            busy or reads its files for the first time.
        probe: until it says that there is no such repository, which takes it 10 ms.
        stop: between asking it to end and ending it.
        again: one that failed sooner after its start than this is not started again before.
    """

    start: float = 60.0
    probe: float = 15.0
    stop: float = 5.0
    again: float = 1.0


class State(Enum):
    """How things are with the program."""

    IDLE = auto()  # none runs; the next question starts one
    STARTING = auto()  # one runs, and has not answered yet
    READY = auto()  # one runs, and has answered
    CLOSED = auto()  # none runs, nor will


class _Event(Enum):
    START = auto()
    ANSWERED = auto()
    LOST = auto()  # it ended, or is ended by us, for whatever reason
    CLOSE = auto()


_NEXT: Final = {
    (State.IDLE, _Event.START): State.STARTING,
    (State.IDLE, _Event.CLOSE): State.CLOSED,
    (State.STARTING, _Event.ANSWERED): State.READY,
    (State.STARTING, _Event.LOST): State.IDLE,
    (State.STARTING, _Event.CLOSE): State.CLOSED,
    (State.READY, _Event.LOST): State.IDLE,
    (State.READY, _Event.CLOSE): State.CLOSED,
    (State.CLOSED, _Event.LOST): State.CLOSED,
    (State.CLOSED, _Event.CLOSE): State.CLOSED,
}


@dataclass(slots=True)
class _Run:
    """One program, and what was made for it."""

    premises: Premises
    program: HgServe
    began: float
    port: int = 0

    def words(self) -> str:
        """The last of what it said, without its secret."""
        said = self.program.stderr_text().replace(self.premises.secret, "<secret>")
        return said[-_WORDS:] or "no message"


class Backend:
    """An ``hg serve`` over all repositories that it is asked about.

    All methods are for one event loop.

    Args:
        hg: how the program is run; its time limit is for other programs.
        directory: where its private files are made.
        push: repositories accept pushes, as far as their own configuration allows it; else none
            does, whatever its configuration says.
        limits: on waiting.
    """

    def __init__(
        self, hg: Hg, directory: Path, *, push: bool, limits: BackendLimits | None = None
    ) -> None:
        self._hg = hg
        self._directory = directory
        self._push = push
        self._limits = limits or BackendLimits()
        self._state = State.IDLE
        self._run: _Run | None = None
        # One start, or one probe, at a time; who waits for it finds its outcome.
        self._busy = asyncio.Lock()
        self._failure = ""
        self._not_before = 0.0

    @property
    def state(self) -> State:
        """How things are."""
        return self._state

    @property
    def pid(self) -> int | None:
        """Of the program, if one runs."""
        return None if self._run is None else self._run.program.pid

    async def url(self, hg_dir: Path) -> str:
        """Where a repository can be asked: a URL for ``?cmd=NAME``, which holds a secret.

        The program is started if it does not run.

        Args:
            hg_dir: the repository's ``.hg``, all symbolic links resolved.

        Raises:
            BackendFailed: it does not come up, or did not a moment ago.
        """
        async with self._busy:
            if self._state is not State.READY:
                await self._start()
        run = self._run
        if run is None or self._state is not State.READY:
            raise BackendFailed("hg serve ended right after its start, or is ended now")
        try:
            place = run.premises.place(hg_dir)
        except OSError as error:
            raise BackendFailed(f"{hg_dir} cannot be shown to hg serve: {error}") from error
        return f"http://{ADDRESS}:{run.port}/{run.premises.secret}/{place}"

    async def suspect(self) -> None:
        """Somebody got no proper answer: if the program gives none to us either, it is ended.

        The next question starts a new one.
        """
        async with self._busy:
            run = self._run
            if run is None or self._state is not State.READY or await self._answers(run):
                return
            if self._run is run:
                _log.error(
                    "hg serve (process %d) did not answer within %g s and is ended: %s",
                    run.program.pid,
                    self._limits.probe,
                    run.words(),
                )
                self._lose(run)
                await _within(self._limits.stop, run.program.ended)

    async def close(self) -> None:
        """End the program; there will not be another one."""
        self._become(_Event.CLOSE)
        run, self._run = self._run, None
        if run is not None:
            run.program.terminate()
            if not run.program.ended.done():
                with suppress(ProcessLookupError):
                    # One that somebody stopped hears nothing before it goes on.
                    os.killpg(run.program.pid, signal.SIGCONT)
            await _within(self._limits.stop, run.program.ended)
            run.program.kill()
            await _within(self._limits.stop, run.program.ended)
            run.premises.remove()

    def _become(self, event: _Event) -> None:
        self._state = _NEXT[self._state, event]

    # --- coming up -----------------------------------------------------------------------

    async def _start(self) -> None:
        if self._state is State.CLOSED:
            raise BackendFailed("hg serve is not started any more: this server stops")
        if time.monotonic() < self._not_before:
            raise BackendFailed(self._failure)
        try:
            run = self._launch()
        except (OSError, ValueError) as error:
            raise self._failed(f"hg serve cannot be started: {error}") from error
        try:
            async with asyncio.timeout(self._limits.start):
                wrong = await self._came_up(run)
        except TimeoutError:
            wrong = f"it did not answer within {self._limits.start:g} s"
        except BaseException:
            self._lose(run)
            raise
        if wrong:
            self._lose(run)
            await _within(self._limits.stop, run.program.ended)
            raise self._failed(f"hg serve does not come up: {wrong}: {run.words()}")
        self._become(_Event.ANSWERED)
        _log.info("hg serve (process %d) answers", run.program.pid)

    def _launch(self) -> _Run:
        premises = Premises(self._directory, push=self._push)
        try:
            argv = [self._hg.executable, *premises.arguments()]
            program = HgServe(argv, {**environment(self._hg.environ), **_THREADED})
        except BaseException:
            premises.remove()
            raise
        run = _Run(premises, program, time.monotonic())
        self._run = run
        self._become(_Event.START)
        loop = asyncio.get_running_loop()

        def tell(_: Future[int]) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._ended, run)

        program.ended.add_done_callback(tell)
        return run

    async def _came_up(self, run: _Run) -> str:
        """What is wrong with it; nothing if it answers."""
        port = await _from_thread(run.program.port)
        if port is None:
            status = await _from_thread(run.program.ended)
            return f"it was ended by signal {-status}" if status < 0 else f"it exited with {status}"
        run.port = port
        if not await self._answers(run):
            return f"what listens at port {port} does not answer as hgweb does"
        if run.program.ended.done() or self._state is not State.STARTING:
            return "it answered, and was ended meanwhile"
        return ""

    def _failed(self, message: str) -> BackendFailed:
        self._failure = message
        self._not_before = time.monotonic() + self._limits.again
        return BackendFailed(message)

    # --- going down ----------------------------------------------------------------------

    def _lose(self, run: _Run) -> None:
        """End a program, if it is ours still."""
        run.program.kill()
        if self._run is run:
            self._run = None
            self._become(_Event.LOST)
        run.premises.remove()

    def _ended(self, run: _Run) -> None:
        """A program ended: by itself, unless we forgot it before."""
        if self._run is not run or self._state is not State.READY:
            return
        status = run.program.ended.result()
        how = f"was ended by signal {-status}" if status < 0 else f"exited with {status}"
        message = f"hg serve (process {run.program.pid}) {how}: {run.words()}"
        _log.error("%s", message)
        if time.monotonic() - run.began < self._limits.again:
            self._failed(message)
        self._lose(run)

    async def _answers(self, run: _Run) -> bool:
        """Whether it says within the limit, as hgweb does, that there is no such repository."""
        try:
            async with asyncio.timeout(self._limits.probe):
                first = await _ask(run.port, f"/{run.premises.secret}/{NOBODY}")
        except (OSError, TimeoutError):
            return False
        return first.startswith(b"HTTP/1.") and first[8:13] == b" 404 "


async def _ask(port: int, path: str) -> bytes:
    """The beginning of an answer, which is read to its end."""
    reader, writer = await asyncio.open_connection(ADDRESS, port)
    try:
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: {ADDRESS}\r\nConnection: close\r\n\r\n".encode()
        )
        first = b""
        while piece := await reader.read(4096):
            first = (first + piece)[:64]
        return first
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def _from_thread(future: Future[T]) -> Awaitable[T]:
    """What a thread will say; who stops waiting for it leaves it as it is."""
    return asyncio.shield(asyncio.wrap_future(future))


async def _within(seconds: float, future: Future[int]) -> None:
    """Wait for an end, but not for ever."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await _from_thread(future)
