# Law of this file: the index of a Mercurial repository is brought up to date before anybody asks,
# and then its clone bundles, which are made of what the index says. One that fails is told, and
# stops no other repository. One that can have no index is no failure: hg answers for it.

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, TypeVar

from indexer.hg_bundles import FAILURES, Bundling, Repository, index_clone_bundles
from indexer.report import Outcome, Progress, Report, Result, Silent, Steps
from repos.hg.errors import Restricted, Unservable
from repos.hg.upkeep import Measured, measure

_T = TypeVar("_T")

KIND: Final = "hg index"
"""What its result is called, beside the kinds of bundles."""

_SILENT: Final = Silent()


def keeps_out(error: Unservable) -> bool:
    """Whether it is the repository's own configuration that lets nobody read it.

    Such a repository is not served at all; of every other that has no index, hg answers.
    """
    return isinstance(error, Restricted)


class HgRepository(Repository, Protocol):
    """What is needed of a Mercurial repository."""

    @property
    def index_directory(self) -> Path:
        """Where its index lies."""
        ...

    async def in_thread(self, question: Callable[[], _T]) -> _T:
        """Put a blocking question in a thread."""
        ...


async def index_hg_repository(
    repository: HgRepository, bundling: Bundling | None, progress: Progress = _SILENT
) -> Report:
    """Make the index of one Mercurial repository, or let it grow, and make what bundles are due.

    Never raises for what befell the repository: the report says it.

    Args:
        repository: which.
        bundling: what its clone bundles are made with; None to make none.
        progress: hears how far it is.
    """
    index = await _index(repository, progress)
    if bundling is None or index.outcome in {Outcome.FAILED, Outcome.SKIPPED}:
        return Report(repository.name, (index,))
    bundles = await index_clone_bundles(repository, bundling, Steps(progress, repository.name))
    return Report(repository.name, (index, *bundles))


async def _index(repository: HgRepository, progress: Progress) -> Result:
    began = time.monotonic()
    progress.start(repository.name, f"{KIND}: changesets", None)
    try:
        before = await repository.in_thread(lambda: measure(repository.index_directory))
        await repository.snapshot()
        after = await repository.in_thread(lambda: measure(repository.index_directory))
        outcome, reason = _became(before, after)
    except Unservable as error:
        after, (outcome, reason) = None, _without(error)
    except FAILURES as error:
        after, outcome, reason = None, Outcome.FAILED, str(error)
    finally:
        progress.done()
    return Result(
        KIND,
        outcome,
        reason,
        objects=0 if after is None else after.changesets,
        size=0 if after is None else after.size,
        seconds=time.monotonic() - began,
    )


def _without(error: Unservable) -> tuple[Outcome, str]:
    if keeps_out(error):
        return Outcome.FAILED, f"not served at all: {error}"
    alone = "hg alone answers for it, and there are no clone bundles of it"
    return Outcome.SKIPPED, f"{error}; {alone}"


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
