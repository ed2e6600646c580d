# Law of this file: each way that a command can take is taken here once, with stand-ins for whoever
# is asked on it, so that it is seen who was asked and who was not.

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from cache.cache import Cache
from cache.epochs import in_epoch
from cache.flights import CacheUnavailable, Sink
from cache.flights import Outcome as Ran
from cache.keys import record_key
from cache.records import Part
from indexer.catalog import Bundle
from redirects.acceptance import ACCEPTS_NOTHING, Acceptance, Client, Location
from redirects.audience import PUBLIC, Audience
from redirects.control import EVERYBODY, Control
from redirects.decision import Inline, Reason, Redirect
from redirects.selection import Selection
from redirects.targets import HttpTarget
from redirects.window import Window
from server import pipeline
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


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A pipeline whose publishing goes well."""
    executor = ThreadPoolExecutor(2)
    cache = await Cache.open(tmp_path / "data", 1 << 30, executor)
    yield House(
        cache,
        MemoryStore(),
        Publishing(comes_back),
        Bundles(),
        AllWell(),
        Metrics(),
        RedirectSettings(min_size=0, max_wait=60.0),
    )
    await cache.close()
    executor.shutdown()


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


async def test_a_miss_and_then_hits(house: House) -> None:
    """What nobody has asked yet is computed and read along; then it is on record."""
    running = Running()
    answer, outcome = await house.respond(running)
    assert (answer.head, answer.redirected, outcome) == (HEAD, (), Outcome.MISS)
    assert await content(answer) == CONTENT
    for _ in range(3):
        answer, outcome = await house.respond(running)
        assert isinstance(answer.inline, Stored)
        assert (answer.head, outcome, await content(answer)) == (HEAD, Outcome.HIT, CONTENT)
    assert (running.runs, house.publisher.calls) == (1, 0)


async def test_a_redirect(house: House) -> None:
    """Who accepts locations gets one: at first when it is published, then at once."""
    running = Running()
    for expected in (Outcome.MISS, Outcome.REDIRECT, Outcome.REDIRECT):
        answer, outcome = await house.respond(running, HTTP)
        assert outcome is expected
        assert answer.head == HEAD
        assert answer.inline is None
        (named,) = answer.redirected
        assert (named.location.url, named.part) == (URL, Part(ENTITY, "ab" * 20))
    assert (running.runs, house.publisher.calls) == (1, 1)


async def test_what_is_private(house: House) -> None:
    """It is named by no URL that everybody could use, and is not published in vain for one."""
    running = Running()
    for expected in (Outcome.MISS, Outcome.HIT):
        plan = Plan(None, running.execution())
        answer, outcome = await house.plan(plan, HTTP, Audience(private=True))
        assert (answer.redirected, outcome) == ((), expected)
        assert await content(answer) == CONTENT
    assert house.publisher.calls == 0


async def test_a_record_is_published_for_the_first_who_can_use_it(house: House) -> None:
    """What was computed for a client that accepts nothing is redirected for one that does."""
    running = Running()
    await content((await house.respond(running))[0])
    answer, outcome = await house.respond(running, HTTP)
    assert (len(answer.redirected), outcome) == (1, Outcome.REDIRECT)
    assert running.runs == 1


async def test_what_the_indexer_has_read_back_is_not_published_again(house: House) -> None:
    """An entity that a catalog names is named at once."""
    house.bundles.known = CDN
    answer, _ = await house.respond(Running(), HTTP)
    assert answer.redirected
    assert house.publisher.calls == 0


async def test_what_the_indexer_has_read_back_was_told_no_type(house: House) -> None:
    """An entity whose type clients demand is read back by us, though a catalog names its bytes."""
    house.bundles.known = CDN
    running = Running(media_type="application/mercurial-0.2")
    answer, _ = await house.respond(running, HTTP)
    assert answer.redirected
    assert house.publisher.calls == 1


async def test_followers(house: House) -> None:
    """Who asks while it runs follows, and reads along from the start."""
    running = Running(gate=threading.Event())
    first, outcome = await house.respond(running)
    assert outcome is Outcome.MISS
    second, outcome = await house.respond(running)
    assert outcome is Outcome.FOLLOW
    assert isinstance(second.inline, Growing)
    assert running.gate is not None
    running.gate.set()
    assert await content(first) == await content(second) == CONTENT
    assert running.runs == 1


async def test_followers_that_accept_locations_wait(house: House) -> None:
    """They wait until the run is done and published, once for all."""
    running = Running(gate=threading.Event())
    waiting = [asyncio.create_task(house.respond(running, HTTP)) for _ in range(10)]
    await asyncio.sleep(0)
    assert running.gate is not None
    running.gate.set()
    answers = await asyncio.gather(*waiting)
    assert all(answer.redirected for answer, _ in answers)
    assert sorted(outcome for _, outcome in answers) == [Outcome.FOLLOW] * 9 + [Outcome.MISS]
    assert running.runs == 1


async def test_a_run_that_takes_longer_than_max_wait(house: House) -> None:
    """Then its content is sent inline, while it is written."""
    house.settings = RedirectSettings(min_size=0, max_wait=0.05)
    running = Running(gate=threading.Event())
    answer, outcome = await house.respond(running, HTTP)
    assert (answer.redirected, outcome) == ((), Outcome.MISS)
    assert isinstance(answer.inline, Growing)
    assert running.gate is not None
    running.gate.set()
    assert await content(answer) == CONTENT
    assert house.recorded()


@pytest.mark.parametrize("does", [fails, nowhere, hangs])
async def test_publishing_that_does_not_go_well(
    house: House, does: Callable[[Entity, Path], Awaitable[frozenset[str]]]
) -> None:
    """Then content is sent inline, for the first and from the record, from one run."""
    house.settings = RedirectSettings(min_size=0, max_wait=0.05 if does is hangs else 60.0)
    house.publisher.does = does
    running = Running()
    for expected in (Outcome.MISS, Outcome.HIT):
        answer, outcome = await house.respond(running, HTTP)
        assert (answer.redirected, outcome) == ((), expected)
        assert await content(answer) == CONTENT
    assert running.runs == 1
    house.publisher.does = comes_back
    house.settings = RedirectSettings(min_size=0, max_wait=60.0)
    answer, outcome = await house.respond(running, HTTP)
    assert (len(answer.redirected), outcome) == (1, Outcome.REDIRECT)


async def test_no_one_is_asked_to_publish_what_no_one_can_use(house: House) -> None:
    """Too small, switched off, no scheme in common, nothing accepted: the store is left alone."""
    https = Acceptance(frozenset({"https"}))
    for settings, accepts in (
        (RedirectSettings(min_size=1 << 20), HTTP),
        (RedirectSettings(min_size=0, enabled=False), HTTP),
        (RedirectSettings(min_size=0), https),
        (RedirectSettings(min_size=0), ACCEPTS_NOTHING),
    ):
        house.settings = settings
        answer, _ = await house.respond(Running(), accepts)
        assert await content(answer) == CONTENT
    assert house.publisher.calls == 0


async def test_a_target_that_is_down(house: House) -> None:
    """What was published is sent inline while its target does not answer; no store is asked."""
    running = Running()
    await house.respond(running, HTTP)
    house.health.dead = CDN
    calls = house.publisher.calls
    answer, outcome = await house.respond(running, HTTP)
    assert (answer.redirected, outcome) == ((), Outcome.HIT)
    assert await content(answer) == CONTENT
    assert house.publisher.calls == calls


async def test_a_head_alone(house: House) -> None:
    """An answer without an entity is recorded and served as any other, and nothing is published."""
    running = Running(content=b"")
    for accepts in (HTTP, ACCEPTS_NOTHING, HTTP):
        answer, _ = await house.respond(running, accepts)
        assert (answer.head, answer.redirected) == (HEAD, ())
        assert await content(answer) == b""
    assert (running.runs, house.publisher.calls) == (1, 0)


@pytest.mark.parametrize("accepts", [ACCEPTS_NOTHING, HTTP], ids=["inline", "redirect"])
async def test_a_run_that_fails(house: House, accepts: Acceptance) -> None:
    """Its error is raised to whoever waits, nothing is recorded, and the next one runs again."""
    failing = Running(error=KeyError("failed"))

    async def whole() -> bytes:
        answer, _ = await house.respond(failing, accepts)
        return await content(answer)

    for _ in range(2):
        with pytest.raises(KeyError):
            await whole()
        assert not house.recorded()
    assert failing.runs == 2
    assert house.publisher.calls == 0
    _, outcome = await house.respond(Running(), accepts)
    assert outcome is Outcome.MISS


@pytest.mark.parametrize("accepts", [ACCEPTS_NOTHING, HTTP], ids=["inline", "redirect"])
async def test_a_record_that_is_not_valid_any_more(house: House, accepts: Acceptance) -> None:
    """What may not be served any more is not, by no way; the question is asked again."""
    running = Running()
    await content((await house.respond(running, accepts))[0])
    running.valid = False
    running.error = KeyError("gone")

    async def whole() -> bytes:
        answer, _ = await house.respond(running, accepts)
        return await content(answer)

    with pytest.raises(KeyError):
        await whole()
    assert running.runs == 2


async def test_an_entity_that_was_lost_here(house: House) -> None:
    """What the cache has lost is fetched from the store, verified, and not computed."""
    running = Running()
    await content((await house.respond(running))[0])
    house.evict()
    house.store.entities[ENTITY.digest] = CONTENT
    house.store.modified[ENTITY.digest] = 0.0
    answer, outcome = await house.respond(running)
    assert (await content(answer), outcome) == (CONTENT, Outcome.HIT)
    assert running.runs == 1


@pytest.mark.parametrize("stored", [None, b"", b"spoiled", CONTENT[:-1], CONTENT + b"x"])
async def test_an_entity_that_was_lost_everywhere(house: House, stored: bytes | None) -> None:
    """What is nowhere, or spoiled in the store, is computed again."""
    running = Running()
    await content((await house.respond(running))[0])
    house.evict()
    if stored is not None:
        house.store.entities[ENTITY.digest] = stored
        house.store.modified[ENTITY.digest] = 0.0
    answer, outcome = await house.respond(running)
    assert (await content(answer), outcome) == (CONTENT, Outcome.MISS)
    assert running.runs == 2


async def test_what_is_published_needs_no_copy_here(house: House) -> None:
    """A location is named although the cache has lost the content."""
    running = Running()
    await house.respond(running, HTTP)
    house.evict()
    answer, outcome = await house.respond(running, HTTP)
    assert (len(answer.redirected), outcome) == (1, Outcome.REDIRECT)
    assert running.runs == 1


BUNDLE = Part(Entity("cd" * 32, 1000), "cd" * 20)
COVERING = Covering(BUNDLE, CDN)
AT_CDN = Redirected(
    BUNDLE, Location(f"http://cdn.example/{BUNDLE.entity.key}", "cdn", "http", None)
)


async def test_a_bundle_that_is_the_whole_answer(house: House) -> None:
    """Nothing is run, looked up or published."""
    answer, outcome = await house.plan(Plan(COVERING, None, b"all"))
    assert (answer, outcome) == (Answer(b"all", (AT_CDN,)), Outcome.REDIRECT)


async def test_a_bundle_and_the_rest(house: House) -> None:
    """The bundle is named first; what is newer is named or sent."""
    running = Running()
    plan = Plan(COVERING, running.execution())
    for _ in range(2):
        answer, outcome = await house.plan(plan)
        assert outcome is Outcome.REDIRECT
        assert [named.location.url for named in answer.redirected] == [AT_CDN.location.url, URL]
        assert answer.inline is None
    inline = replace(running.execution(), inline=True)
    answer, outcome = await house.plan(Plan(COVERING, inline))
    assert outcome is Outcome.REDIRECT
    assert answer.redirected == (AT_CDN,)
    assert await content(answer) == CONTENT
    assert running.runs == 1


@dataclass
class Covered(Asked):
    """Stands in for a command that a bundle covers, but for what is newer.

    Attributes:
        everything: what is run where no bundle can be named.
        chosen: how often it was asked which bundle covers it.
        before: done before it is looked whether the bundle can be named.
        after: done after that.
    """

    everything: Running = field(default_factory=Running)
    chosen: int = 0
    before: Callable[[], None] = lambda: None
    after: Callable[[], None] = lambda: None

    async def plan(self, bundles: Sequence[Bundle], locate: Locate) -> Plan:
        """Take the bundle where it can be named."""
        self.chosen += 1
        self.before()
        decision = locate(BUNDLE.entity, CDN)
        self.after()
        if isinstance(decision, Redirect) and self.chosen <= pipeline._CHOICES:
            return self.answer
        return Plan(None, replace(self.everything.execution(), key="e" * 64))


class Meanwhile(threading.Event):
    """Lets something happen while a run waits for it."""

    def __init__(self, happens: Callable[[], None]) -> None:
        super().__init__()
        self._happens = happens

    def wait(self, timeout: float | None = None) -> bool:
        """Let it happen."""
        self._happens()
        return True


async def test_a_target_that_dies_while_the_rest_is_computed(house: House) -> None:
    """It is not named, nor counted: all of the content comes inline."""

    def dies() -> None:
        house.health.dead = CDN

    rest, everything = Running(gate=Meanwhile(dies), content=CONTENT[:500]), Running()
    command = Covered(Plan(COVERING, rest.execution()), HTTP, everything=everything)
    answer, _ = await house.pipeline().respond(command)
    assert (answer.redirected, await content(answer)) == ((), CONTENT)
    assert ("redirect", "cdn") not in decisions(house)
    assert (command.chosen, everything.runs) == (2, 1)


async def test_a_target_that_dies_before_the_first_byte(house: House) -> None:
    """Whatever else there is to wait for: where the bundle is, is said after that."""
    await content((await house.respond(Running()))[0])  # a record, which is sent from its file
    inline = replace(Running().execution(), inline=True)
    command = Covered(Plan(COVERING, inline), HTTP)
    waited: list[Answer] = []

    async def ready(answer: Answer) -> None:
        waited.append(answer)
        house.health.dead = CDN

    answer, _ = await house.pipeline().respond(command, ready)
    assert (answer.redirected, await content(answer)) == ((), CONTENT)
    assert isinstance(waited[0].inline, Stored)
    assert waited[0].inline.entity.fd == -1  # closed
    assert ("redirect", "cdn") not in decisions(house)


async def test_a_target_that_dies_while_a_command_is_looked_at(house: House) -> None:
    """A bundle that is the whole answer is not named there either."""
    command = Covered(Plan(COVERING, None, b"all"), HTTP)

    def dies() -> None:
        house.health.dead = CDN

    command.after = dies
    answer, _ = await house.pipeline().respond(command)
    assert (answer.redirected, await content(answer)) == ((), CONTENT)


async def test_a_target_that_comes_and_goes(house: House) -> None:
    """A client is not made to wait for it for ever: at last no bundle is looked for."""
    inline = replace(Running().execution(), inline=True)
    command = Covered(Plan(COVERING, inline), HTTP)

    def rises() -> None:
        house.health.dead = frozenset()

    async def ready(answer: Answer) -> None:
        house.health.dead = CDN

    command.before = rises
    answer, _ = await house.pipeline().respond(command, ready)
    assert [named.location.url for named in answer.redirected] == [URL]
    assert command.chosen == pipeline._CHOICES + 1


async def test_an_answer_that_is_a_bundle(house: House) -> None:
    """Who accepts nothing is sent the bundle's pack from the store; no program runs."""
    house.store.entities[ENTITY.digest] = CONTENT
    house.store.modified[ENTITY.digest] = 0.0
    running = Running()
    same = (b"same", Part(ENTITY, "ab" * 20))
    answer, outcome = await house.plan(Plan(None, running.execution(same)), ACCEPTS_NOTHING)
    assert (answer.head, outcome) == (b"same", Outcome.HIT)
    assert await content(answer) == CONTENT
    assert running.runs == 0


