# Law of this file: what a pipeline of CI jobs costs an upstream is read from the upstream's own
# log, with Offramp in between and without; each job must end with the commit that it asked for.

from __future__ import annotations

import gzip
import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from benchmarks import load, servers
from benchmarks.load import REDIRECTED
from benchmarks.measures import Effort
from benchmarks.servers import Server
from benchmarks.table import Figure, Goal, Report

# What follows the settings of the target; all other settings are left alone.
_UPSTREAM: Final = """
[[upstreams]]
prefix = "/up/"
url = "{url}"
public = true
freshness = {freshness}
"""
_COMMANDS: Final = (("command=ls-refs", "ls-refs"), ("command=fetch", "fetch"))
_LONGEST_MIRRORING: Final = 600.0
# What is pushed was asked about before, but not just now.
_QUIET_SECONDS: Final = 1.5
_OUTCOMES: Final = ("redirect", "hit", "miss", "follow", "passthrough", "error")


@dataclass(frozen=True, slots=True)
class Arrived:
    """What reached the upstream.

    Attributes:
        requests: how many of each kind: ``info-refs``, ``ls-refs``, ``fetch``, ``probe`` (whether
            an object may be had) or ``other``.
        sent: bytes that it answered, headers too, by kind.
        received: bytes of the requests, headers too, by kind.
    """

    requests: dict[str, int]
    sent: dict[str, int]
    received: dict[str, int]

    @property
    def total(self) -> int:
        """Requests of all kinds."""
        return sum(self.requests.values())


@dataclass(frozen=True, slots=True)
class Run:
    """What one pipeline cost.

    Attributes:
        arrived: at the upstream.
        upstream: seconds of CPU time of the upstream.
        ours: seconds of CPU time of Offramp, its git programs included.
        wall: seconds until the last job had its commit.
        outcomes: of the jobs' fetches at Offramp.
        failed: jobs that did not get it.
    """

    arrived: Arrived
    upstream: float
    ours: float
    wall: float
    outcomes: dict[str, float] = field(default_factory=dict)
    failed: int = 0


