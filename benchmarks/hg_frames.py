# Law of this file: what framing costs is measured on the reactors themselves, beside a plain copy
# of the same bytes; what a shared context saves, on the answers of a real server.

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from benchmarks import hg_servers, servers
from benchmarks.hg_asking import Call, Multirequest
from benchmarks.table import Figure, Goal, Report
from wire.hg.client import ClientReactor, ResponseReceived
from wire.hg.encodings import Encoding, encoder
from wire.hg.messages import CommandRequest
from wire.hg.server import ServerReactor

GOAL: Final = 0.5

_GIGABYTE: Final = 1e9
# What the server encodes at a time, what a socket gives at a time, and what one answer is long.
_PIECE: Final = 256 << 10
_READ: Final = 64 << 10
_SMALL: Final = 100

Prepared = TypeVar("Prepared")


@dataclass(slots=True)
class HgSmall:
    """Many small answers in one exchange.

    Attributes:
        repository: that is asked.
        data: what Offramp knows of it.
        work: a directory for everything else.
        answers: how many, as long as the repository has so many changesets.
        report: gets the figures.
        say: told what is being done.
    """

    repository: Path
    data: Path
    work: Path
    answers: int
    report: Report
    say: Callable[[str], None]

    def run(self) -> None:
        """Measure everything.

        Raises:
            servers.CannotStart, load.LoadFailed: no measurement is possible.
        """
        self.work.mkdir(parents=True)
        with (
            servers.static(self.work, self.work / "static") as store,
            hg_servers.offramp(
                self.repository.parent, self.data, store.url, self.work / "serve"
            ) as server,
        ):
            for name, calls in self._kinds().items():
                self.say(f"small answers: {name}")
                for encoding in (Encoding.ZSTD, Encoding.ZLIB):
                    asked = Multirequest(self.repository.name, calls, encoding)
                    frames = asked.ask(server.url)
                    apart = sum(map(len, told_apart(asked.read(frames), encoding)))
                    self._figure(name, len(calls), encoding, apart, len(frames))

    def _kinds(self) -> dict[str, list[Call]]:
        hg = hg_servers.mercurial(self.work / "client")
        newest = ("log", "--limit", str(self.answers), "--template", "{node}\n")
        nodes = [bytes.fromhex(line) for line in hg(*newest, where=self.repository).split()]
        fields = frozenset((b"parents", b"phase", b"revision"))
        return {
            "one changeset each": [
                (
                    b"changesetdata",
                    {
                        b"revisions": [{b"type": b"changesetexplicit", b"nodes": [node]}],
                        b"fields": fields,
                    },
                )
                for node in nodes
            ],
            "one node each": [(b"lookup", {b"key": node.hex().encode()}) for node in nodes],
        }

    def _figure(self, name: str, count: int, encoding: Encoding, apart: int, shared: int) -> None:
        title = f"{count:,} small answers, {name}, {encoding}"
        figure = Figure(f"{title}: bytes", "kB", apart / 1e3, shared / 1e3, "a context each")
        self.report.figures.append(figure)
        # Nodes look like noise and say next to nothing else: there is little to be saved.
        if encoding is Encoding.ZSTD and name == "one changeset each":
            self.report.goals.append(
                Goal(f"{title}: bytes on one stream by those of a context each", figure.ratio, GOAL)
            )


def told_apart(answers: Iterable[bytes], encoding: Encoding) -> list[bytes]:
    """Frames that tell answers on a stream each, with a context of its own."""
    whole = list(answers)
    _, reactor = _exchange(len(whole))
    told = []
    for number, answer in enumerate(whole):
        stream, coder = reactor.begin_stream(encoding), encoder(encoding)
        data = coder.encode(answer) + coder.flush()
        told.append(
            reactor.answer(stream, 2 * number + 1, data, end=True, encoded=True, close=True)
        )
    return told


