# Law of this file: the history adds up at every resolution, is bounded, and outlives crashes,
# clocks that jump and damage.

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from server.status import history as module
from server.status.counting import Counters
from server.status.history import DAY, HOUR, KEPT, MINUTE, History, HistoryUnavailable

FETCH = ("a", "git-v2", "fetch")
HITS = ("offramp_responses_total", *FETCH, "hit")
MISSES = ("offramp_responses_total", *FETCH, "miss")
RUNS = ("offramp_execution_seconds_count", *FETCH)
CPU = ("offramp_execution_cpu_seconds_total", *FETCH)
NOON = 1_800_014_400.0  # a multiple of a day, and 12 hours
EVER = 10**12


def hits(history: History, resolution: int) -> Mapping[int, float]:
    """How many hits there were, by time."""
    return {point.at: point.figures["hit"] for point in history.points(resolution, 0, EVER)}


def add(history: History, count: float, at: float, before: Counters | None = None) -> Counters:
    """Record that ``count`` hits were counted by now."""
    now = {HITS: count}
    history.record("g", now, {} if before is None else before, 1.0, at)
    return now


def test_every_resolution_adds_up(tmp_path: Path) -> None:
    """What is counted is in its minute, its hour and its day."""
    history = History(tmp_path)
    before = add(history, 1, NOON)
    before = add(history, 3, NOON + 59, before)
    before = add(history, 7, NOON + 61, before)
    add(history, 15, NOON + HOUR, before)
    start = int(NOON)
    assert hits(history, MINUTE) == {start: 3, start + MINUTE: 4, start + HOUR: 8}
    assert hits(history, HOUR) == {start: 7, start + HOUR: 8}
    assert hits(history, DAY) == {start // DAY * DAY: 15}


def test_nothing_counts_twice(tmp_path: Path) -> None:
    """Who goes on for somebody else begins where that one stopped."""
    add(History(tmp_path), 5, NOON)
    other = History(tmp_path)
    before = other.begin("g", NOON + 1)
    assert before == {HITS: 5}
    add(other, 6, NOON + 1, before)
    assert hits(other, MINUTE) == {int(NOON): 6}


def test_generations_count_apart(tmp_path: Path) -> None:
    """A server that was started anew counts from 0, whatever the one before had counted."""
    history = History(tmp_path)
    add(history, 5, NOON)
    assert history.begin("h", NOON + 1) == {}
    history.record("h", {HITS: 7}, {}, 1.0, NOON + 1)
    assert hits(history, MINUTE) == {int(NOON): 12}


def test_what_ended_is_forgotten(tmp_path: Path) -> None:
    """How far counters were is kept for a day after they were last heard of, and no longer."""
    history = History(tmp_path)
    add(history, 5, NOON)
    history.begin("h", NOON + DAY - 1)
    assert history.begin("g", NOON + DAY - 1) == {HITS: 5}
    history.begin("h", NOON + DAY + 1)
    assert history.begin("g", NOON + DAY + 1) == {}


def test_of_servers_that_end_again_and_again_little_is_kept(tmp_path: Path) -> None:
    """Of many that ended within a day the last count; one that was just heard of is kept."""
    history = History(tmp_path)
    for number in range(50):
        history.record(f"g{number}", {HITS: 1.0}, {}, 1.0, NOON + number)
    now = NOON + 60
    history.begin("new", now)
    assert history.begin("g0", now) == {HITS: 1}
    now += 600
    history.record("runs", {HITS: 1.0}, {}, 1.0, now)
    history.begin("new", now)
    with sqlite3.connect(history.path) as connection:
        left = {each for (each,) in connection.execute("SELECT DISTINCT generation FROM seen")}
    connection.close()
    assert left == {"runs", *(f"g{number}" for number in range(43, 50))}


def test_it_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest points go, of each resolution, and the sums of longer ones keep them."""
    monkeypatch.setattr(module, "KEPT", {MINUTE: 3, HOUR: 2, DAY: 2})
    history = History(tmp_path)
    before: Counters = {}
    for number in range(10):
        before = add(history, number + 1.0, NOON + number * MINUTE, before)
    assert list(hits(history, MINUTE)) == [int(NOON) + n * MINUTE for n in (7, 8, 9)]
    assert sum(hits(history, DAY).values()) == 10


def test_bounds_are_what_is_promised() -> None:
    """Minutes for two days, hours for sixty, days for two years."""
    assert {r: r * kept / DAY for r, kept in KEPT.items()} == {MINUTE: 2, HOUR: 60, DAY: 730}


@pytest.mark.parametrize("jump", [-20 * 365 * DAY, -HOUR, 20 * 365 * DAY])
def test_a_clock_that_jumps_takes_nothing_away(tmp_path: Path, jump: float) -> None:
    """A clock that is wrong for a while adds wrong points, and the others stay."""
    history = History(tmp_path)
    before = add(history, 1, NOON)
    before = add(history, 3, NOON + jump, before)
    before = add(history, 7, NOON + MINUTE, before)
    found = {
        point.at: point.figures["hit"] for point in history.points(MINUTE, NOON, NOON + 2 * MINUTE)
    }
    assert found == {int(NOON): 1, int(NOON) + MINUTE: 4}
    assert sum(hits(history, MINUTE).values()) == 7


# --- what answers are worth ------------------------------------------------------------------


def figure(history: History, name: str) -> float:
    """The sum of all that is kept of a figure."""
    return sum(point.figures[name] for point in history.points(DAY, 0, EVER))


def test_worth_is_the_mean_of_runs(tmp_path: Path) -> None:
    """Each answer is worth what runs of the same question took in the mean, those runs too."""
    history = History(tmp_path)
    now = {HITS: 6.0, MISSES: 2.0, RUNS: 2.0, CPU: 5.0}
    history.record("g", now, {}, 1.0, NOON)
    assert figure(history, "answered") == figure(history, "priced") == 8
    assert figure(history, "worth") == pytest.approx(8 * 2.5)
    history.record("g", {**now, HITS: 7.0}, now, 1.0, NOON + 1)
    assert figure(history, "worth") == pytest.approx(9 * 2.5)


def test_worth_by_another_repository(tmp_path: Path) -> None:
    """Where nothing ran yet, the runs of other repositories say what an answer is worth."""
    history = History(tmp_path)
    other = ("offramp_responses_total", "b", "git-v2", "fetch", "redirect")
    history.record("g", {RUNS: 2.0, CPU: 5.0}, {}, 1.0, NOON)
    history.record("g", {RUNS: 2.0, CPU: 5.0, other: 2.0}, {RUNS: 2.0, CPU: 5.0}, 1.0, NOON)
    assert figure(history, "worth") == pytest.approx(5.0)


def test_worth_that_nobody_knows(tmp_path: Path) -> None:
    """An answer of a kind that never ran counts as one whose worth is not known."""
    history = History(tmp_path)
    refs = ("offramp_responses_total", "a", "git-v2", "ls-refs", "hit")
    history.record("g", {HITS: 6.0, refs: 9.0}, {}, 1.0, NOON)
    assert (figure(history, "answered"), figure(history, "priced")) == (6, 0)
    assert figure(history, "worth") == 0


def test_the_mean_follows_the_present(tmp_path: Path) -> None:
    """Of very many runs, those of long ago weigh less."""
    history = History(tmp_path)
    now: Counters = {}
    for number in range(1, 9):
        before, now = now, {RUNS: 1000.0 * number, CPU: 1000.0 * number}
        history.record("g", now, before, 1.0, NOON)
    before, now = now, {RUNS: 9000.0, CPU: 11000.0, HITS: 1.0}
    history.record("g", now, before, 1.0, NOON)
    assert figure(history, "worth") > 1.5  # the mean of all is 1.22


# --- damage ----------------------------------------------------------------------------------


def damage(path: Path, how: str) -> None:
    """Make a file useless."""
    match how:
        case "text":
            path.write_bytes(b"this is no database" * 1000)
        case "middle":
            content = bytearray(path.read_bytes())
            content[5000:9000] = b"\xff" * 4000
            path.write_bytes(content)
        case "version":
            with sqlite3.connect(path) as connection:
                connection.execute("PRAGMA user_version = 99")
            connection.close()


@pytest.mark.parametrize("how", ["text", "middle", "version"])
def test_a_damaged_file_is_moved_aside(tmp_path: Path, how: str) -> None:
    """It is kept under another name, and the history begins anew."""
    add(History(tmp_path), 5, NOON)
    with sqlite3.connect(tmp_path / "history.sqlite") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    damage(tmp_path / "history.sqlite", how)
    damaged = (tmp_path / "history.sqlite").read_bytes()
    history = History(tmp_path)
    assert hits(history, MINUTE) == {}
    add(history, 7, NOON)
    assert hits(history, MINUTE) == {int(NOON): 7}
    assert (tmp_path / "history.damaged").read_bytes() == damaged


def test_a_new_file_knows_how_far_counters_are(tmp_path: Path) -> None:
    """Who counted before the damage goes on, and whoever follows does not count again."""
    history = History(tmp_path)
    before = add(history, 5, NOON)
    damage(tmp_path / "history.sqlite", "text")
    history.record("g", {HITS: 6.0, MISSES: 3.0}, {**before, MISSES: 3.0}, 1.0, NOON)
    assert hits(history, MINUTE) == {int(NOON): 1}
    assert history.begin("g", NOON) == {HITS: 6, MISSES: 3}


def test_a_file_that_cannot_be_made(tmp_path: Path) -> None:
    """What stands in the way is told, and nothing is moved."""
    (tmp_path / "status").write_text("a file")
    with pytest.raises(HistoryUnavailable, match=r"history\.sqlite"):
        add(History(tmp_path / "status"), 1, NOON)
    assert (tmp_path / "status").read_text() == "a file"


PROCESS = """
import sys
from pathlib import Path
from server.status.history import History
history, name = History(Path(sys.argv[1])), sys.argv[2]
series = ("offramp_responses_total", "a", "git-v2", "fetch", "hit")
before = {}
for number in range(1, 41):
    now = {series: float(number)}
    history.record(name, now, before, 1.0, 1_800_014_400.0 + number)
    before = now
"""


def test_two_servers_add_up(tmp_path: Path) -> None:
    """Servers that share a data directory write at the same time, and nothing is lost."""
    command = (sys.executable, "-c", PROCESS, str(tmp_path))
    both = [subprocess.Popen((*command, name)) for name in ("one", "two")]
    assert [process.wait(60) for process in both] == [0, 0]
    assert sum(hits(History(tmp_path), MINUTE).values()) == 80


def test_it_is_nobody_elses(tmp_path: Path) -> None:
    """Names of repositories that may be private are not there for other users of the machine."""
    add(History(tmp_path / "status"), 1, NOON)
    assert (tmp_path / "status").stat().st_mode & 0o777 == 0o700
