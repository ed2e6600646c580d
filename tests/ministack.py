# Law of this file: the look-alike of AWS that checks signatures listens before a test begins, and
# ends with it.

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path


@contextmanager
def running(home: Path, services: str = "s3") -> Iterator[str]:
    """The base URL of a ministack that keeps everything in ``home``.

    ``services``: of AWS, with commas between.
    """
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "TMPDIR": str(home),
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "SERVICES": services,
        "S3_DATA_DIR": str(home / "s3"),
        "LOG_LEVEL": "ERROR",
        # Without it, whoever shows no signature is let in.
        "AUTH": "true",
    }
    with Path(home, "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ministack"], env=environ, cwd=home, stdout=log, stderr=log
        )
    try:
        while not _listens(port):
            assert process.poll() is None, Path(home, "log").read_text()
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
