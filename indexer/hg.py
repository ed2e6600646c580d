# Law of this file: the index of a Mercurial repository is brought up to date before anybody asks.
# One that fails is told, and stops no other.

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, TypeVar

from indexer.report import Outcome, Progress, Report, Result, Silent
from repos.hg.database import IndexBroken, IndexUnreadable
from repos.hg.errors import Unservable
from repos.hg.program import HgFailed
from repos.hg.upkeep import Measured, measure

_T = TypeVar("_T")

KIND: Final = "hg index"
"""What its result is called, beside the kinds of bundles."""

_SILENT: Final = Silent()


class HgRepository(Protocol):
    """What is needed of a Mercurial repository."""

    @property
    def name(self) -> str:
        """The path at which it is served."""
        ...

    @property
    def index_directory(self) -> Path:
        """Where its index lies."""
        ...

    async def snapshot(self) -> object:
        """What it serves; makes the index, or lets it grow. Raises HgFailed or Unservable."""
        ...

    async def in_thread(self, question: Callable[[], _T]) -> _T:
        """Put a blocking question in a thread."""
        ...


async def index_hg_repository(repository: HgRepository, progress: Progress = _SILENT) -> Report:
    """Make the index of one Mercurial repository, or let it grow, if it is due.

    Never raises for what befell the repository: the report says it.
    """
    began = time.monotonic()
    progress.start(repository.name, f"{KIND}: changesets", None)
    try:
        before = await repository.in_thread(lambda: measure(repository.index_directory))
        await repository.snapshot()
        after = await repository.in_thread(lambda: measure(repository.index_directory))
        outcome, reason = _became(before, after)
    except (HgFailed, Unservable, IndexBroken, IndexUnreadable, OSError) as error:
        after, outcome, reason = None, Outcome.FAILED, str(error)
    finally:
        progress.done()
    result = Result(
        KIND,
        outcome,
        reason,
        objects=0 if after is None else after.changesets,
        size=0 if after is None else after.size,
        seconds=time.monotonic() - began,
    )
    return Report(repository.name, (result,))


def _became(before: Measured | None, after: Measured | None) -> tuple[Outcome, str]:
    if after is None:  # another process has taken it back meanwhile
        return Outcome.BUSY, "it was removed while it was looked at"
    if before is None:
        return Outcome.MADE, "there was none"
    if before.name != after.name:
        return Outcome.MADE, "it was built anew"
    new = after.changesets - before.changesets
    if new:
        return Outcome.MADE, "1 changeset is new" if new == 1 else f"{new} changesets are new"
    return Outcome.UP_TO_DATE, "no changeset is new"
