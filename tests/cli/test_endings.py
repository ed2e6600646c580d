# Law of this file: a command, and a run of the indexer, ends although a thread of it hangs in the
# file system of a store, and says what that store has not done.

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.main import offramp as group

CONFIG = """\
root = "root"

[[stores]]
name = "eu"
type = "directory"
path = "eu"

[[targets]]
type = "self"

[[targets]]
type = "http"
store = "eu"
base_url = "http://127.0.0.1:1"
"""

# Whoever looks for an entity below a directory waits for the other end of a pipe, in the kernel as
# on a mount whose server is gone; and only that store has little time.
HANGING = """
import os, sys
import stores.directory as directory, stores.patient as patient

root, pipe = sys.argv[1:3]
del sys.argv[1:3]
look, init = directory.DirectoryStore._stat, patient.PatientStore.__init__

def hang(store, digest, path):
    if str(path).startswith(root):
        os.close(os.open(pipe, os.O_RDONLY))
    return look(store, digest, path)

def impatient(store, inner, seconds):
    init(store, inner, 0.1 if inner.name.endswith(root) else seconds)

directory.DirectoryStore._stat, patient.PatientStore.__init__ = hang, impatient
directory._CLOSE_SECONDS = 0.0
"""

COMMAND = "from cli.main import main; main()"

RUN = """
import multiprocessing
from pathlib import Path
from server.indexing import _run
from server.settings import load
run = multiprocessing.get_context("fork").Process(
    target=_run, args=(load(Path("offramp.toml")),), daemon=True
)
run.start()
run.join()
sys.exit(run.exitcode)
"""


def hangs(root: Path, code: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run code while the store below ``root`` hangs."""
    pipe = root.parent / "pipe"
    if not pipe.exists():
        os.mkfifo(pipe)
    return subprocess.run(
        [sys.executable, "-c", HANGING + code, str(root), str(pipe), *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,  # it would wait for ever
    )


@pytest.fixture
def indexed(root: Path, here: Path) -> Path:
    """The directory of a repository that was indexed, with a store beside the main one.

    Of the target that reads that nobody answers, so nothing is named there.
    """
    (here / "offramp.toml").write_text(CONFIG)
    done = CliRunner().invoke(group, ["index", "--config", "offramp.toml"])
    assert "nothing came back through the target http" in done.output
    return root.parent


def main_store(here: Path) -> Path:
    """Where the main store is."""
    (store,) = here.rglob("store/entities")
    return store.parent


@pytest.mark.parametrize("which", ["main", "eu"])
def test_an_index_run(indexed: Path, which: str) -> None:
    """It ends, tells which store, and that it is to be run again; the others were looked at."""
    store = main_store(indexed) if which == "main" else indexed / "eu"
    done = hangs(store, COMMAND, "index", "--config", "offramp.toml")
    assert done.returncode == 1, done.stderr
    assert f"directory {store} has not answered within 0 s" in done.stdout + done.stderr
    assert f"directory {store} hangs and is not waited for" in done.stderr
    assert "run the same command again when it answers" in done.stderr
    assert ("failed" if which == "main" else "up to date") in done.stdout


@pytest.mark.parametrize("which", ["main", "eu"])
def test_a_purge(indexed: Path, which: str) -> None:
    """It ends, and tells what was done, and where not all is gone."""
    store = main_store(indexed) if which == "main" else indexed / "eu"
    done = hangs(store, COMMAND, "purge", "group/a.git", "--config", "offramp.toml")
    assert done.returncode == 1, done.stderr
    assert f"directory {store} has not answered within 0 s" in done.stderr
    assert "run the same command again" in done.stderr
    if which == "main":
        assert "done before: this machine answers from nothing before epoch 1; run " in done.stderr
    else:
        assert "purged everything of group/a.git; its epoch is 1" in done.stdout
        left = [path.name for path in main_store(indexed).glob("entities/*/*")]
        assert len(left) == 1  # its seal
        assert left[0] not in done.stdout


def test_a_run_while_serving(indexed: Path) -> None:
    """The process ends, so that the next run comes; the log says which store hangs."""
    done = hangs(indexed / "eu", RUN)
    assert done.returncode == 0, done.stderr
    assert f"directory {indexed / 'eu'} has not answered within 0 s" in done.stderr


def test_whatever_ends_a_command(indexed: Path) -> None:
    """So does one that only looks; and a fault of ours is shown, and does not hang either."""
    store = main_store(indexed)
    done = hangs(store, COMMAND, "doctor", "--config", "offramp.toml")
    assert done.returncode == 1, done.stderr
    assert f"fail  store: directory {store} has not answered within 0 s" in done.stdout
    fault = "import cli.index; cli.index._draw = None\n" + COMMAND
    done = hangs(store, fault, "index", "--config", "offramp.toml")
    assert done.returncode == 1
    assert "TypeError: 'NoneType' object is not callable" in done.stderr
