# Law of this file: how far an index run is can be seen by others, and only while it runs.

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from indexer.report import Outcome, Silent
from server.indexing import index_all
from server.settings import load
from server.status import progress as module
from server.status.progress import STATUS, Last, last_run, remember, running, told
from tests.status.scene import repository


def test_a_run_is_seen_while_it_runs(tmp_path: Path) -> None:
    """Others see its repository and step; when it has ended, nothing."""
    with told(tmp_path, Silent()) as progress:
        (step,) = running(tmp_path)
        assert (step.repository, step.total) == ("", None)
        progress.start("group/a.git", "full: writing objects", 100)
        (step,) = running(tmp_path)
        assert (step.repository, step.step) == ("group/a.git", "full: writing objects")
        assert (step.done, step.total) == (0, 100)
    assert running(tmp_path) == ()
    assert list(tmp_path.rglob("*.json")) == []


def test_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects that are done add up, and a shorter word leaves nothing of a longer one."""
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0.0)
    with told(tmp_path, Silent()) as progress:
        progress.start("a", "a step with a long name", 100)
        progress.advance(30)
        progress.advance(12)
        assert [step.done for step in running(tmp_path)] == [42]
        progress.done()
        progress.start("\udcff", "b", None)
        (step,) = running(tmp_path)
        assert (step.repository, step.step, step.done) == ("\\udcff", "b", 0)


PROCESS = """
import os, sys
from pathlib import Path
from indexer.report import Silent
from server.status.progress import told
with told(Path(sys.argv[1]), Silent()) as progress:
    progress.start("a.git", "full: counting objects", None)
    print("running", flush=True)
    sys.stdin.read()
"""


def test_a_run_of_another_process_that_is_killed(tmp_path: Path) -> None:
    """It is seen while that process lives, and what it left is removed by who looks."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"running\n"
    assert [step.repository for step in running(tmp_path)] == ["a.git"]
    process.kill()
    process.communicate()
    assert list(tmp_path.rglob("*.json")) != []
    assert running(tmp_path) == ()
    assert list(tmp_path.rglob("*.json")) == []


def test_nobody_can_be_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where it cannot be written, a run goes on all the same."""
    caplog.set_level("INFO")
    (tmp_path / "status").write_text("in the way")
    silent = Silent()
    with told(tmp_path / "status", silent) as progress:
        assert progress is silent
    remember(tmp_path / "status", Last(ended=1, seconds=1, outcomes={}, failures=()))
    assert running(tmp_path / "status") == ()
    assert last_run(tmp_path / "status") is None
    assert len(caplog.records) == 2


async def test_what_a_run_did(tmp_path: Path) -> None:
    """A run of the index leaves behind what became of everything, and what failed."""
    root, data = tmp_path / "repos", tmp_path / "data"
    repository(root / "good.git", 1000)
    (root / "bad.git/objects").mkdir(parents=True)
    (root / "bad.git/refs").mkdir()
    (root / "bad.git/HEAD").write_text("ref: refs/heads/main\n")
    (root / "bad.git/config").write_text("this is no configuration")
    await index_all(load(None, root=root, data=data), Silent(), gc=False)
    last = last_run(data / STATUS)
    assert last is not None
    assert last.outcomes == {Outcome.MADE: 2, Outcome.FAILED: 2}
    assert {name for name, _, _ in last.failures} == {"bad.git"}
    assert "config" in last.failures[0][2]
    assert running(data / STATUS) == ()
