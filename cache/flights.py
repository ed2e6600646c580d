# Law of this file: one flight per key, whoever asks, in whatever process of this machine. Whoever
# comes later follows it, and reads along while it is written.

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, Future
from functools import partial
from types import TracebackType
from typing import Self
from weakref import WeakValueDictionary

from cache.course import Course
from cache.entities import Entities
from cache.errors import CacheUnavailable, RunFailed
from cache.journal import Followed, Frames, Led, land, take_off
from cache.layout import Descriptor, Layout
from cache.records import Record, Records
from cache.sink import FileSink, Outcome, Run, Sink
from cache.watch import Watch

__all__ = [
    "CacheUnavailable",
    "Flight",
    "Flights",
    "Outcome",
    "Reader",
    "Run",
    "RunFailed",
    "Sink",
]

Ready = Callable[[Course], bool]


class Reader:
    """Reads an entity along while it is written. A context manager, plain or async.

    Attributes:
        complete: what :meth:`extent` said last is all there will be.
    """

    def __init__(self, wait: Callable[[Ready], Awaitable[Course]]) -> None:
        self.complete = False
        self._wait = wait
        self._file: Descriptor | None = None

    @property
    def fd(self) -> int:
        """The file, for ``preadv``; it stays readable whatever becomes of its name.

        Raises:
            ValueError: :meth:`extent` has not said yet that there is something to read.
        """
        if self._file is None:
            raise ValueError("there is nothing to read yet: wait for extent()")
        return self._file.number

    async def extent(self, offset: int, timeout: float | None = None) -> int:
        """Wait until more than ``offset`` bytes can be read, or the run has ended.

        Args:
            offset: in bytes from the start.
            timeout: seconds; None waits for ever.

        Returns:
            How many bytes of the file are valid. Not more than ``offset``: the entity ends there.

        Raises:
            TimeoutError: nothing came; ask again.
            RunFailed: the run failed in another process.
            Exception: what the run of this process raised.
        """
        async with asyncio.timeout(timeout):
            course = await self._wait(lambda course: course.size > offset)
        # The record first: once it is there, the size does not change.
        self.complete = course.record is not None
        if self._file is None:
            self._file = course.content
        return course.size

    def close(self) -> None:
        """Let go of the file."""
        self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Flight:
    """One caller's place on a run.

    If the process that runs fails or dies before this caller was told anything, the run is begun
    again, here or elsewhere, and the caller does not notice.

    Attributes:
        key: of the record.
        leader: this caller started the run.
    """

    def __init__(self, key: str, embark: Callable[[], tuple[Course, bool]]) -> None:
        self.key = key
        self._embark = embark
        self._course, self.leader = embark()
        self._was_told = False

    async def head(self) -> bytes:
        """The head, as soon as the run has said it.

        Raises:
            RunFailed: the run failed in another process.
            CacheUnavailable: the disk refused.
            Exception: what the run of this process raised.
        """
        course = await self._wait(lambda course: course.head is not None)
        self._was_told = True
        assert course.head is not None  # noqa: S101 - a run that ended well has said it
        return course.head

    async def finished(self) -> Record:
        """The record, when the run has ended well and its entity is in its place.

        Raises:
            As :meth:`head`.
        """
        course = await self._wait(lambda course: course.ended)
        assert course.record is not None  # noqa: S101 - it ended, and not in an error
        return course.record

    def reader(self) -> Reader:
        """Read the entity from its start. One reader for each who reads."""
        return Reader(self._wait_to_read)

    async def _wait_to_read(self, ready: Ready) -> Course:
        course = await self._wait(ready)
        self._was_told = True
        return course

    async def _wait(self, ready: Ready) -> Course:
        while True:
            course = self._course
            await course.until(ready)
            if course.error is None:
                return course
            if course.ours or self._was_told:
                raise course.error
            self._course, leads = self._embark()
            self.leader = self.leader or leads


class Flights:
    """The runs of this process, and those of others that it follows."""

    def __init__(
        self,
        layout: Layout,
        records: Records,
        entities: Entities,
        executor: Executor,
        on_full: Callable[[], None],
    ) -> None:
        """Open.

        Args:
            layout: where runs write.
            records: what is known already, and where results go.
            entities: likewise.
            executor: threads in which runs run; its size bounds how many do side by side.
            on_full: called, in any thread, when the disk refused something.
        """
        self._layout = layout
        self._records = records
        self._entities = entities
        self._executor = executor
        self._on_full = on_full
        # A course is held by the thread or task that tells it, and by those who follow.
        self._courses: WeakValueDictionary[str, Course] = WeakValueDictionary()
        self._watches: set[asyncio.Task[None]] = set()

    async def board(self, key: str, repository: str, run: Run) -> Flight:
        """Join the flight of ``key``, or start it.

        The run goes on when all who follow it have gone. If a record of ``key`` with its entities
        has appeared meanwhile, nothing runs, and the flight ended before it began.

        Args:
            key: see :func:`cache.keys.record_key`.
            repository: goes into the record.
            run: computes the answer, if nobody is computing it yet.

        Raises:
            CacheUnavailable: incoming/ cannot be written.
            RunFailed: the executor takes no runs any more.
            Exception: what the executor raises when it takes no more now.
        """
        return Flight(key, partial(self._embark, key, repository, run))

    async def close(self) -> None:
        """Stop following other processes. Runs of this process go on in their threads."""
        watches = list(self._watches)
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)

    def _embark(self, key: str, repository: str, run: Run) -> tuple[Course, bool]:
        """The course of ``key``, and whether it began here and now.

        Without a pause: of two callers in one process, the second finds what the first began.
        """
        course = self._courses.get(key)
        if course is not None and not course.ended:
            return course, False
        match take_off(self._layout, key):
            case Followed(journal):
                course = self._courses[key] = self._follow(key, journal)
                return course, False
            case Led() as led:
                try:
                    course = self._finished(key)
                    if course is None:
                        course = self._courses[key] = self._lead(key, repository, run, led)
                        return course, True
                except BaseException:
                    land(self._layout, key, led.name, led.journal)
                    raise
                land(self._layout, key, led.name, led.journal)
                return course, False

    def _finished(self, key: str) -> Course | None:
        """Somebody may have landed between our caller's look-up and our take-off."""
        record = self._records.load(key)
        if record is None:
            return None
        course = Course(ours=True)
        for part in record.parts:
            course.content = self._entities.hold(part.entity)
            if course.content is None:
                return None
            course.size = part.entity.size
        course.succeed(record)
        return course

    def _lead(self, key: str, repository: str, run: Run, led: Led) -> Course:
        course = Course(ours=True, content=led.content)
        sink = FileSink(
            self._layout,
            self._records,
            self._entities,
            key,
            repository,
            led.journal,
            led.name,
            course,
            self._on_full,
        )

        def done(future: Future[None]) -> None:
            if future.cancelled():
                sink.cancel()

        try:
            future = self._executor.submit(sink.fly, run)
        except RuntimeError as error:
            raise RunFailed("the server is stopping: the run was not begun") from error
        future.add_done_callback(done)
        return course

    def _follow(self, key: str, journal: Descriptor) -> Course:
        course = Course(ours=False)
        watch = Watch(self._layout, self._entities, key, Frames(journal), course)
        task = asyncio.create_task(watch.run(), name=f"follow {key[:12]}")
        self._watches.add(task)
        task.add_done_callback(self._watches.discard)
        return course
