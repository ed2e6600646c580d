# Law of this file: figures are right, bounded, and the same whichever worker is asked.

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from server import metrics_directory
from server.metrics import ENDED, OTHERS, Metrics
from server.outcome import Outcome

GIT = {"repo": "a", "dialect": "git-v2"}


def figures(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """What is rendered, by name and labels."""
    return read(metrics.render()[0].decode())


def read(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """The samples of a rendered text."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def labels(**values: str) -> frozenset[tuple[str, str]]:
    """Labels as :func:`read` gives them."""
    return frozenset(values.items())


def test_counts() -> None:
    """Everything that is counted is rendered under its published name."""
    metrics = Metrics()
    for _ in range(2):
        metrics.response("a", "git-v2", "fetch", Outcome.HIT)
    metrics.content("a", "git-v2", "inline", 10)
    metrics.content("a", "git-v2", "redirected", 1 << 40)
    metrics.executed("a", "git-v2", "fetch")
    metrics.execution("a", "git-v2", "fetch", 0.3, 0.2)
    metrics.cache_size(5, 6)
    metrics.mirrors(7, 8)
    metrics.asked("github", "refs", "yes", 0.3)
    metrics.asked("github", "refs", "no", 0.3)
    metrics.refused("rate")
    found = figures(metrics)
    fetch = labels(**GIT, command="fetch")
    assert found["offramp_responses_total", fetch | labels(outcome="hit")] == 2
    assert found["offramp_bytes_total", labels(**GIT, path="inline")] == 10
    assert found["offramp_bytes_total", labels(**GIT, path="redirected")] == 1 << 40
    assert found["offramp_executions_total", fetch] == 1
    assert found["offramp_execution_seconds_bucket", fetch | labels(le="0.25")] == 0
    assert found["offramp_execution_seconds_bucket", fetch | labels(le="0.5")] == 1
    assert found["offramp_execution_cpu_seconds_total", fetch] == pytest.approx(0.2)
    assert found["offramp_cache_bytes", frozenset()] == 5
    assert found["offramp_cache_entities", frozenset()] == 6
    assert found["offramp_mirrors", frozenset()] == 7
    assert found["offramp_mirror_bytes", frozenset()] == 8
    assert found["offramp_refused_total", labels(reason="rate")] == 1
    refs = labels(upstream="github", kind="refs")
    assert found["offramp_upstream_requests_total", refs | labels(outcome="yes")] == 1
    assert found["offramp_upstream_requests_total", refs | labels(outcome="no")] == 1
    assert found["offramp_upstream_seconds_bucket", refs | labels(le="0.25")] == 0
    assert found["offramp_upstream_seconds_bucket", refs | labels(le="0.5")] == 2


@pytest.mark.parametrize("outcome", list(Outcome))
def test_outcomes(outcome: Outcome) -> None:
    """Every outcome that a command can have is a label in lower case."""
    metrics = Metrics()
    metrics.response("a", "git-v2", "fetch", outcome)
    text = metrics.render()[0].decode()
    assert f'outcome="{outcome.value}"' in text
    assert outcome.value == outcome.value.lower()


def test_unknown_repositories_share_a_label() -> None:
    """Names that clients made up make no label."""
    metrics = Metrics()
    for _ in range(3):
        metrics.response(None, "git-v2", "info-refs", Outcome.ERROR)
    key = labels(repo="", dialect="git-v2", command="info-refs", outcome="error")
    assert figures(metrics)["offramp_responses_total", key] == 3


def test_registries_are_our_own() -> None:
    """Two instances do not meet in a global registry."""
    one, two = Metrics(), Metrics()
    one.executed("a", "git-v2", "fetch")
    assert not any(name == "offramp_executions_total" for name, _ in figures(two))


def test_content_type() -> None:
    """A Prometheus server is told the text format."""
    assert Metrics().render()[1].startswith("text/plain; version=")


def test_no_created_series() -> None:
    """Counters are not doubled by the times at which they were made."""
    metrics = Metrics()
    metrics.executed("a", "git-v2", "fetch")
    assert b"_created" not in metrics.render()[0]


WORKER = """
import sys
from server.outcome import Outcome
from server.metrics import Metrics
metrics = Metrics(sys.argv[2])
metrics.response("a", "git-v2", "fetch", Outcome.MISS)
metrics.execution("a", "git-v2", "fetch", 0.3, 0.2)
metrics.cache_size(int(sys.argv[1]), 1)
print(flush=True)
sys.stdin.readline()
sys.stdout.write(metrics.render()[0].decode())
"""


REPORTED = """
import sys
from pathlib import Path
from server.metrics import worker_ended
worker_ended(sys.argv[1], Path(sys.argv[2]))
"""


def worker(size: int, name: str) -> subprocess.Popen[str]:
    """A worker that counted one miss and waits for a line before it renders."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(size), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory that workers started from now on share."""
    monkeypatch.setenv(metrics_directory.VARIABLE, "")
    prepared = metrics_directory.prepare(tmp_path / "metrics")
    yield prepared.path
    prepared.remove()


def ended(process: subprocess.Popen[str]) -> str:
    """Let a worker render and end; what it rendered."""
    output, _ = process.communicate("\n", timeout=60)
    assert process.returncode == 0
    return output


def test_any_worker_shows_the_sum(directory: Path) -> None:
    """The figures of all workers are added up, and those of dead ones go on with the next."""
    ended(worker(100, "worker-0"))
    subprocess.run([sys.executable, "-c", REPORTED, "worker-0", str(directory)], check=True)
    second, third = worker(200, "worker-0"), worker(300, "worker-1")
    found = read(ended(second))
    ended(third)
    fetch = labels(**GIT, command="fetch")
    assert found["offramp_responses_total", fetch | labels(outcome="miss")] == 3
    assert found["offramp_execution_seconds_bucket", fetch | labels(le="0.5")] == 3
    assert found["offramp_cache_bytes", frozenset()] in {200, 300}


def test_workers_that_die_leave_no_files(directory: Path) -> None:
    """However often a worker is started again, there are as many files, and nothing is lost."""
    files: set[str] = set()
    for _ in range(3):
        process = worker(100, "worker-0")
        process.kill()
        process.communicate()
        found = {path.name for path in directory.glob("*.db")}
        assert not files or found == files
        files = found
    text = ended(worker(100, "worker-0"))
    fetch = labels(**GIT, command="fetch")
    assert read(text)["offramp_responses_total", fetch | labels(outcome="miss")] == 4


def test_a_dead_worker_says_nothing_of_the_present(directory: Path) -> None:
    """What a worker that is gone said of the cache is forgotten when it is reported gone."""
    ended(worker(100, "worker-0"))
    assert list(directory.glob("gauge_live*_worker-0.db"))
    from server.metrics import worker_ended  # noqa: PLC0415 - as the parent would

    worker_ended("worker-0", directory)
    assert not list(directory.glob("gauge_live*_worker-0.db"))
    assert list(directory.glob("counter_worker-0.db"))


def test_what_killed_servers_left_is_removed(directory: Path) -> None:
    """A directory that nobody holds any more goes; that of a server which runs stays."""
    shared = directory.parent
    left, begun = shared / "4711-killed", shared / "4712-begun"
    old, of_a_running = shared / "999999999", shared / str(os.getpid())
    for each in (left, begun, old, of_a_running):
        each.mkdir()
    (left / "held").touch()
    (left / "counter_worker-0.db").write_bytes(b"old")
    prepared = metrics_directory.prepare(shared)
    assert set(shared.iterdir()) == {directory, of_a_running, prepared.path}
    prepared.remove()
    assert set(shared.iterdir()) == {directory, of_a_running}


def test_a_data_directory_that_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Figures are kept in a temporary directory then, and it is said where."""
    monkeypatch.setenv(metrics_directory.VARIABLE, "")
    (tmp_path / "metrics").write_text("in the way")
    prepared = metrics_directory.prepare(tmp_path / "metrics")
    assert metrics_directory.prepared() == prepared.path
    assert str(prepared.path) in caplog.text
    found = read(ended(worker(100, "worker-0")))
    assert found["offramp_cache_bytes", frozenset()] == 100
    prepared.remove()
    assert not prepared.path.exists()


def test_prepared_too_late(directory: Path) -> None:
    """Figures that would not be shared are an error, not a silent loss."""
    with pytest.raises(RuntimeError, match="before the workers are started"):
        Metrics()


def test_samples() -> None:
    """Samples can be had by their published names, without a text in between."""
    metrics = Metrics()
    metrics.content("a", "git-v2", "inline", 10)
    metrics.cache_size(5, 6)
    labelled = {"repo": "a", "dialect": "git-v2", "path": "inline"}
    found = list(metrics.samples("offramp_bytes_total", "offramp_executions_total"))
    assert found == [("offramp_bytes_total", labelled, 10)]


SAMPLES = """
import sys
from server.metrics import Metrics
from server.outcome import Outcome
metrics = Metrics(sys.argv[1])
metrics.response('a"le": "b", é', "git-v2", "fetch", Outcome.MISS)
for seconds in (0.3, 0.4, 5000.0):
    metrics.execution('a"le": "b", é', "git-v2", "fetch", seconds, 0.2)
metrics.cache_size(1, 1)
for name, labels, value in metrics.samples(
    "offramp_responses_total", "offramp_execution_seconds_count", "offramp_bytes_total"
):
    print(sorted({name: value, **labels}.items(), key=str))
"""


@pytest.mark.usefixtures("directory")
def test_samples_of_several_workers() -> None:
    """They are sums, too, and how many observations there are is told in the same way."""
    for name in ("worker-0", "worker-1"):
        said = subprocess.run(
            [sys.executable, "-c", SAMPLES, name], capture_output=True, text=True, check=True
        )
    both = {"repo": 'a"le": "b", é', "dialect": "git-v2", "command": "fetch"}
    expected = [
        {"offramp_responses_total": 2.0, **both, "outcome": "miss"},
        {"offramp_execution_seconds_count": 6.0, **both},
    ]
    assert said.stdout.splitlines() == [str(sorted(each.items(), key=str)) for each in expected]


def test_observations_of_one_worker() -> None:
    """What the recorder is told of runs that ended is what the histogram has."""
    metrics = Metrics()
    for seconds in (0.3, 5000.0):
        metrics.execution("a", "git-v2", "fetch", seconds, 0.2)
    metrics.execution(None, "git-v0", "fetch", 0.2, 0.2)
    rendered = figures(metrics)
    for name, found, value in metrics.samples(ENDED):
        assert rendered[name, labels(**found)] == value
    assert len(list(metrics.samples(ENDED))) == 2


def test_repositories_with_figures_are_bounded() -> None:
    """Those beyond the bound are counted together, and nobody loses a count."""
    metrics = Metrics(most=10)
    for number in range(1000):
        name = f"r{number}"
        metrics.response(name, "git-v2", "fetch", Outcome.HIT)
        metrics.content(name, "git-v2", "inline", 1)
        metrics.executed(name, "git-v2", "fetch")
        metrics.execution(name, "git-v2", "fetch", 0.3, 0.2)
        metrics.condition.bundle(name, "full", 5.0)
    metrics.response("r0", "git-v2", "fetch", Outcome.HIT)
    found = figures(metrics)
    named = {dict(each).get("repo") for _, each in found}
    assert named == {None, OTHERS, *(f"r{number}" for number in range(10))}
    fetch = {"dialect": "git-v2", "command": "fetch", "outcome": "hit"}
    assert found["offramp_responses_total", labels(repo="r0", **fetch)] == 2
    assert found["offramp_responses_total", labels(repo=OTHERS, **fetch)] == 990
    assert all(len(each) < 50 for each in (metrics._bound_responses, metrics._bound_seconds))


BOUNDED = """
import sys
from server.metrics import Metrics
from server.outcome import Outcome
metrics = Metrics("worker-0", 2)
for name in sys.argv[1:]:
    metrics.response(name, "git-v2", "fetch", Outcome.MISS)
print(*sorted(labels["repo"] for _, labels, _ in metrics.samples("offramp_responses_total")))
"""


@pytest.mark.usefixtures("directory")
def test_the_bound_outlives_a_worker() -> None:
    """One that is started again goes on with the repositories of the one that ended."""
    for names in (("a", "b"), ("c", "b")):
        said = subprocess.run(
            [sys.executable, "-c", BOUNDED, *names], capture_output=True, text=True, check=True
        )
    assert said.stdout == f"{OTHERS} a b\n"
