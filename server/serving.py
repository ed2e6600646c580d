# Law of this file: server processes share a port and a data directory. A parent starts them and
# starts one that died again; it serves nobody itself.

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from typing import Final

from server import metrics_directory
from server.admin import CannotListenHere, admin_socket, apart, name_of
from server.listening import CannotListen, address_of, bind, inherited
from server.memory import economise, settle
from server.notifying import notifying
from server.open_files import allow
from server.orphans import end_programs
from server.reloading import Read, Reloading, hangs_up, look, on_terminal
from server.settings import Settings

_log = logging.getLogger("offramp.serving")

# Connections that wait to be accepted. A pipeline of a fleet starts hundreds of jobs at once.
BACKLOG: Final = 1024

# How long it may take after limits.stop_time until everything is written down and every thread has
# ended. The program or server that a thread waits for may hang, and whoever told us to stop kills
# us then.
CLOSE_SECONDS: Final = 8.0

# How often it is looked whether a worker has died as it began.
_LOOK_SECONDS: Final = 0.5

# Signals that are heard as one.
_BYTES: Final = 1024

# A worker that dies again at once is not started again at once.
_RESTART_SECONDS: Final = 1.0

Ready = Callable[[str, str | None], None]
"""Told the address, as ``HOST:PORT``, when requests are answered; and where the listener for those
who run this server is, if there is one: ``http://HOST:PORT/`` or ``unix:PATH``."""


def serve(settings: Settings, ready: Ready, read: Read) -> None:
    """Serve until told to stop by SIGTERM or SIGINT.

    SIGHUP has ``read`` read the settings again; see :mod:`server.reloading`. A socket that systemd
    passed is listened on in place of ``settings.listen``; see :func:`server.listening.inherited`.
    It is told when we are ready, if it asked for that; see :mod:`server.notifying`.

    Raises:
        server.listening.CannotListen: the address is not to be had.
        server.wiring.Unusable, StoreError, OSError: the store or the data directory cannot be used.
    """
    # One that comes before somebody heeds it would end us.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    ready = notifying(ready, os.environ)
    shared = settings.reuse_port
    passed = inherited(os.environ, os.getpid())
    try:
        with admin_socket(settings, partial(bind, shared=shared)) as admin:
            if settings.workers == 1:
                bound = passed or bind(settings.listen, shared=shared)
                apart(admin, bound)
                written = _Written(settings, read, on_terminal())
                listening = _Listening(bound, admin, passed=passed is not None)
                asyncio.run(_work(written, listening, ready, index=settings.index.enabled))
                return
            with passed or _hold(settings.listen, shared=shared) as held:
                apart(admin, held)
                asyncio.run(_try(settings))
                from server.logs import heard_by  # noqa: PLC0415 - see _work
                from server.status.progress import STATUS  # noqa: PLC0415
                from server.status.troubles import Keeper, Troubles  # noqa: PLC0415

                # A worker that died, above all.
                with heard_by(Keeper(Troubles(settings.data / STATUS))):
                    _Parent(settings, read, address_of(held), admin, passed).run(ready)
    except CannotListenHere as error:
        raise CannotListen(str(error)) from None


def _hold(listen: str, *, shared: bool) -> socket.socket:
    """A socket that never listens; it keeps the port ours while workers come and go.

    ``shared``: another server may have the port, too.
    """
    if not shared:
        # First without: a port that another server has must not be shared with it.
        bind(listen, shared=False).close()
    return bind(listen, shared=True)


# --- one worker ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Written:
    """The settings of a worker as they are written.

    Attributes:
        settings: that count when it begins.
        read: reads them again.
        terminal: SIGHUP may mean that the terminal is gone, from which we were started.
        quiet: the parent tells what is wrong with them.
    """

    settings: Settings
    read: Read
    terminal: bool = False
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class _Listening:
    """Where a worker answers.

    Attributes:
        bound: for clients.
        admin: for those who run this server; None: at the same.
        passed: ``bound`` is somebody else's, who listens on with it when we do not.
    """

    bound: socket.socket
    admin: socket.socket | None
    passed: bool = False


