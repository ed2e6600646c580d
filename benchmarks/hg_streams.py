# Law of this file: eight large answers in one exchange, compressed side by side or one after the
# other; every round begins with the same data directory, in which nothing has been compressed yet.

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from benchmarks import hg_servers, load, servers
from benchmarks.hg_asking import Call, Multirequest
from benchmarks.table import Figure, Goal, Report
from wire.hg.encodings import Encoding, encoder

ANSWERS: Final = 8
# One, and others up to the default of `hg.streams`.
STREAMS: Final = (1, 2, 4)
GOAL: Final = 1.7

_GIGABYTE: Final = 1e9
_PIECE: Final = 256 << 10


@dataclass(slots=True)
class Times:
    """What one number of streams took, round by round.

    Attributes:
        wall: seconds of the exchange.
        cpu: seconds of the server's CPU for it.
        replayed: seconds of CPU for one exchange of the same, sent as it was compressed.
    """

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    replayed: list[float] = field(default_factory=list)


@dataclass(slots=True)
class HgStreams:
    """One multirequest of large answers, by the number of streams.

    Attributes:
        repository: made by ``hg_repository.generate_large`` with as many parts as ``ANSWERS``.
        work: a directory for everything else.
        rounds: each with every number of streams; the least time of all counts.
        replays: exchanges whose answers were compressed before.
        streams: settings of ``hg.streams``, ascending from 1. The goal is about the last, which is
            what servers have that are told nothing.
        report: gets the figures.
        say: told what is being done.
    """

    repository: Path
    work: Path
    rounds: int
    replays: int
    report: Report
    say: Callable[[str], None]
    streams: Sequence[int] = STREAMS
    _calls: list[Call] = field(default_factory=list)
    _runs: int = 0

    def run(self) -> None:
        """Measure everything.

        Raises:
            servers.CannotStart, load.LoadFailed: no measurement is possible.
        """
        self.work.mkdir(parents=True)
        self._calls = self._large()
        with servers.static(self.work, self.work / "static") as store:
            size = self._prepare(store.url)
            stored = {count: Times() for count in self.streams}
            computed = {count: Times() for count in (1, self.streams[-1])}
            for number in range(self.rounds):
                self.say(f"streams: round {number + 1} of {self.rounds}")
                for count, times in stored.items():
                    self._round(store.url, "stored", count, times, self.replays)
                for count, times in computed.items():
                    self._round(store.url, "indexed", count, times, 0)
        self.say("streams: compressing alone")
        threads, processes = self._alone()
        self.report.about["hg streams"] = {
            "answers": ANSWERS,
            "bytes": size,
            "wall_seconds": {count: times.wall for count, times in stored.items()},
            "wall_seconds_computed_too": {count: times.wall for count, times in computed.items()},
            "cpu_seconds": {count: times.cpu for count, times in stored.items()},
            "alone_seconds": {"threads": threads, "processes": processes},
        }
        self._figures(stored, computed, threads, processes)
        self._replay_figures(stored, size)

    # --- rounds ---------------------------------------------------------------------------

    def _large(self) -> list[Call]:
        """What asks for all files of the newest changeset, a directory each."""
        tip = self._tip()
        return [
            (
                b"filesdata",
                {
                    b"revisions": [{b"type": b"changesetexplicit", b"nodes": [tip]}],
                    b"fields": frozenset((b"revision",)),
                    b"pathfilter": {b"include": [b"path:part%d" % part]},
                },
            )
            for part in range(ANSWERS)
        ]

    def _tip(self) -> bytes:
        hg = hg_servers.mercurial(self.work / "client")
        said = hg("log", "--rev", "tip", "--template", "{node}", where=self.repository)
        return bytes.fromhex(said)

    def _prepare(self, store_url: str) -> int:
        """Data directories with an index alone, and with all answers; returns their bytes."""
        self.say("streams: preparing")
        asked = Multirequest(self.repository.name, self._calls, Encoding.IDENTITY)
        with hg_servers.offramp(
            self.repository.parent, self.work / "indexed", store_url, self.work / "serve"
        ) as server:
            Multirequest(self.repository.name, [(b"heads", {})], Encoding.IDENTITY).ask(server.url)
        shutil.copytree(self.work / "indexed", self.work / "stored")
        with hg_servers.offramp(
            self.repository.parent, self.work / "stored", store_url, self.work / "serve-2"
        ) as server:
            answers = asked.read(asked.ask(server.url))
        (self.work / "content").mkdir()
        for number, answer in enumerate(answers):
            (self.work / "content" / str(number)).write_bytes(answer)
        return sum(map(len, answers))

    def _round(self, store_url: str, begin: str, count: int, times: Times, replays: int) -> None:
        """One exchange on a copy of a data directory, and then others that replay it."""
        self._runs += 1
        here, data = self.work / f"run-{self._runs}", self.work / "data"
        shutil.copytree(self.work / begin, data)
        asked = Multirequest(self.repository.name, self._calls, Encoding.ZSTD)
        sent = asked.request
        root = self.repository.parent
        with hg_servers.offramp(root, data, store_url, here, streams=count) as server:
            raw = sent.raw(server.url, close=True)
            # A first exchange, which finds the repository unchanged.
            Multirequest(self.repository.name, [(b"heads", {})], Encoding.ZSTD).ask(server.url)
            used, began = server.meter.seconds(), time.perf_counter()
            load.drain(server.url, raw)
            times.wall.append(time.perf_counter() - began)
            times.cpu.append(server.meter.seconds() - used)
            used = server.meter.seconds()
            for _ in range(replays):
                load.drain(server.url, raw)
            if replays:
                times.replayed.append((server.meter.seconds() - used) / replays)
            if self._runs <= len(self.streams):  # each number of streams gives all answers
                asked.read(asked.ask(server.url))
        shutil.rmtree(data)

    def _alone(self) -> tuple[dict[int, float], dict[int, float]]:
        """Compressing the same bytes, nothing else, by threads and by processes: seconds."""
        paths = [self.work / "content" / str(number) for number in range(ANSWERS)]
        counts = (1, min(os.cpu_count() or 1, ANSWERS))
        context = get_context("spawn")
        threads = {n: self._best(ThreadPoolExecutor(n), paths) for n in counts}
        processes = {
            n: self._best(ProcessPoolExecutor(n, mp_context=context), paths) for n in counts
        }
        return threads, processes

    def _best(self, executor: Executor, paths: Sequence[Path]) -> float:
        found = []
        with executor:
            list(executor.map(compress, paths))  # starts what is to work
            for _ in range(self.rounds):
                began = time.perf_counter()
                list(executor.map(compress, paths))
                found.append(time.perf_counter() - began)
        return min(found)

    # --- what comes of it -----------------------------------------------------------------

    def _figures(
        self,
        stored: dict[int, Times],
        computed: dict[int, Times],
        threads: dict[int, float],
        processes: dict[int, float],
    ) -> None:
        one = min(stored[1].wall)
        title = f"{ANSWERS} large answers, zstd"
        self.report.figures += [
            Figure(f"{title}: {count} streams", "s", one, min(times.wall), "one stream")
            for count, times in stored.items()
            if count > 1
        ]
        most = self.streams[-1]
        both = [min(computed[count].wall) for count in (1, most)]
        name = f"{title}, computed as well: {most} streams"
        self.report.figures.append(Figure(name, "s", both[0], both[1], "one stream"))
        cores = max(threads)
        self.report.figures += [
            Figure(
                f"{title}: compressing alone, {cores} {kind}", "s", times[1], times[cores], "one"
            )
            for kind, times in (("threads", threads), ("processes", processes))
        ]
        value = one / min(stored[most].wall)
        name = f"{title}: speed-up by {most} streams on {os.cpu_count()} cores"
        self.report.goals.append(Goal(name, value, GOAL, at_least=True))

    def _replay_figures(self, stored: dict[int, Times], size: int) -> None:
        times = stored[self.streams[-1]]
        anew, again = (
            min(series) / (size / _GIGABYTE) * 1e3 for series in (times.cpu, times.replayed)
        )
        name = "compressed answer sent again: server CPU per GB of content"
        self.report.figures.append(Figure(name, "ms", anew, again, "compressing anew"))


def compress(path: Path) -> int:
    """Compress a file as one stream, as the server does; returns the bytes that it becomes."""
    coder = encoder(Encoding.ZSTD)
    size = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            size += len(coder.encode(piece))
    return size + len(coder.flush())