@dataclass(slots=True)
class UpstreamBench:
    """Pipelines of jobs that check out one commit each, as CI does.

    Attributes:
        root: holds the repository.
        name: of the repository below it.
        work: a directory for everything else.
        effort: ``crowd`` is the number of jobs, ``checked`` of those that fsck looks at.
        report: gets the figures.
        say: told what is being done.
    """

    root: Path
    name: str
    work: Path
    effort: Effort
    report: Report
    say: Callable[[str], None]
    _commits: int = 0

    def run(self) -> None:
        """Measure everything.

        Raises:
            servers.CannotStart, load.LoadFailed: no measurement is possible.
            subprocess.CalledProcessError: no commit can be made.
        """
        here = self.work / "upstream"
        here.mkdir()
        log = here / "asked.log"
        with (
            servers.static(here, here / "static") as store,
            servers.stock(self.root, here / "stock", log=log) as upstream,
        ):
            self.say("CI jobs at the upstream itself")
            direct = self._pipeline(upstream, None, log, "direct")
            self.report.about["CI jobs at the upstream"] = asdict(direct)
            for title, freshness, warm in (
                ("new commit", '"always"', True),
                ("new commit, 10 s window", '"10s"', True),
                ("no mirror yet", '"always"', False),
            ):
                self.say(f"CI jobs through Offramp: {title}")
                slug = title.replace(" ", "-").replace(",", "")
                more = _UPSTREAM.format(url=upstream.url, freshness=freshness)
                data = here / slug
                url = f"{store.url}/{slug}/store"
                with servers.offramp(None, data, url, here / f"serve-{slug}", more=more) as ours:
                    if warm:
                        self._mirror(ours, data)
                    run = self._pipeline(upstream, ours, log, slug)
                self._figures(title, direct, run, goals=warm)

    # --- one pipeline ---------------------------------------------------------------------

    def _mirror(self, ours: Server, data: Path) -> None:
        """Have the repository mirrored, by one clone that is passed through."""
        clone = self.work / "upstream" / "first.git"
        environ = servers.environment(self.work / "client")
        url = f"{ours.url}/up/{self.name}"
        load.finish(load.start_clone(url, clone, environ, config=(), options=("--depth=1",)))
        deadline = time.monotonic() + _LONGEST_MIRRORING
        while not any((data / "mirrors").glob("*.git")):
            if time.monotonic() > deadline:
                raise load.LoadFailed(f"no mirror after {_LONGEST_MIRRORING:.0f} s")
            time.sleep(0.1)

    def _pipeline(self, upstream: Server, ours: Server | None, log: Path, slug: str) -> Run:
        """A new commit is pushed to the upstream, and all jobs check it out at the same moment."""
        oid = self._commit()
        url = f"{upstream.url}/{self.name}" if ours is None else f"{ours.url}/up/{self.name}"
        config = REDIRECTED if ours is not None else ()
        clones = [self.work / "upstream" / "jobs" / slug / f"{n}" for n in range(self.effort.crowd)]
        environ = servers.environment(self.work / "client")
        for clone in clones:
            subprocess.run(("git", "init", "--quiet", clone), check=True, env=environ)
        time.sleep(_QUIET_SECONDS)
        logged = log.stat().st_size
        meters = [server.meter for server in (upstream, ours) if server is not None]
        used = [meter.seconds() for meter in meters]
        began = time.perf_counter()
        started = [_start(clone, url, oid, config, environ) for clone in clones]
        failed = sum(not self._ended(client) for client in started)
        wall = time.perf_counter() - began
        spent = [meter.seconds() - before for meter, before in zip(meters, used, strict=True)]
        time.sleep(servers.LOGGED_SECONDS)
        failed += sum(not _has(clone, oid) for clone in clones[: self.effort.checked])
        outcomes = {}
        if ours is not None:
            name = "offramp_responses_total"
            outcomes = {o: ours.figure(name, command="fetch", outcome=o) for o in _OUTCOMES}
        return Run(
            arrived=_arrived(log, logged),
            upstream=spent[0],
            ours=sum(spent[1:]),
            wall=wall,
            outcomes=outcomes,
            failed=failed,
        )

    def _ended(self, client: subprocess.Popen[str]) -> bool:
        try:
            load.finish(client)
        except load.LoadFailed as failure:
            self.say(str(failure))
            return False
        return True

    def _commit(self) -> str:
        """Add a file to the branch of HEAD, as a push would; the new commit's id."""
        self._commits += 1
        git = ("git", f"--git-dir={self.root / self.name}")
        environ = servers.environment(self.work / "committer") | {
            "GIT_INDEX_FILE": str(self.work / "upstream" / "index"),
            **{f"GIT_{who}_NAME": "A U Thor" for who in ("AUTHOR", "COMMITTER")},
            **{f"GIT_{who}_EMAIL": "author@example.org" for who in ("AUTHOR", "COMMITTER")},
        }

        def told(*words: str, stdin: str = "") -> str:
            ran = subprocess.run(
                (*git, *words), check=True, env=environ, input=stdin, capture_output=True, text=True
            )
            return ran.stdout.strip()

        told("read-tree", "HEAD")
        blob = told("hash-object", "-w", "--stdin", stdin=f"change {self._commits}\n")
        told("update-index", "--add", "--cacheinfo", f"100644,{blob},news-{self._commits}")
        tree = told("write-tree")
        oid = told("commit-tree", tree, "-p", "HEAD", "-m", f"Change {self._commits}")
        told("update-ref", "HEAD", oid)
        return oid

    # --- what comes of it -----------------------------------------------------------------

    def _figures(self, title: str, direct: Run, run: Run, *, goals: bool) -> None:
        jobs = self.effort.crowd
        self.report.about[f"CI jobs: {title}"] = asdict(run)
        name = f"{jobs} CI jobs, {title}"
        against = "without Offramp"
        per_job = direct.upstream / jobs * 1e3
        pairs = (
            ("requests at the upstream", "", direct.arrived.total, run.arrived.total),
            ("bytes sent by the upstream", "kB", _kilobytes(direct), _kilobytes(run)),
            ("upstream's CPU per job", "ms", per_job, run.upstream / jobs * 1e3),
            ("Offramp's CPU per job by the upstream's", "ms", per_job, run.ours / jobs * 1e3),
            ("until all have it", "s", direct.wall, run.wall),
        )
        self.report.figures += [
            Figure(f"{name}: {what}", unit, other, ours, against)
            for what, unit, other, ours in pairs
        ]
        self.report.goals.append(Goal(f"{name}: jobs that failed", run.failed, 0))
        if goals:
            asked = run.arrived.requests
            self.report.goals += [
                Goal(f"{name}: fetches of content", asked.get("fetch", 0), 1),
                Goal(f"{name}: questions for refs", asked.get("ls-refs", 0), 1),
            ]


def _kilobytes(run: Run) -> float:
    return sum(run.arrived.sent.values()) / 1e3


def _start(
    clone: Path, url: str, oid: str, config: Sequence[str], environ: dict[str, str]
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ("git", "-C", clone, *config, "fetch", "--quiet", "--no-tags", "--depth=1", url, oid),
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _has(clone: Path, oid: str) -> bool:
    """Whether a job has its commit, with nothing missing."""
    git = ("git", "-C", str(clone))
    there = subprocess.run((*git, "cat-file", "-e", oid), capture_output=True, check=False)
    whole = subprocess.run((*git, "fsck", "--strict"), capture_output=True, check=False)
    return there.returncode == 0 and whole.returncode == 0


def _arrived(log: Path, start: int) -> Arrived:
    """What the lines from ``start`` (bytes) on tell."""
    requests: Counter[str] = Counter()
    sent: Counter[str] = Counter()
    received: Counter[str] = Counter()
    with log.open("rb") as file:
        file.seek(start)
        for line in file:
            # A compressed body's bytes stand as they are, or as \u00XX.
            said = json.loads(line.decode("latin-1"))
            kind = kind_of(said["path"], said["body"], said["encoding"])
            requests[kind] += 1
            sent[kind] += said["sent"]
            received[kind] += said["received"]
    return Arrived(dict(requests), dict(sent), dict(received))


def kind_of(path: str, body: str, encoding: str) -> str:
    """What a logged request asked for.

    Args:
        path: without the query.
        body: a character a byte; empty if it was too long to be logged.
        encoding: its Content-Encoding.
    """
    if path.endswith("/info/refs"):
        return "info-refs"
    if not path.endswith("/git-upload-pack"):
        return "other"
    if encoding == "gzip":
        with suppress(OSError, EOFError):
            body = gzip.decompress(body.encode("latin-1")).decode("latin-1")
    for word, kind in _COMMANDS:
        if word in body[:200]:
            return "probe" if "filter tree:0" in body else kind
    return "other" if body else "fetch"  # only what names many objects is as long as that
