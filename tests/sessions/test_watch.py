# Law of this file: what clients ask for is compared soon, and again before what is known of it is
# too old; a mirror that does not answer is down, and nothing ends the watching.

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from redirects.decision import Reason
from redirects.health import SOON, Rules, State
from redirects.sessions import SessionMirror, Sighting, Vcs
from server.sessions.reading import Unfit, Unreachable
from server.sessions.refs import Ours
from server.sessions.watch import AT_ONCE, KEPT, MirrorWatch

RULES = Rules(10.0, 4.0, 0.0)
A = SessionMirror("a", "http://a.example", max_age=60.0)
B = SessionMirror("b", "http://b.example", ("other/*",), max_age=30.0)


@dataclass
class World:
    """Mirrors and ourselves, as tests have them answer.

    Attributes:
        now: what the clock says.
        ours: digest of our refs; its state is the same word in capitals.
        theirs: digests of the mirrors' refs, or what is raised, by name.
        asked: the mirrors that were asked, and for what.
        states: what was thought of mirrors.
    """

    now: float = 1000.0
    ours: str | Exception | None = "x"
    theirs: dict[str, str | Exception] = field(default_factory=lambda: {"a": "x", "b": "x"})
    asked: list[tuple[str, Vcs, str]] = field(default_factory=list)
    states: list[tuple[str, State]] = field(default_factory=list)
    happened: asyncio.Event = field(default_factory=asyncio.Event)

    async def own(self, vcs: Vcs, repository: str) -> Ours | None:
        """What we say."""
        del vcs, repository
        self.happened.set()
        if isinstance(self.ours, Exception):
            raise self.ours
        return None if self.ours is None else Ours(self.ours.upper(), self.ours)

    async def until(self, told: Callable[[], bool]) -> None:
        """Wait for it; it is looked at again with each question that is put."""
        async with asyncio.timeout(60):
            while not told():
                self.happened.clear()
                await self.happened.wait()

    def note(self, mirror: str, state: State) -> None:
        """What is thought of a mirror."""
        self.states.append((mirror, state))

    def watch(self, rules: Rules = RULES) -> MirrorWatch:
        """A watch of both mirrors."""

        def reads(mirror: SessionMirror) -> Scripted:
            return Scripted(self, mirror.name)

        return MirrorWatch((A, B), reads, self.own, rules, self.note, lambda: self.now, lambda: 0.0)


@dataclass
class Scripted:
    """One mirror."""

    world: World
    name: str

    async def digest(self, vcs: Vcs, repository: str, ours: Ours) -> str:
        """What the test said."""
        del ours
        self.world.asked.append((self.name, vcs, repository))
        self.world.happened.set()
        said = self.world.theirs[self.name]
        if isinstance(said, Exception):
            raise said
        return said


@pytest.fixture
def world() -> World:
    """All have the same refs."""
    return World()


async def test_nothing_is_compared_that_nobody_asks_for(world: World) -> None:
    """And what is asked for, only with mirrors that have it."""
    watch = world.watch()
    await watch.look()
    assert world.asked == []
    assert watch.seen("git", "app", "X") == {}
    await watch.look()
    assert world.asked == [("a", "git", "app")]
    assert watch.seen("git", "app", "X") == {"a": Sighting(1000.0, "X")}


async def test_what_was_seen_is_from_before_the_mirror_was_asked(world: World) -> None:
    """Its answer may be older than the moment at which it comes."""
    watch = world.watch()
    watch.seen("git", "app", "X")

    class Slow(Scripted):
        async def digest(self, vcs: Vcs, repository: str, ours: Ours) -> str:
            world.now += 5
            return await super().digest(vcs, repository, ours)

    watch._watched["a"].reads = Slow(world, "a")
    await watch.look()
    assert watch.seen("git", "app", "X")["a"].at == 1000.0


async def test_other_refs_are_seen_as_such(world: World) -> None:
    """They are neither ours nor a fault, and the mirror is up."""
    watch = world.watch()
    watch.seen("git", "app", "X")
    world.theirs["a"] = "y"
    await watch.look()
    assert watch.seen("git", "app", "X")["a"] == Sighting(1000.0, "y")
    assert watch.down() == frozenset()


async def test_a_mirror_of_no_use_for_one_repository_is_up(world: World) -> None:
    """It answers, and for others it may be of use."""
    watch = world.watch()
    watch.seen("git", "app", "X")
    world.theirs["a"] = Unfit(Reason.MIRROR_REDIRECTS, "it redirects")
    await watch.look()
    assert watch.seen("git", "app", "X")["a"] == Sighting(1000.0, None, Reason.MIRROR_REDIRECTS)
    assert watch.states() == (("a", State.UP), ("b", State.UP))


async def test_a_mirror_goes_and_comes(world: World) -> None:
    """From the first failure nobody is sent there, and again when it answered often enough."""
    watch = world.watch()
    watch.seen("git", "app", "X")
    await watch.look()
    world.theirs["a"] = Unreachable("no answer")
    await watch.look()
    assert watch.down() == {"a"}
    await watch.look()
    world.theirs["a"] = "x"
    await watch.look()
    assert watch.down() == {"a"}
    await watch.look()
    assert watch.down() == frozenset()
    # Of the other one nothing was seen, and it was up all the time.
    assert {name for name, state in world.states if state is State.DOWN} == {"a"}


