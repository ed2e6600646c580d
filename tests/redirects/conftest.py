# Law of this file: what every test of this room names: one entity, one client, one window.

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from redirects.acceptance import Client
from redirects.signing import SigningKeys
from redirects.window import Window
from stores.entity import Entity


@pytest.fixture
def entity() -> Entity:
    """A megabyte that nobody has."""
    return Entity("ab" * 32, 1 << 20)


@pytest.fixture
def client() -> Client:
    """A client that reaches us over TLS."""
    return Client("https://git.example.org")


@pytest.fixture
def window() -> Window:
    """A quarter of an hour, and six hours of life."""
    return Window(900, 6 * 3600)


@pytest.fixture
def keys() -> SigningKeys:
    """An old key and the current one."""
    return SigningKeys("new", {"old": b"o" * 32, "new": b"n" * 32})


@pytest.fixture(scope="session")
def ministack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of an S3 look-alike that does check presigned URLs."""
    home = tmp_path_factory.mktemp("ministack")
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "TMPDIR": str(home),
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "SERVICES": "s3",
        "S3_DATA_DIR": str(home / "s3"),
        "LOG_LEVEL": "ERROR",
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
