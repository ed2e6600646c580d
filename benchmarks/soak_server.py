# Law of this file: the server of a soak is the real program with its workers, at one port for all
# of it; killed, told to read its settings again, and replaced as operators would.

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.servers import OFFRAMP, CannotStart, nginx, nginx_config
from benchmarks.soak_programs import end_session

_START_SECONDS: Final = 60.0

# What the parent says of a worker that was killed, as it should.
_KILLED: Final = f"ended with exit code {-signal.SIGKILL}; starting it again"


@dataclass(slots=True)
class Program:
    """A server that is started and ended more than once.

    Attributes:
        arguments: how it is started.
        here: where it runs, and its log.
        environ: of it.
    """

    arguments: tuple[str, ...]
    here: Path
    environ: Mapping[str, str]
    process: asyncio.subprocess.Process | None = None

    async def start(self, port: int) -> None:
        """Start it, and wait until it listens.

        Raises:
            CannotStart: it does not.
        """
        self.here.mkdir(parents=True, exist_ok=True)
        with (self.here / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.arguments,
                cwd=self.here,
                env=self.environ,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(_START_SECONDS):
                while not await listens(port):
                    if self.process.returncode is not None:
                        raise CannotStart(f"{self.arguments[0]} ended: {self.log()[-600:]}")
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise CannotStart(f"{self.arguments[0]} does not listen: {self.log()[-600:]}") from None

    async def kill(self) -> None:
        """End it as a crash does, with all that it started."""
        process, self.process = self.process, None
        if process is not None:
            end_session(process.pid)
            await process.wait()

    def log(self) -> str:
        """What it said."""
        return (self.here / "log").read_text(errors="replace")


async def listens(port: int) -> bool:
    """Whether somebody does at a port of loopback."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def file_server(root: Path, here: Path, environ: Mapping[str, str]) -> tuple[Program, int]:
    """An nginx with the files below ``root``, not started yet, and its port."""
    here.mkdir(parents=True)
    config, url = nginx_config(here, f"root {root};")
    return Program(nginx(config), here, environ), int(url.rpartition(":")[2])


def bucket_server(port: int, here: Path, environ: Mapping[str, str]) -> Program:
    """A look-alike of S3, not started yet."""
    # Its own module serves only by its command line.
    arguments = (sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port))
    return Program(arguments, here, environ)


@dataclass(slots=True)
class Serving:
    """``offramp serve``, at one port all the time.

    Attributes:
        config: its settings file.
        here: for its logs; what it starts is known by its home, which is below.
        environ: of it.
        port: of loopback.
        restarts: how often it was replaced.
    """

    config: Path
    here: Path
    environ: Mapping[str, str]
    port: int
    restarts: int = 0
    _process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def parent(self) -> int:
        """Process id of the one that starts workers."""
        assert self._process is not None  # noqa: S101 - after start
        return self._process.pid

    async def start(self) -> None:
        """Start it, and wait until it says its address.

        Raises:
            CannotStart: it does not.
        """
        log = self.here / f"log-{self.restarts}"
        with log.open("ab") as file:
            process = await asyncio.create_subprocess_exec(
                *OFFRAMP,
                *("serve", "--config", str(self.config)),
                cwd=self.here,
                env=self.environ,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=file,
                start_new_session=True,
            )
        assert process.stdout is not None  # noqa: S101 - our pipe
        async with asyncio.timeout(_START_SECONDS):
            line = await process.stdout.readline()
        if not line:
            raise CannotStart(f"offramp serve did not start: {log.read_text()[-600:]}")
        self._process = process

    async def stop(self) -> int:
        """Ask it to stop; its exit status."""
        assert self._process is not None  # noqa: S101 - after start
        return await _stopped(self._process)

    @asynccontextmanager
    async def beside(self) -> AsyncIterator[list[int]]:
        """Start another one beside it, and stop the first when the block is over.

        What the block gets has the exit status of the first then.
        """
        before, statuses = self._process, list[int]()
        assert before is not None  # noqa: S101 - after start
        self.restarts += 1
        await self.start()
        yield statuses
        statuses.append(await _stopped(before))

    def reload(self) -> None:
        """Have it read its settings again."""
        os.kill(self.parent, signal.SIGHUP)

    def workers(self) -> list[int]:
        """Its workers that live, the oldest first."""
        return [pid for pid in _children(self.parent) if b"spawn_main" in _command(pid)]

    def zombies(self) -> int:
        """Processes that ended, and that whoever started them has not waited for."""
        family = {self.parent, *_children(self.parent)}
        everyone = {child for pid in family for child in _children(pid)}
        return sum(_state(pid) == "Z" for pid in everyone)

    def left_over(self) -> int:
        """Processes of the server and its programs that are there still; they are ended."""
        found = [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and int(entry.name) != os.getpid() and _is_of(entry, self.here)
        ]
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(found)

    def errors(self) -> list[str]:
        """What its logs say of errors."""
        lines = (
            line
            for log in sorted(self.here.glob("log-*"))
            for line in log.read_text(errors="replace").splitlines()
        )
        return [
            line
            for line in lines
            if ('"level": "error"' in line or "Traceback" in line) and _KILLED not in line
        ]


async def _stopped(process: asyncio.subprocess.Process) -> int:
    if process.returncode is None:
        process.terminate()
    await process.communicate()
    return process.returncode or 0


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    return []


def _command(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _state(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def _is_of(entry: Path, here: Path) -> bool:
    """Whether a process of /proc has a path below ``here`` in what it was started with."""
    with suppress(OSError):
        said = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        return f"{here}/".encode() in said
    return False
