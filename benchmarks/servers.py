# Law of this file: each server runs as its users run it, in processes that a meter of their own
# counts, on a free port of loopback, and is gone when its `with` block ends.

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Final

from benchmarks.cpu import LEDGER, Meter, meter

# What is needed beside git, and the Debian package that has it.
PROGRAMS: Final = {"nginx": "nginx-light", "fcgiwrap": "fcgiwrap"}

_NGINX: Final = """
daemon off;
{user}
worker_processes 2;
pid {here}/nginx.pid;
error_log {here}/error.log;
events {{ worker_connections 1024; }}
http {{
  {log}
  default_type application/octet-stream;
  sendfile on;
  tcp_nopush on;
  keepalive_timeout 75;
  client_max_body_size 0;
  client_body_temp_path {here}/body;
  fastcgi_temp_path {here}/fastcgi;
  proxy_temp_path {here}/proxy;
  uwsgi_temp_path {here}/uwsgi;
  scgi_temp_path {here}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    {inside}
  }}
}}
"""

# As git-http-backend(1) has it for nginx. Without buffering nginx does not spool packs to its disk.
_BACKEND: Final = """
    location / {{
      fastcgi_pass unix:{here}/cgi.sock;
      fastcgi_buffering off;
      fastcgi_buffer_size 64k;
      fastcgi_buffers 8 64k;
      fastcgi_read_timeout 3600s;
      fastcgi_param SCRIPT_FILENAME {program};
      fastcgi_param GIT_PROJECT_ROOT {root};
      fastcgi_param GIT_HTTP_EXPORT_ALL "1";
      fastcgi_param GIT_PROTOCOL $http_git_protocol;
      fastcgi_param PATH_INFO $uri;
      fastcgi_param QUERY_STRING $query_string;
      fastcgi_param REQUEST_METHOD $request_method;
      fastcgi_param CONTENT_TYPE $content_type;
      fastcgi_param CONTENT_LENGTH $content_length;
      fastcgi_param REMOTE_ADDR $remote_addr;
      fastcgi_param SERVER_PROTOCOL $server_protocol;
    }}
"""


# What `bytes_sent` and benchmarks.upstream read: small bodies are there whole, so that a request's
# command is known.
_LOGGED: Final = """log_format asked escape=json '{{"path":"$uri","body":"$request_body",'
    '"encoding":"$http_content_encoding","received":$request_length,"sent":$bytes_sent}}';
  access_log {log} asked;"""

LOGGED_SECONDS: Final = 0.3
"""A request is logged when its answer has ended, which its client may learn a moment before."""


class CannotStart(Exception):  # noqa: N818 - what happened
    """A server did not come up, or a program is missing; the message is for people."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers.

    Attributes:
        url: its base URL, without trailing slash.
        meter: of its CPU time.
        pids: the processes that were started.
    """

    url: str
    meter: Meter
    pids: tuple[int, ...]

    def pin(self, cpu: int) -> None:
        """Let every thread of the server run on one CPU only."""
        for pid in self.pids:
            for task in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(task.name), {cpu})

    def figure(self, name: str, **labels: str) -> float:
        """The sum of a Prometheus counter of Offramp over all samples with these labels."""
        connection = HTTPConnection(self.url.removeprefix("http://"))
        connection.request("GET", "/-/metrics")
        lines = connection.getresponse().read().decode().splitlines()
        connection.close()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith((f"{name}{{", f"{name} ")) and all(part in line for part in wanted)
        )


def missing_programs() -> str | None:
    """One line that names the Debian packages to install, or None if all is there."""
    packages = [package for name, package in PROGRAMS.items() if shutil.which(name) is None]
    if not packages:
        return None
    return f"a program is missing; on Debian: apt-get install {' '.join(packages)}"


def environment(home: Path) -> dict[str, str]:
    """The environment of servers and clients: nothing of whoever runs the benchmark is in it."""
    home.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "LANG", "TMPDIR"}}
    return {
        **kept,
        "HOME": str(home),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
    }


@contextmanager
def stock(root: Path, here: Path, *, log: Path | None = None) -> Iterator[Server]:
    """Stock git's http-backend behind fcgiwrap and nginx, for every repository below ``root``.

    Each request becomes a line of ``log``, if that is given.
    """
    here.mkdir(parents=True)
    counting = meter(here, "stock")
    backend = subprocess.check_output(("git", "--exec-path"), text=True).strip()
    program = Path(backend) / "git-http-backend"
    if not counting.exact:
        program = here / "http-backend"
        text = LEDGER.format(
            program=Path(backend) / "git-http-backend", ledger=here / "stock.times"
        )
        program.write_text(text)
        program.chmod(0o755)
    inside = _BACKEND.format(here=here, root=root, program=program)
    config, url = nginx_config(here, inside, log)
    cgi = ("fcgiwrap", "-c", "4", "-s", f"unix:{here}/cgi.sock")
    with ExitStack() as stack:
        stack.callback(counting.close)
        first = stack.enter_context(running(cgi, here, counting))
        _wait((here / "cgi.sock").exists, first, here)
        second = stack.enter_context(running(nginx(config), here, counting))
        _wait(lambda: _answers(url), second, here)
        yield Server(url, counting, (first.pid, second.pid))


