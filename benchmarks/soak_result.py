# Law of this file: what a soak showed is counted here, and each goal is a figure with a limit.

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from rich.console import Console
from rich.table import Table

from benchmarks.soak_judge import Cause, Failure, Tally
from benchmarks.soak_memory import MEBIBYTE, Sample, Samples
from benchmarks.soak_troubles import Trouble, What
from benchmarks.table import Goal, Report, short

# A worker that is asked 10 times a second and loses 1 KiB with each request grows by 0.6 MiB a
# minute. Less than this is what caches of a growing repository, and the allocator, take.
MEMORY_LIMIT: Final = 0.5

# MiB from its first minute to its last, whichever way it came. Tables of some hundred clients take
# 3; circles, timers and an allocator that gave nothing back took more than 20.
RISEN_LIMIT: Final = 12.0

# Descriptors a minute: one that is lost with each killed neighbour would be 3.
FILES_LIMIT: Final = 0.2

# A soak must be so long that it says whether anything grows: the first minutes fill caches.
_WARM: Final = 240.0

# What a worker holds that serves nobody: listeners, pipes, SQLite, logs, connections to the store
# that are kept.
IDLE_FILES: Final = 64

_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Result:
    """What a soak showed.

    Attributes:
        length: seconds.
        runs: by kind of client.
        redirected: runs that were told a location, by kind.
        failures: all of them.
        first: failed first tries, by cause.
        later: failed later tries, by cause.
        twice: later tries that failed by the same fault of a target again.
        rescued: later tries that came through.
        wrong: results that were wrong.
        closing: clients that did not come through when all was over.
        troubles: what was done, by kind.
        done: the same, one by one.
        pushes_lost: pushes that had to be sent again.
        age: seconds for which the spared worker was seen.
        memory: MiB of its own that it had at last.
        growth: MiB a minute, in the second half.
        risen: MiB from the first tenth of the time for which it was seen to the last.
        files_growth: descriptors a minute, likewise.
        idle_files: most descriptors of a worker when all was quiet.
        zombies: processes that nobody waited for.
        left_over: processes after the server had stopped.
        abandoned: files in ``incoming/`` that killed workers left.
        incoming: files there after a start an hour later.
        work_files: temporary files of the server after it had stopped.
        statuses: with which servers ended that were told to.
        errors: lines of the server's logs that tell of errors.
        samples: of the spared worker.
    """

    length: float
    runs: dict[str, int]
    redirected: dict[str, int]
    failures: list[Failure]
    first: dict[str, int]
    later: dict[str, int]
    twice: int
    rescued: int
    wrong: list[str]
    closing: int
    troubles: dict[str, int]
    done: list[Trouble]
    pushes_lost: int
    age: float
    memory: float
    growth: float
    risen: float
    files_growth: float
    idle_files: int
    zombies: int
    left_over: int
    abandoned: int
    incoming: int
    work_files: list[str]
    statuses: tuple[int, ...]
    errors: list[str]
    samples: list[Sample]

    @classmethod
    def of(
        cls,
        tally: Tally,
        samples: Samples,
        quiet: Samples,
        *,
        spared: int,
        length: float,
        closing: int,
        pushes_lost: int,
        statuses: tuple[int, ...],
        zombies: int,
        left_over: int,
        abandoned: int,
        incoming: int,
        work_files: list[str],
        errors: list[str],
    ) -> Self:
        """Count; arguments are as the attributes of that name."""
        seen = samples.of.get(spared, [])
        last = quiet.of.get(spared, [])
        return cls(
            length=length,
            runs=dict(sorted(tally.runs.items())),
            redirected=dict(tally.redirected),
            failures=tally.failures,
            first={each.value: tally.count(each) for each in Cause},
            later={each.value: tally.count(each, again=True) for each in Cause},
            twice=sum(each.same for each in tally.failures),
            rescued=tally.rescued,
            wrong=tally.wrong,
            closing=closing,
            troubles={each.value: tally.troubles.count(each) for each in What},
            done=tally.troubles.done,
            pushes_lost=pushes_lost,
            age=seen[-1].at - seen[0].at if seen else 0.0,
            memory=last[0].memory / MEBIBYTE if last else 0.0,
            growth=samples.growth(spared, length / 2) / MEBIBYTE,
            risen=samples.risen(spared) / MEBIBYTE,
            files_growth=samples.grown_files(spared, length / 2),
            idle_files=max((each[0].files for each in quiet.of.values()), default=0),
            zombies=zombies,
            left_over=left_over,
            abandoned=abandoned,
            incoming=incoming,
            work_files=work_files,
            statuses=statuses,
            errors=errors,
            samples=seen,
        )

    def goals(self) -> list[Goal]:
        """What was to be reached."""
        inexcusable = [each for each in self.failures if not each.cause.is_excused]
        growth = [
            Goal("the oldest worker's memory: growth, MiB a minute", self.growth, MEMORY_LIMIT),
            Goal("the same: what it has more at last than at first, MiB", self.risen, RISEN_LIMIT),
            Goal("its descriptors: growth, a minute", self.files_growth, FILES_LIMIT),
        ]
        return [
            Goal("clients that failed without an excuse", len(inexcusable), 0),
            Goal("clients that failed at a target, and by the same fault again", self.twice, 0),
            Goal("wrong repositories", len(self.wrong), 0),
            Goal("clients that failed when all was over", self.closing, 0),
            *(growth if self.length >= _WARM else ()),
            Goal("descriptors of a worker that is idle", self.idle_files, IDLE_FILES),
            Goal("processes that nobody waited for, or that outlived the server",
                 self.zombies + self.left_over, 0),
            Goal("temporary files after the server had stopped", len(self.work_files), 0),
            Goal("files in incoming/ after a start an hour later", self.incoming, 0),
            Goal("servers that did not end well when told to", sum(map(bool, self.statuses)), 0),
            Goal("tracebacks and errors in the server's log", len(self.errors), 0),
        ]  # fmt: skip