async def test_an_answer_that_is_a_bundle_which_is_gone(house: House) -> None:
    """Then it is computed."""
    running = Running()
    same = (b"same", Part(ENTITY, "ab" * 20))
    answer, outcome = await house.plan(Plan(None, running.execution(same)), ACCEPTS_NOTHING)
    assert (answer.head, outcome, await content(answer)) == (HEAD, Outcome.MISS, CONTENT)


async def test_a_cache_that_cannot_be_written(house: House, tmp_path: Path) -> None:
    """That is raised, for the dialect to answer without it."""
    incoming = tmp_path / "data" / "incoming"
    incoming.rmdir()
    incoming.write_text("in the way")
    with pytest.raises(CacheUnavailable):
        await house.respond(Running())


async def test_runs_are_counted_once(house: House) -> None:
    """A run counts when it is begun, not for each who follows it."""
    running = Running()
    for _ in range(3):
        await content((await house.respond(running))[0])
    figures, _ = house.metrics.render()
    counted = b'offramp_executions_total{command="fetch",dialect="git-v2",repo="p.git"} 1.0'
    assert counted in figures


# --- epochs and claims ----------------------------------------------------------------------


async def test_what_is_published_is_claimed_before(house: House) -> None:
    """For the repository that it was computed for, once."""
    seen: list[list[tuple[str, str]]] = []

    async def publish(entity: Entity, path: Path) -> frozenset[str]:
        seen.append(list(house.publisher.claims))
        return CDN

    house.publisher.does = publish
    for _ in range(3):
        await house.respond(Running(), HTTP)
    assert seen == [[("p.git", ENTITY.digest)]]
    assert house.publisher.claims == seen[0]


