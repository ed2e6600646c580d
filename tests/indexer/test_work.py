# Law of this file: two runs never share a directory, and no killed run keeps one for ever.

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from indexer.work import Busy, work_directory


def directories(work: Path) -> list[Path]:
    """Work directories that are there."""
    return [path for path in work.iterdir() if path.is_dir()]


def test_a_directory_lives_as_long_as_its_run(tmp_path: Path) -> None:
    """It is empty at first and gone at the end, well or not."""
    with work_directory(tmp_path, "a") as directory:
        assert not list(directory.iterdir())
        (directory / "file").write_text("x")
    assert not directory.exists()
    with pytest.raises(KeyError), work_directory(tmp_path, "a") as directory:
        raise KeyError
    assert not directory.exists()


def test_a_repository_is_indexed_once_at_a_time(tmp_path: Path) -> None:
    """A second run on the same repository is told so; another repository is free."""
    with work_directory(tmp_path, "a") as first:
        (first / "file").write_text("x")
        with pytest.raises(Busy), work_directory(tmp_path, "a"):
            pass
        with work_directory(tmp_path, "b") as other:
            assert other != first
        assert (first / "file").exists()
    with work_directory(tmp_path, "a"):
        pass


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    """The next run of any repository removes it, and the lock of the dead is free."""
    script = (
        "import os, sys, pathlib; from indexer.work import work_directory\n"
        "with work_directory(pathlib.Path(sys.argv[1]), 'a') as d:\n"
        "    (d / 'file').write_text('x'); os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert killed.returncode == -9
    (left,) = directories(tmp_path)
    assert (left / "file").exists()
    with work_directory(tmp_path, "b") as mine:
        assert directories(tmp_path) == [mine]
    with work_directory(tmp_path, "a") as again:
        assert again == left
        assert not list(again.iterdir())


def test_any_name_has_a_directory(tmp_path: Path) -> None:
    """Slashes, dots, and paths that are no Unicode."""
    for name in ("a/../b", "..", "caf\udce9", "x" * 5000):
        with work_directory(tmp_path, name) as directory:
            assert directory.parent == tmp_path
