# Law of this file: one command lives a day of a fleet with the real engine, prints what it showed,
# and draws it.

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.fleet_day import live
from benchmarks.fleet_figures import Result
from benchmarks.fleet_picture import draw
from benchmarks.fleet_tally import Tally
from benchmarks.fleet_world import QUICK, Effort, World
from benchmarks.table import Report, short
from server.settings_health import HealthSettings

SEED: Final = 6

_DEFAULTS: Final = HealthSettings()


def measure(report: Report, say: Callable[[str], None], *, quick: bool = False) -> Result:
    """Live a day with the settings that there are by default, and add its goals to the report."""
    result, _ = _live(QUICK if quick else Effort(), _DEFAULTS, say)
    report.goals += result.goals()
    report.about["fleet"] = asdict(result)
    return result


def _live(
    effort: Effort, settings: HealthSettings, say: Callable[[str], None]
) -> tuple[Result, Tally]:
    say(f"a day of {effort.clients:,} clients, {effort.jobs:,} downloads")
    world = World.draw(effort, SEED)
    tally = live(world, settings.rules, settings.suspicion, SEED)
    return Result.of(world, tally, settings.rules), tally


def main(arguments: list[str] | None = None) -> int:
    """Live the day and tell of it; 0 whether or not the goals were reached."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.fleet", description="A day of a fleet, in virtual time."
    )
    parser.add_argument("--quick", action="store_true", help="a short day with few clients")
    parser.add_argument("--json", action="store_true", help="all figures, as JSON")
    parser.add_argument("--svg", type=Path, metavar="PATH", help="draw the day")
    parser.add_argument(
        "--interval", type=float, default=_DEFAULTS.interval, metavar="S", help="health.interval"
    )
    parser.add_argument(
        "--up-after", type=int, default=_DEFAULTS.up_after, metavar="N", help="health.up_after"
    )
    given = parser.parse_args(arguments)
    try:
        settings = HealthSettings(
            interval=given.interval,
            timeout=min(_DEFAULTS.timeout, given.interval / 2),
            up_after=given.up_after,
        )
    except ValueError as error:
        parser.error(str(error))
    talk = Console(stderr=True, highlight=False)
    effort = QUICK if given.quick else Effort()
    result, tally = _live(effort, settings, lambda text: talk.print(f"[dim]{text}[/]"))
    if given.json:
        print(json.dumps(asdict(result), indent=2))
    else:
        show(result, Console(width=None if sys.stdout.isatty() else 118))
    if given.svg is not None:
        given.svg.write_text(draw(tally))
    return 0


def show(result: Result, console: Console) -> None:
    """Print what a day showed."""
    split = Table("phase", "clients of", "target", title="Load by weight")
    for column in ("redirects", "share", "by weight", "deviation", "by chance"):
        split.add_column(column, justify="right")
    for each in result.shares:
        split.add_row(
            each.phase, each.continent, each.target, f"{each.redirects:,}", f"{each.share:.2%}",
            f"{each.weight:.2%}", f"{each.deviation:+.2%}", f"±{each.chance:.2%}",
        )  # fmt: skip
    console.print(split)
    failures = Table("target", title="Failed downloads")
    for column in ("deaths", "sent there dead", "under way", "last named after", "believed after"):
        failures.add_column(column, justify="right")
    for died in result.failures:
        failures.add_row(
            died.target, f"{died.deaths}", f"{died.dead}", f"{died.under_way}",
            f"{short(died.latest)} s", "never" if died.risen is None else f"{short(died.risen)} s",
        )  # fmt: skip
    console.print(failures)
    console.print(
        f"{result.clients:,} clients, {result.jobs:,} downloads, {result.redirects:,} redirects;"
        f" inline: {result.inline}; sessions: {result.sessions}; {result.rescued} clients got it"
        f" after they had failed; {result.suspected} were answered inline of whom none had failed"
    )
    report = Report(goals=list(result.goals()))
    report.draw(console)


if __name__ == "__main__":
    sys.exit(main())
