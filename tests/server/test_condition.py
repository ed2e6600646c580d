# Law of this file: the state of this machine's server is told in figures that are right in one
# worker and in several.

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from server import metrics_directory
from server.metrics import Metrics
from server.outcome import Outcome
from tests.server.test_metrics import figures, labels, read

NEITHER = frozenset[tuple[str, str]]()


def test_condition() -> None:
    """Everything that is told is rendered under its published name."""
    metrics = Metrics()
    told = metrics.condition
    told.waited(Outcome.MISS, 0.3)
    told.waited(Outcome.MISS, 0.3)
    told.waited(Outcome.FOLLOW, 2.0)
    told.store_failed("main")("put")
    told.bundle("a", "full", 1000.0)
    told.indexed(2000.0, 7.0, {"made": 3, "failed": 1})
    told.changed(1500.0)
    told.cache_limit(50)
    told.evicted(4)
    told.evicted(5)
    told.disk("data", 30, 100)
    found = figures(metrics)
    miss, follow = labels(outcome="miss"), labels(outcome="follow")
    assert found["offramp_flight_wait_seconds_bucket", miss | labels(le="0.25")] == 0
    assert found["offramp_flight_wait_seconds_bucket", miss | labels(le="0.5")] == 2
    assert found["offramp_flight_wait_seconds_sum", follow] == 2
    assert found["offramp_store_errors_total", labels(store="main", operation="put")] == 1
    bundle = labels(repo="a", kind="full")
    assert found["offramp_bundle_made_timestamp_seconds", bundle] == 1000
    assert found["offramp_index_ended_timestamp_seconds", NEITHER] == 2000
    assert found["offramp_index_run_seconds", NEITHER] == 7
    assert found["offramp_index_results", labels(outcome="made")] == 3
    assert found["offramp_index_results", labels(outcome="failed")] == 1
    assert found["offramp_index_results", labels(outcome="up to date")] == 0
    assert found["offramp_changed_timestamp_seconds", NEITHER] == 1500
    assert found["offramp_cache_limit_bytes", NEITHER] == 50
    assert found["offramp_cache_evicted_bytes_total", NEITHER] == 9
    assert found["offramp_disk_free_bytes", labels(place="data")] == 30
    assert found["offramp_disk_bytes", labels(place="data")] == 100
    assert found["offramp_worker_restarts_total", NEITHER] == 0


def test_the_last_run_replaces_the_one_before() -> None:
    """What an earlier run came to is not shown any more."""
    metrics = Metrics()
    metrics.condition.indexed(1.0, 1.0, {"failed": 2})
    metrics.condition.indexed(2.0, 1.0, {"made": 1})
    found = figures(metrics)
    assert found["offramp_index_results", labels(outcome="failed")] == 0
    assert found["offramp_index_results", labels(outcome="made")] == 1


WORKER = """
import sys
from server.metrics import Metrics
metrics = Metrics(sys.argv[2])
metrics.condition.bundle("a", "full", float(sys.argv[1]))
metrics.condition.store_failed("main")("put")
print(flush=True)
sys.stdin.readline()
sys.stdout.write(metrics.render()[0].decode())
"""
PARENT = """
from prometheus_client import CollectorRegistry
from server.condition import worker_restarts
worker_restarts(CollectorRegistry()).inc()
"""


def test_workers_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Failures are summed; of what is known of now, the newest counts; the parent counts, too."""
    monkeypatch.setenv(metrics_directory.VARIABLE, "")
    prepared = metrics_directory.prepare(tmp_path / "metrics")
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, created, f"worker-{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number, created in enumerate(("1000", "0"))  # the other one was not asked for it lately
    ]
    for worker in workers:
        assert worker.stdout is not None
        worker.stdout.readline()
    subprocess.run([sys.executable, "-c", PARENT], check=True)
    found = read(workers[1].communicate("\n")[0])
    workers[0].communicate("\n")
    bundle = labels(repo="a", kind="full")
    assert found["offramp_bundle_made_timestamp_seconds", bundle] == 1000
    assert found["offramp_store_errors_total", labels(store="main", operation="put")] == 2
    assert found["offramp_worker_restarts_total", NEITHER] == 1
    prepared.remove()