async def _work(written: _Written, listening: _Listening, ready: Ready, *, index: bool) -> None:
    """Answer requests until told to stop."""
    economise(os.environ)
    # Imported here, after the parent has settled where figures are kept.
    from server.accepting import listen  # noqa: PLC0415
    from server.app import make_runner  # noqa: PLC0415
    from server.logs import configure  # noqa: PLC0415
    from server.metrics import Metrics  # noqa: PLC0415
    from server.runtime import Runtime  # noqa: PLC0415

    listens = {"listen": address_of(listening.bound)}
    settings = written.settings.model_copy(update=listens)
    access = configure(settings.log)
    stopped, told = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopped.set)
    parent = multiprocessing.parent_process()
    if parent is not None:
        # A worker without its parent would hold the port for ever.
        _when_gone(loop, parent.sentinel, stopped.set)
    most = allow(settings.limits)
    if not written.quiet:
        _tell_if_fewer(settings, most)
    # The parent has seen that the store answers. A worker that is started again while that is away
    # must come up all the same: everything goes inline then.
    insist = parent is None
    metrics = Metrics(multiprocessing.current_process().name, settings.limits.figures)
    runtime = await Runtime.open(settings, access, metrics, index=index, insist=insist)

    async def adopt(new: Settings) -> None:
        await runtime.adopt(new.model_copy(update=listens))

    def hung_up() -> None:
        (stopped if hangs_up(written.terminal) else told).set()

    loop.add_signal_handler(signal.SIGHUP, hung_up)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    reloading = asyncio.create_task(
        Reloading(written.settings, written.read, adopt, quiet=written.quiet).run(told)
    )
    try:
        limits = settings.limits
        # aiohttp waits so long twice: for all requests, and then, without those whose bodies have
        # not come by then, for their answers.
        runner = make_runner(runtime, stop_seconds=limits.stop_time / 2)
        await runner.setup()
        runners = [runner]
        if listening.admin is not None:
            private = make_runner(runtime, stop_seconds=0.0, admin=True)
            await private.setup()
            runners.append(private)
            # Workers share it: one that ends must not close it to the others.
            await listen(
                private,
                listening.admin,
                limits.request_time,
                BACKLOG,
                passed=parent is not None,
            )
            if parent is None:
                _log.info("admin routes are at %s", name_of(listening.admin))
        await listen(
            runner,
            listening.bound,
            limits.request_time,
            BACKLOG,
            most,
            passed=listening.passed,
        )
        settle()
        ready(settings.listen, None if listening.admin is None else name_of(listening.admin))
        await stopped.wait()
        # From here on the other way round than it began: nobody is refused who does not know yet.
        runtime.gate.stopping = True
        stopped.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(limits.stop_delay):
                await stopped.wait()  # whoever tells us twice is in a hurry
        for each in runners:
            await each.cleanup()
        _end_within(CLOSE_SECONDS)
    finally:
        if parent is not None:
            loop.remove_reader(parent.sentinel)
        reloading.cancel()
        await asyncio.gather(reloading, return_exceptions=True)
        await runtime.close()


def _tell_if_fewer(settings: Settings, most: int) -> None:
    """Say so if fewer connections may be open than the settings say."""
    wanted = settings.limits.connections
    if most < wanted:
        _log.warning(
            "%d connections are taken side by side, not %d as limits.connections says: no more"
            " files may be open; see offramp doctor",
            most,
            wanted,
        )


def _when_gone(loop: asyncio.AbstractEventLoop, sentinel: int, told: Callable[[], None]) -> None:
    """Have ``told`` be called once when the process behind ``sentinel`` has ended."""

    def gone() -> None:
        # It stays readable, and would be told of again each time the loop looks.
        loop.remove_reader(sentinel)
        told()

    loop.add_reader(sentinel, gone)


def _end_within(seconds: float) -> None:
    """End this process then as a crash would, which loses nothing but work, if it has not ended."""

    def end() -> None:
        threads = {each.name for each in threading.enumerate() if not each.daemon}
        names = ", ".join(sorted(threads - {threading.main_thread().name}))
        _log.warning("ending now; what still runs is given up: %s", names or "what is written down")
        end_programs()
        os._exit(0)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def _worker(
    written: _Written,
    listen: str | socket.socket,
    admin: socket.socket | None,
    ready: multiprocessing.synchronize.Semaphore,
    index: bool,
) -> None:
    """A worker process of its own; it binds the address, or all share a socket that was passed."""
    passed = not isinstance(listen, str)
    bound = bind(listen, shared=True) if isinstance(listen, str) else listen
    listening = _Listening(bound, admin, passed=passed)
    asyncio.run(_work(written, listening, lambda *_: ready.release(), index=index))


