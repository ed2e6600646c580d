# Law of this file: a poll asks whether there is anything new, and there is nothing; the server is
# looked at before and after each for a process that it started.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import hg_servers, load
from benchmarks.cpu import offspring
from benchmarks.servers import Server

# A command, and the status with which it says that there is nothing new.
_INCOMING: Final = ("incoming", 1)
_ID: Final = ("id", 0)
_PULL: Final = ("pull", 0)
POLLS: Final = (_INCOMING, _ID, _PULL)
"""All of them."""


@dataclass(frozen=True, slots=True)
class PollCost:
    """What one kind of poll costs, each.

    Attributes:
        cpu: seconds of the server and all that it started; the mean.
        sent: bytes that the server sent for one, headers too.
        processes: polls during which the server started a process, or one of its own ended.
    """

    cpu: float
    sent: int
    processes: int


@dataclass(frozen=True, slots=True)
class V1Polls:
    """Polls with a clone that has everything.

    Attributes:
        clone: the clone.
        work: a directory.
        times: polls of each kind.
        say: told what is being done.
    """

    clone: Path
    work: Path
    times: int
    say: Callable[[str], None]

    def of(self, what: str, server: Server, name: str) -> dict[str, PollCost]:
        """Poll a server in every way.

        Args:
            what: words for people.
            server: the server.
            name: of the repository in its URL, with a slash before it; empty if it has no name.

        Raises:
            HgFailed: there was something new, or no answer.
        """
        return {command: self._poll(what, server, name, command, end) for command, end in POLLS}

    def _poll(self, what: str, server: Server, name: str, command: str, end: int) -> PollCost:
        hg = hg_servers.mercurial(self.work / "client", hg_servers.READS)
        self.say(f"hg {command}, {self.times} times: {what}")
        (pid,) = server.pids
        url = f"{server.url}{name}"
        # Bytes are counted of the first, whose time is not: in it is what is done once only.
        with load.relay(server.url) as between:
            hg(command, "--quiet", f"{between.url}{name}", where=self.clone, status=end)
        used, processes = server.meter.seconds(), 0
        for _ in range(self.times):
            before = offspring(pid)
            hg(command, "--quiet", url, where=self.clone, status=end)
            processes += offspring(pid) != before
        cpu = (server.meter.seconds() - used) / self.times
        return PollCost(cpu, between.received, processes)
