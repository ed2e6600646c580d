# Law of this file: the progress of an index run as a bar; the only file that needs rich.

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from cli.tables import printable


@dataclass(slots=True)
class Bar:
    """Draws what :class:`indexer.report.Progress` hears."""

    progress: Progress
    task: TaskID | None = None

    def start(self, repository: str, what: str, total: int | None) -> None:
        """See :meth:`indexer.report.Progress.start`."""
        self.done()
        self.task = self.progress.add_task(printable(f"{repository}: {what}"), total=total)

    def advance(self, n: int) -> None:
        """See :meth:`indexer.report.Progress.advance`."""
        if self.task is not None:
            self.progress.advance(self.task, n)

    def done(self) -> None:
        """See :meth:`indexer.report.Progress.done`."""
        if self.task is not None:
            self.progress.remove_task(self.task)
        self.task = None


@contextmanager
def bar(console: Console | None = None) -> Iterator[Bar]:
    """A bar on ``console`` (standard error) that is gone when the block ends."""
    columns = (
        # A repository's name is no markup, whatever brackets it has.
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console or Console(stderr=True), transient=True) as progress:
        yield Bar(progress)
