# Law of this file: what a run says goes to disk and then to its followers; it becomes an entity
# and a record only if the run ended well. This is the thread of the run.

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from cache.course import Course
from cache.entities import Entities
from cache.errors import CacheUnavailable, RunFailed
from cache.journal import append_frame, content_path, land
from cache.layout import Descriptor, Layout, unavailable, write_all
from cache.records import Part, Record, Records, encode_record
from stores.entity import Entity


class Sink(Protocol):
    """What a run writes its answer into, from one thread."""

    def head(self, head: bytes) -> None:
        """Say the head: exactly once, before anything is written.

        Raises:
            CacheUnavailable: the disk refused; give up.
        """
        ...

    def write(self, data: bytes) -> None:
        """Write the next bytes of the entity.

        Raises:
            CacheUnavailable: the disk refused; give up.
        """
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run says that ended well.

    Attributes:
        media_type: the entity's.
        checksum: the dialect's own checksum of the entity, "" if it has none.
        has_entity: False if the answer is a head alone.
    """

    media_type: str
    checksum: str
    has_entity: bool


Run = Callable[[Sink], Outcome]
"""Computes an answer; blocks. If it raises, it has failed, and nothing is recorded."""


@dataclass(slots=True)
class FileSink:
    """The sink of a run of this process.

    The file of the content is held by the course alone, which lets it go when the run fails: an
    exception keeps all that its traceback can see, and a failed run's content must not stay.
    """

    layout: Layout
    records: Records
    entities: Entities
    key: str
    repository: str
    journal: Descriptor
    name: str
    course: Course
    on_full: Callable[[], None]
    _hasher: hashlib._Hash = field(default_factory=hashlib.sha256)
    _refused: CacheUnavailable | None = None

    def head(self, head: bytes) -> None:
        """As :class:`Sink` says."""
        if self.course.head is not None:
            raise RuntimeError("a run says its head once; this one said it again")
        try:
            append_frame(self.journal, head)
        except OSError as error:
            raise self._refuse(error) from error
        self.course.say(head)

    def write(self, data: bytes) -> None:
        """As :class:`Sink` says."""
        content = self.course.content
        if self.course.head is None or content is None:
            raise RuntimeError("a run says its head, then writes, then ends; this one did not")
        try:
            write_all(content.number, data)
        except OSError as error:
            raise self._refuse(error) from error
        self._hasher.update(data)
        self.course.grow(self.course.size + len(data))

    def fly(self, run: Run) -> None:
        """Run, to the end, and tell the course how it ended."""
        try:
            record = self._record(run(self))
            self._keep(record)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the followers must know
            self._land()
            self.course.fail(self._refused or _failure(error))
        else:
            self._land()
            self.course.succeed(record)

    def cancel(self) -> None:
        """The run never began."""
        self._land()
        self.course.fail(RunFailed("the server is stopping: the run was not begun"))

    def _record(self, outcome: Outcome) -> Record:
        head, size = self.course.head, self.course.size
        if self._refused is not None:  # and the run went on as if nothing were
            raise self._refused
        if head is None:
            raise RunFailed("the run ended without a head")
        if size and not outcome.has_entity:
            raise RunFailed(f"the run wrote {size} bytes and says that there is no entity")
        parts: tuple[Part, ...] = ()
        if outcome.has_entity:
            entity = Entity(self._hasher.hexdigest(), size, outcome.media_type)
            parts = (Part(entity, outcome.checksum),)
        return Record(self.key, self.repository, head, parts, time.time())

    def _keep(self, record: Record) -> None:
        """Put everything in its place, in this order: a record's entity is there before it.

        The answer is whole, and its followers hold its file: if the disk refuses now, it is just
        not kept for others.
        """
        try:
            for part in record.parts:
                content = content_path(self.layout, self.key, self.name)
                self.entities.adopt(content, part.entity)
            self.records.save(record)
        except CacheUnavailable:
            self.on_full()
        with suppress(OSError):
            append_frame(self.journal, encode_record(record))

    def _land(self) -> None:
        land(self.layout, self.key, self.name, self.journal)

    def _refuse(self, error: OSError) -> CacheUnavailable:
        path = content_path(self.layout, self.key, self.name)
        self._refused = unavailable(f"write {path}", error)
        self.on_full()
        return self._refused


def _failure(error: BaseException) -> Exception:
    """What followers are told; exceptions that would end them (SystemExit...) become a message."""
    if isinstance(error, Exception):
        return error
    failure = RunFailed(f"the run was ended by {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
