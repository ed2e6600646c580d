# Law of this file: what wire protocol v2 promises is measured on one generated history, on large
# files beside it, and on the reactors, and then what v1 promises, on the same history; in one run.

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from benchmarks import hg_repository, hg_servers
from benchmarks.hg_clones import HgClones
from benchmarks.hg_frames import HgFraming, HgSmall
from benchmarks.hg_streams import ANSWERS, HgStreams
from benchmarks.hg_v1 import HgV1
from benchmarks.table import Report


@dataclass(frozen=True, slots=True)
class HgEffort:
    """How much is done for each figure.

    Attributes:
        changesets: of the generated history.
        stock: clones from Mercurial's own servers, of each kind; the cheapest counts.
        warm: clones from Offramp, of each kind; the mean counts.
        part: bytes of each large answer.
        rounds: of the large answers; the least time of all counts.
        replays: of answers that were compressed before, each round.
        small: answers in one exchange.
        framed: bytes through the reactors.
        repeats: of that; the least time of all counts.
        polls: that find nothing new, of each kind; the mean counts.
    """

    changesets: int = hg_repository.CHANGESETS
    stock: int = 2
    warm: int = 5
    part: int = 16 << 20
    rounds: int = 3
    replays: int = 5
    small: int = 1000
    framed: int = 64 << 20
    repeats: int = 7
    polls: int = 20


HG_QUICK: Final = HgEffort(
    changesets=hg_repository.CHANGESETS_QUICK,
    stock=1,
    warm=1,
    part=200 << 10,
    rounds=1,
    replays=1,
    small=50,
    framed=1 << 20,
    repeats=1,
    polls=2,
)


@dataclass(slots=True)
class HgBench:
    """One run.

    Attributes:
        given: measure on a copy of this repository; generate one if it is None.
        work: a directory for everything.
        effort: how much is done.
        report: gets the figures.
        say: told what is being done.
        only_v1: leave out wire protocol v2.
    """

    given: Path | None
    work: Path
    effort: HgEffort
    report: Report
    say: Callable[[str], None]
    only_v1: bool = False

    def run(self) -> None:
        """Measure everything.

        Raises:
            servers.CannotStart, load.LoadFailed, hg_repository.HgFailed: nothing can be measured.
            subprocess.CalledProcessError: indexing failed.
        """
        history = self.work / "root" / "history"
        self._history(history)
        if not self.only_v1:
            self._v2(history)
        self._v1(history)

    def _v2(self, history: Path) -> None:
        effort = self.effort
        clones = self.work / "clones"
        HgClones(history, clones, effort.stock, effort.warm, self.report, self.say).run()
        HgSmall(
            history, clones / "data", self.work / "small", effort.small, self.report, self.say
        ).run()
        shutil.rmtree(clones)
        self._streams()
        HgFraming(effort.framed, effort.small, effort.repeats, self.report, self.say).run()

    def _v1(self, history: Path) -> None:
        effort = self.effort
        if not self.only_v1:
            # In the format that repositories have today; and v1's part writes into it.
            hg = hg_servers.mercurial(self.work / "maker", hg_servers.READS)
            history, source = self.work / "root-v1" / "history", history
            hg_repository.copy(hg, source, history)
        HgV1(
            history,
            self.work / "v1",
            effort.stock,
            effort.warm,
            effort.polls,
            self.report,
            self.say,
        ).run()

    def _history(self, path: Path) -> None:
        self.say("making the Mercurial repository")
        if self.given is None:
            version = hg_servers.READS if self.only_v1 else hg_servers.SPEAKS
            hg = hg_servers.mercurial(self.work / "maker", version)
            shape = hg_repository.generate(hg, path, self.effort.changesets)
        else:
            # A repository of today may be in a format that only the Mercurial of today reads.
            hg = hg_servers.mercurial(self.work / "maker", hg_servers.READS)
            shape = hg_repository.copy(hg, self.given, path)
        self.report.about["hg"] = {
            "repository": "generated" if self.given is None else self.given.name,
            "shape": asdict(shape),
            "effort": asdict(self.effort),
            "speaks": hg_servers.SPEAKS,
            "reads": hg_servers.READS,
        }
        self.say(f"{shape.changesets:,} changesets, {shape.stored / 1e6:.1f} MB")

    def _streams(self) -> None:
        self.say("making a repository of large files")
        hg = hg_servers.mercurial(self.work / "maker")
        large = self.work / "large" / "large"
        hg_repository.generate_large(hg, large, ANSWERS, self.effort.part)
        effort = self.effort
        HgStreams(
            large, self.work / "streams", effort.rounds, effort.replays, self.report, self.say
        ).run()
