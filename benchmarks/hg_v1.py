# Law of this file: what protocol v1 promises is measured with the Mercurial that users have, on one
# repository that has grown a little since its clone bundles were made, in one run.

from __future__ import annotations

import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final
from urllib.request import Request, urlopen

from benchmarks import hg_repository, hg_servers, servers
from benchmarks.hg_servers import READS
from benchmarks.hg_v1_clones import Cloned, V1Clones, V1Cost
from benchmarks.hg_v1_polls import PollCost, V1Polls
from benchmarks.load import LoadFailed
from benchmarks.servers import Server
from benchmarks.table import Figure, Goal, Report

CLONE_GOAL: Final = 1 / 50
POLL_GOAL: Final = 1 / 10
SHARE_GOAL: Final = 0.97
REDIRECTED_GOAL: Final = 0.995

STOCK: Final = f"hg serve {READS}"
STOCK_STREAM: Final = f"{STOCK}, --stream"
STOCK_BUNDLE: Final = f"{STOCK}, same clone bundle"

BUNDLE: Final = "clone bundle"
BUNDLE_ON: Final = "clone bundle, redirect_getbundle on"
STREAM: Final = "--stream, stream bundle"
RECORD: Final = "no clone bundle, getbundle inline"
REDIRECTED: Final = "no clone bundle, getbundle redirected"

# What is measured beside what, and by what share of its bytes must come from the store.
_COMPARED: Final = (
    (BUNDLE, STOCK),
    (BUNDLE_ON, STOCK),
    (STREAM, STOCK_STREAM),
    (RECORD, STOCK),
    (REDIRECTED, STOCK),
    (BUNDLE, STOCK_BUNDLE),
)
_SHARES: Final = (
    (BUNDLE, SHARE_GOAL),
    (STREAM, SHARE_GOAL),
    (BUNDLE_ON, REDIRECTED_GOAL),
    (REDIRECTED, REDIRECTED_GOAL),
)

_NO_BUNDLES: Final = ("--config", "ui.clonebundles=false")
_STREAMED: Final = ("--stream",)
_WITH_BUNDLES: Final = ("--config", "extensions.clonebundles=")
_MANIFEST: Final = "clonebundles.manifest"

# A server before a directory names one type for all files, and getbundle's is demanded by clients.
_MEDIA_TYPE: Final = "application/mercurial-0.2"

_Say = Callable[[str], None]