def _exchange(requests: int) -> tuple[ClientReactor, ServerReactor]:
    """Both sides, when the requests have been sent and nothing answered."""
    client, server = ClientReactor(), ServerReactor()
    for _ in range(requests):
        server.receive(client.request(CommandRequest(b"heads"), None)[1])
    server.end()
    return client, server


@dataclass(slots=True)
class HgFraming:
    """The reactors beside a plain copy, by the CPU time of one thread.

    Attributes:
        size: bytes of a large answer.
        count: of small answers.
        rounds: the quickest of all counts.
        report: gets the figures.
        say: told what is being done.
    """

    size: int
    count: int
    rounds: int
    report: Report
    say: Callable[[str], None]

    def run(self) -> None:
        """Measure everything."""
        self.say("framing")
        # Each piece has its own memory: one that is copied again and again stays in the cache.
        pieces = [bytes([at % 256]) * _PIECE for at in range(self.size // _PIECE)]
        large = Figures("large answer", "GB/s", len(pieces) * _PIECE / _GIGABYTE)
        self._measure(large, pieces, each=False)
        small = Figures(f"answers of {_SMALL} bytes", "million/s", self.count / 1e6)
        self._measure(small, [bytes(_SMALL)] * self.count, each=True)

    def _measure(self, figures: Figures, pieces: Sequence[bytes], *, each: bool) -> None:
        """Write pieces, each an answer or all of them one, and read what was written."""
        requests = len(pieces) if each else 1
        taken = self._least(
            lambda: _exchange(requests)[1],
            lambda side: sum(map(len, write(side, pieces, each=each))),
        )
        copied = self._least(lambda: pieces, copy)
        self.report.figures.append(figures.of("frames written", copied, taken))
        written = list(write(_exchange(requests)[1], pieces, each=each))
        frames = b"".join(written)
        arriving = [frames[at : at + _READ] for at in range(0, len(frames), _READ)]
        taken = self._least(lambda: _exchange(requests)[0], lambda side: read(side, arriving))
        # Small answers beside a copy of each: of all together it would take no time at all.
        copied = self._least(lambda: written if each else arriving, copy)
        self.report.figures.append(figures.of("frames read", copied, taken))

    def _least(self, prepare: Callable[[], Prepared], work: Callable[[Prepared], object]) -> float:
        found = []
        for _ in range(self.rounds):
            prepared = prepare()
            began = time.process_time()
            work(prepared)
            found.append(time.process_time() - began)
        return min(found)


@dataclass(frozen=True, slots=True)
class Figures:
    """How two times become a figure.

    Attributes:
        what: was handled.
        unit: of a rate.
        amount: that was handled, in that unit times seconds.
    """

    what: str
    unit: str
    amount: float

    def of(self, name: str, copied: float, taken: float) -> Figure:
        """The rate of the reactor beside that of the copy."""
        theirs, ours = (self.amount / max(seconds, 1e-9) for seconds in (copied, taken))
        return Figure(f"{name}, {self.what}", self.unit, theirs, ours, "a plain copy")


def copy(pieces: Sequence[bytes]) -> int:
    """Copy each piece, and forget the copy; returns their bytes."""
    return sum(len(bytes(memoryview(piece))) for piece in pieces)


def write(server: ServerReactor, pieces: Sequence[bytes], *, each: bool) -> Iterator[bytes]:
    """Frames of pieces, of which ``each`` is an answer, or all are one."""
    stream = server.begin_stream(Encoding.IDENTITY)
    last = len(pieces) - 1
    for number, piece in enumerate(pieces):
        request_id = 2 * number + 1 if each else 1
        end = each or number == last
        yield server.answer(stream, request_id, piece, end=end, encoded=True)


def read(client: ClientReactor, arriving: Sequence[bytes]) -> int:
    """Bytes that frames tell."""
    size = 0
    for data in arriving:
        for event in client.receive(data):
            if isinstance(event, ResponseReceived):
                size += len(event.data)
    client.end()
    return size
