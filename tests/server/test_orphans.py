# Law of this file: the process that indexes ends with the worker that started it, however that
# ended, and so do the programs that it runs.

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.server.asking import make_repository

# For what must not hang; nothing waits this long.
PATIENCE = 60
CODE = "from cli.main import main; main()"

# Tells its process id when the index has it pack, and then packs for ever.
GIT = """#!/bin/sh
case "$*" in
*pack-objects*) echo $$ >{here}/packing; cat {here}/never ;;
*) PATH={path} exec git "$@" ;;
esac
"""


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A server with two workers that indexes, with a git that never ends what it packs."""
    root, programs = tmp_path / "root", tmp_path / "programs"
    root.mkdir()
    programs.mkdir()
    make_repository(root / "p.git", {"noise": os.urandom(1000)})
    for fifo in ("packing", "never"):
        os.mkfifo(tmp_path / fifo)
    (programs / "git").write_text(GIT.format(here=tmp_path, path=os.environ["PATH"]))
    (programs / "git").chmod(0o755)
    running = subprocess.Popen(
        [sys.executable, "-c", CODE, "serve", str(root), "--workers", "2", "--index"],
        env={
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "OFFRAMP_DATA": str(tmp_path / "data"),
            "OFFRAMP_LISTEN": "127.0.0.1:0",
            "OFFRAMP_INDEX__MIN_OBJECTS": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    yield running
    running.kill()
    running.wait()
    assert running.stdout is not None
    running.stdout.close()


def parent_of(pid: int) -> int:
    """The process id of who started a process."""
    found = re.search(r"^PPid:\s(\d+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


@contextmanager
def ended(*pids: int) -> Iterator[None]:
    """See that processes end after what is done in the block."""
    descriptors = [os.pidfd_open(pid) for pid in pids]
    try:
        yield
        for descriptor in descriptors:
            assert select.select([descriptor], [], [], PATIENCE)[0]
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def test_the_index_ends_with_its_worker(serving: subprocess.Popen[str], tmp_path: Path) -> None:
    """Killed or told to stop, a worker leaves neither its index process nor its git behind."""
    packing = int((tmp_path / "packing").read_text())
    index = parent_of(packing)
    worker = parent_of(index)
    assert parent_of(worker) == serving.pid
    with ended(packing, index):
        os.kill(worker, signal.SIGKILL)
    # Another worker takes its place, and begins anew.
    packing = int((tmp_path / "packing").read_text())
    with ended(packing, parent_of(packing)):
        serving.terminate()
    assert serving.wait(PATIENCE) == 0
