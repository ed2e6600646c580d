# Law of this file: the real command starts or says in one line why it cannot, and stops when it is
# told to, after what it has begun.

from __future__ import annotations

import asyncio
import errno
import os
import pty
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from server.listening import CannotListen, address_of, bind
from tests.conftest import Served
from tests.server.asking import (
    HEADERS,
    connected,
    head,
    make_repository,
    pack,
    read_reply,
    run_git,
    want,
)

# For what must not hang; nothing waits this long.
PATIENCE = 30
CODE = "from cli.main import main; main()"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory with one repository, ``p.git``."""
    root = tmp_path / "root"
    root.mkdir()
    make_repository(root / "p.git", {"noise": os.urandom(300_000)})
    return root


def failed(*args: str | Path, **environ: str) -> tuple[int, str]:
    """Run a server that does not come to serve; its exit code and what it complained."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, "serve", *map(str, args)],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


@dataclass
class Process:
    """A server in a process of its own.

    Attributes:
        running: the process; its standard error is a file.
        url: its base URL.
        said: the line that it greeted with.
    """

    running: subprocess.Popen[str]
    url: str
    said: str

    @property
    def served(self) -> Served:
        """To be asked."""
        return Served(self.url, None, None)  # type: ignore[arg-type]

    def get(self, path: str) -> bytes:
        """The body of an answer, on a connection of its own."""
        with urllib.request.urlopen(f"{self.url}{path}", timeout=PATIENCE) as answer:  # noqa: S310
            body: bytes = answer.read()
            return body

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Tell it to stop; its exit code."""
        self.running.send_signal(number)
        return self.running.wait(PATIENCE)


Start = Callable[..., Process]


@pytest.fixture
def start(root: Path, tmp_path: Path) -> Iterator[Start]:
    """Start servers; what they complain goes to ``<tmp_path>/stderr``."""
    started: list[subprocess.Popen[str]] = []

    def run(*args: str | Path, **environ: str) -> Process:
        with (tmp_path / "stderr").open("w") as stderr:
            running = subprocess.Popen(
                [sys.executable, "-c", CODE, "serve", str(root), *map(str, args)],
                env={
                    **os.environ,
                    "OFFRAMP_DATA": str(tmp_path / "data"),
                    "OFFRAMP_LISTEN": "127.0.0.1:0",
                    **environ,
                },
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        started.append(running)
        assert running.stdout is not None
        said = running.stdout.readline()
        found = re.search(r"(http://127\.0\.0\.1:\d+)/$", said.strip())
        assert found is not None, (tmp_path / "stderr").read_text()
        return Process(running, found[1], said)

    yield run
    for running in started:
        if running.poll() is None:
            running.kill()
        running.wait()
        assert running.stdout is not None
        running.stdout.close()


# --- what cannot be served -----------------------------------------------------------------


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_that_is_taken(root: Path, tmp_path: Path, workers: str) -> None:
    """One clear line and exit code 1, with one worker or several."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, said = failed(
            root, "--listen", f"127.0.0.1:{port}", "--workers", workers, "--data", tmp_path / "data"
        )
    assert status == 1
    assert said == (
        f"offramp: cannot listen on 127.0.0.1:{port}: Address already in use;"
        " choose another with --listen\n"
    )


def test_a_port_that_another_server_shares(root: Path, start: Start, tmp_path: Path) -> None:
    """The port of another server's workers is not shared with them."""
    first = start("--workers", "2")
    port = first.url.rpartition(":")[2]
    status, said = failed(
        root, "--listen", f"127.0.0.1:{port}", "--workers", "2", "--data", tmp_path / "other"
    )
    assert (status, said.count("\n")) == (1, 1)
    assert "Address already in use" in said
    assert first.stop() == 0


def test_an_address_that_is_not_ours() -> None:
    """It is named, with what the system says of it."""
    with pytest.raises(CannotListen, match=r"cannot listen on 192\.0\.2\.1:0: Cannot assign"):
        bind("192.0.2.1:0", shared=False)


