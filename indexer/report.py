# Law of this file: what an index run did, and how far it is, are values. How they are drawn is the
# command line's business.

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from repos.git.packs import Step


class Outcome(StrEnum):
    """What became of one bundle, or one index, in one run.

    ``skipped``: there is none, and there should be none.
    """

    MADE = "made"
    UP_TO_DATE = "up to date"
    SKIPPED = "skipped"
    PUBLISHED = "published again"
    DROPPED = "dropped"
    BUSY = "busy"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Result:
    """What one run did about one kind of bundle.

    Attributes:
        kind: ``full`` or ``blobless``; of Mercurial ``hg index``, or a kind of clone bundle.
        outcome: what became of it.
        reason: why, for people.
        objects: how many the bundle that is catalogued now holds; 0 without one. Of Mercurial
            it is changesets that are counted.
        size: bytes of its pack or file.
        seconds: how long this took.
    """

    kind: str
    outcome: Outcome
    reason: str
    objects: int = 0
    size: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """What one run did about one repository."""

    repository: str
    results: tuple[Result, ...]

    @property
    def failed(self) -> bool:
        """Tell whether anything of it went wrong."""
        return any(result.outcome is Outcome.FAILED for result in self.results)


class Progress(Protocol):
    """Hears how far a run is, on the event loop's thread; one step of one repository at a time."""

    def start(self, repository: str, what: str, total: int | None) -> None:
        """A step begins, of ``total`` objects; None if nobody knows."""
        ...

    def advance(self, n: int) -> None:
        """So many more objects are done."""
        ...

    def done(self) -> None:
        """The step has ended, well or not."""
        ...


class Silent:
    """A progress that nobody watches."""

    def start(self, repository: str, what: str, total: int | None) -> None:
        """See :meth:`Progress.start`."""

    def advance(self, n: int) -> None:
        """See :meth:`Progress.advance`."""

    def done(self) -> None:
        """See :meth:`Progress.done`."""


@dataclass(slots=True)
class Steps:
    """Tells a :class:`Progress` of each step once, whatever git repeats or leaves out."""

    progress: Progress
    repository: str
    _what: tuple[str, int | None] | None = field(default=None)
    _done: int = 0

    def show(self, kind: str, step: Step) -> None:
        """Pass on how far git is with a bundle of this kind."""
        if step.phase:
            self.begin(f"{kind}: {step.phase} objects", step.total)
            if step.done > self._done:
                self.progress.advance(step.done - self._done)
                self._done = step.done

    def begin(self, what: str, total: int | None = None) -> None:
        """Another step begins, unless it is the one that we are at."""
        if self._what != (what, total):
            self.end()
            self._what = (what, total)
            self.progress.start(self.repository, what, total)

    def end(self) -> None:
        """The last step has ended; nothing happens if none had begun."""
        if self._what is not None:
            self.progress.done()
        self._what = None
        self._done = 0