async def test_what_another_repository_published_is_claimed_too(house: House) -> None:
    """When it was computed, and not each time that it is named."""
    house.publisher.known[ENTITY.digest] = CDN
    running = Running()
    for _ in range(3):
        answer, _ = await house.respond(running, HTTP)
        assert answer.redirected
    assert house.publisher.claims == [("p.git", ENTITY.digest)]
    assert (running.runs, house.publisher.calls) == (1, 0)


async def test_what_cannot_be_claimed_is_not_named(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A purge would not find it; it is sent inline."""

    async def claim(repository: str, entity: Entity) -> None:
        raise StoreUnavailable("down")

    monkeypatch.setattr(house.publisher, "claim", claim)
    house.publisher.known[ENTITY.digest] = CDN
    answer, _ = await house.respond(Running(), HTTP)
    assert (answer.redirected, await content(answer)) == ((), CONTENT)
    house.publisher.known.clear()
    answer, _ = await house.respond(Running(), HTTP)
    assert (answer.redirected, house.publisher.calls) == ((), 0)


async def test_a_new_epoch_knows_no_earlier_record(house: House) -> None:
    """What was computed before is computed anew, under a name that tells the epoch."""
    running = Running()
    for epoch in (0, 1, 2):
        house.bundles.now = epoch
        for expected in (Outcome.MISS, Outcome.HIT):
            answer, outcome = await house.respond(running)
            assert (outcome, await content(answer)) == (expected, CONTENT)
        assert running.runs == epoch + 1
    named = {record.repository for record in house.cache.records.scan()}
    assert named == {in_epoch("/p.git", epoch) for epoch in (0, 1, 2)}


async def test_what_was_begun_before_a_purge_is_not_followed_after_it(house: House) -> None:
    """Its record is one of the earlier epoch, whenever it ends."""
    old, new = Running(gate=threading.Event()), Running()
    first, _ = await house.respond(old)
    house.bundles.now = 1
    second, outcome = await house.respond(new)
    assert outcome is Outcome.MISS
    assert await content(second) == CONTENT
    assert old.gate is not None
    old.gate.set()
    assert await content(first) == CONTENT
    _, outcome = await house.respond(new)
    assert (outcome, new.runs) == (Outcome.HIT, 1)


async def derived(house: House, running: Running) -> bytes:
    """What the pipeline gives of something that is made of an answer."""
    pipeline = house.pipeline()
    made = await pipeline.derived("p.git", "/p.git", record_key("derived", "/p.git"), running.run)
    return await content(Answer(b"", inline=made))


async def test_what_is_made_of_an_answer_is_made_once(house: House) -> None:
    """Something derived is made once, kept, and made again when it was evicted."""
    running = Running()
    assert [await derived(house, running) for _ in range(3)] == [CONTENT] * 3
    assert running.runs == 1
    house.evict()
    assert await derived(house, running) == CONTENT
    assert running.runs == 2


async def test_what_is_made_of_an_answer_goes_with_it(house: House) -> None:
    """After a purge nothing is used that was derived before."""
    running = Running()
    await derived(house, running)
    house.bundles.now = 7
    assert await derived(house, running) == CONTENT
    assert running.runs == 2


# --- who is not redirected ---------------------------------------------------------------


def decisions(house: House) -> dict[tuple[str, str], float]:
    """How often each outcome was counted, with its target or reason."""
    return {
        (s.labels["outcome"], s.labels["target"] + s.labels["reason"]): s.value
        for metric in house.metrics._registry.collect()
        for s in metric.samples
        if s.name == "offramp_decisions_total"
    }


async def settled() -> None:
    """Wait until nothing is done any more that no answer waits for."""
    while pipeline._watching:
        await asyncio.gather(*pipeline._watching, return_exceptions=True)
        await asyncio.sleep(0)


async def test_decisions_are_counted(house: House) -> None:
    """Each that was carried out, once: whatever it took, and whether it was a redirect or not."""
    running = Running()
    await house.respond(running, HTTP)
    await house.respond(running, HTTP)
    await house.respond(running)
    house.settings = RedirectSettings(min_size=len(CONTENT) + 1)
    await house.respond(running, HTTP)
    assert decisions(house) == {
        ("redirect", "cdn"): 2,
        ("inline", "client_accepts_none"): 1,
        ("inline", "too_small"): 1,
    }
    house.settings = RedirectSettings(min_size=0)
    await house.plan(Plan(COVERING, None, head=HEAD))
    assert decisions(house)["redirect", "cdn"] == 3


async def test_a_decision_that_came_too_late(house: House) -> None:
    """Who is not waited for any longer is counted so."""
    house.settings = RedirectSettings(min_size=0, max_wait=0.05)
    house.publisher.does = hangs
    await house.respond(Running(), HTTP)
    assert decisions(house) == {("inline", "not_in_time"): 1}


async def test_a_shadow_keeps_nobody_waiting(house: House) -> None:
    """The answer is inline at once; meanwhile its content is published and a decision counted."""
    house.control = Control(shadow=True)
    running = Running(gate=threading.Event())
    answer, outcome = await house.respond(running, HTTP)
    assert (answer.redirected, outcome) == ((), Outcome.MISS)
    assert decisions(house) == {}
    assert running.gate is not None
    running.gate.set()
    assert await content(answer) == CONTENT
    await settled()
    assert decisions(house) == {("shadow", "cdn"): 1}
    assert (house.publisher.calls, running.runs) == (1, 1)
    answer, outcome = await house.respond(running, HTTP)
    assert (answer.redirected, outcome) == ((), Outcome.HIT)
    assert await content(answer) == CONTENT
    assert decisions(house) == {("shadow", "cdn"): 2}


async def test_a_record_that_a_shadow_publishes(house: House) -> None:
    """Who finds a record that is in no store yet does not wait for that either."""
    running = Running()
    await content((await house.respond(running))[0])
    house.control = Control(shadow=True)
    publishing = asyncio.Event()

    async def later(entity: Entity, path: Path) -> frozenset[str]:
        await publishing.wait()
        return CDN

    house.publisher.does = later
    answer, _ = await house.respond(running, HTTP)
    assert await content(answer) == CONTENT
    publishing.set()
    await settled()
    assert decisions(house)["shadow", "cdn"] == 1


async def test_a_shadow_of_a_run_that_fails(house: House) -> None:
    """The client is told, as ever; no decision was made."""
    house.control = Control(shadow=True)
    with pytest.raises(OSError, match="broken"):
        await content((await house.respond(Running(error=OSError("broken")), HTTP))[0])
    await settled()
    assert decisions(house) == {}


async def test_what_a_shadow_leaves_of_a_bundle(house: House) -> None:
    """The bundle's decision is the one that counts; all of the content is sent, and kept here."""
    house.control = Control(shadow=True)
    running = Running()
    whole = replace(running.execution(), inline=True)
    location = Location(URL, "cdn", "http", None)
    plan = Plan(None, whole, shadowed=Inline(Reason.SHADOW, shadowed=location))
    for expected in (Outcome.MISS, Outcome.HIT):
        answer, outcome = await house.plan(plan)
        assert (await content(answer), outcome) == (CONTENT, expected)
    await settled()
    assert decisions(house) == {("shadow", "cdn"): 2}
    assert house.publisher.calls == 0


@pytest.mark.parametrize(
    ("control", "reason"),
    [
        (Control(off_repositories=("p.*",)), "off_for_repository"),
        (Control(percentage=0), "not_in_percentage"),
    ],
)
async def test_who_is_held_back(house: House, control: Control, reason: str) -> None:
    """Gets it inline while it is computed, and from the record; nothing is published for it."""
    house.control = control
    running = Running(gate=threading.Event())
    answer, _ = await house.respond(running, HTTP)
    assert running.gate is not None
    running.gate.set()
    assert await content(answer) == CONTENT
    answer, outcome = await house.respond(running, HTTP)
    assert (await content(answer), outcome) == (CONTENT, Outcome.HIT)
    assert decisions(house) == {("inline", reason): 2}
    assert house.publisher.calls == 0
