# Law of this file: every test starts a stock nginx in this way: it is given a socket that listens
# already, so that nobody can come too early and no port is lost to another.

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

_CONFIGURATION: Final = """\
daemon off;
{user}
worker_processes 1;
pid {here}/pid;
error_log {here}/error.log;
events {{ worker_connections 512; }}
http {{
    access_log {here}/access.log;
    client_body_temp_path {here}/body;
    proxy_temp_path {here}/proxy;
    fastcgi_temp_path {here}/fastcgi;
    uwsgi_temp_path {here}/uwsgi;
    scgi_temp_path {here}/scgi;
    {http}
}}
"""


def needed(name: str, package: str) -> str:
    """Where the program ``name`` is; where it is missing, the test is skipped, and on CI it fails.

    ``package``: of Debian.
    """
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        missing = f"{name} is missing; on Debian: apt-get install {package}"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return found


def start_nginx(here: Path, http: str, listener: socket.socket) -> subprocess.Popen[bytes]:
    """Start nginx, in a process group of its own.

    Args:
        here: a directory of its own, for its files; made if it is not there.
        http: what is in the section ``http``; it listens at the address of ``listener``.
        listener: listens already; nginx takes it over, and it may be closed here.
    """
    program = needed("nginx", "nginx-light")
    here.mkdir(exist_ok=True)
    # Test directories are for their owner only, so its worker must stay who we are.
    user = "user root;" if os.geteuid() == 0 else ""
    conf = here / "nginx.conf"
    conf.write_text(_CONFIGURATION.format(here=here, user=user, http=http))
    return subprocess.Popen(
        (program, "-p", str(here), "-c", str(conf), "-e", str(here / "error.log")),
        env={"PATH": os.environ["PATH"], "NGINX": f"{listener.fileno()};"},
        stdin=subprocess.DEVNULL,
        pass_fds=(listener.fileno(),),
        start_new_session=True,
    )


def kill_nginx(process: subprocess.Popen[bytes]) -> None:
    """End it as a crash does, with its worker and all connections; harmless a second time."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def running_nginx(here: Path, http: str, listener: socket.socket) -> Iterator[None]:
    """A stock nginx, until the block ends; see :func:`start_nginx`."""
    process = start_nginx(here, http, listener)
    try:
        yield
    finally:
        process.terminate()
        process.wait()
