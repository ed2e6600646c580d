# Law of this file: a target that does not answer is not named, and one that answers again is; no
# failure of a probe ends the probing.

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from redirects.health import Rules, State
from redirects.targets import HttpTarget, Target
from redirects.window import Window
from server.health import Health
from server.probes import PROBE, PROBE_ENTITY, probe_of
from server.readback import NotReadable, read_back_anew
from server.settings_targets import HttpTargetSettings
from server.status_documents import TargetsDocument
from stores.entity import Entity
from stores.faulty import Fail, FaultyStore, Hang
from stores.memory import MemoryStore
from stores.replica import Replica
from tests.conftest import Serve

WINDOW = Window(900.0, 3600.0)
ONE = HttpTarget("one", "http://one.example", WINDOW)
TWO = HttpTarget("two", "http://two.example", WINDOW)
# Time stands still, and with it what is probed with.
NOW, CONTENT = probe_of(0)
BOTH = frozenset({ONE.fingerprint, TWO.fingerprint})
# So long that nothing is probed again in a test, unless there is a reason.
SELDOM = Rules(3600.0, 60.0)


class Targets:
    """Some of which do not answer."""

    def __init__(self) -> None:
        self.down: set[str] = set()
        self.error: Exception = NotReadable("no answer")
        self.probed: list[str] = []
        self.states: list[tuple[str, State]] = []
        self.changed = asyncio.Condition()

    async def read_back(self, target: Target, entity: Entity) -> None:
        """Read the probe back."""
        assert entity == NOW
        self.probed.append(target.name)
        async with self.changed:
            self.changed.notify_all()
        if target.name in self.down:
            raise self.error

    def note(self, target: str, state: State) -> None:
        """What is thought of a target."""
        self.states.append((target, state))

    async def until(self, told: Callable[[], bool]) -> None:
        """Wait for it; it is looked at again with each probe."""
        async with asyncio.timeout(60), self.changed:
            await self.changed.wait_for(told)


