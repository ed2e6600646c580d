# Law of this file: each way to clone by protocol v1 costs its server what is counted here, by the
# client that users have; what came of it is looked at before its figure is believed.

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import hg_servers, load, servers
from benchmarks.hg_repository import Hg
from benchmarks.load import LoadFailed
from benchmarks.servers import Server


@dataclass(frozen=True, slots=True)
class V1Cost:
    """What clones of one kind cost, each.

    Attributes:
        cpu: seconds of the server and all that it started, of each clone.
        wall: seconds of each clone.
        sent: bytes that the server sent for one clone, headers too.
        stored: bytes that the store's host sent for one clone, headers too.
        stored_cpu: seconds of the store's host, of one clone.
    """

    cpu: tuple[float, ...]
    wall: tuple[float, ...]
    sent: int
    stored: int
    stored_cpu: float

    @property
    def mean(self) -> float:
        """Seconds of server CPU of a clone."""
        return sum(self.cpu) / len(self.cpu)

    @property
    def share(self) -> float:
        """How much of all bytes came from the store."""
        return self.stored / (self.stored + self.sent)


@dataclass(frozen=True, slots=True)
class Cloned:
    """A server, and how it is cloned from.

    Attributes:
        what: words for people.
        server: the server.
        name: of the repository in its URL, with a slash before it; empty if it has no name.
        options: of ``hg clone``.
        times: how many clones are counted.
        first: clone once before that, for what is done but once.
        checked: have hg look at what was cloned.
    """

    what: str
    server: Server
    name: str
    options: Sequence[str]
    times: int
    first: bool = False
    checked: bool = False


@dataclass(slots=True)
class V1Clones:
    """Clones of one repository from several servers.

    Attributes:
        repository: that is cloned.
        work: a directory for the clones.
        store: the host of the store's files.
        log: of that.
        say: told what is being done.
    """

    repository: Path
    work: Path
    store: Server
    log: Path
    say: Callable[[str], None]
    _hg: Hg = field(init=False)
    _heads: str = field(init=False)

    def __post_init__(self) -> None:
        self._hg = hg_servers.mercurial(self.work / "client", hg_servers.READS)
        self._heads = self._heads_of(self.repository)

    def series(self, cloned: Cloned) -> V1Cost:
        """Clone several times, and once more through a relay that counts bytes.

        Raises:
            load.LoadFailed, HgFailed: a clone failed, or is not what was cloned.
        """
        url = f"{cloned.server.url}{cloned.name}"
        if cloned.first:
            self.say(f"clone: {cloned.what}, the first")
            self._clone(url, cloned.options)
        cpu, wall = [], []
        before = self.store.meter.seconds()
        for number in range(cloned.times):
            self.say(f"clone: {cloned.what}, {number + 1} of {cloned.times}")
            used, began = cloned.server.meter.seconds(), time.perf_counter()
            self._clone(url, cloned.options)
            cpu.append(cloned.server.meter.seconds() - used)
            wall.append(time.perf_counter() - began)
        stored_cpu = (self.store.meter.seconds() - before) / cloned.times
        self._check(cloned)
        self.say(f"clone: {cloned.what}, bytes counted")
        logged = self.log.stat().st_size
        with load.relay(cloned.server.url) as between:
            self._clone(f"{between.url}{cloned.name}", cloned.options)
        stored = servers.bytes_sent(self.log, logged)
        return V1Cost(tuple(cpu), tuple(wall), between.received, stored, stored_cpu)

    def _clone(self, url: str, options: Sequence[str]) -> None:
        shutil.rmtree(self._path, ignore_errors=True)
        self._hg("clone", "--quiet", "--noupdate", *options, url, self._path, where=self.work)

    @property
    def _path(self) -> Path:
        return self.work / "clone"

    def _check(self, cloned: Cloned) -> None:
        """The last clone has all of what was cloned, and hg finds no fault in it."""
        if self._heads_of(self._path) != self._heads:
            raise LoadFailed(f"{cloned.what}: a clone with other heads than its source")
        if cloned.checked:
            self.say(f"hg verify: {cloned.what}")
            self._hg("verify", "--quiet", where=self._path)

    def _heads_of(self, path: Path) -> str:
        return self._hg("log", "--rev", "sort(head(), node)", "--template", "{node} ", where=path)
