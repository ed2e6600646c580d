# Law of this file: a server's CPU time is that of every process that it ever started, exact to the
# microsecond where the kernel can tell, whoever waited for them.
#
# fcgiwrap ignores SIGCHLD, so the kernel reaps the git processes that it starts without adding
# their times to any parent's: /proc/<pid>/stat and getrusage never hear of them, and they live too
# shortly to be sampled. A control group counts what ran in it, dead or alive. Only where none can
# be made is the tree of processes read, and then CGI programs write down their own times (LEDGER).

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, Self

_TICK: Final = 1 / os.sysconf("SC_CLK_TCK")

# Joins a control group and becomes the program: nothing of it runs uncounted.
_JOIN: Final = 'echo $$ > "$0" && exec "$@"'

# A CGI program for servers that do not wait for what they start: runs $OFFRAMP_CGI and appends what
# it used. times(1p) counts in ticks and rounds down, so the server seems cheaper than it is.
LEDGER: Final = '#!/bin/sh\n{program}\nstatus=$?\ntimes >> "{ledger}"\nexit $status\n'
_TIMES: Final = re.compile(r"(\d+)m([\d.]+)s")


class Meter(Protocol):
    """Counts the CPU time of one server."""

    exact: bool

    def command(self, arguments: Sequence[str]) -> list[str]:
        """What to run in place of ``arguments`` so that it is counted."""
        ...

    def started(self, pid: int) -> None:
        """Learn that a process of the server runs."""
        ...

    def seconds(self) -> float:
        """User and system time so far of all processes, those that have ended included."""
        ...

    def close(self) -> None:
        """Forget about the server, which has ended."""
        ...


@dataclass(slots=True)
class ControlGroup:
    """A control group (version 2) of its own; see cgroups(7)."""

    path: Path
    exact: bool = True

    @classmethod
    def make(cls, name: str) -> Self | None:
        """Make one below our own, or return None if this process may not."""
        parent = _own_group()
        if parent is None:
            return None
        path = parent / f"offramp-bench-{os.getpid()}-{name}"
        try:
            path.mkdir()
        except OSError:
            return None
        group = cls(path)
        joined = subprocess.run(group.command(("true",)), capture_output=True, check=False)
        if joined.returncode != 0 or not (path / "cpu.stat").exists():
            path.rmdir()
            return None
        return group

    def command(self, arguments: Sequence[str]) -> list[str]:
        """A shell that joins the group and becomes the program."""
        return ["sh", "-c", _JOIN, str(self.path / "cgroup.procs"), *arguments]

    def started(self, pid: int) -> None:
        """It has joined by itself."""

    def seconds(self) -> float:
        """What the kernel counted, in microseconds."""
        stat = dict(line.split() for line in (self.path / "cpu.stat").read_text().splitlines())
        return int(stat["usage_usec"]) / 1e6

    def close(self) -> None:
        """Remove the group; its last processes may need a moment to be gone."""
        for _ in range(100):
            with suppress(OSError):
                self.path.rmdir()
                return
            time.sleep(0.02)


def _own_group() -> Path | None:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    roots = [fields[1] for fields in mounts if fields[2] == "cgroup2"]
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::") and roots:
            return Path(roots[0] + line.removeprefix("0::"))
    return None


@dataclass(slots=True)
class Tree:
    """The processes below those that were started, and what their parents waited for.

    A live process is exact: its own CPU clock counts all threads, also those that ended. What it
    waited for is summed exactly by the kernel, but told in ticks of 10 ms.

    Attributes:
        ledger: to which CGI programs append their times.
    """

    ledger: Path
    exact: bool = False
    _roots: list[int] = field(default_factory=list)

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The program itself."""
        return list(arguments)

    def started(self, pid: int) -> None:
        """Count this process and all below it."""
        self._roots.append(pid)

    def seconds(self) -> float:
        """Live processes, what they waited for, and the ledger."""
        return sum(_used(pid) for pid in _below(self._roots)) + self._told()

    def close(self) -> None:
        """There is nothing to remove."""

    def _told(self) -> float:
        if not self.ledger.exists():
            return 0.0
        pairs = _TIMES.findall(self.ledger.read_text())
        return sum(60 * int(minutes) + float(seconds) for minutes, seconds in pairs)


def offspring(pid: int) -> tuple[frozenset[int], int]:
    """What changes when a process starts another one, however shortly that lives.

    Returns:
        Which processes are below it now, those included for which it has not waited; and how often
        those for which it has waited had a page brought to them (``cminflt`` of proc_pid_stat(5)),
        which every process needs.
    """
    return frozenset(_below((pid,)) - {pid}), int(_stat(pid)[8])


def _below(roots: Sequence[int]) -> set[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parents[int(entry.name)] = int(_stat(int(entry.name))[1])
    found = set(roots) & parents.keys()
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _used(pid: int) -> float:
    try:
        # The process's CPU clock: clock_getcpuclockid(3), as MAKE_PROCESS_CPUCLOCK builds it.
        own = time.clock_gettime((~pid << 3) | 2)
        fields = _stat(pid)
    except OSError:  # it has just ended; its parent's sum has it at the next reading
        return 0.0
    return own + (int(fields[13]) + int(fields[14])) * _TICK


def _stat(pid: int) -> list[str]:
    """The fields of proc_pid_stat(5) after the program's name, from the third on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def meter(directory: Path, name: str) -> Meter:
    """The most exact way to count that this machine allows."""
    return ControlGroup.make(name) or Tree(directory / f"{name}.times")