@pytest.fixture(autouse=True)
def _still(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of day stands still, of each that is made."""
    made = Health.__post_init__

    def stand(self: Health) -> None:
        self.wall = float
        made(self)

    monkeypatch.setattr(Health, "__post_init__", stand)


@pytest.fixture
def targets() -> Targets:
    """Both answer."""
    return Targets()


@pytest.fixture
def store() -> FaultyStore:
    """A store that works."""
    return FaultyStore(MemoryStore())


@pytest.fixture
def health(store: FaultyStore, targets: Targets) -> Health:
    """Of two targets, of which nothing is known yet."""
    return Health(store, (ONE, TWO), targets.read_back, SELDOM, targets.note)


async def probed(health: Health, times: int) -> None:
    """Probe so often."""
    for _ in range(times):
        await health.probe()


async def test_a_target_goes_and_comes(health: Health, targets: Targets) -> None:
    """From the first probe that fails it is not named, and again when it answered often enough."""
    await health.probe()
    assert health.down() == frozenset()
    targets.down = {"one"}
    await health.probe()
    assert health.down() == {ONE.fingerprint}
    await health.probe()
    targets.down = set()
    await health.probe()
    assert health.down() == {ONE.fingerprint}
    await health.probe()
    assert health.down() == frozenset()


async def test_one_that_failed_once_is_back_at_once(health: Health, targets: Targets) -> None:
    """A packet that was lost costs a moment."""
    targets.down = {"one"}
    await health.probe()
    targets.down = set()
    await health.probe()
    assert health.down() == frozenset()


async def test_each_change_is_told(health: Health, targets: Targets) -> None:
    """To who keeps figures, from the beginning."""
    assert targets.states == [("one", State.UNSEEN), ("two", State.UNSEEN)]
    await health.probe()
    assert sorted(targets.states[2:]) == [("one", State.UP), ("two", State.UP)]
    targets.states.clear()
    targets.down = {"one"}
    await probed(health, 3)
    targets.down = set()
    await probed(health, 3)
    assert targets.states == [
        ("one", State.SUSPECT),
        ("one", State.DOWN),
        ("one", State.HALF_OPEN),
        ("one", State.UP),
    ]
    assert health.states() == (("one", State.UP), ("two", State.UP))


async def test_whoever_is_told_may_fail(
    store: FaultyStore, targets: Targets, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk that refuses the figures ends no probing, and no request."""
    health = Health(store, (ONE, TWO), targets.read_back, Rules(0.1, 0.05))
    await health.begin()

    def full(target: str, state: State) -> None:
        raise OSError(28, "No space left on device")

    health.changed = full
    running = asyncio.create_task(health.run())
    targets.down = {"one"}
    await targets.until(lambda: targets.probed.count("one") >= 6)
    assert not running.done()
    assert health.down() == {ONE.fingerprint}
    health.suspect(TWO)
    store.faults["stat"] = Fail()
    await health.look_at_stores()
    assert health.down() == BOTH
    running.cancel()
    assert "which was not noted" in caplog.text


async def test_no_fault_of_ours_ends_the_probing(
    store: FaultyStore,
    targets: Targets,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever it is: it is told, and the next probe follows."""
    health = Health(store, (ONE,), targets.read_back, Rules(0.1, 0.05))
    see, left = Health._see, 2

    def fail(self: Health, *args: object) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            raise RuntimeError("our own fault")
        see(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Health, "_see", fail)
    running = asyncio.create_task(health.run())
    await targets.until(lambda: targets.probed.count("one") >= 4)
    running.cancel()
    assert caplog.text.count("RuntimeError: our own fault") == 2
    assert health.down() == frozenset()


async def test_a_store_is_looked_at_as_often_as_a_target(
    store: FaultyStore, targets: Targets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So late that a look ends in time, and earlier by chance."""
    pauses: asyncio.Queue[float] = asyncio.Queue()

    async def sleep(seconds: float) -> None:
        pauses.put_nowait(seconds)
        await asyncio.Event().wait()

    rules = Rules(1000.0, 100.0, jitter=0.25)
    for chance, pause in ((0.0, 900.0), (1.0, 675.0)):
        health = Health(
            store, (), targets.read_back, rules, clock=lambda: 0.0, chance=lambda c=chance: c
        )
        await health.begin()
        with monkeypatch.context() as patched:
            patched.setattr(asyncio, "sleep", sleep)
            running = asyncio.create_task(health.run())
            assert await pauses.get() == pause
        running.cancel()


async def test_the_probe_is_put_into_the_store_once(health: Health, store: FaultyStore) -> None:
    """It is there to be read, and is not written again while it is."""
    await probed(health, 3)
    assert store.calls["put"] == 2
    for entity, expected in ((NOW, CONTENT), (PROBE_ENTITY, PROBE)):
        assert b"".join([chunk async for chunk in store.open(entity.digest)]) == expected
    await store.delete(NOW.digest)
    await health.probe()
    assert store.calls["put"] == 3


async def test_each_minute_has_another_probe(health: Health, store: FaultyStore) -> None:
    """Of the store's own, and of who shares it: the same for all, and new to each cache."""
    seen: list[Entity] = []

    async def read_back(target: Target, entity: Entity) -> None:
        assert await store.stat(entity.digest) is not None
        seen.append(entity)

    other = Health(store, (ONE,), read_back, SELDOM)
    health.read_back = read_back
    for now in (0.0, 59.0, 60.0, 61.0):
        for each in (health, other):
            each.wall = lambda now=now: now  # type: ignore[misc]
            await each.probe()
    assert seen == [probe_of(0)[0]] * 6 + [probe_of(1)[0]] * 6


async def test_a_store_that_is_full_is_read_on(
    health: Health, store: FaultyStore, targets: Targets, caplog: pytest.LogCaptureFixture
) -> None:
    """Its targets are probed with what it has; that no newer one could be put is told, once."""
    seen: list[Entity] = []

    async def read_back(target: Target, entity: Entity) -> None:
        seen.append(entity)

    await health.probe()
    health.read_back = read_back
    health.wall = lambda: 600.0
    store.faults["put"] = Fail()
    await probed(health, 2)
    assert health.down() == frozenset()
    assert seen == [PROBE_ENTITY] * 4
    assert caplog.text.count("takes nothing new") == 1
    del store.faults["put"]
    await health.probe()
    assert seen[4:] == [probe_of(10)[0]] * 2


@pytest.mark.parametrize("method", ["stat", "put"])
async def test_a_store_that_is_down_takes_its_targets_with_it(
    health: Health, store: FaultyStore, targets: Targets, method: str
) -> None:
    """Nothing is named while the store does not answer, and no target is asked for it."""
    store.faults[method] = Fail()  # type: ignore[index]
    await health.probe()
    assert health.down() == BOTH
    assert health.is_store_down
    assert health.has_failed(ONE)
    assert targets.probed == []
    assert health.states() == (("one", State.DOWN), ("two", State.DOWN))
    assert targets.states[-2:] == [("one", State.DOWN), ("two", State.DOWN)]
    store.faults.clear()
    await health.probe()
    assert health.down() == frozenset()
    assert targets.states[-2:] == [("one", State.UP), ("two", State.UP)]


async def test_nothing_is_named_before_it_was_seen(health: Health, targets: Targets) -> None:
    """At first nobody knows of any target that it works; the first probe is enough to tell."""
    assert health.down() == BOTH
    targets.down = {"two"}
    await health.begin()
    assert health.down() == {TWO.fingerprint}


@pytest.mark.parametrize("silent", ["store", "target"])
async def test_who_does_not_answer_keeps_no_server_from_beginning(
    store: FaultyStore, targets: Targets, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    """Whoever has not answered when the time of one probe is over is not named, and that is all."""
    loop, ahead = asyncio.get_running_loop(), 0.0
    real = loop.time
    monkeypatch.setattr(loop, "time", lambda: real() + ahead)

    def its_time_is_over() -> None:
        nonlocal ahead
        ahead = 60.0

    async def read_back(target: Target, entity: Entity) -> None:
        if target is ONE:
            await asyncio.Event().wait()
        await targets.read_back(target, entity)
        loop.call_soon(its_time_is_over)

    health = Health(store, (ONE, TWO), read_back, Rules(3600.0, 60.0))
    if silent == "store":
        store.faults["stat"] = Hang(asyncio.Event())
        loop.call_soon(its_time_is_over)
    await health.begin()
    assert health.down() == (BOTH if silent == "store" else {ONE.fingerprint})


async def test_who_died_while_the_store_was_away_is_not_named(
    health: Health, store: FaultyStore, targets: Targets
) -> None:
    """When the store comes back, what was known of targets before is old: each is probed first."""
    named: list[frozenset[str]] = []

    async def read_back(target: Target, entity: Entity) -> None:
        named.append(health.down())
        await targets.read_back(target, entity)

    await health.probe()
    store.faults["stat"] = Fail()
    await health.probe()
    targets.down = {"one"}
    store.faults.clear()
    health.read_back = read_back
    await health.probe()
    assert named == [BOTH, BOTH]
    assert health.down() == {ONE.fingerprint}


async def test_a_probe_from_before_says_nothing(
    health: Health, store: FaultyStore, targets: Targets
) -> None:
    """One that began before the store went and comes back after it came counts for nothing."""
    began, goes_on = asyncio.Event(), asyncio.Event()

    async def slow(target: Target, entity: Entity) -> None:
        began.set()
        await goes_on.wait()

    await health.probe()
    health.read_back = slow
    probing = asyncio.create_task(health.probe())
    await began.wait()
    health.read_back = targets.read_back
    targets.down = {"one", "two"}
    store.faults["stat"] = Fail()
    await health.look_at_stores()
    store.faults.clear()
    await health.look_at_stores()
    goes_on.set()
    await probing
    assert health.down() == BOTH


async def test_two_ways_to_one_place(store: FaultyStore, targets: Targets) -> None:
    """Both are watched, by their names; if one of them fails, the place does."""
    again = HttpTarget("again", ONE.base_url, WINDOW)
    health = Health(store, (ONE, again), targets.read_back, SELDOM)
    await health.probe()
    assert health.states() == (("one", State.UP), ("again", State.UP))
    targets.down = {"again"}
    await health.probe()
    assert sorted(targets.probed) == ["again", "again", "one", "one"]
    assert health.states() == (("one", State.UP), ("again", State.SUSPECT))
    assert health.down() == {ONE.fingerprint}


async def test_any_error_of_a_target_is_one(health: Health, targets: Targets) -> None:
    """What a probe raises, of whatever kind, makes one target count as down, and no other."""
    await health.probe()
    for error in (NotReadable("x"), OSError("x"), TimeoutError(), KeyError("x")):
        targets.down, targets.error = {"two"}, error
        await health.probe()
        assert health.down() == {TWO.fingerprint}


async def test_a_change_is_logged_once_and_why(
    health: Health, targets: Targets, caplog: pytest.LogCaptureFixture
) -> None:
    """A target that stays down is not news."""
    caplog.set_level("INFO")
    now = 0.0
    health.clock = lambda: now
    await health.probe()
    targets.down = {"one"}
    await probed(health, 3)
    targets.down = set()
    await probed(health, 3)
    told = [record for record in caplog.records if record.levelname in {"INFO", "WARNING"}]
    said = [message for each in told if (message := each.getMessage()).startswith("target ")]
    assert [line.split(",")[0] for line in said] == [
        "target one is suspect",
        "target one is down",
        "target one is half-open",
        "target one is up",
    ]
    assert said[1].endswith(" of suspect: no answer")
    assert said[3].endswith(" of half-open: a probe came back")


async def test_no_temporary_file_can_be_made(
    health: Health, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where the probe cannot be written, nothing is named, and probing goes on."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    await health.probe()
    assert health.down() == BOTH


async def test_who_never_answers_has_failed(store: FaultyStore) -> None:
    """A probe takes no longer than it may."""

    async def silent(target: Target, entity: Entity) -> None:
        del target, entity
        await asyncio.Event().wait()

    health = Health(store, (ONE,), silent, Rules(3600.0, 0.01))
    await health.probe()
    assert health.states() == (("one", State.SUSPECT),)
    assert health.down() == {ONE.fingerprint}


async def test_a_target_that_hangs_is_not_named_before_its_time_is_over(
    store: FaultyStore, targets: Targets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its probe takes longer than it used to; and it is named again as soon as that is back."""
    loop, ahead = asyncio.get_running_loop(), 0.0
    real = loop.time
    monkeypatch.setattr(loop, "time", lambda: real() + ahead)
    hangs, seen = False, list[tuple[frozenset[str], str]]()

    async def read_back(target: Target, entity: Entity) -> None:
        nonlocal ahead
        began = loop.time()
        while hangs and loop.time() < began + 2.0:
            assert health.down() == frozenset() or loop.time() > began + 1.5
            await asyncio.sleep(0)
            ahead += 0.01
        seen.append((health.down(), health.observed()[0].seen))

    health = Health(store, (ONE,), read_back, Rules(), targets.note)
    await health.probe()
    hangs = True
    await health.probe()
    down, said = seen[-1]
    assert down == {ONE.fingerprint}
    assert said.startswith("no answer within 1.5 s, where the last one took 0.0")
    assert health.down() == frozenset()
    assert targets.states == [
        ("one", State.UNSEEN),
        ("one", State.UP),
        ("one", State.SUSPECT),
        ("one", State.UP),
    ]


async def test_one_that_falls_again_and_again_is_held_down(
    health: Health, targets: Targets, caplog: pytest.LogCaptureFixture
) -> None:
    """People are told for how long, in the log as well; a single outage is no reason."""
    caplog.set_level("INFO")
    now = 0.0
    health.clock = lambda: now
    await health.probe()
    for outage in range(2):
        targets.down = {"one"}
        await probed(health, 2)
        targets.down = set()
        await probed(health, 2)
        assert (health.down() == frozenset()) is (outage == 0)
        assert ("is held down" in caplog.text) is (outage == 1)
    one, two = health.observed()
    assert (one.state, one.held, two.held) == (State.HALF_OPEN, pytest.approx(849, abs=1), 0)
    told = "a probe came back; it fell again and again, and is held down for 849 s more"
    assert one.seen == told
    settings = [
        HttpTargetSettings(name=each, type="http", base_url="http://x.example")
        for each in ("one", "two")
    ]
    document = TargetsDocument.of(1, health, settings, 1e9)
    until = document.targets[0].held_until
    assert until is not None
    assert until.timestamp() == pytest.approx(1e9 + 849, abs=1)
    assert document.targets[1].held_until is None
    now = 840.0
    await health.probe()
    assert health.observed()[0].held == pytest.approx(9, abs=1)
    now = 850.0
    await health.probe()
    assert health.down() == frozenset()
    assert health.observed()[0].held == 0


async def running(health: Health, until: Callable[[], Awaitable[None]]) -> None:
    """Have the probing run until then."""
    task = asyncio.create_task(health.run())
    await until()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_probing_goes_on(store: FaultyStore, targets: Targets) -> None:
    """Probes follow each other, whatever fails, until they are cancelled."""
    targets.down = {"one"}
    health = Health(store, (ONE, TWO), targets.read_back, Rules(0.2, 0.1))

    async def thrice() -> None:
        await targets.until(lambda: min(map(targets.probed.count, ("one", "two"))) >= 3)

    await running(health, thrice)


async def test_a_suspicion_brings_a_probe(health: Health, targets: Targets) -> None:
    """At once, of that target; it is named until the probe fails, which is then done again.

    What took it may have taken others, too: these are probed as well, and named meanwhile.
    """

    async def suspected() -> None:
        await targets.until(lambda: len(targets.probed) == 2)
        targets.down = {"one"}
        health.suspect(ONE)
        assert health.down() == frozenset()
        assert health.is_suspected(ONE)
        assert not health.is_suspected(TWO)
        assert not health.has_failed(ONE)
        await targets.until(lambda: targets.probed.count("one") == 3)
        assert health.down() == {ONE.fingerprint}
        assert health.has_failed(ONE)
        assert not health.is_suspected(ONE)
        await targets.until(lambda: targets.probed.count("two") == 2)
        assert health.down() == {ONE.fingerprint}

    await running(health, suspected)
    assert targets.probed.count("two") == 2


async def test_a_suspicion_that_is_unfounded(health: Health, targets: Targets) -> None:
    """However many clients ask again, a target that answers probes is not down."""

    async def suspected() -> None:
        await targets.until(lambda: len(targets.probed) == 2)
        for _ in range(50):
            health.suspect(ONE)
        await targets.until(lambda: targets.probed.count("one") == 2)

    await running(health, suspected)
    assert health.down() == frozenset()


# --- real servers ------------------------------------------------------------------------------


@dataclass
class Odd:
    """A file server that can be odd in many ways.

    Attributes:
        how: it is odd.
        connections: that requests came on.
        url: its base URL.
    """

    how: str = ""
    connections: list[object] = field(default_factory=list)
    url: str = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The probe, or what it takes for it."""
        self.connections.append(request.transport)
        ranged = request.http_range.start
        match self.how:
            case "an error page":
                return web.Response(text="<html>Sorry</html>", content_type="text/html")
            case "sent elsewhere":
                return web.Response(status=302, headers={"Location": f"{self.url}/x"})
            case "no Range":
                ranged = None
            case "wrong bytes":
                return web.Response(body=CONTENT.upper())
            case "status 503":
                return web.Response(status=503)
        if ranged is None:
            return web.Response(body=CONTENT)
        stated = {"Content-Range": f"bytes {ranged}-{len(CONTENT) - 1}/{len(CONTENT)}"}
        return web.Response(status=206, body=CONTENT[ranged:], headers=stated)


@pytest.mark.parametrize(
    "how", ["an error page", "sent elsewhere", "no Range", "wrong bytes", "status 503"]
)
async def test_a_target_that_answers_is_not_well_for_that(store: FaultyStore, how: str) -> None:
    """What clients could not use is as good as no answer; each probe is a new connection."""
    odd = Odd()
    app = web.Application()
    app.router.add_get("/{path:.*}", odd.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        odd.url = "http://{}:{}".format(*runner.addresses[0][:2])
        target = HttpTarget("odd", odd.url, WINDOW)

        async def read_back(target: Target, entity: Entity) -> None:
            await read_back_anew(store, target, entity)

        health = Health(store, (target,), read_back, SELDOM)
        await probed(health, 2)
        assert health.down() == frozenset()
        assert len(set(map(id, odd.connections))) == 2
        odd.how = how
        await health.probe()
        assert health.down() == {target.fingerprint}
    finally:
        await runner.cleanup()


async def test_what_is_thought_of_targets_can_be_seen(serve: Serve, tmp_path: Path) -> None:
    """Where it is asked whether the server is ready, and in its figures."""
    (tmp_path / "root").mkdir()
    dead = {"type": "http", "name": "dead", "base_url": "http://127.0.0.1:1"}
    served = await serve(tmp_path / "root", targets=[dead, {"type": "self"}])
    await probed(served.runtime.health, 2)
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{served.url}/-/readyz") as answer:
            assert (answer.status, await answer.text()) == (200, "ok; passed over: dead (down)\n")
        async with session.get(f"{served.url}/-/metrics") as answer:
            lines = (await answer.text()).splitlines()
    assert 'offramp_target_state{state="down",target="dead"} 1.0' in lines
    assert 'offramp_target_state{state="up",target="dead"} 0.0' in lines
    assert 'offramp_target_state{state="up",target="self"} 1.0' in lines


async def test_two_targets_with_one_url_are_two_for_operators(serve: Serve, tmp_path: Path) -> None:
    """Such as two regions before one place: both are told of, by their names."""
    (tmp_path / "root").mkdir()
    dead = {"type": "http", "base_url": "http://127.0.0.1:1"}
    served = await serve(tmp_path / "root", targets=[dead | {"name": name} for name in "ab"])
    await probed(served.runtime.health, 2)
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{served.url}/-/readyz") as answer,
    ):
        told = "ok; passed over: a (down), b (down)\n"
        assert (answer.status, await answer.text()) == (200, told)


async def test_a_server_that_has_just_begun_names_none_that_is_dead(
    serve: Serve, tmp_path: Path
) -> None:
    """Store and targets were probed before anybody can ask."""
    (tmp_path / "root").mkdir()
    dead = {"type": "http", "name": "dead", "base_url": "http://127.0.0.1:1"}
    served = await serve(tmp_path / "root", targets=[dead, {"type": "self"}])
    dead_one, own = served.runtime.targets
    assert dead_one.fingerprint in served.runtime.health.down()
    assert own.fingerprint not in served.runtime.health.down()


# --- several stores -------------------------------------------------------------------------------


async def test_a_store_takes_only_its_own_targets_with_it(
    store: FaultyStore, targets: Targets
) -> None:
    """The others are named and probed as before; it is told of those that it takes."""
    replica = FaultyStore(MemoryStore())
    health = Health(
        store,
        (ONE, TWO),
        targets.read_back,
        SELDOM,
        targets.note,
        replicas={"eu": replica},
        reads={"one": "main", "two": "eu"},
    )
    await health.probe()
    for each in (store, replica):
        assert await each.stat(NOW.digest) is not None
    targets.states.clear()
    for fails, stands, gone in ((replica, ONE, TWO), (store, TWO, ONE)):
        targets.probed.clear()
        fails.faults["stat"] = Fail()
        await health.probe()
        assert health.down() == {gone.fingerprint}
        assert (health.has_failed(gone), health.has_failed(stands)) == (True, False)
        assert health.is_store_down == (fails is store)
        assert targets.probed == [stands.name]
        del fails.faults["stat"]
        await health.probe()
        assert health.down() == frozenset()
    assert targets.states == [
        ("two", State.DOWN),
        ("two", State.UNSEEN),
        ("two", State.UP),
        ("one", State.DOWN),
        ("one", State.UNSEEN),
        ("one", State.UP),
    ]


async def test_a_store_that_is_not_the_one_that_it_was(
    store: FaultyStore, targets: Targets, caplog: pytest.LogCaptureFixture
) -> None:
    """No probe is put into it; its targets are down, and people are told why, once in the log."""
    inner = MemoryStore()
    health = Health(
        store,
        (ONE, TWO),
        targets.read_back,
        SELDOM,
        replicas={"eu": Replica("eu", inner, store)},
        reads={"one": "main", "two": "eu"},
    )
    await health.probe()
    assert health.down() == frozenset()
    had = dict(inner.entities)
    inner.entities.clear()
    await probed(health, 3)
    assert not inner.entities
    assert health.down() == {TWO.fingerprint}
    assert health.states() == (("one", State.UP), ("two", State.DOWN))
    said = health.observed()[1].seen
    assert said.startswith("the store eu (memory) is not the one that it was: ")
    assert caplog.text.count("run `offramp stores renew eu`") == 1
    assert caplog.text.count("the store eu is refused, so none of its targets is named") == 1
    inner.entities.update(had)
    await probed(health, 2)
    assert health.down() == frozenset()


async def test_a_store_that_hangs_keeps_no_target_of_another_from_being_probed(
    store: FaultyStore, targets: Targets
) -> None:
    """Each store is looked at by itself."""
    replica = FaultyStore(MemoryStore(), {"stat": Hang(asyncio.Event())})
    health = Health(
        store,
        (ONE, TWO),
        targets.read_back,
        SELDOM,
        replicas={"eu": replica},
        reads={"one": "main", "two": "eu"},
    )
    running = asyncio.create_task(health.run())
    await targets.until(lambda: targets.probed == ["one"])
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
