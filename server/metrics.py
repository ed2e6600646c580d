# Law of this file: a figure costs a dict look-up and an addition, its labels are bounded, and any
# worker shows the sum of all.

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    values,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from redirects.decision import Told
from redirects.health import State
from redirects.sessions import Vcs
from server import metrics_directory
from server.condition import Condition
from server.figures_file import keep_in_files, read_counts, values_of
from server.outcome import Outcome, Question, Reply
from server.sparing import Sparing

Way = Literal["inline", "redirected"]

OTHERS: Final = "-/other"
"""The label of repositories beyond the bound; none is served below ``/-/``."""

# From an incremental fetch of a small repository to the first clone of a very large one.
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


ENDED: Final = "offramp_execution_seconds_count"


class Metrics:
    """The figures that this server keeps.

    ``repo`` is the served name of a repository that exists, or None: names that clients made up
    must not become labels, or anyone could fill the memory. An upstream may have one repository by
    many names, so their number is bounded, too. ``dialect`` and ``command`` come from our own
    tables for the same reason.

    ``worker`` names this process among the workers of a server; one that is started again has the
    name of that which ended, and goes on counting where it stopped. ``most`` repositories have
    figures of their own.

    Attributes:
        condition: figures of the state that this server is in.
        rendered: what :meth:`render` gives, for many who ask.
    """

    def __init__(self, worker: str = "worker", most: int = 2000) -> None:
        self._most = most
        self._named: set[str] = set()
        self._directory = metrics_directory.prepared()
        if self._directory is not None:
            if values.ValueClass is values.MutexValue:
                raise RuntimeError(
                    "prometheus_client was imported before server.metrics_directory.prepare was"
                    " called; call it in the parent, before the workers are started"
                )
            keep_in_files(worker)
            self._named |= values_of(self._directory / f"counter_{worker}.db", "repo")
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._responses = Counter(
            "offramp_responses",
            "Answers to commands of clients.",
            ("repo", "dialect", "command", "outcome"),
            registry=self._registry,
        )
        self._bytes = Counter(
            "offramp_bytes",
            "Bytes of content that clients were given, sent by us or named by a location.",
            ("repo", "dialect", "path"),
            registry=self._registry,
        )
        self._executions = Counter(
            "offramp_executions",
            "Runs of programs that computed an answer.",
            ("repo", "dialect", "command"),
            registry=self._registry,
        )
        self._decisions = Counter(
            "offramp_decisions",
            "What was decided of content that clients ask for: a redirect, or why none.",
            ("outcome", "target", "reason"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "offramp_execution_seconds",
            "How long these programs ran.",
            ("repo", "dialect", "command"),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._cpu = Counter(
            "offramp_execution_cpu_seconds",
            "Processor time of these runs: of their threads, and of the programs that they ran.",
            ("repo", "dialect", "command"),
            registry=self._registry,
        )
        self._cache_bytes = Gauge(
            "offramp_cache_bytes",
            "Size of the response cache on disk.",
            registry=self._registry,
            multiprocess_mode="livemostrecent",
        )
        self._cache_entities = Gauge(
            "offramp_cache_entities",
            "Entities in the response cache.",
            registry=self._registry,
            multiprocess_mode="livemostrecent",
        )
        self._mirrors = Gauge(
            "offramp_mirrors",
            "Mirrors of upstream repositories on this machine.",
            registry=self._registry,
            multiprocess_mode="livemostrecent",
        )
        self._mirror_bytes = Gauge(
            "offramp_mirror_bytes",
            "Size of these mirrors on disk.",
            registry=self._registry,
            multiprocess_mode="livemostrecent",
        )
        self._asked = Counter(
            "offramp_upstream_requests",
            "What upstreams were asked, and how that ended.",
            ("upstream", "kind", "outcome"),
            registry=self._registry,
        )
        self._asked_seconds = Histogram(
            "offramp_upstream_seconds",
            "How long upstreams took to answer.",
            ("upstream", "kind"),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._targets = Gauge(
            "offramp_target_state",
            "1 for what is thought of a target: up, suspect, down or half-open.",
            ("target", "state"),
            registry=self._registry,
            multiprocess_mode="livemax",
        )
        self._asked_again = Counter(
            "offramp_asked_again",
            "Clients that asked the same again, soon after they were sent to a target.",
            ("target",),
            registry=self._registry,
        )
        self._sessions = Counter(
            "offramp_sessions",
            "What was decided of whole sessions: a redirect to a mirror, or why they stay.",
            ("dialect", "outcome", "mirror", "reason"),
            registry=self._registry,
        )
        self._session_mirrors = Gauge(
            "offramp_session_mirror_state",
            "1 for what is thought of a mirror of sessions: up, suspect, down or half-open.",
            ("mirror", "state"),
            registry=self._registry,
            multiprocess_mode="livemax",
        )
        self._refused = Counter(
            "offramp_refused",
            "Requests that were refused because there was too much of something.",
            ("reason",),
            registry=self._registry,
        )
        self.condition = Condition(self._registry, most)
        self.rendered = Sparing(self.render)
        # labels() validates, locks and formats each time; these do so once.
        self._bound_responses: dict[tuple[str, str, str, Outcome], Counter] = {}
        self._bound_bytes: dict[tuple[str, str, Way], Counter] = {}
        self._bound_executions: dict[tuple[str, str, str], Counter] = {}
        self._bound_decisions: dict[Told, Counter] = {}
        self._bound_sessions: dict[tuple[str, str, str, str], Counter] = {}
        self._bound_seconds: dict[tuple[str, str, str], Histogram] = {}
        self._ended: dict[tuple[str, str, str], int] = {}
        self._bound_cpu: dict[tuple[str, str, str], Counter] = {}
        self._bound_asked: dict[tuple[str, Question, Reply], Counter] = {}
        self._bound_asked_seconds: dict[tuple[str, Question], Histogram] = {}

    def _name(self, repo: str | None) -> str:
        """The label of a repository."""
        if repo is None:
            return ""
        if repo in self._named:
            return repo
        if len(self._named) >= self._most:
            return OTHERS
        self._named.add(repo)
        return repo

    def response(self, repo: str | None, dialect: str, command: str, outcome: Outcome) -> None:
        """Count one answer."""
        repo = self._name(repo)
        key = (repo, dialect, command, outcome)
        bound = self._bound_responses.get(key)
        if bound is None:
            bound = self._responses.labels(repo, dialect, command, outcome)
            self._bound_responses[key] = bound
        bound.inc()

    def content(self, repo: str | None, dialect: str, way: Way, count: int) -> None:
        """Count ``count`` bytes of content, sent inline or named by a location."""
        repo = self._name(repo)
        key = (repo, dialect, way)
        bound = self._bound_bytes.get(key)
        if bound is None:
            bound = self._bytes.labels(repo, dialect, way)
            self._bound_bytes[key] = bound
        bound.inc(count)

    def decided(self, told: Told) -> None:
        """Count a decision that was carried out: what was chosen, or why nothing was."""
        bound = self._bound_decisions.get(told)
        if bound is None:
            bound = self._bound_decisions[told] = self._decisions.labels(*told)
        bound.inc()

    def executed(self, repo: str | None, dialect: str, command: str) -> None:
        """Count one run of a program, as it begins."""
        repo = self._name(repo)
        key = (repo, dialect, command)
        bound = self._bound_executions.get(key)
        if bound is None:
            bound = self._executions.labels(repo, dialect, command)
            self._bound_executions[key] = bound
        bound.inc()

    def execution(
        self, repo: str | None, dialect: str, command: str, seconds: float, cpu: float
    ) -> None:
        """Say how long a run took, and the processor time that it cost, as it ends."""
        repo = self._name(repo)
        key = (repo, dialect, command)
        bound = self._bound_seconds.get(key)
        if bound is None:
            bound = self._seconds.labels(repo, dialect, command)
            self._bound_seconds[key] = bound
        bound.observe(seconds)
        spent = self._bound_cpu.get(key)
        if spent is None:
            spent = self._bound_cpu[key] = self._cpu.labels(repo, dialect, command)
        spent.inc(cpu)
        self._ended[key] = self._ended.get(key, 0) + 1

    def cache_size(self, size: int, entities: int) -> None:
        """Say how large the cache is now: ``size`` in bytes, and how many entities."""
        self._cache_bytes.set(size)
        self._cache_entities.set(entities)

    def mirrors(self, count: int, size: int) -> None:
        """Say how many mirrors there are now, and their ``size`` together in bytes."""
        self._mirrors.set(count)
        self._mirror_bytes.set(size)

    def asked(self, upstream: str, question: Question, reply: Reply, seconds: float) -> None:
        """Count one question to an upstream, and how long it took.

        ``upstream`` is its path in the settings: which repository it was about, and who asked, are
        nobody's business who only sees figures.
        """
        key = (upstream, question, reply)
        bound = self._bound_asked.get(key)
        if bound is None:
            bound = self._asked.labels(upstream, question, reply)
            self._bound_asked[key] = bound
        bound.inc()
        timed = self._bound_asked_seconds.get((upstream, question))
        if timed is None:
            timed = self._asked_seconds.labels(upstream, question)
            self._bound_asked_seconds[upstream, question] = timed
        timed.observe(seconds)

    def target(self, name: str, state: State) -> None:
        """Say what is thought of a target now."""
        for each in State:
            self._targets.labels(name, each.value).set(each is state)

    def session(self, vcs: Vcs, decision: Told) -> None:
        """Count a decision on a whole session: where it moved, or why it stays."""
        key = (vcs, *decision)
        bound = self._bound_sessions.get(key)
        if bound is None:
            bound = self._bound_sessions[key] = self._sessions.labels(*key)
        bound.inc()

    def session_mirror(self, name: str, state: State) -> None:
        """Say what is thought of a mirror of sessions now."""
        for each in State:
            self._session_mirrors.labels(name, each.value).set(each is state)

    def asked_again(self, target: str) -> None:
        """Count a client that is answered inline, since it did not get its content there."""
        self._asked_again.labels(target).inc()

    def refused(self, reason: str) -> None:
        """Count a request that was refused for what there was too much of."""
        self._refused.labels(reason).inc()

    def render(self) -> tuple[bytes, str]:
        """The figures of all workers in Prometheus' text format, and its Content-Type."""
        return generate_latest(self._together()), CONTENT_TYPE_LATEST

    def samples(self, *names: str) -> Iterator[tuple[str, Mapping[str, str], float]]:
        """Of the samples so named (``offramp_bytes_total``): name, labels, sum of all workers.

        Counters, and :data:`ENDED`. It costs much less than all figures do.
        """
        if self._directory is not None:
            yield from read_counts(self._directory, names)
            return
        if ENDED in names:
            # A histogram would make a sample for each bucket, nearly all that there are.
            for (repo, dialect, command), count in self._ended.copy().items():
                yield ENDED, {"repo": repo, "dialect": dialect, "command": command}, count
        counters = [name for name in names if name != ENDED]
        for metric in self._registry.restricted_registry(counters).collect():
            for sample in metric.samples:
                yield sample.name, sample.labels, sample.value

    def _together(self) -> CollectorRegistry:
        if self._directory is None:
            return self._registry
        together = CollectorRegistry()
        MultiProcessCollector(together, str(self._directory))  # type: ignore[no-untyped-call]
        return together


def worker_ended(worker: str, directory: Path) -> None:
    """Tell the figures in ``directory`` that a worker is gone.

    What it counted stays counted; what it said of the present is forgotten.
    """
    mark_process_dead(worker, str(directory))  # type: ignore[no-untyped-call]