@contextmanager
def static(
    root: Path,
    here: Path,
    *,
    media_type: str = "application/octet-stream",
    log: Path | None = None,
) -> Iterator[Server]:
    """An nginx with the files below ``root``: the store's host, whose CPU is not the server's.

    Args:
        root: has the files.
        here: for its settings and its log.
        media_type: told of all of them.
        log: each request becomes a line of it; see :func:`bytes_sent`.
    """
    here.mkdir(parents=True)
    counting = meter(here, "static")
    config, url = nginx_config(here, f"root {root}; default_type {media_type};", log)
    with ExitStack() as stack:
        stack.callback(counting.close)
        process = stack.enter_context(running(nginx(config), here, counting))
        _wait(lambda: _answers(url), process, here)
        yield Server(url, counting, (process.pid,))


def bytes_sent(log: Path, start: int) -> int:
    """Bytes of the answers, headers too, that the lines of an nginx's log tell.

    Args:
        log: that was given to :func:`static` or :func:`stock`.
        start: offset of the first line.
    """
    # Whoever was answered may know it a moment before it is logged.
    time.sleep(LOGGED_SECONDS)
    with log.open("rb") as file:
        file.seek(start)
        return sum(int(json.loads(line.decode("latin-1"))["sent"]) for line in file)


@contextmanager
def offramp(
    root: Path | None, data: Path, store_url: str, here: Path, *, more: str = ""
) -> Iterator[Server]:
    """``offramp serve``, all settings left alone but where the store's files can be read.

    ``more`` is TOML on top of that; without ``root``, it has the upstreams.
    """
    here.mkdir(parents=True)
    counting = meter(here, "offramp")
    config = configure(here / "offramp.toml", store_url, more)
    given = ("--config", config, "--data", data, "--listen", "127.0.0.1:0")
    arguments = (*OFFRAMP, "serve", *given, *(() if root is None else (root,)))
    with ExitStack() as stack:
        stack.callback(counting.close)
        process = stack.enter_context(running(arguments, here, counting))
        assert process.stdout is not None  # noqa: S101 - our pipe
        greeting = process.stdout.readline().split()
        if not greeting:
            raise CannotStart(f"offramp serve did not start: {_log(here)}")
        yield Server(greeting[-1].rstrip("/"), counting, (process.pid,))


@contextmanager
def bare(size: int, here: Path) -> Iterator[Server]:
    """The least of an aiohttp server, answering each request with ``size`` bytes."""
    here.mkdir(parents=True)
    counting = meter(here, "bare")
    arguments = (sys.executable, "-m", "benchmarks.bare", str(size))
    with ExitStack() as stack:
        stack.callback(counting.close)
        process = stack.enter_context(running(arguments, here, counting))
        assert process.stdout is not None  # noqa: S101 - our pipe
        url = process.stdout.readline().strip()
        if not url:
            raise CannotStart(f"the bare handler did not start: {_log(here)}")
        yield Server(url, counting, (process.pid,))


OFFRAMP: Final = (sys.executable, "-c", "from cli.main import main; main()")


def configure(path: Path, store_url: str, more: str = "") -> Path:
    """Write a settings file whose only target is the store's files at ``store_url``.

    That the same clients ask the same again is what is measured, and no reason for suspicion.
    """
    target = f'[[targets]]\ntype = "http"\nbase_url = {json.dumps(store_url)}\n'
    path.write_text(f"[health]\nsuspicion = 0\n\n{target}{more}")
    return path


def nginx_config(here: Path, inside: str, log: Path | None = None) -> tuple[Path, str]:
    """Write the settings of an nginx at a free port; where they are, and its base URL.

    Args:
        here: for its files.
        inside: of its only server.
        log: each request becomes a line of it.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    user = "user root;" if os.geteuid() == 0 else ""
    path = here / "nginx.conf"
    logged = "access_log off;" if log is None else _LOGGED.format(log=log)
    path.write_text(_NGINX.format(here=here, port=port, user=user, inside=inside, log=logged))
    return path, f"http://127.0.0.1:{port}"


def nginx(config: Path) -> tuple[str, ...]:
    """How an nginx with these settings is started."""
    return (
        "nginx",
        "-p",
        str(config.parent),
        "-e",
        str(config.parent / "error.log"),
        "-c",
        str(config),
    )


@contextmanager
def running(
    arguments: Sequence[str | Path], here: Path, counting: Meter
) -> Iterator[subprocess.Popen[str]]:
    """A program whose CPU time is counted and whose log is in ``here``; it ends with the block."""
    with (here / "log").open("a") as log:
        process = subprocess.Popen(
            counting.command([str(argument) for argument in arguments]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment(here / "home"),
            cwd=here,
            text=True,
            start_new_session=True,
        )
    counting.started(process.pid)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        # What it started is in its session; fcgiwrap's children outlive their parent.
        for pid in session_of(process.pid):
            os.kill(pid, signal.SIGKILL)
        if process.stdout is not None:
            process.stdout.close()


def session_of(leader: int) -> list[int]:
    """The processes of a session; its leader may have ended."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.getsid(int(entry.name)) == leader:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def _wait(ready: Callable[[], bool], process: subprocess.Popen[str], here: Path) -> None:
    deadline = time.monotonic() + 20
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise CannotStart(f"{process.args!r} did not start: {_log(here)}")
        time.sleep(0.02)


def _answers(url: str) -> bool:
    host, _, port = url.removeprefix("http://").partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def _log(here: Path) -> str:
    texts = [path.read_text() for path in (here / "log", here / "error.log") if path.exists()]
    return " ".join("".join(texts).split())[-600:]
