# Law of this file: what one process knows of one run. One thread (or task) tells, any number of
# readers in the event loop wait without polling, and a fast writer does not flood the loop.

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from cache.layout import Descriptor
from cache.records import Record


class Course:
    """The progress of one run.

    Attributes:
        ours: the run is one of this process.
        content: the entity's file; None while it is not known, and after a failure.
        head: None until the run has said it.
        size: how many bytes of ``content`` are valid.
        record: None until the run has ended well; all else is final then.
        error: None unless the run failed.
    """

    def __init__(self, *, ours: bool, content: Descriptor | None = None) -> None:
        self.ours = ours
        self.content = content
        self.head: bytes | None = None
        self.size = 0
        self.record: Record | None = None
        self.error: Exception | None = None
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._waking = False

    @property
    def ended(self) -> bool:
        """Whether nothing more will change."""
        return self.record is not None or self.error is not None

    def say(self, head: bytes) -> None:
        """Tell the head. From any thread, as all that tell."""
        self.head = head
        self._wake_soon()

    def grow(self, size: int) -> None:
        """Tell how many bytes are valid now."""
        self.size = size
        self._wake_soon()

    def succeed(self, record: Record) -> None:
        """Tell that the run ended well."""
        self.head = record.head
        self.record = record
        self._wake_soon()

    def fail(self, error: Exception) -> None:
        """Tell that the run failed."""
        self.error = error
        self._wake_soon()

    async def until(self, ready: Callable[[Course], bool]) -> None:
        """Wait until the run has ended or is ``ready``, which is asked again after each change."""
        while not (self.ended or ready(self)):
            # Changes made from now on wake this event, in the loop and so after we wait.
            await self._changed.wait()

    def _wake_soon(self) -> None:
        # At most one wake-up is under way. Whoever sets the flag has changed us before, and the
        # wake-up takes it back before readers look.
        if not self._waking:
            self._waking = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._waking = False
        if self.error is not None:
            self.content = None  # the disk has no use for it; those who read on hold it
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