@dataclass(slots=True)
class HgV1:
    """Clones and polls by protocol v1, from Offramp and from Mercurial's own server.

    Attributes:
        repository: that is measured, and written to; there is no other beside it.
        work: a directory for everything else.
        stock: clones from Mercurial's server of each kind; the cheapest counts.
        warm: clones from Offramp of each kind; the mean counts.
        polls: of each kind; the mean counts.
        report: gets the figures.
        say: told what is being done.
    """

    repository: Path
    work: Path
    stock: int
    warm: int
    polls: int
    report: Report
    say: _Say

    def run(self) -> None:
        """Measure everything.

        Raises:
            servers.CannotStart, load.LoadFailed, HgFailed: no measurement is possible.
            subprocess.CalledProcessError: indexing failed.
        """
        data = self.work / "data"
        data.mkdir(parents=True)
        log = self.work / "store.log"
        hg = hg_servers.mercurial(self.work / "maker", READS)
        with servers.static(data, self.work / "static", media_type=_MEDIA_TYPE, log=log) as store:
            indexed = self._index(store)
            hg_repository.grow(hg, self.repository, self.work)
            polled = self.work / "polled"
            hg_repository.copy(hg, self.repository, polled)
            polls = V1Polls(polled, self.work, self.polls, self.say)
            clones = V1Clones(self.repository, self.work, store, log, self.say)
            # No clone was ever made from this server, so whom could it ask?
            with self._offramp(store, "polls") as ours:
                our_polls = polls.of("Offramp", ours, self._name)
            costs, manifest = self._offramp_clones(clones, store)
            their_costs, their_polls = self._stock(clones, polls)
            costs |= their_costs | self._stock_with_bundle(clones, manifest)
        self.report.about["hg v1 clones"] = {name: asdict(cost) for name, cost in costs.items()}
        self._figures(costs, indexed)
        self._shares(costs)
        self._poll_figures(our_polls, their_polls)

    # --- Offramp -------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return f"/{self.repository.name}"

    def _index(self, store: Server) -> float:
        """Have the index and the clone bundles made; seconds of CPU that this took."""
        self.say("offramp index")
        here = self.work / "index"
        here.mkdir()
        config = servers.configure(
            here / "offramp.toml", f"{store.url}/store", f"\n{hg_servers.PROGRAM}"
        )
        given = ("--config", config, "--data", self.work / "data")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            (*servers.OFFRAMP, "index", *given, self.repository.parent),
            check=True,
            stdout=subprocess.DEVNULL,
            env=servers.environment(here / "home"),
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    @contextmanager
    def _offramp(
        self, store: Server, slug: str, redirect_getbundle: str | None = None
    ) -> Iterator[Server]:
        with hg_servers.offramp(
            self.repository.parent,
            self.work / "data",
            f"{store.url}/store",
            self.work / f"serve-{slug}",
            redirect_getbundle=redirect_getbundle,
        ) as server:
            yield server

    def _offramp_clones(self, clones: V1Clones, store: Server) -> tuple[dict[str, V1Cost], str]:
        """Clones in every way, and what the server says of its clone bundles."""
        costs = {}
        for setting, ways in (
            (None, ((BUNDLE, ()), (STREAM, _STREAMED), (RECORD, _NO_BUNDLES))),
            ("on", ((BUNDLE_ON, ()), (REDIRECTED, _NO_BUNDLES))),
        ):
            with self._offramp(store, setting or "clones", setting) as ours:
                for what, options in ways:
                    cloned = Cloned(
                        f"Offramp, {what}",
                        ours,
                        self._name,
                        options,
                        self.warm,
                        first=True,
                        checked=True,
                    )
                    costs[what] = clones.series(cloned)
                manifest = _manifest(f"{ours.url}{self._name}")
        return costs, manifest

    # --- Mercurial's own server ----------------------------------------------------------

    def _stock(
        self, clones: V1Clones, polls: V1Polls
    ) -> tuple[dict[str, V1Cost], dict[str, PollCost]]:
        costs = {}
        with hg_servers.stock(
            self.repository, self.work / "stock", version=READS, config=()
        ) as theirs:
            polled = polls.of(STOCK, theirs, "")
            for what, options in ((STOCK, ()), (STOCK_STREAM, _STREAMED)):
                costs[what] = clones.series(Cloned(what, theirs, "", options, self.stock))
        return costs, polled

    def _stock_with_bundle(self, clones: V1Clones, manifest: str) -> dict[str, V1Cost]:
        """As an operator has it who makes clone bundles and publishes them by hand."""
        with ExitStack() as stack:
            path = self.repository / ".hg" / _MANIFEST
            path.write_text(manifest)
            stack.callback(path.unlink)
            theirs = stack.enter_context(
                hg_servers.stock(
                    self.repository,
                    self.work / "stock-bundle",
                    version=READS,
                    config=_WITH_BUNDLES,
                )
            )
            cost = clones.series(Cloned(STOCK_BUNDLE, theirs, "", (), self.stock))
        return {STOCK_BUNDLE: cost}

    # --- what comes of it ----------------------------------------------------------------

    def _figures(self, costs: dict[str, V1Cost], indexed: float) -> None:
        figures = self.report.figures
        for what, against in _COMPARED:
            ours, theirs = costs[what], costs[against]
            name = f"v1 clone, {what}"
            # The cheapest of theirs beside the mean of ours: if noise decides, then for them.
            cpu = min(theirs.cpu) * 1e3, ours.mean * 1e3
            sent = theirs.sent / 1e3, ours.sent / 1e3
            wall = min(theirs.wall), min(ours.wall)
            figures += [
                Figure(f"{name}: server CPU", "ms", *cpu, against),
                Figure(f"{name}: bytes sent by the server", "kB", *sent, against),
                Figure(f"{name}: wall time", "s", *wall, against),
            ]
        stock, bundle = costs[STOCK], costs[BUNDLE]
        figures += [
            Figure(
                f"v1 clone, {BUNDLE}: CPU of the store's host",
                "ms",
                bundle.mean * 1e3,
                bundle.stored_cpu * 1e3,
                "Offramp's own",
            ),
            Figure(
                "offramp index, once: CPU",
                "ms",
                min(stock.cpu) * 1e3,
                indexed * 1e3,
                f"a clone, {STOCK}",
            ),
        ]
        self.report.goals += [
            Goal(
                f"v1 clone, {BUNDLE}: server CPU by hg serve's",
                bundle.mean / min(stock.cpu),
                CLONE_GOAL,
            ),
            Goal(
                f"v1 clone, {BUNDLE}: bytes sent by the server by hg serve's",
                bundle.sent / stock.sent,
                CLONE_GOAL,
            ),
        ]

    def _shares(self, costs: dict[str, V1Cost]) -> None:
        self.report.goals += [
            Goal(
                f"v1 clone, {what}: share of its bytes from the store",
                costs[what].share,
                limit,
                at_least=True,
            )
            for what, limit in _SHARES
        ]

    def _poll_figures(self, ours: dict[str, PollCost], theirs: dict[str, PollCost]) -> None:
        self.report.about["hg v1 polls"] = {
            who: {command: asdict(cost) for command, cost in costs.items()}
            for who, costs in (("Offramp", ours), (STOCK, theirs))
        }
        for command, cost in ours.items():
            other = theirs[command]
            name = f"v1 poll, hg {command}"
            self.report.figures += [
                Figure(f"{name}: server CPU", "ms", other.cpu * 1e3, cost.cpu * 1e3, STOCK),
                Figure(
                    f"{name}: bytes sent by the server",
                    "kB",
                    other.sent / 1e3,
                    cost.sent / 1e3,
                    STOCK,
                ),
            ]
            self.report.goals.append(
                Goal(f"{name}: server CPU by hg serve's", cost.cpu / other.cpu, POLL_GOAL)
            )
        self.report.goals.append(
            Goal(
                "v1 polls during which Offramp started or ended a process",
                sum(cost.processes for cost in ours.values()),
                0,
            )
        )


def _manifest(url: str) -> str:
    """What a client of today is told of clone bundles.

    Raises:
        LoadFailed: there are none.
    """
    asked = Request(  # noqa: S310 - our own server
        f"{url}?cmd=clonebundles",
        headers={"User-Agent": f"mercurial/proto-1.0 (Mercurial {READS})"},
    )
    with urlopen(asked) as answer:  # noqa: S310 - likewise
        manifest: str = answer.read().decode()
    if not manifest:
        raise LoadFailed(f"{url}: no clone bundles")
    return manifest
