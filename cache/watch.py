# Law of this file: a run of another process is followed by what its journal and its file say, and
# by nothing else. One task asks for all followers of this process.

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import Final

from cache.course import Course
from cache.entities import Entities
from cache.errors import RunFailed
from cache.journal import Frames, content_path, has_ended
from cache.layout import Descriptor, Layout
from cache.records import Record, decode_record

# Seconds between two looks: a client does not notice the shorter one, and a machine whose every
# worker waits for a slow run does not notice the longer one.
SHORTEST: Final = 0.005
LONGEST: Final = 0.050
_SLOWER: Final = 1.5


@dataclass(slots=True)
class Watch:
    """Tells a course what another process does."""

    layout: Layout
    entities: Entities
    key: str
    frames: Frames
    course: Course
    # The run's own name, from the first frame.
    _name: str | None = None

    async def run(self) -> None:
        """Look again and again, until the run has ended."""
        interval = SHORTEST
        try:
            while not self.course.ended:
                interval = SHORTEST if self.look() else min(interval * _SLOWER, LONGEST)
                await asyncio.sleep(interval)
        finally:
            if not self.course.ended:
                self.course.fail(RunFailed("this process has stopped following the run"))

    def look(self) -> bool:
        """See what is new; tell whether anything was."""
        try:
            return self._look()
        except (OSError, ValueError) as error:  # a damaged journal may hold anything
            self.course.fail(RunFailed(f"the run of another process cannot be followed: {error}"))
            return True

    def _look(self) -> bool:
        course = self.course
        # Asked first: what a run says, it says before it lets go of its lock.
        ended = has_ended(self.frames.journal)
        before = course.head, course.size
        if self._name is None and (name := self.frames.read()) is not None:
            self._name = name.decode("ascii")
        if self._name is not None and course.head is None:
            head = self.frames.read()
            if head is not None:
                course.say(head)
        if self._name is not None and course.content is None:
            course.content = self._open_content(self._name)
        if course.head is not None and (record := self.frames.read()) is not None:
            self._succeed(decode_record(record))
            return True
        if course.content is not None:
            size = os.fstat(course.content.number).st_size
            if size > course.size:
                course.grow(size)
        if ended:
            course.fail(RunFailed("the process that ran this has failed or died"))
        return ended or before != (course.head, course.size)

    def _open_content(self, name: str) -> Descriptor | None:
        """What the run writes; None before it is created and after it has become an entity."""
        try:
            path = content_path(self.layout, self.key, name)
            return Descriptor(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            return None

    def _succeed(self, record: Record) -> None:
        for part in record.parts:
            if self.course.content is None:
                self.course.content = self.entities.hold(part.entity)
            if self.course.content is None:
                self.course.fail(RunFailed("what another process has made was evicted already"))
                return
            self.course.size = part.entity.size
        self.course.succeed(record)