def show(result: Result, console: Console) -> None:
    """Print what a soak showed."""
    clients = Table("client", title=f"Clients in {result.length / 60:.3g} minutes")
    for column in ("runs", "told a location", "failed"):
        clients.add_column(column, justify="right")
    for kind, runs in result.runs.items():
        failed = sum(each.kind == kind for each in result.failures)
        clients.add_row(kind, f"{runs}", f"{result.redirected.get(kind, 0)}", f"{failed}")
    total = sum(result.runs.values())
    clients.add_row(
        "all", f"{total}", f"{sum(result.redirected.values())}", f"{len(result.failures)}"
    )
    console.print(clients)
    causes = Table("cause", title="Failures")
    for column in ("first try", "tried again at once"):
        causes.add_column(column, justify="right")
    for cause in Cause:
        causes.add_row(cause.value, f"{result.first[cause.value]}", f"{result.later[cause.value]}")
    console.print(causes)
    console.print(
        "; ".join(f"{name}: {count}" for name, count in result.troubles.items())
        + f"; pushes sent again: {result.pushes_lost}; second tries that came through:"
        f" {result.rescued}; files that killed workers left in incoming/: {result.abandoned}"
    )
    console.print(
        f"the oldest worker was seen for {result.age:.0f} s and had {short(result.memory)} MiB"
    )
    for each in result.failures:
        if not each.cause.is_excused or each.same:
            console.print(f"{each.kind}: {each.cause.value}: {each.said.strip()}", markup=False)
    for line in (
        *result.wrong[:_SHOWN],
        *result.errors[:_SHOWN],
        *(f"left: {name}" for name in result.work_files[:_SHOWN]),
    ):
        console.print(line, markup=False)
    Report(goals=result.goals()).draw(console)
