# Law of this file: programs run with a clean environment, and every one that was started is ended,
# by its process id, whatever happened meanwhile.

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cli.errors import Failed

# How long a program may take to start, to end, and to run, on a machine that has better to do.
_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 10.0
RUN_SECONDS: Final = 120.0

_OFFRAMP: Final = (sys.executable, "-c", "from cli.main import main; main()")
_CDN: Final = (sys.executable, "-m", "cli.demo_cdn")

_FOREIGN: Final = re.compile(r"(?i)(OFFRAMP|GIT|SSH|PROMETHEUS)_.*|(https?|all|no)_proxy")


def environment(home: Path) -> dict[str, str]:
    """This process's environment without what would change how git and Offramp behave."""
    kept = {name: value for name, value in os.environ.items() if not _FOREIGN.fullmatch(name)}
    return kept | {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
    }


@dataclass(frozen=True, slots=True)
class Serving:
    """A server that runs.

    Attributes:
        pid: its process id.
        port: at which it listens, at 127.0.0.1.
        ended: done when it has ended.
    """

    pid: int
    port: int
    ended: asyncio.Task[bytes]


@dataclass(frozen=True, slots=True)
class Programs:
    """Runs git and Offramp.

    Attributes:
        home: an empty directory: no program finds settings of whoever runs this.
    """

    home: Path

    async def git(self, *args: str | Path, stdin: bytes = b"") -> str:
        """Run git and return what it printed.

        Raises:
            Failed: it exited with something else than 0, or took too long.
        """
        return await self._run(("git", *map(str, args)), stdin)

    async def offramp(self, *args: str | Path) -> str:
        """Run an ``offramp`` command and return what it printed; errors as those of ``git``."""
        return await self._run((*_OFFRAMP, *map(str, args)), b"", told=f"offramp {args[0]}")

    @asynccontextmanager
    async def serving(self, config: Path, log: Path) -> AsyncIterator[Serving]:
        """``offramp serve``, for the time of a block."""
        command = (*_OFFRAMP, "serve", "--config", str(config))
        async with self._started(command, log) as (pid, line, ended):
            match = re.search(r":(\d+)/$", line)
            if match is None:
                raise Failed(f"offramp serve: an unexpected first line: {line}")
            yield Serving(pid, int(match[1]), ended)

    @asynccontextmanager
    async def cdn(self, store: Path, log: Path) -> AsyncIterator[int]:
        """The static server over ``store``, for the time of a block: its port."""
        async with self._started((*_CDN, str(store)), log) as (_, line, _):
            yield int(line)

    async def _run(self, command: tuple[str, ...], stdin: bytes, told: str = "") -> str:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment(),
            cwd=self.home,
            start_new_session=True,  # Ctrl-C comes to us, and we end it
        )
        try:
            async with asyncio.timeout(RUN_SECONDS):
                stdout, stderr = await process.communicate(stdin)
        except TimeoutError:
            raise Failed(f"{told or command}: not done after {RUN_SECONDS:.0f} s") from None
        finally:
            await _ended(process)
        if process.returncode != 0:
            said = stderr.decode(errors="replace").strip()
            name = told or " ".join(command[:5])
            raise Failed(f"{name}: exit code {process.returncode}: {said}")
        return stdout.decode(errors="replace")

    @asynccontextmanager
    async def _started(
        self, command: tuple[str, ...], log: Path
    ) -> AsyncIterator[tuple[int, str, asyncio.Task[bytes]]]:
        """A server, when it has printed its first line, and what is done when it has ended."""
        with log.open("ab") as stderr:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                env=self._environment(),
                cwd=self.home,
                start_new_session=True,
            )
        rest: asyncio.Task[bytes] | None = None
        try:
            assert process.stdout is not None  # noqa: S101 - a pipe was asked for
            try:
                async with asyncio.timeout(_START_SECONDS):
                    line = (await process.stdout.readline()).decode().strip()
            except TimeoutError:
                line = ""
            if not line:
                said = log.read_text(errors="replace").strip()
                raise Failed(f"{command[-1]}: the server did not start: {said or 'no word'}")
            rest = asyncio.create_task(process.stdout.read())  # or it might block on a full pipe
            yield process.pid, line, rest
        finally:
            await _ended(process)
            if rest is not None:
                await rest

    def _environment(self) -> Mapping[str, str]:
        return environment(self.home)


async def _ended(process: asyncio.subprocess.Process) -> None:
    """End a process, if it has not ended, and wait for it."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


# --- processor time ------------------------------------------------------------------------


def cpu_seconds(pid: int) -> float | None:
    """Processor time of a process, its threads and all its children, ended ones included.

    From proc(5), so None where there is none. Threads are counted by the nanosecond, children
    that have ended by the kernel's ticks, mostly 10 ms.
    """
    try:
        return sum(map(_own_seconds, _tree(pid)))
    except (OSError, ValueError, IndexError):
        return None


def _own_seconds(pid: int) -> float:
    process = Path("/proc", str(pid))
    # After the name, which is in parentheses and may hold anything, comes field 3.
    fields = (process / "stat").read_bytes().rpartition(b")")[2].split()
    utime, stime, cutime, cstime = map(int, fields[11:15])
    tick = os.sysconf("SC_CLK_TCK")
    try:
        threads = sum(
            int((thread / "schedstat").read_bytes().split()[0]) / 1e9
            for thread in (process / "task").iterdir()
        )
    except OSError:  # a kernel without it
        threads = (utime + stime) / tick
    return threads + (cutime + cstime) / tick


def _tree(pid: int) -> tuple[int, ...]:
    """A process and its living descendants."""
    children: list[int] = []
    for thread in Path("/proc", str(pid), "task").iterdir():
        with suppress(OSError):  # a kernel without it, or a thread that has just ended
            children += map(int, (thread / "children").read_bytes().split())
    below: tuple[int, ...] = ()
    for child in children:
        with suppress(OSError):
            below += _tree(child)
    return (pid, *below)