@contextmanager
def _deaf() -> Iterator[None]:
    """Let a process that is started here hear no SIGHUP until it is ready for one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def _try(settings: Settings) -> None:
    """See that data directory and store can be used, before workers say one by one that not."""
    from cache.cache import Cache  # noqa: PLC0415 - see _work
    from server.probes import PROBE_ENTITY  # noqa: PLC0415
    from server.traces import check_installed  # noqa: PLC0415
    from server.wiring import (  # noqa: PLC0415
        build_store,
        build_stores,
        build_targets,
        signing_keys,
    )
    from stores.patient import SECONDS  # noqa: PLC0415

    check_installed(settings.tracing)
    keys = signing_keys(settings.data)
    with ThreadPoolExecutor(1) as threads:
        cache = await Cache.open(settings.data, settings.cache.max_size, threads)
        await cache.close()
    store = build_store(settings, patience=SECONDS)
    stores = build_stores(settings, store, patience=SECONDS)
    try:
        await store.stat(PROBE_ENTITY.digest)
        await build_targets(settings, stores, keys)
    finally:
        await stores.close()


# --- their parent ----------------------------------------------------------------------------


class _Parent:
    """Keeps the workers running."""

    def __init__(
        self,
        settings: Settings,
        read: Read,
        listen: str,
        admin: socket.socket | None,
        passed: socket.socket | None,
    ) -> None:
        self._settings = settings
        self._read = read
        self._listen = listen
        self._admin = admin
        self._passed = passed
        self._terminal = on_terminal()
        self._hung_up = False
        # A signal wakes whoever waits for the one by a byte in the other.
        self._awake, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        self._context = multiprocessing.get_context("spawn")
        self._ready = self._context.Semaphore(0)
        self._figures: metrics_directory.Prepared | None = None
        self._workers: dict[int, tuple[SpawnProcess, float]] = {}
        self._stopping = False
        self._failed = False
        self._restarted: Callable[[], None] = lambda: None

    def run(self, ready: Ready) -> None:
        """Start the workers, replace those that die, and end them when told to."""
        self._figures = metrics_directory.prepare(self._settings.data / "metrics")
        # Of the parent: no worker lives through a restart. Any of them shows it.
        from prometheus_client import CollectorRegistry  # noqa: PLC0415 - see _work

        from server.condition import worker_restarts  # noqa: PLC0415 - see _work
        from server.figures_file import keep_in_files  # noqa: PLC0415 - see _work
        from server.logs import configure  # noqa: PLC0415 - see _work

        keep_in_files("parent")
        self._restarted = worker_restarts(CollectorRegistry()).inc
        configure(self._settings.log)
        _tell_if_fewer(self._settings, allow(self._settings.limits))
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._stop)
        signal.signal(signal.SIGHUP, self._hang_up)
        for number in range(self._settings.workers):
            self._start(number)
        if self._began():
            if self._admin is not None:
                _log.info("admin routes are at %s", name_of(self._admin))
            ready(self._listen, None if self._admin is None else name_of(self._admin))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        self._watch()
        self._figures.remove()
        if self._failed:
            raise CannotListen("a worker ended as it began; what it said is above")

    def _began(self) -> bool:
        """Wait until every worker answers; False: we are stopping, at the latest as one ended."""
        for _ in range(self._settings.workers):
            while not self._ready.acquire(timeout=_LOOK_SECONDS):
                ended = [p for p, _ in self._workers.values() if p.exitcode is not None]
                if ended and not self._stopping:
                    self._failed = True
                    self._stop(0, None)
            if self._stopping:
                return False
        return True

    def _start(self, number: int) -> None:
        index = number == 0 and self._settings.index.enabled
        written = _Written(self._settings, self._read, quiet=True)
        process = self._context.Process(
            target=_worker,
            args=(written, self._passed or self._listen, self._admin, self._ready, index),
            name=f"worker-{number}",
        )
        with _deaf():
            process.start()
        self._workers[number] = (process, time.monotonic())
        if self._stopping and process.pid is not None:  # told so as it was started
            process.terminate()

    def _watch(self) -> None:
        while self._workers:
            sentinels = [process.sentinel for process, _ in self._workers.values()]
            ended = wait([self._awake, *sentinels], timeout=1.0)
            if self._hung_up:
                self._hung_up = False
                self._awake.recv(_BYTES)
                self._reload()
            for number, (process, started) in list(self._workers.items()):
                if process.sentinel in ended:
                    self._replace(number, process, started)

    def _replace(self, number: int, process: SpawnProcess, started: float) -> None:
        from server.metrics import worker_ended  # noqa: PLC0415 - see _work

        process.join()
        del self._workers[number]
        if self._figures is not None:
            worker_ended(process.name, self._figures.path)
        if self._stopping:
            return
        _log.error("worker %d ended with exit code %s; starting it again", number, process.exitcode)
        time.sleep(max(0.0, _RESTART_SECONDS - (time.monotonic() - started)))
        if not self._stopping:
            self._restarted()
            self._start(number)

    def _stop(self, number: int, frame: object) -> None:
        del number, frame
        self._stopping = True
        self._ready.release()
        for process, _ in self._workers.values():
            if process.pid is not None:
                process.terminate()

    def _hang_up(self, number: int, frame: object) -> None:
        if hangs_up(self._terminal):
            self._stop(number, frame)
            return
        self._hung_up = True
        with suppress(BlockingIOError):
            self._waker.send(b"h")

    def _reload(self) -> None:
        """Read the settings again; the workers do so too, if they are good."""
        try:
            found = look(self._settings, self._read)
        except Exception:  # noqa: BLE001 - whatever it is, the workers go on
            _log.exception("the settings cannot be read again")
            return
        if found is None:
            return
        from server.logs import configure  # noqa: PLC0415 - see _work

        configure(found.settings.log)
        self._settings = found.settings  # for those who are started from now on
        for process, _ in self._workers.values():
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGHUP)
