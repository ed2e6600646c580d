# Law of this file: figures of the condition that this machine's server is in: what it keeps, how
# old that is, and what it waits for. Labels are bounded, and a state of now is that of any worker.

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from indexer.report import Outcome as Indexed
from server.outcome import Outcome

Way = Literal[Outcome.MISS, Outcome.FOLLOW]
Mode = Literal["livemostrecent", "livemax"]

# From a fetch of a few commits to the first clone of a very large repository.
_WAITED: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Condition:
    """Figures of stores, bundles, index, cache and disk, and of waiting for runs.

    Times are in seconds, and moments seconds since the epoch, 0 for one that is not known: a
    series cannot be taken back where several processes share their figures. For the same reason
    only of ``most`` repositories it is said how old their bundles are.
    """

    def __init__(self, registry: CollectorRegistry, most: int = 2000) -> None:
        def gauge(name: str, what: str, *labels: str, mode: Mode = "livemostrecent") -> Gauge:
            return Gauge(name, what, labels, registry=registry, multiprocess_mode=mode)

        self._waits = Histogram(
            "offramp_flight_wait_seconds",
            "How long answers waited for a run, their own or one that they followed.",
            ("outcome",),
            buckets=_WAITED,
            registry=registry,
        )
        self._store_errors = Counter(
            "offramp_store_errors",
            "Calls of a store that failed.",
            ("store", "operation"),
            registry=registry,
        )
        # The newest that any worker has read.
        self._bundles = gauge(
            "offramp_bundle_made_timestamp_seconds",
            "When the bundle of a kind was made; 0: there is none, or nobody asked lately.",
            "repo",
            "kind",
            mode="livemax",
        )
        self._index_ended = gauge(
            "offramp_index_ended_timestamp_seconds", "When the last run of the indexer ended."
        )
        self._index_seconds = gauge(
            "offramp_index_run_seconds", "How long the last run of the indexer took."
        )
        self._index_results = gauge(
            "offramp_index_results", "What the last run of the indexer came to.", "outcome"
        )
        self._changed = gauge(
            "offramp_changed_timestamp_seconds",
            "When a repository was last changed through this machine.",
        )
        self._cache_limit = gauge(
            "offramp_cache_limit_bytes", "Size at which the response cache evicts."
        )
        self._evicted = Counter(
            "offramp_cache_evicted_bytes",
            "Bytes that were evicted from the response cache.",
            registry=registry,
        )
        self._free = gauge(
            "offramp_disk_free_bytes", "Space that is left on the disk of a place.", "place"
        )
        self._disk = gauge("offramp_disk_bytes", "Size of the disk of a place.", "place")
        worker_restarts(registry)
        self._most = most
        self._bundled: set[str] = set()
        # labels() validates, locks and formats each time; this does so once.
        self._bound_waits: dict[Way, Histogram] = {}

    def waited(self, outcome: Way, seconds: float) -> None:
        """Say how long an answer waited for a run until it could begin."""
        bound = self._bound_waits.get(outcome)
        if bound is None:
            bound = self._bound_waits[outcome] = self._waits.labels(outcome)
        bound.observe(seconds)

    def store_failed(self, store: str) -> Callable[[str], None]:
        """What is called, with the name of the operation, when a call of ``store`` failed."""

        def failed(operation: str) -> None:
            self._store_errors.labels(store, operation).inc()

        return failed

    def bundle(self, repository: str, kind: str, created: float) -> None:
        """Say when the bundle of a kind was made; 0.0 if that is not known any more."""
        if repository not in self._bundled:
            if len(self._bundled) >= self._most:
                return
            self._bundled.add(repository)
        self._bundles.labels(repository, kind).set(created)

    def indexed(self, ended: float, seconds: float, outcomes: Mapping[str, int]) -> None:
        """Say what the last run of the indexer did.

        Args:
            ended: when.
            seconds: how long it took.
            outcomes: how many bundles and indexes came to which; see
                :class:`indexer.report.Outcome`.
        """
        self._index_ended.set(ended)
        self._index_seconds.set(seconds)
        for outcome in Indexed:
            self._index_results.labels(outcome.value).set(outcomes.get(outcome.value, 0))

    def changed(self, when: float) -> None:
        """Say when a repository was last changed through this machine."""
        self._changed.set(when)

    def cache_limit(self, size: int) -> None:
        """Say at which size, in bytes, the cache evicts."""
        self._cache_limit.set(size)

    def evicted(self, size: int) -> None:
        """Count ``size`` bytes that were evicted from the cache."""
        self._evicted.inc(size)

    def disk(self, place: str, free: int, size: int) -> None:
        """Say how many bytes of a disk are left for us, and how large it is."""
        self._free.labels(place).set(free)
        self._disk.labels(place).set(size)


def worker_restarts(registry: CollectorRegistry) -> Counter:
    """Workers that were started again because one ended. Their parent counts them."""
    return Counter(
        "offramp_worker_restarts",
        "Workers that were started again because one had ended.",
        registry=registry,
    )
