# Law of this file: what is compared is measured in the same run, by the same clients, on the same
# repository, in alternation where the machine's mood would decide otherwise.

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks import load, servers
from benchmarks.load import REDIRECTED, Request
from benchmarks.servers import Server
from benchmarks.table import Figure, Goal, Report

GIGABYTE: Final = 1e9
SHALLOW: Final = ("--depth=1",)
_KINDS: Final = (("full clone", ()), ("depth=1 clone", SHALLOW))


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is done for each figure.

    Attributes:
        redirected: warm clones of Offramp; each costs it so little that one alone says nothing.
        stock: clones of the stock server.
        budget: seconds after which no further clone of a series is begun.
        cold: single cold clones; the median counts.
        crowd: clones that start at once.
        checked: how many of these are checked by fsck.
        inline: bytes that are sent by either server.
        rounds: of the load; an odd number.
        seconds: of one round of load.
        idle: seconds for which nobody asks.
    """

    redirected: int = 20
    stock: int = 3
    budget: float = 150.0
    cold: int = 3
    crowd: int = 50
    checked: int = 3
    inline: float = 2.5 * GIGABYTE
    rounds: int = 5
    seconds: float = 3.0
    idle: float = 15.0


QUICK: Final = Effort(
    redirected=3, stock=1, cold=1, crowd=5, checked=1, inline=2e7, rounds=1, seconds=1.0, idle=1.0
)


@dataclass(slots=True)
class Bench:
    """One run.

    Attributes:
        root: holds the repository.
        name: of the repository below it.
        work: a directory for everything else.
        effort: how much is done.
        report: gets the figures.
        say: told what is being done.
    """

    root: Path
    name: str
    work: Path
    effort: Effort
    report: Report
    say: Callable[[str], None]
    _fresh: int = 0
    _requests: dict[str, Request] = field(default_factory=dict)

    def run(self) -> None:
        """Measure everything.

        Raises:
            servers.CannotStart, load.LoadFailed: no measurement is possible.
            subprocess.CalledProcessError: indexing failed.
        """
        data = self.work / "data"
        data.mkdir()
        with servers.static(data, self.work / "static") as store:
            with ExitStack() as stack:
                stock = stack.enter_context(servers.stock(self.root, self.work / "stock"))
                self.report.about["exact_cpu"] = stock.meter.exact
                self._index(store)
                ours = stack.enter_context(self._offramp(store, "warm"))
                for kind, options in _KINDS:
                    self._clones(kind, options, stock, ours)
                self._idle(ours)
                self._inline(ours, store)
                self._decisions(ours)
            self._crowd(store)

    def _index(self, store: Server) -> None:
        self.say("offramp index")
        here = self.work / "index"
        here.mkdir()
        config = servers.configure(here / "offramp.toml", f"{store.url}/warm/store")
        subprocess.run(
            (
                *servers.OFFRAMP,
                "index",
                "--config",
                config,
                "--data",
                self._data("warm"),
                self.root,
            ),
            check=True,
            stdout=subprocess.DEVNULL,
            env=servers.environment(here / "home"),
        )

    def _data(self, name: str) -> Path:
        return self.work / "data" / name

    @contextmanager
    def _offramp(self, store: Server, name: str) -> Iterator[Server]:
        url = f"{store.url}/{name}/store"
        with servers.offramp(self.root, self._data(name), url, self.work / f"serve-{name}") as ours:
            yield ours

    # --- clones ---------------------------------------------------------------------------

    def _clone(self, url: str, config: Sequence[str], options: Sequence[str]) -> None:
        self._finish(self._start(url, "clone", config, options))

    def _start(
        self, url: str, name: str, config: Sequence[str], options: Sequence[str]
    ) -> subprocess.Popen[str]:
        environ = servers.environment(self.work / "client")
        path = self.work / "clones" / name
        path.parent.mkdir(exist_ok=True)
        return load.start_clone(f"{url}/{self.name}", path, environ, config=config, options=options)

    @staticmethod
    def _finish(client: subprocess.Popen[str]) -> None:
        load.finish(client)

    def _series(
        self, server: Server, times: int, config: Sequence[str], options: Sequence[str]
    ) -> tuple[float, float, int]:
        """Server CPU and wall time of one clone, and of how many this is the mean."""
        self._clone(server.url, config, options)  # what is done once only is not counted
        began, used, count = time.perf_counter(), server.meter.seconds(), 0
        while count < times and (count < 2 or time.perf_counter() - began < self.effort.budget):
            self._clone(server.url, config, options)
            count += 1
        used = server.meter.seconds() - used
        return used / count, (time.perf_counter() - began) / count, count

    def _counted(
        self, server: Server, config: Sequence[str], options: Sequence[str]
    ) -> tuple[int, Request]:
        """Every byte that the server sends for one clone, and the fetch request of that clone."""
        with load.relay(server.url) as between:
            # So large a buffer that no request is chunked: the relay reads them.
            self._clone(between.url, (*config, "-c", "http.postBuffer=64m"), options)
        return between.received, between.last_post()

    def _clones(self, kind: str, options: Sequence[str], stock: Server, ours: Server) -> None:
        effort = self.effort
        self.say(f"{kind}: stock server")
        their_cpu, their_wall, their_count = self._series(stock, effort.stock, (), options)
        self.say(f"{kind}: redirected")
        cpu, wall, count = self._series(ours, effort.redirected, REDIRECTED, options)
        their_bytes, _ = self._counted(stock, (), options)
        before = ours.figure("offramp_bytes_total", path="redirected")
        sent, self._requests[kind] = self._counted(ours, REDIRECTED, options)
        redirected = ours.figure("offramp_bytes_total", path="redirected") - before
        self.report.about[kind] = {
            "stock_clones": their_count,
            "redirected_clones": count,
            "redirected_bytes": redirected,
        }
        self.report.figures += [
            Figure(f"{kind}: server CPU", "ms", their_cpu * 1e3, cpu * 1e3),
            Figure(f"{kind}: bytes sent by the server", "kB", their_bytes / 1e3, sent / 1e3),
            Figure(f"{kind}: wall time", "s", their_wall, wall),
        ]
        self.report.goals += [
            Goal(f"{kind}, redirected: server CPU by stock's", cpu / their_cpu, 0.01),
            Goal(
                f"{kind}: share of its bytes sent by the server", sent / (sent + redirected), 0.005
            ),
        ]

    def _idle(self, ours: Server) -> None:
        """What Offramp costs while nobody asks; it is part of the figures of long clones."""
        self.say("idle")
        used, began = ours.meter.seconds(), time.perf_counter()
        time.sleep(self.effort.idle)
        used, took = ours.meter.seconds() - used, time.perf_counter() - began
        self.report.about["idle_ms_per_second"] = used / took * 1e3

    # --- inline answers -------------------------------------------------------------------

    def _inline(self, ours: Server, store: Server) -> None:
        """The pack sent by Offramp, framed, and by nginx as a file: CPU for each GB."""
        self.say("inline answers")
        _, request = self._counted(ours, (), ())
        asked = request.raw(ours.url, close=True)
        pack = max((self._data("warm") / "store").rglob("*"), key=_file_size)
        path = pack.relative_to(self.work / "data")
        plain = f"GET /{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        sides = ((ours, asked), (store, plain))
        for server, sent in sides:
            load.drain(server.url, sent)
        cpu, size = [0.0, 0.0], [0, 0]
        while min(size) < self.effort.inline:
            for side, (server, sent) in enumerate(sides):
                until = size[side] + self.effort.inline / 10
                used = server.meter.seconds()
                while size[side] < until:
                    size[side] += load.drain(server.url, sent)
                cpu[side] += server.meter.seconds() - used
        ours_per_gb, plain_per_gb = (c / (s / GIGABYTE) for c, s in zip(cpu, size, strict=True))
        self.report.figures.append(
            Figure(
                "inline answer: server CPU per GB",
                "ms",
                plain_per_gb * 1e3,
                ours_per_gb * 1e3,
                "nginx, static file",
            )
        )
        self.report.goals.append(
            Goal("inline answer: CPU per GB by nginx's for a file", ours_per_gb / plain_per_gb, 3.0)
        )

    # --- decisions ------------------------------------------------------------------------

    def _decisions(self, ours: Server) -> None:
        """Fetch requests that are answered by a location, against a handler that does nothing."""
        cpus = sorted(os.sched_getaffinity(0))
        for kind, _ in _KINDS:
            request = self._requests[kind]
            said = load.answer(ours.url, request)
            if b"packfile-uris" not in said:
                raise load.LoadFailed(f"{kind}: the answer is no redirect: {said[:300]!r}")
            here = self.work / f"bare-{kind.split()[0]}"
            with servers.bare(len(said), here) as bare:
                client = cpus[-1] if len(cpus) > 1 else None
                for server in (ours, bare):
                    server.pin(cpus[0])
                sides = (ours, bare)
                rates: tuple[list[float], list[float]] = ([], [])
                costs: tuple[list[float], list[float]] = ([], [])
                for turn in range(self.effort.rounds):
                    self.say(f"{kind}: decisions, round {turn + 1}")
                    for server, series, spent in zip(sides, rates, costs, strict=True):
                        used = server.meter.seconds()
                        rate = load.requests_per_second(
                            server.url, request, self.effort.seconds, here, client
                        )
                        series.append(rate)
                        spent.append((server.meter.seconds() - used) / (rate * self.effort.seconds))
            # Neighbours in time share the machine's mood: the round of the median ratio counts.
            pairs = sorted(zip(*rates, strict=True), key=lambda pair: pair[0] / pair[1])
            rate, plain = pairs[len(pairs) // 2]
            self.report.about[f"{kind}: decisions"] = pairs
            our_cost, their_cost = (statistics.median(series) * 1e6 for series in costs)
            against = "bare aiohttp handler"
            self.report.figures += [
                Figure(f"{kind}: redirect decisions", "/s", plain, rate, against),
                Figure(f"{kind}: CPU per decision", "µs", their_cost, our_cost, against),
            ]
            self.report.goals.append(
                Goal(f"{kind}: decisions by a bare handler's", rate / plain, 0.5, at_least=True)
            )

    # --- many at once ---------------------------------------------------------------------

    def _crowd(self, store: Server) -> None:
        effort = self.effort
        single = []
        for number in range(effort.cold):
            self.say(f"one cold depth=1 clone, {number + 1} of {effort.cold}")
            single.append(self._cold(store, f"single-{number}", 1)[0])
        self.say(f"{effort.crowd} cold depth=1 clones at once")
        cpu, wall, executions, outcomes, failed = self._cold(store, "crowd", effort.crowd)
        one = statistics.median(single)
        self.report.about["crowd"] = {
            "clones": effort.crowd,
            "single_cpu_seconds": single,
            "wall_seconds": wall,
            "outcomes": outcomes,
        }
        title = f"{effort.crowd} cold depth=1 at once"
        self.report.figures.append(
            Figure(f"{title}: server CPU", "ms", one * 1e3, cpu * 1e3, "one cold, Offramp")
        )
        self.report.goals += [
            Goal(f"{title}: executions", executions, 1),
            Goal(f"{title}: clones that failed", failed, 0),
            Goal(f"{title}: server CPU by that of one", cpu / one, 1.5),
        ]

    def _cold(
        self, store: Server, name: str, clients: int
    ) -> tuple[float, float, float, dict[str, float], int]:
        """CPU, wall time, executions, outcomes and failures on an empty data directory."""
        with self._offramp(store, name) as ours:
            used, began = ours.meter.seconds(), time.perf_counter()
            started = [
                self._start(ours.url, f"{name}-{number}", REDIRECTED, SHALLOW)
                for number in range(clients)
            ]
            failed = sum(1 for client in started if not self._succeeded(client))
            cpu, wall = ours.meter.seconds() - used, time.perf_counter() - began
            executions = ours.figure("offramp_executions_total")
            outcomes = {
                outcome: ours.figure("offramp_responses_total", command="fetch", outcome=outcome)
                for outcome in ("miss", "follow", "redirect", "hit", "passthrough", "error")
            }
        for number in range(min(clients, self.effort.checked)):
            checked = subprocess.run(
                ("git", "-C", self.work / "clones" / f"{name}-{number}", "fsck"),
                capture_output=True,
                check=False,
            )
            failed += checked.returncode != 0
        return cpu, wall, executions, outcomes, failed

    def _succeeded(self, client: subprocess.Popen[str]) -> bool:
        try:
            self._finish(client)
        except load.LoadFailed as failure:
            self.say(str(failure))
            return False
        return True


def _file_size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
