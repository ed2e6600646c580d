# Law of this file: one command compares Offramp with stock git's http-backend behind nginx and with
# Mercurial's own server, side by side on this machine, and says of each goal whether it was
# reached.

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from benchmarks import hg_servers, repository, servers
from benchmarks.decisions import measure as measure_decisions
from benchmarks.fleet import measure as measure_fleet
from benchmarks.hg import HG_QUICK, HgBench, HgEffort
from benchmarks.hg_repository import HgFailed
from benchmarks.load import LoadFailed
from benchmarks.measures import QUICK, Bench, Effort
from benchmarks.servers import CannotStart
from benchmarks.table import Report
from benchmarks.upstream import UpstreamBench


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and save; 0 if all was measured, whether or not the goals were reached."""
    parser = _parser()
    given = parser.parse_args(arguments)
    missing = servers.missing_programs()
    if missing is None and not given.upstream_only:
        missing = hg_servers.missing_mercurial()
    if missing is not None:
        parser.exit(2, f"benchmarks.compare: {missing}\n")
    for path in (given.repo, given.hg_repo):
        if path is not None and not path.is_dir():
            parser.exit(2, f"benchmarks.compare: {path}: no such directory\n")
    talk = Console(stderr=True, highlight=False)
    # Servers are ended and files removed by `with` blocks, which a signal must not skip.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="offramp-bench-", dir=given.temp) as temp:
        work = Path(temp).resolve()
        report = Report()
        try:
            _measure(given, work, report, lambda text: talk.print(f"[dim]{text}[/]"))
        except (CannotStart, LoadFailed, HgFailed, subprocess.CalledProcessError) as error:
            parser.exit(1, f"benchmarks.compare: {error}\n")
    report.draw(Console(width=None if sys.stdout.isatty() else 118))
    report.save(given.json)
    print(f"written to {given.json}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks.compare",
        description="Offramp beside git's http-backend and nginx, and beside hg serve.",
    )
    parser.add_argument(
        "--repo", type=Path, metavar="PATH", help="measure on a copy of this git repository"
    )
    parser.add_argument(
        "--hg-repo",
        type=Path,
        metavar="PATH",
        help="measure on a copy of this Mercurial repository",
    )
    parser.add_argument("--json", type=Path, default=Path(".bench/results.json"), metavar="FILE")
    parser.add_argument(
        "--quick", action="store_true", help="a small repository and little load: a smoke test"
    )
    only = parser.add_mutually_exclusive_group()
    only.add_argument(
        "--upstream-only", action="store_true", help="only the CI jobs at an upstream"
    )
    only.add_argument("--hg-only", action="store_true", help="only Mercurial")
    only.add_argument("--hg-v1-only", action="store_true", help="only Mercurial, by protocol v1")
    parser.add_argument(
        "--temp", type=Path, metavar="DIR", help="where to work; some GB on a disk, no tmpfs"
    )
    return parser


def _measure(
    given: argparse.Namespace, work: Path, report: Report, say: Callable[[str], None]
) -> None:
    report.about.update(cpus=os.cpu_count(), load=os.getloadavg(), python=platform.python_version())
    if not (given.hg_only or given.hg_v1_only):
        _measure_git(given, work, report, say)
    if not given.upstream_only:
        (work / "hg").mkdir()
        repo = None if given.hg_repo is None else given.hg_repo.resolve()
        effort = HG_QUICK if given.quick else HgEffort()
        HgBench(repo, work / "hg", effort, report, say, only_v1=given.hg_v1_only).run()
    report.about["load_after"] = os.getloadavg()


def _measure_git(
    given: argparse.Namespace, work: Path, report: Report, say: Callable[[str], None]
) -> None:
    bare = work / "root" / "repository.git"
    bare.parent.mkdir()
    say("making the repository")
    if given.repo is not None:
        shape = repository.copy(given.repo.resolve(), bare)
    else:
        commits = repository.COMMITS_QUICK if given.quick else repository.COMMITS
        shape = repository.generate(bare, commits)
    effort = QUICK if given.quick else Effort()
    report.about.update(
        repository="generated" if given.repo is None else given.repo.resolve().name,
        shape=asdict(shape),
        effort=asdict(effort),
        git=subprocess.check_output(("git", "version"), text=True).split()[-1],
    )
    say(f"{shape.objects:,} objects, {shape.commits:,} commits, {shape.pack_size / 1e6:.1f} MB")
    if not given.upstream_only:
        measure_decisions(report, say)
        measure_fleet(report, say, quick=given.quick)
        Bench(bare.parent, bare.name, work, effort, report, say).run()
    UpstreamBench(bare.parent, bare.name, work, effort, report, say).run()


if __name__ == "__main__":
    sys.exit(main())
