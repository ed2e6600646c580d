# Law of this file: whoever the pipeline asks has a stand-in, so that it is seen who was asked and
# who was not.

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cache.cache import Cache
from cache.flights import Outcome as Ran
from cache.flights import Sink
from cache.keys import record_key
from cache.records import Part
from indexer.catalog import Bundle
from redirects.acceptance import ACCEPTS_NOTHING, Acceptance, Client, Location
from redirects.audience import PUBLIC, Audience
from redirects.control import EVERYBODY, Control
from redirects.selection import Selection
from redirects.targets import HttpTarget
from redirects.window import Window
from server.answer import Answer, Covering, Execution, Growing, Locate, Plan, Redirected, Stored
from server.decisions import Decisions
from server.metrics import Metrics
from server.outcome import Outcome
from server.pipeline import Pipeline
from server.settings import RedirectSettings
from stores.base import StoreUnavailable
from stores.entity import Entity
from stores.memory import MemoryStore

TARGET = HttpTarget("cdn", "http://cdn.example", Window(900.0, 3600.0))
CDN = frozenset({TARGET.fingerprint})
HTTP = Acceptance(frozenset({"http"}))
CONTENT = os.urandom(5000)
ENTITY = Entity(hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), "application/x-pack")
HEAD = b"head"
CLIENT = Client("http://here.example")


@dataclass
class Publishing:
    """Stands in for the publisher.

    Attributes:
        does: what publishing does; returns the targets through which the entity came back.
    """

    does: Callable[[Entity, Path], Awaitable[frozenset[str]]]
    calls: int = 0
    known: dict[str, frozenset[str]] = field(default_factory=dict)
    claims: list[tuple[str, str]] = field(default_factory=list)

    def readable(self, entity: Entity) -> frozenset[str]:
        """What came back earlier."""
        return self.known.get(entity.digest, frozenset())

    def still(self, entity: Entity, readable: frozenset[str]) -> frozenset[str]:
        """Nothing is lost."""
        return readable

    async def claim(self, repository: str, entity: Entity) -> None:
        """Note whose it is."""
        self.claims.append((repository, entity.digest))

    async def publish(
        self,
        entity: Entity,
        path: Path,
        repository: str,
        *,
        enough: Callable[[], bool],
        hold: Callable[[], object],
    ) -> frozenset[str]:
        """Publish."""
        assert repository == "p.git"
        assert hold() is not None
        assert not enough()
        self.calls += 1
        came = await self.does(entity, path)
        self.known[entity.digest] = came
        return came


@dataclass
class Bundles:
    """Stands in for the catalogs."""

    known: frozenset[str] = frozenset()
    now: int = 0

    async def bundles(self, repository: str) -> tuple[Bundle, ...]:
        """None."""
        return ()

    def epoch(self, repository: str) -> int:
        """As the test has it."""
        return self.now

    def readable(self, digest: str) -> frozenset[str]:
        """What the indexer read back."""
        return self.known


@dataclass
class AllWell:
    """Stands in for the health of the targets."""

    dead: frozenset[str] = frozenset()

    def down(self) -> frozenset[str]:
        """Those that do not answer."""
        return self.dead


@dataclass
class Asked:
    """Stands in for a command of some dialect."""

    answer: Plan
    acceptance: Acceptance = ACCEPTS_NOTHING
    client: Client = CLIENT
    audience: Audience = PUBLIC
    dialect: str = "git-v2"
    name: str = "fetch"
    repository: str = "p.git"
    identity: str = "/p.git"

    async def plan(self, bundles: Sequence[Bundle], locate: Locate) -> Plan:
        """As the test has it."""
        return self.answer


