# Law of this file: a server's counters go into the history once, whichever of its workers does it.

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from server import metrics_directory
from server.metrics import Metrics
from server.outcome import Outcome
from server.status.history import MINUTE, History
from server.status.recording import Recorder

NOON = 1_800_014_400.0
EVER = 10**12


def hits(directory: Path) -> float:
    """How many hits the history has."""
    points = History(directory).points(MINUTE, 0, EVER)
    return sum(point.figures["hit"] for point in points)


def hit(metrics: Metrics) -> None:
    """Count a hit."""
    metrics.response("a", "git-v2", "fetch", Outcome.HIT)


async def test_what_is_counted_is_recorded(tmp_path: Path) -> None:
    """Each count comes once, however often it is recorded, and the last when all ends."""
    metrics = Metrics()
    recorder = Recorder(metrics, History(tmp_path), lambda: NOON)
    hit(metrics)
    for _ in range(3):
        await recorder.record()
    assert hits(tmp_path) == 1
    hit(metrics)
    recorder.close()
    assert hits(tmp_path) == 2


async def test_a_server_that_is_started_again(tmp_path: Path) -> None:
    """A server counts from 0 again, and what it counts is added to what there was."""
    for _ in range(2):
        metrics = Metrics()
        hit(metrics)
        Recorder(metrics, History(tmp_path), lambda: NOON).close()
    assert hits(tmp_path) == 2


async def test_how_long_it_was_watched(tmp_path: Path) -> None:
    """A machine that slept was not watched meanwhile; a clock that stands still does no harm."""
    steady = iter((100.0, 110.0, 110.0, 90_000.0))
    recorder = Recorder(Metrics(), History(tmp_path), lambda: NOON, lambda: next(steady))
    for _ in range(3):
        await recorder.record()
    (point,) = History(tmp_path).points(MINUTE, 0, EVER)
    assert point.figures["watched"] == 10 + 0 + 60


async def test_a_disk_that_refuses(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be written is said once, and written when it can be."""
    directory = tmp_path / "status"
    directory.write_text("in the way")
    metrics = Metrics()
    recorder = Recorder(metrics, History(directory), lambda: NOON)
    hit(metrics)
    await recorder.record()
    await recorder.record()
    assert len(caplog.records) == 1
    assert "nothing can be added to the history" in caplog.text
    directory.unlink()
    await recorder.record()
    assert hits(directory) == 1


WORKER = """
import sys
from pathlib import Path
from server.metrics import Metrics
from server.outcome import Outcome
from server.status.history import History
from server.status.recording import Recorder
metrics = Metrics(sys.argv[2])
recorder = Recorder(metrics, History(Path(sys.argv[1])))
for line in sys.stdin:
    if line == "count\\n":
        metrics.response("a", "git-v2", "fetch", Outcome.HIT)
    else:
        recorder.record_now()
    print("done", flush=True)
"""


class Worker:
    """A worker process, which is told what to do."""

    def __init__(self, directory: Path, name: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(directory), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def do(self, what: str) -> None:
        """Have it count, or record; waits until it has."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"


def test_one_of_several_workers_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It records the sum of all; when it is killed, another goes on, and nothing counts twice."""
    monkeypatch.setenv(metrics_directory.VARIABLE, "")
    prepared = metrics_directory.prepare(tmp_path / "metrics")
    status = tmp_path / "status"
    first, second = Worker(status, "a"), Worker(status, "b")
    try:
        first.do("count")
        second.do("count")
        first.do("record")
        assert hits(status) == 2
        second.do("count")
        second.do("record")
        assert hits(status) == 2  # that is not for it to do
        os.kill(first.process.pid, 9)
        first.process.wait()
        second.do("record")
        assert hits(status) == 3
    finally:
        for worker in (first, second):
            worker.process.kill()
            worker.process.communicate()
        prepared.remove()
