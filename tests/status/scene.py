# Law of this file: an example to look at: real repositories with real bundles, and a made-up past,
# the same each time.

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

from server.status.history import History
from server.status.progress import STATUS
from server.status.troubles import Trouble, Troubles

_ENVIRON = {"GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z"}


def repository(path: Path, size: int, seed: int = 1) -> None:
    """A bare repository with a commit of ``size`` bytes of noise."""
    work = path.with_name(f".{path.name}.work")
    path.parent.mkdir(parents=True, exist_ok=True)
    git("init", "-q", "-b", "main", str(work))
    (work / "noise").write_bytes(random.Random(seed).randbytes(size))
    git("-C", str(work), "add", ".")
    git("-C", str(work), "commit", "-qm", "made")
    git("clone", "-q", "--bare", str(work), str(path))
    subprocess.run(["rm", "-r", str(work)], check=True)


def git(*args: str) -> None:
    """Run git; it must end well."""
    who = ("-c", "user.name=Example", "-c", "user.email=example@example.org")
    subprocess.run(["git", *who, *args], check=True, capture_output=True)


def week(data: Path, now: float | None = None, step: int = 1800) -> None:
    """A week of traffic: days that are busier than nights, and a target that was down for a while.

    Args:
        data: the data directory.
        now: when it ends, in seconds since the epoch.
        step: seconds between two points.
    """
    now = time.time() if now is None else now
    history = History(data / STATUS)
    chance = random.Random(7)
    counters: dict[tuple[str, ...], float] = {}

    def add(by: float, *series: str) -> None:
        counters[series] = counters.get(series, 0.0) + by

    question = ("group/project.git", "git-v2", "fetch")
    before: dict[tuple[str, ...], float] = {}
    for number in range(7 * 86400 // step, 0, -1):
        at = now - (number - 1) * step - 60
        hour = at % 86400 / 3600
        busy = 12 + 50 * max(0.0, 1 - abs(hour - 13) / 7) * chance.uniform(0.7, 1.2)
        down = 0.5 * 86400 < now - at < 0.54 * 86400
        miss = round(busy * 0.04) + 1
        elsewhere = 0.12 if down else 0.86
        shares = {"redirect": elsewhere, "hit": 0.94 - elsewhere, "follow": 0.06}
        for outcome, share in shares.items():
            add(round(busy * share), "offramp_responses_total", *question, outcome)
        add(miss, "offramp_responses_total", *question, "miss")
        if chance.random() < 0.15:
            add(1, "offramp_responses_total", *question, "error")
        for name in ("offramp_executions_total", "offramp_execution_seconds_count"):
            add(miss, name, *question)
        add(miss * chance.uniform(2.0, 3.2), "offramp_execution_cpu_seconds_total", *question)
        size = 84 << 20
        add(busy * elsewhere * size, "offramp_bytes_total", *question[:2], "redirected")
        add(busy * (1 - elsewhere) * size / 3, "offramp_bytes_total", *question[:2], "inline")
        history.record("example", counters, before, step, at)
        before = dict(counters)


def troubles(data: Path, now: float | None = None) -> None:
    """Warnings of half a day ago."""
    now = time.time() if now is None else now
    kept = Troubles(data / STATUS)
    said = (
        (46_800, "warning", "target cdn is down, after 93211.4 s of up: no answer within 4 s"),
        (43_300, "warning", "target cdn is up, after 3500.2 s of down: a probe came back"),
    )
    for ago, level, message in said:
        kept.add(
            Trouble(
                at=now - ago, level=level, logger="offramp.health", process=4711, message=message
            )
        )
