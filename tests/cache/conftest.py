# Law of this file: every test has a data directory and processes of its own, and steers each run
# by what it says, not by time.

from __future__ import annotations

import hashlib
import os
import queue
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pytest

from cache.entities import Entities
from cache.flights import Flights, Outcome, Reader, Sink
from cache.keys import record_key
from cache.layout import Layout
from cache.records import Records
from cache.usage import Usage
from stores.entity import Entity

PACK = "application/x-git-packed-objects"


@dataclass
class House:
    """The rooms of one process's cache, without the facade."""

    layout: Layout
    executor: ThreadPoolExecutor
    usage: Usage = field(init=False)
    entities: Entities = field(init=False)
    records: Records = field(init=False)
    flights: Flights = field(init=False)
    alarms: int = 0

    def __post_init__(self) -> None:
        def alarm() -> None:
            self.alarms += 1

        self.usage = Usage(self.layout)
        self.entities = Entities(self.layout, self.usage)
        self.records = Records(self.layout, self.usage)
        self.flights = Flights(self.layout, self.records, self.entities, self.executor, alarm)

    def another(self) -> Self:
        """What a second process would have: locks belong to open files, not to processes."""
        return type(self)(self.layout, self.executor)

    def put(self, content: bytes) -> Entity:
        """Make ``content`` a local entity."""
        entity = Entity(hashlib.sha256(content).hexdigest(), len(content))
        path = self.layout.incoming("given")
        path.write_bytes(content)
        self.entities.adopt(path, entity)
        return entity

    def incoming(self) -> list[str]:
        """What lies in incoming/."""
        return sorted(path.name for path in (self.layout.data / "incoming").iterdir())


class Script:
    """A run that does what a test tells it; the test may go on meanwhile."""

    def __init__(self) -> None:
        self.runs = 0
        self._steps: queue.SimpleQueue[Callable[[Sink], Outcome | None]] = queue.SimpleQueue()

    def __call__(self, sink: Sink) -> Outcome:
        """Run."""
        self.runs += 1
        while True:
            outcome = self._steps.get(timeout=60)(sink)
            if outcome is not None:
                return outcome

    def do(self, step: Callable[[Sink], Outcome | None]) -> Self:
        """Tell it any step."""
        self._steps.put(step)
        return self

    def head(self, head: bytes) -> Self:
        """Say the head."""
        return self.do(lambda sink: sink.head(head))

    def write(self, data: bytes) -> Self:
        """Write."""
        return self.do(lambda sink: sink.write(data))

    def end(self, *, checksum: str = "c0ffee", has_entity: bool = True) -> Self:
        """End well."""
        return self.do(lambda _: Outcome(PACK, checksum, has_entity))

    def fail(self, error: BaseException) -> Self:
        """Fail."""

        def step(sink: Sink) -> Outcome:
            raise error

        return self.do(step)


@dataclass
class Peer:
    """Another process that boards a key, and says what it sees, one line each."""

    process: subprocess.Popen[str]

    def tell(self, *lines: str) -> None:
        """Tell its run what to do."""
        assert self.process.stdin is not None
        self.process.stdin.writelines(line + "\n" for line in lines)
        self.process.stdin.flush()

    def hear(self) -> str:
        """Its next line; "" when it has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        """As a crash does."""
        self.process.kill()
        self.process.wait()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """The cache of this process."""
    executor = ThreadPoolExecutor(8)
    yield House(Layout.make(tmp_path / "data"), executor)
    executor.shutdown()


@pytest.fixture
def script() -> Script:
    """A run to be steered."""
    return Script()


@pytest.fixture
def make_script() -> type[Script]:
    """More of them."""
    return Script


@pytest.fixture
def key() -> str:
    """A key."""
    return record_key("git-v2", "repo", b"want")


@pytest.fixture
def start_peer(house: House, key: str) -> Iterator[Callable[..., Peer]]:
    """A function that starts a process, which boards ``key`` ``boards`` times."""
    started: list[Peer] = []
    program = str(Path(__file__).with_name("peer.py"))

    def start(boards: int = 1) -> Peer:
        process = subprocess.Popen(
            [sys.executable, program, str(house.layout.data), key, str(boards)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(Peer(process))
        return started[-1]

    yield start
    for peer in started:
        with peer.process:
            peer.process.kill()


@pytest.fixture
def read_all() -> Callable[[Reader], object]:
    """A coroutine function: everything that a reader gives."""

    async def read(reader: Reader) -> bytes:
        content = b""
        async with reader:
            while (size := await reader.extent(len(content))) > len(content):
                content += os.pread(reader.fd, size - len(content), len(content))
            assert reader.complete
        return content

    return read
