# Law of this file: one command lets stock clients clone, fetch and pull for some minutes while all
# that can go wrong does, and says of each goal whether it was reached.

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmarks import soak_scene
from benchmarks.hg_repository import HgFailed
from benchmarks.servers import CannotStart
from benchmarks.soak_clients import Seat, Try
from benchmarks.soak_judge import Tally
from benchmarks.soak_memory import Samples
from benchmarks.soak_programs import ProgramFailed
from benchmarks.soak_result import Result, show
from benchmarks.soak_scene import Effort, Scene, scene
from benchmarks.soak_troubles import Troubles

SEED: Final = 7

QUICK: Final = Effort(120, 40, ("7.2.4",), workers=2, restarts=(0.3,))
"""For a soak of some seconds, which shows that it runs at all."""

# Between two samples of what workers take.
_SAMPLE: Final = 2.0

# Descriptors and programs of a request that was cut off are gone so soon after it.
_SETTLES: Final = 5.0


def main(arguments: list[str] | None = None) -> int:
    """Live through it and tell of it; 0 if all goals were reached."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.soak", description="Real clients, while all that can go wrong does."
    )
    parser.add_argument("--minutes", type=float, default=10.0, metavar="N", help="how long")
    parser.add_argument("--seed", type=int, default=SEED, metavar="S", help="of what chance does")
    parser.add_argument("--clients", type=int, default=4, metavar="K", help="side by side")
    parser.add_argument("--quick", action="store_true", help="small repositories: a smoke test")
    parser.add_argument("--json", action="store_true", help="all figures, as JSON")
    parser.add_argument("--temp", type=Path, metavar="DIR", help="where to work")
    given = parser.parse_args(arguments)
    if given.minutes <= 0 or given.clients < 1:
        parser.error("--minutes must be more than 0, and --clients 1 or more")
    absent = soak_scene.missing()
    if absent is not None:
        parser.exit(2, f"benchmarks.soak: {absent}\n")
    talk = Console(stderr=True, highlight=False)
    with tempfile.TemporaryDirectory(prefix="offramp-soak-", dir=given.temp) as temp:
        try:
            result = asyncio.run(
                soak(
                    Path(temp).resolve(),
                    QUICK if given.quick else Effort(),
                    given.minutes * 60,
                    given.seed,
                    given.clients,
                    lambda text: talk.print(f"[dim]{text}[/]"),
                )
            )
        except (CannotStart, ProgramFailed, HgFailed) as error:
            parser.exit(2, f"benchmarks.soak: {error}\n")
    if given.json:
        print(
            json.dumps({**asdict(result), "goals": [asdict(g) for g in result.goals()]}, indent=2)
        )
    else:
        show(result, Console(width=None if sys.stdout.isatty() else 118))
    return 0 if all(goal.reached for goal in result.goals()) else 1


async def soak(  # noqa: PLR0917 - what the command line says
    work: Path,
    effort: Effort,
    length: float,
    seed: int,
    clients: int,
    say: Callable[[str], None],
) -> Result:
    """Live through ``length`` seconds.

    Args:
        work: an empty directory.
        effort: how large all is.
        length: in seconds, without what comes before and after.
        seed: of what chance does; what time does is another each time.
        clients: side by side.
        say: told what is being done.

    Raises:
        servers.CannotStart, soak_programs.ProgramFailed, HgFailed: it cannot be done.
    """
    troubles = Troubles()
    say("making repositories, servers and the first bundles")
    async with scene(work, effort, length, seed, troubles) as made:
        tally = Tally(troubles, made.targets)
        say(f"{length:.0f} s of {clients} clients side by side")
        samples = await _live(made, tally, length, seed, clients)
        say("all troubles are over: each kind of client once more")
        closing = await _closing(made, tally, work, seed)
        say("stopping")
        return await _result(made, tally, samples, length, closing)


async def _live(
    made: Scene, tally: Tally, length: float, seed: int, clients: int
) -> tuple[Samples, float]:
    """The soak itself; what was sampled, and when it began."""
    began = time.time()
    until, samples = began + length, Samples()
    seats = [
        Seat(made.kinds, made.serving.here.parent / f"seat-{number}",
             random.Random(f"{seed}-{number}"), tally.judge)
        for number in range(clients)
    ]  # fmt: skip
    sampling = asyncio.create_task(_sample(made, samples, began))
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(made.chaos.run(until))
            for seat in seats:
                group.create_task(seat.sit(until))
    finally:
        sampling.cancel()
        await asyncio.gather(sampling, return_exceptions=True)
    return samples, began


async def _sample(made: Scene, samples: Samples, began: float) -> None:
    while True:
        samples.take(made.serving.workers(), time.time() - began)
        await asyncio.sleep(_SAMPLE)


async def _closing(made: Scene, tally: Tally, work: Path, seed: int) -> int:
    """Each kind once more, which nothing excuses now; how many did not come through."""
    before = len(tally.failures) + len(tally.wrong)

    def once(tried: Try, before: Try | None) -> bool:
        tally.judge(tried, before)
        return False

    seat = Seat([], work / "closing", random.Random(seed), once)
    for kind in made.kinds:
        await seat.one(kind)
    return len(tally.failures) + len(tally.wrong) - before


async def _result(
    made: Scene, tally: Tally, sampled: tuple[Samples, float], length: float, closing: int
) -> Result:
    samples, began = sampled
    serving, chaos = made.serving, made.chaos
    await asyncio.sleep(min(_SETTLES, length / 4))
    workers, spared = serving.workers(), chaos.spared
    quiet = Samples()
    quiet.take(workers, time.time() - began)
    zombies = serving.zombies()
    status = (*chaos.status, await serving.stop())
    left_over = serving.left_over()
    # What a killed worker was writing nobody holds, and who starts an hour later removes.
    abandoned = _age(made.data / "incoming")
    if abandoned:
        await serving.start()
        status = (*status, await serving.stop())
    return Result.of(
        tally,
        samples,
        quiet,
        spared=spared,
        length=length,
        closing=closing,
        pushes_lost=len(chaos.author.failed),
        statuses=status,
        zombies=zombies,
        left_over=left_over,
        abandoned=abandoned,
        incoming=len(_files(made.data / "incoming")),
        work_files=[*_files(made.data / "work"), *_files(made.temp)],
        errors=serving.errors(),
    )


def _age(directory: Path) -> int:
    """Make what is there two hours older; how many files there are."""
    found = [each for each in directory.rglob("*") if each.is_file()]
    for each in found:
        then = each.stat().st_mtime - 7200
        os.utime(each, (then, then))
    return len(found)


def _files(directory: Path) -> list[str]:
    """Without locks, which are there for good, and links, by which programs write to a pipe."""
    return [
        str(each.relative_to(directory))
        for each in directory.rglob("*")
        if each.is_file() and not each.is_symlink() and each.suffix != ".lock"
    ]


if __name__ == "__main__":
    sys.exit(main())