@dataclass
class Running:
    """Stands in for a program, and counts its runs.

    Attributes:
        gate: it waits for this before it ends.
        error: it fails with this at its end.
        valid: whether earlier records may be served.
    """

    gate: threading.Event | None = None
    error: Exception | None = None
    valid: bool = True
    content: bytes = CONTENT
    media_type: str = ENTITY.media_type
    runs: int = 0

    def run(self, sink: Sink) -> Ran:
        """Run."""
        self.runs += 1
        sink.head(HEAD)
        if self.content:
            sink.write(self.content[:100])
        if self.gate is not None:
            assert self.gate.wait(60)
        if self.error is not None:
            raise self.error
        if self.content:
            sink.write(self.content[100:])
        return Ran(self.media_type, "ab" * 20 if self.content else "", bool(self.content))

    async def is_valid(self) -> bool:
        """Whether records may be served."""
        return self.valid

    def execution(self, same_as: tuple[bytes, Part] | None = None) -> Execution:
        """To be planned."""
        return Execution(record_key("git-v2", "/p.git", b"x"), self.run, self.is_valid, same_as)


@dataclass
class House:
    """A pipeline and what is around it."""

    cache: Cache
    store: MemoryStore
    publisher: Publishing
    bundles: Bundles
    health: AllWell
    metrics: Metrics
    settings: RedirectSettings
    control: Control = EVERYBODY

    async def respond(
        self, running: Running, accepts: Acceptance = ACCEPTS_NOTHING
    ) -> tuple[Answer, Outcome]:
        """Have the pipeline answer."""
        return await self.plan(Plan(None, running.execution()), accepts)

    async def plan(
        self, plan: Plan, accepts: Acceptance = HTTP, audience: Audience = PUBLIC
    ) -> tuple[Answer, Outcome]:
        """Have the pipeline answer a command with this plan."""
        return await self.pipeline().respond(Asked(plan, accepts, audience=audience))

    def pipeline(self) -> Pipeline:
        """The pipeline, with stand-ins for whoever is asked."""
        return Pipeline(
            self.cache,
            self.store,
            Selection.of(TARGET),
            self.publisher,  # type: ignore[arg-type]
            self.bundles,  # type: ignore[arg-type]
            self.health,  # type: ignore[arg-type]
            self.metrics,
            Decisions(self.metrics),
            self.settings,
            self.control,
        )

    def recorded(self) -> bool:
        """Whether there is a record."""
        return self.cache.records.load(Running().execution().key) is not None

    def evict(self) -> None:
        """Lose the entity."""
        self.cache.entities.path(ENTITY.digest).unlink()


async def comes_back(entity: Entity, path: Path) -> frozenset[str]:
    """Publishing goes well."""
    return CDN


async def fails(entity: Entity, path: Path) -> frozenset[str]:
    """The store does not answer."""
    raise StoreUnavailable("down")


async def hangs(entity: Entity, path: Path) -> frozenset[str]:
    """The store never answers."""
    await asyncio.Event().wait()
    raise AssertionError


async def nowhere(entity: Entity, path: Path) -> frozenset[str]:
    """It came back through no target."""
    return frozenset()


async def content(answer: Answer) -> bytes:
    """What is sent inline."""
    match answer.inline:
        case Stored(entity=opened):
            with opened as entity:
                return os.pread(entity.fd, entity.size, 0)
        case Growing(flight=flight):
            async with flight.reader() as reader:
                size = 0
                while (grown := await reader.extent(size)) > size:
                    size = grown
                return os.pread(reader.fd, size, 0) if size else b""
        case None:
            return b""


URL = f"http://cdn.example/{ENTITY.key}"


BUNDLE = Part(Entity("cd" * 32, 1000), "cd" * 20)
COVERING = Covering(BUNDLE, CDN)
AT_CDN = Redirected(
    BUNDLE, Location(f"http://cdn.example/{BUNDLE.entity.key}", "cdn", "http", None)
)


def decisions(house: House) -> dict[tuple[str, str], float]:
    """How often each outcome was counted, with its target or reason."""
    return {
        (s.labels["outcome"], s.labels["target"] + s.labels["reason"]): s.value
        for metric in house.metrics._registry.collect()
        for s in metric.samples
        if s.name == "offramp_decisions_total"
    }
