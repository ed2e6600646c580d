# Law of this file: what hg writes to its link comes through a pipe, and no link is left for long,
# whoever is killed.

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from repos.hg.bundle_file import GZIP
from repos.hg.clone_bundle import make_bundles
from repos.hg.outlet import NAME, outlet
from tests.hg.repositories import linear
from tests.hg.versions import hg
from tests.repos.hg_replay import served, stock

KILLED = """
import os, signal, sys
from pathlib import Path
from repos.hg.outlet import outlet
with outlet(Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left(tmp_path: Path) -> None:
    """It lies where the next one works, which needs that name, and removes it."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    with outlet(tmp_path) as output:
        written = subprocess.run(["cp", "/dev/stdin", output], input=b"x", stdout=-1, check=True)
    assert written.stdout == b"x"
    assert not list(tmp_path.iterdir())


async def test_an_index_and_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is put anywhere but into the directory of each, and no link stays there."""
    path = linear(hg(), tmp_path / "p")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    place = tmp_path / "bundles"
    place.mkdir()
    with ThreadPoolExecutor(1) as threads:
        assert (await served(path, tmp_path, threads).snapshot()).index.count
    make_bundles(
        stock(tmp_path), path, {GZIP: place / "b"}, publishing=True, level=1, told=lambda: None
    )
    assert not list(tmp_path.rglob(NAME))
    assert [path.name for path in place.iterdir()] == ["b"]