def test_addresses() -> None:
    """A bound socket tells its port; IPv6 addresses have brackets."""
    with bind("127.0.0.1:0", shared=False) as bound:
        assert re.fullmatch(r"127\.0\.0\.1:[1-9]\d+", address_of(bound))
    if socket.has_ipv6:
        with socket.socket(socket.AF_INET6) as other:
            other.bind(("::1", 0))
            assert re.fullmatch(r"\[::1\]:[1-9]\d+", address_of(other))


@pytest.mark.parametrize("kind", ["missing", "a file"])
def test_a_root_that_is_none(tmp_path: Path, kind: str) -> None:
    """One line that names it and exit code 2."""
    path = tmp_path / "nowhere"
    if kind == "a file":
        path.write_text("")
    status, said = failed(path, "--listen", "127.0.0.1:0", "--data", tmp_path / "data")
    assert (status, said.count("\n")) == (2, 1)
    assert said.startswith(f"offramp: {path}: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_root_that_we_may_not_read(root: Path, tmp_path: Path) -> None:
    """The same for one that is not ours to read."""
    root.chmod(0)
    try:
        status, said = failed(root, "--listen", "127.0.0.1:0", "--data", tmp_path / "data")
    finally:
        root.chmod(0o700)
    assert (status, said.count("\n")) == (2, 1)
    assert "permission denied" in said


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("obstacle", ["data", "data/entities", "data/secret.key"])
def test_a_data_directory_that_cannot_be_used(
    root: Path, tmp_path: Path, obstacle: str, workers: str
) -> None:
    """One line that names what is in the way; with several workers as with one."""
    path = tmp_path / obstacle
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("in the way")
    status, said = failed(
        root, "--listen", "127.0.0.1:0", "--data", tmp_path / "data", "--workers", workers
    )
    assert status in {1, 2}
    assert "Traceback" not in said
    assert str(path) in said
    assert said.count("\n") == 1


def test_a_store_that_does_not_answer(root: Path, tmp_path: Path) -> None:
    """A store that cannot be reached at the start is a mistake in the settings, and said so."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    config = tmp_path / "offramp.toml"
    config.write_text(
        f'[store]\ntype = "s3"\nbucket = "b"\nendpoint = "http://127.0.0.1:{port}"\n'
        'region = "us-east-1"\naccess_key_id = "AKIATEST"\nsecret_access_key = "hunter2"\n'
        'max_attempts = 1\ntimeout = "2s"\n'
    )
    for workers in ("1", "2"):
        status, said = failed(
            *(root, "--listen", "127.0.0.1:0", "--data", tmp_path / "data"),
            *("--config", config, "--workers", workers),
        )
        assert (status, said.count("\n")) == (1, 1)
        assert "hunter2" not in said


# --- stopping ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_stopping(start: Start, number: int, workers: str, tmp_path: Path) -> None:
    """SIGTERM and Ctrl-C end it well, without a word of complaint."""
    process = start("--workers", workers, OFFRAMP_LOG__ACCESS="false")
    assert process.get("/-/livez") == b"ok\n"
    assert process.stop(number) == 0
    assert (tmp_path / "stderr").read_text() == ""


async def test_requests_that_run_are_finished(start: Start, root: Path, tmp_path: Path) -> None:
    """Told to stop, it takes no new connection, and ends after the answers that it has begun."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    gate, begun = tmp_path / "gate", tmp_path / "begun"
    os.mkfifo(gate)
    os.mkfifo(begun)
    (bin_ / "git").write_text(
        f"#!/bin/sh\nBODY=$(mktemp -p {tmp_path})\ncat > $BODY\n"
        f"grep -qa command=fetch $BODY && echo > {begun} && cat {gate}\n"
        f'PATH={os.environ["PATH"]} exec git "$@" < $BODY\n'
    )
    (bin_ / "git").chmod(0o755)
    oid = run_git("rev-parse", "HEAD", cwd=root / "p.git")
    process = start(PATH=f"{bin_}:{os.environ['PATH']}")
    body = want(oid)
    request = head("POST", "/p.git/git-upload-pack", {**HEADERS, "Content-Length": str(len(body))})
    async with connected(process.served) as (reader, writer):
        writer.write(request + body)
        await asyncio.to_thread(begun.read_text)
        process.running.send_signal(signal.SIGTERM)
        while True:  # until nobody listens any more
            try:
                _, probe = await asyncio.open_connection(*_address(process.url))
            except ConnectionRefusedError:
                break
            except ConnectionResetError:  # the listener went as we came
                continue
            probe.transport.abort()
        assert process.running.poll() is None
        await asyncio.to_thread(gate.write_text, "")
        reply = await read_reply(reader)
    assert reply.whole
    assert len(pack(reply.body)) > 300_000
    assert await asyncio.to_thread(process.running.wait, PATIENCE) == 0


def _address(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").rpartition(":")
    return host, int(port)


# --- workers -------------------------------------------------------------------------------


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def workers_of(process: Process) -> list[int]:
    """The workers among them: those that serve."""
    found = []
    for child in children(process.running.pid):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found


def test_more_connections_than_files(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes when no more files may be open is refused, and not left to wait; that is told."""
    lower = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400)); "
    monkeypatch.setitem(globals(), "CODE", lower + CODE)
    server = start()
    port = int(server.url.rpartition(":")[2])
    with ExitStack() as stack:
        for _ in range(44):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        with pytest.raises(urllib.error.HTTPError, match="503"):
            server.get("/p.git/info/refs?service=git-upload-pack")
    assert server.stop() == 0
    assert "44 connections are taken side by side, not 4096" in (tmp_path / "stderr").read_text()


def test_workers_share_port_and_figures(start: Start, root: Path, tmp_path: Path) -> None:
    """Several workers answer at one port, from one cache, and any of them tells all figures."""
    process = start("--workers", "2")
    assert len(workers_of(process)) == 2
    for number in range(8):
        run_git("clone", "-q", f"{process.url}/p.git", tmp_path / f"clone{number}")
    for _ in range(6):
        figures = process.get("/-/metrics").decode()
        counted = re.findall(
            r"^offramp_responses_total\{command=\"fetch\".*\} (\d+)", figures, re.MULTILINE
        )
        assert sum(map(int, counted)) == 8
        assert re.search(r"^offramp_executions_total\{.*\} 1\.0$", figures, re.MULTILINE)
    assert process.stop() == 0


def test_figures_are_bounded_as_set(start: Start, root: Path, tmp_path: Path) -> None:
    """A repository beyond limits.figures is counted with the others, in each worker."""
    shutil.copytree(root / "p.git", root / "q.git")
    process = start("--workers", "2", OFFRAMP_LIMITS__FIGURES="1")
    for name in ("p.git", "q.git") * 4:
        process.get(f"/{name}/info/refs?service=git-upload-pack")
    figures = process.get("/-/metrics").decode()
    named = re.findall(
        r'^offramp_responses_total\{.*repo="([^"]*)".*\} (\S+)$', figures, re.MULTILINE
    )
    assert "-/other" in dict(named)
    assert sum(float(count) for _, count in named) == 8
    assert process.stop() == 0
    assert list((tmp_path / "data" / "metrics").iterdir()) == []


def test_a_worker_that_dies_is_replaced(start: Start, tmp_path: Path) -> None:
    """Another takes its place, and nothing of them is left when all is over."""
    process = start("--workers", "2")
    before = workers_of(process)
    os.kill(before[0], signal.SIGKILL)
    while len(after := workers_of(process)) < 2 or before[0] in after:
        assert process.running.poll() is None
    assert process.get("/-/livez") == b"ok\n"
    assert b"\nofframp_worker_restarts_total 1.0\n" in process.get("/-/metrics")
    assert process.stop() == 0
    assert not [pid for pid in after if Path(f"/proc/{pid}").exists()]
    assert "starting it again" in (tmp_path / "stderr").read_text()


def test_stopping_while_a_worker_is_replaced(start: Start) -> None:
    """Told to stop just as a worker has died, it does not wait for one that it starts after."""
    process = start("--workers", "2")
    os.kill(workers_of(process)[0], signal.SIGKILL)
    while len(workers_of(process)) == 2:
        assert process.running.poll() is None
    assert process.stop() == 0


def test_workers_with_a_settings_file(start: Start, tmp_path: Path) -> None:
    """Settings that come from a file reach the workers."""
    config = tmp_path / "offramp.toml"
    config.write_text("[limits]\nprograms = 3\n")
    process = start("--workers", "2", "--config", config)
    assert process.get("/-/livez") == b"ok\n"
    assert process.stop() == 0


def test_workers_end_with_their_parent(start: Start) -> None:
    """A parent that is killed leaves no worker behind that holds the port."""
    process = start("--workers", "2")
    pids = workers_of(process)
    process.running.kill()
    process.running.wait()
    descriptors = []
    for pid in pids:
        with suppress(ProcessLookupError):  # it has ended already
            descriptors.append(os.pidfd_open(pid))
    try:
        for descriptor in descriptors:
            assert select.select([descriptor], [], [], PATIENCE)[0]
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def test_a_worker_that_ends_leaves_the_admin_listener(start: Start, tmp_path: Path) -> None:
    """All share it; when one of them is told to stop, the others answer there as before."""
    process = start(
        "--workers", "2", OFFRAMP_REUSE_PORT="true", OFFRAMP_ADMIN__LISTEN="127.0.0.1:0"
    )
    stderr = tmp_path / "stderr"
    admin = re.search(r"admin routes are at (http://\S+)/", stderr.read_text())
    assert admin is not None
    os.kill(workers_of(process)[0], signal.SIGTERM)
    while "starting it again" not in stderr.read_text():
        assert process.running.poll() is None
    private = replace(process, url=admin[1])
    for _ in range(8):
        assert private.get("/-/livez") == b"ok\n"
    assert process.stop() == 0


def test_orphans_take_their_leave(start: Start) -> None:
    """Workers whose parent was killed answer on for limits.stop_delay, and sleep meanwhile."""
    process = start("--workers", "2", OFFRAMP_LIMITS__STOP_DELAY="600")
    pids = workers_of(process)
    descriptors = [os.pidfd_open(pid) for pid in pids]
    process.running.kill()
    process.running.wait()
    try:
        # Each connection is given to one or the other.
        while {readiness(process) for _ in range(16)} != {503}:
            pass
        for pid in pids:
            looks = 0
            while looks < 20:  # one that is busy all the time is never found so often
                looks = looks + 1 if state(pid) == "S" else 0
        for pid, descriptor in zip(pids, descriptors, strict=True):
            os.kill(pid, signal.SIGTERM)  # it is told twice
            assert select.select([descriptor], [], [], PATIENCE)[0]
    finally:
        for descriptor in descriptors:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            os.close(descriptor)


def readiness(process: Process) -> int:
    """The status of ``/-/readyz``."""
    try:
        process.get("/-/readyz")
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    return 200


def state(pid: int) -> str:
    """Of a process, as ps(1) has it: S sleeps, R runs."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_sighup_while_it_starts(root: Path, tmp_path: Path) -> None:
    """One that comes as the settings are first read ends nothing; they are read again."""
    config = tmp_path / "offramp.toml"
    os.mkfifo(config)
    with (tmp_path / "stderr").open("w") as stderr:
        running = subprocess.Popen(
            [sys.executable, "-c", CODE, "serve", str(root), "--config", str(config)],
            env={
                **os.environ,
                "OFFRAMP_DATA": str(tmp_path / "data"),
                "OFFRAMP_LISTEN": "127.0.0.1:0",
            },
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    assert running.stdout is not None
    try:
        settings = opened(config, running)
        running.send_signal(signal.SIGHUP)
        os.close(settings)
        assert "http://127.0.0.1:" in running.stdout.readline()
        os.close(opened(config, running))
        running.terminate()
        assert running.wait(PATIENCE) == 0
    finally:
        running.kill()
        running.wait()
        running.stdout.close()


def opened(fifo: Path, by: subprocess.Popen[str]) -> int:
    """A FIFO, to be written to, once another process opens it."""
    while True:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            assert error.errno == errno.ENXIO  # noqa: PT017 - nobody opens it yet
            assert by.poll() is None


@pytest.mark.parametrize(("workers", "where"), [("1", "{}/told"), ("2", "@offramp-{}")])
def test_systemd_is_told(start: Start, tmp_path: Path, workers: str, where: str) -> None:
    """Once, when requests are answered, by the process that it started."""
    address = where.format(tmp_path if workers == "1" else os.urandom(8).hex())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(address.replace("@", "\0"))
        told.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        told.settimeout(PATIENCE)
        process = start("--workers", workers, NOTIFY_SOCKET=address)
        said, (control, *_), _, _ = told.recvmsg(64, socket.CMSG_SPACE(12))
        assert said == b"READY=1"
        # struct ucred: who said it; systemd believes the process that it started alone.
        assert struct.unpack("3i", control[2])[0] == process.running.pid
        assert process.get("/-/livez") == b"ok\n"
        assert process.stop() == 0
        told.setblocking(False)
        with pytest.raises(BlockingIOError):
            told.recv(64)


def test_systemd_cannot_be_told(start: Start, tmp_path: Path) -> None:
    """The server serves all the same, and says so."""
    process = start(NOTIFY_SOCKET=str(tmp_path / "nobody"))
    assert process.get("/-/livez") == b"ok\n"
    assert process.stop() == 0
    assert f"{tmp_path}/nobody cannot be told that we serve" in (tmp_path / "stderr").read_text()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_one_port_by_two_names(root: Path, tmp_path: Path, workers: str) -> None:
    """Where clients could come to what is not for them, nothing is served, shared port or not."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # 127.1 is the same address, as only the resolver knows.
    status, said = failed(
        *(root, "--listen", f"127.1:{port}", "--data", tmp_path / "data", "--workers", workers),
        OFFRAMP_ADMIN__LISTEN=f"127.0.0.1:{port}",
        OFFRAMP_REUSE_PORT="true",
    )
    assert (status, said.count("\n")) == (1, 1)
    assert f"admin.listen is 127.0.0.1:{port}, and clients are answered at 127.0.0.1:{port}" in said


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_terminal_that_is_closed(root: Path, tmp_path: Path, workers: str) -> None:
    """SIGHUP ends a server whose terminal is gone; where it is still there, it is read again."""
    ours, theirs = pty.openpty()
    with (tmp_path / "stderr").open("w") as stderr:
        running = subprocess.Popen(
            [sys.executable, "-c", CODE, "serve", str(root), "--workers", workers],
            env={
                **os.environ,
                "OFFRAMP_DATA": str(tmp_path / "data"),
                "OFFRAMP_LISTEN": "127.0.0.1:0",
            },
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    os.close(theirs)
    try:
        assert running.stdout is not None
        assert "http://127.0.0.1:" in running.stdout.readline()
        running.send_signal(signal.SIGHUP)
        until = time.monotonic() + PATIENCE
        while "read again" not in (tmp_path / "stderr").read_text():
            assert time.monotonic() < until
            time.sleep(0.02)
        assert running.poll() is None
        os.close(ours)
        running.send_signal(signal.SIGHUP)
        assert running.wait(PATIENCE) == 0
    finally:
        running.kill()
        running.wait()
        running.stdout.close()
