# Law of this file: what a clone costs its server, the same clone by the same client each time; what
# came of it is looked at before its figure is believed.

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from benchmarks import hg_servers, load, servers
from benchmarks.hg_repository import Hg, HgFailed
from benchmarks.hg_servers import CLIENT_V2
from benchmarks.load import LoadFailed
from benchmarks.servers import Server
from benchmarks.table import Figure, Goal, Report

GOAL: Final = 1 / 50

_V1: Final = ()


@dataclass(frozen=True, slots=True)
class Cost:
    """What clones of one kind cost, each.

    Attributes:
        cpu: seconds of the server and all that it started, of each clone.
        store: seconds of the server that has the store's files, in all.
        wall: seconds of each clone.
        sent: bytes that the server sent for one clone, headers too.
    """

    cpu: tuple[float, ...]
    store: float
    wall: tuple[float, ...]
    sent: int

    @property
    def mean(self) -> float:
        """Seconds of server CPU of a clone."""
        return sum(self.cpu) / len(self.cpu)


@dataclass(slots=True)
class HgClones:
    """Clones from Offramp, and from Mercurial's own server.

    Attributes:
        repository: that is cloned; there is no other beside it.
        work: a directory for everything else.
        stock: clones from Mercurial's server by each protocol.
        warm: clones from Offramp.
        report: gets the figures.
        say: told what is being done.
    """

    repository: Path
    work: Path
    stock: int
    warm: int
    report: Report
    say: Callable[[str], None]
    _hg: Hg = field(init=False)
    _heads: str = field(init=False)

    def __post_init__(self) -> None:
        self._hg = hg_servers.mercurial(self.work / "client")
        self._heads = self._heads_of(self.repository)

    def run(self) -> None:
        """Measure everything.

        Raises:
            servers.CannotStart, load.LoadFailed, HgFailed: no measurement is possible.
        """
        data = self.work / "data"
        data.mkdir(parents=True)
        costs: dict[str, Cost] = {}
        with ExitStack() as stack:
            theirs = stack.enter_context(hg_servers.stock(self.repository, self.work / "stock"))
            costs["v1"] = self._series("hg serve, v1", theirs, "", _V1, self.stock)
            v2 = self._stock_v2(theirs)
            if v2 is not None:
                costs["v2"] = v2
        with ExitStack() as stack:
            store = stack.enter_context(servers.static(data, self.work / "static"))
            costs.update(self._offramp(data, store))
        self.report.about["hg clones"] = {name: asdict(cost) for name, cost in costs.items()}
        self._figures(costs)

    def _offramp(self, data: Path, store: Server) -> dict[str, Cost]:
        root, name = self.repository.parent, f"/{self.repository.name}"
        url = f"{store.url}/store"
        with hg_servers.offramp(root, data, url, self.work / "serve") as ours:
            cold = self._series("Offramp, cold", ours, name, CLIENT_V2, 1, counted=False)
            warm = self._series(
                "Offramp, redirected", ours, name, CLIENT_V2, self.warm, store=store
            )
        with hg_servers.offramp(root, data, url, self.work / "inline", redirects=False) as ours:
            self._series("Offramp, inline, first", ours, name, CLIENT_V2, 1, counted=False)
            inline = self._series("Offramp, inline", ours, name, CLIENT_V2, self.warm)
        return {"cold": cold, "redirected": warm, "inline": inline}

    def _stock_v2(self, server: Server) -> Cost | None:
        """None for a repository that Mercurial's own server cannot give by this protocol."""
        try:
            return self._series("hg serve, v2", server, "", CLIENT_V2, self.stock)
        except HgFailed as failed:
            self.say(f"hg serve cannot give this repository by protocol v2: {failed}")
            return None

    def _series(  # noqa: PLR0917 - a measurement has many sides
        self,
        what: str,
        server: Server,
        name: str,
        config: Sequence[str],
        times: int,
        store: Server | None = None,
        *,
        counted: bool = True,
    ) -> Cost:
        """Clone several times, and if ``counted`` once more through a relay that counts bytes."""
        cpu, wall = [], []
        before = store.meter.seconds() if store is not None else 0.0
        for number in range(times):
            self.say(f"clone: {what}, {number + 1} of {times}")
            used, began = server.meter.seconds(), time.perf_counter()
            self._clone(f"{server.url}{name}", config)
            cpu.append(server.meter.seconds() - used)
            wall.append(time.perf_counter() - began)
        stored = store.meter.seconds() - before if store is not None else 0.0
        sent = 0
        if counted:
            self._check(what)
            self.say(f"clone: {what}, bytes counted")
            with load.relay(server.url) as between:
                self._clone(f"{between.url}{name}", config)
            sent = between.received
        return Cost(tuple(cpu), stored, tuple(wall), sent)

    def _clone(self, url: str, config: Sequence[str]) -> None:
        path = self._path
        shutil.rmtree(path, ignore_errors=True)
        self._hg("clone", "--quiet", "--noupdate", *config, url, path, where=self.work)

    @property
    def _path(self) -> Path:
        return self.work / "clone"

    def _check(self, what: str) -> None:
        """The last clone has all of what was cloned, and hg finds no fault in it."""
        if self._heads_of(self._path) != self._heads:
            raise LoadFailed(f"{what}: a clone with other heads than its source")
        if what.startswith("Offramp"):
            self.say(f"hg verify: {what}")
            self._hg("verify", "--quiet", where=self._path)

    def _heads_of(self, path: Path) -> str:
        return self._hg("log", "--rev", "sort(head(), node)", "--template", "{node} ", where=path)

    # --- what comes of it -----------------------------------------------------------------

    def _figures(self, costs: dict[str, Cost]) -> None:
        ours = (
            ("redirected", "warm, redirected"),
            ("inline", "warm, inline"),
            ("cold", "cold, the first ever"),
        )
        for slug, protocol in (("v2", "hg serve, v2"), ("v1", "hg serve, v1")):
            if slug not in costs:
                continue
            # The quickest of theirs beside the mean of ours: if noise decides, then for them.
            least = min(costs[slug].cpu)
            self.report.figures += [
                Figure(
                    f"hg clone, {title}: server CPU",
                    "ms",
                    least * 1e3,
                    costs[kind].mean * 1e3,
                    protocol,
                )
                for kind, title in ours
            ]
            self.report.figures += [
                Figure(
                    f"hg clone, {title}: bytes sent by the server",
                    "kB",
                    costs[slug].sent / 1e3,
                    costs[kind].sent / 1e3,
                    protocol,
                )
                for kind, title in ours[:2]
            ]
            self.report.figures.append(
                Figure(
                    "hg clone, warm, redirected: wall time",
                    "s",
                    min(costs[slug].wall),
                    min(costs["redirected"].wall),
                    protocol,
                )
            )
        redirected = costs["redirected"]
        self.report.figures.append(
            Figure(
                "hg clone, redirected: CPU of the store's host",
                "ms",
                redirected.mean * 1e3,
                redirected.store / len(redirected.cpu) * 1e3,
                "Offramp's own",
            )
        )
        if "v2" in costs:
            value = redirected.mean / min(costs["v2"].cpu)
            name = "hg clone, warm, redirected: server CPU by hg serve's, v2"
            self.report.goals.append(Goal(name, value, GOAL))
