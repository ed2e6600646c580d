# Law of this file: a socket that was passed to the real command is the one that it answers on, and
# outlives it.

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server.listening import CannotListen, inherited

PATIENCE = 30
CODE = "from cli.main import main; main()"
REQUEST = b"GET /-/livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

# As systemd does it: descriptor 3, and the process id of the program itself.
PASS = 'exec 3<&"$1"; shift; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A socket as a .socket unit has one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start servers that are passed a socket; they have greeted when this returns."""
    (tmp_path / "root").mkdir(exist_ok=True)
    started: list[subprocess.Popen[str]] = []

    def run(listening: socket.socket, *args: str) -> subprocess.Popen[str]:
        number = listening.fileno()
        serve = (sys.executable, "-c", CODE, "serve", str(tmp_path / "root"), *args)
        process = subprocess.Popen(
            ("bash", "-c", PASS, "bash", str(number), *serve),
            # The address of nobody: what is passed counts.
            env={**os.environ, "OFFRAMP_DATA": str(tmp_path / "data"), "OFFRAMP_LISTEN": "x:1"},
            pass_fds=(number,),
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert f"at http://{address(listening)}/" in process.stdout.readline()
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def address(server: socket.socket) -> str:
    """``HOST:PORT``."""
    return "{}:{}".format(*server.getsockname())


def ask(server: socket.socket) -> socket.socket:
    """A connection on which a request was sent."""
    asked = socket.create_connection(server.getsockname(), timeout=PATIENCE)
    asked.sendall(REQUEST)
    return asked


def answer(asked: socket.socket) -> bytes:
    """All that comes back."""
    with asked, asked.makefile("rb") as reply:
        return reply.read()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_none_is_refused_while_a_server_is_restarted(
    listening: socket.socket, start: Start, workers: str
) -> None:
    """Who asks while no server runs is answered by the next, with one worker or several."""
    first = start(listening, "--workers", workers)
    assert answer(ask(listening)).endswith(b"ok\n")
    first.send_signal(signal.SIGTERM)
    assert first.wait(PATIENCE) == 0
    between = ask(listening)
    second = start(listening, "--workers", workers)
    assert answer(between).endswith(b"ok\n")
    second.send_signal(signal.SIGTERM)
    assert second.wait(PATIENCE) == 0


def test_a_worker_that_is_started_again_is_passed_the_socket(
    listening: socket.socket, start: Start
) -> None:
    """When every worker has died, those who replace them answer on it."""
    server = start(listening, "--workers", "2")
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    workers = [
        int(child)
        for child in children
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    assert len(workers) == 2
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    assert answer(ask(listening)).endswith(b"ok\n")
    server.send_signal(signal.SIGTERM)
    assert server.wait(PATIENCE) == 0


@pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None,
    reason="systemd-socket-activate (Debian: systemd) is not installed",
)
def test_systemd_starts_a_server_for_the_first_client(tmp_path: Path) -> None:
    """The real systemd protocol is understood: the client that had it started is answered."""
    (tmp_path / "root").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    passed = [f"--setenv={name}" for name in os.environ if name.startswith("PYTHON")]
    serve = [sys.executable, "-c", CODE, "serve", "root", "--data", "data"]
    activator = subprocess.Popen(
        ("systemd-socket-activate", f"--listen=127.0.0.1:{port}", *passed, *serve),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while (asked := connected(port)) is None:
            assert activator.poll() is None
            time.sleep(0.01)
        assert answer(asked).endswith(b"ok\n")
        activator.terminate()
        assert activator.wait(PATIENCE) == 0
    finally:
        if activator.poll() is None:
            activator.kill()
            activator.wait()


def connected(port: int) -> socket.socket | None:
    """A connection on which a request was sent; None: nobody listens yet."""
    try:
        asked = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    except ConnectionRefusedError:
        return None
    asked.sendall(REQUEST)
    return asked


# --- what is passed ------------------------------------------------------------------------


def told(count: int | str = 1, process: int = 7) -> dict[str, str]:
    """Variables as systemd sets them."""
    return {
        "LISTEN_FDS": str(count),
        "LISTEN_PID": str(process),
        "LISTEN_FDNAMES": "offramp.socket",
        "HOME": "/",
    }


def test_what_is_passed_is_ours_alone(listening: socket.socket) -> None:
    """Programs that we run get neither the socket nor the variables that tell of it."""
    number = os.dup(listening.fileno())
    os.set_inheritable(number, True)
    environ = told()
    passed = inherited(environ, 7, number)
    assert passed is not None
    with passed:
        assert passed.getsockname() == listening.getsockname()
        assert not passed.get_inheritable()
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize("environ", [{}, told(process=8), {"LISTEN_PID": "7"}], ids=str)
def test_nothing_is_passed(environ: dict[str, str]) -> None:
    """What is for another process is left alone."""
    before = dict(environ)
    assert inherited(environ, 7, -1) is None
    assert environ == before


@pytest.mark.parametrize("count", ["0", "2", "many"])
def test_one_socket_is_taken(count: str) -> None:
    """More than one, or none, is refused with what to write in the unit."""
    with pytest.raises(CannotListen, match=rf"LISTEN_FDS is '{count}'.* one ListenStream="):
        inherited(told(count), 7, -1)


def test_a_descriptor_that_is_no_socket(tmp_path: Path) -> None:
    """A file is refused."""
    with (tmp_path / "file").open("w") as file, pytest.raises(CannotListen, match="is no socket"):
        inherited(told(), 7, file.fileno())


@pytest.mark.parametrize("kind", ["that does not listen", "of datagrams", "of the file system"])
def test_a_socket_that_cannot_be_served_on(tmp_path: Path, kind: str) -> None:
    """A socket that does not listen, or not for TCP, is refused and closed."""
    if kind == "of the file system":
        made = socket.socket(socket.AF_UNIX)
        made.bind(str(tmp_path / "socket"))
        made.listen()
    else:
        made = socket.socket(
            type=socket.SOCK_DGRAM if kind == "of datagrams" else socket.SOCK_STREAM
        )
    number = made.detach()
    with pytest.raises(CannotListen, match="no TCP socket that listens"):
        inherited(told(), 7, number)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