async def test_a_repository_that_is_gone_is_forgotten(world: World) -> None:
    """As one that cannot be read; whoever asks for it is told why."""
    watch = world.watch()
    watch.seen("git", "app", "X")
    world.ours = None
    await watch.look()
    assert world.asked == []
    assert watch._known == {}


async def test_refs_that_are_ours_are_compared_again_in_time(world: World) -> None:
    """So often that one failure does not make the mirror unknown."""
    watch = world.watch()
    watch.seen("git", "app", "X")
    await watch.look()
    watched = watch._watched["a"]
    watched.probe = 1e9
    world.now += 19.9
    assert watch._due(watched, world.now) == []
    world.now += 0.2
    assert watch._due(watched, world.now) == [("git", "app")]


async def test_refs_that_are_not_ours_are_compared_soon_and_then_later(world: World) -> None:
    """A mirror that lags for an hour is not asked twice a second for that long."""
    watch = world.watch()
    watch.seen("git", "app", "X")
    world.theirs["a"] = "y"
    pauses = []
    for _ in range(8):
        await watch.look()
        pauses.append(watch._known["git", "app"].looks["a"].due - world.now)
    assert pauses == [SOON, 1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0]


async def test_a_push_to_us_has_mirrors_compared_at_once(world: World) -> None:
    """From the first request that tells of it."""
    watch = world.watch()
    watch.seen("git", "app", "X")
    await watch.look()
    watched = watch._watched["a"]
    watched.probe = 1e9
    watched.wake.clear()
    world.ours = "y"
    assert watch.seen("git", "app", "Y")["a"].digest == "X"
    assert watched.wake.is_set()
    assert watch._due(watched, world.now) == [("git", "app")]


async def test_a_push_in_the_middle_of_a_comparison_is_not_missed(world: World) -> None:
    """What was compared is what was there before it; it is compared again soon."""
    watch = world.watch()
    watch.seen("git", "app", "X")

    class Pushed(Scripted):
        async def digest(self, vcs: Vcs, repository: str, ours: Ours) -> str:
            watch.seen("git", "app", "Y")
            return await super().digest(vcs, repository, ours)

    watch._watched["a"].reads = Pushed(world, "a")
    await watch.look()
    known = watch._known["git", "app"]
    assert known.seen["a"].digest == "X"
    assert known.looks["a"].due == world.now + SOON


async def test_so_many_repositories_are_known_and_no_more(world: World) -> None:
    """Those that were asked for last; a client that asks for everything costs a bounded amount."""
    watch = world.watch()
    for number in range(KEPT + 10):
        watch.seen("git", f"r{number}", "X")
    assert len(watch._known) == KEPT
    assert ("git", "r0") not in watch._known


async def test_a_repository_that_nobody_asks_for_is_forgotten(world: World) -> None:
    """After ten times the time for which a comparison holds."""
    watch = world.watch()
    watch.seen("git", "app", "X")
    world.now += 601
    watch.seen("git", "other/app", "X")
    assert watch._due(watch._watched["a"], world.now) == [("git", "other/app")]
    assert ("git", "app") not in watch._known


async def test_while_a_mirror_is_down_one_repository_speaks_for_all(world: World) -> None:
    """The one that was asked for last; the others wait until it is up."""
    watch = world.watch()
    watch.seen("git", "app", "X")
    watch.seen("git", "lib", "X")
    world.theirs["a"] = Unreachable("no answer")
    await watch.look()
    watched = watch._watched["a"]
    world.now = watched.probe + 1
    assert watch._due(watched, world.now) == [("git", "lib")]


async def test_a_suspected_mirror_is_probed_now(world: World) -> None:
    """A client that asked again is a hint, and the probe is the proof."""
    watch = world.watch()
    watch.seen("git", "app", "X")
    await watch.look()
    watch.suspect(A)
    watched = watch._watched["a"]
    assert watch.is_suspected(A)
    assert not watch.is_suspected(B)
    assert watch._due(watched, world.now) == [("git", "app")]
    assert watch.down() == frozenset()


async def test_comparisons_that_end_at_once_leave_nobody_waiting(world: World) -> None:
    """There is room again as soon as they are over, and the next ones begin."""
    watch = world.watch()
    names = [f"app{number}" for number in range(3 * AT_ONCE)]
    for name in names:
        watch.seen("git", name, "X")
    running = asyncio.create_task(watch.run())
    try:
        await world.until(lambda: {name for _, _, name in world.asked} == set(names))
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_watching_goes_on_whatever_happens(world: World) -> None:
    """No mistake of ours ends it; a mirror that dies, or lives again, is found by itself."""
    world.ours = RuntimeError("a mistake")
    watch = world.watch(Rules(0.02, 0.01, 0.0))
    loop = asyncio.get_running_loop()
    watch.clock = loop.time
    running = asyncio.create_task(watch.run())
    try:
        watch.seen("git", "app", "X")
        await world.until(lambda: watch._known["git", "app"].looks["a"].pause > SOON)
        world.ours = "x"
        await world.until(lambda: "a" in watch.seen("git", "app", "X"))
        world.theirs["a"] = Unreachable("no answer")
        await world.until(lambda: "a" in watch.down())
        world.theirs["a"] = "x"
        await world.until(lambda: "a" not in watch.down())
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert not any(watched.running for watched in watch._watched.values())
