# Law of this file: when our own event loop was late, the end of somebody else's time says nothing
# of them; but a loop that is always late comes to an end.

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable

import pytest

from redirects.health import Rules, State
from redirects.targets import HttpTarget, Target
from redirects.window import Window
from server import readback
from server.health import Health
from server.lateness import AGAIN, Doubt, in_time
from server.probes import PROBE_ENTITY
from stores.entity import Entity
from stores.memory import MemoryStore

SECONDS = 20.0  # of a clock that the test moves


class Clock:
    """The running loop's clock, which jumps when the loop is to be late."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        self.ahead = 0.0
        real = loop.time
        monkeypatch.setattr(loop, "time", lambda: real() + self.ahead)

    async def passes(self, late: float) -> None:
        """All the time of an attempt passes, in small steps; ``late`` seconds of it in one."""
        self.ahead += late
        while True:
            await asyncio.sleep(0)
            self.ahead += 0.01


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Of the loop of this test."""
    return Clock(monkeypatch)


class Attempts:
    """Attempts that end in various ways, one after another."""

    def __init__(self, *ends: Callable[[], Awaitable[None]]) -> None:
        self.ends = list(ends)
        self.late: list[float] = []

    async def __call__(self) -> str:
        """Make the next one."""
        await self.ends.pop(0)()
        return "came"


async def well() -> None:
    """It comes at once."""


async def test_what_comes_comes() -> None:
    """In its time, and no clock is asked for that."""
    attempts = Attempts(well)
    assert await in_time(attempts, SECONDS, attempts.late.append) == "came"
    assert attempts.late == []


async def test_who_does_not_answer_a_loop_that_waits(clock: Clock) -> None:
    """Has failed, the first time."""
    attempts = Attempts(lambda: clock.passes(0.0), well)
    with pytest.raises(TimeoutError):
        await in_time(attempts, SECONDS, attempts.late.append)
    assert len(attempts.ends) == 1
    assert attempts.late == []


@pytest.mark.parametrize("late", [SECONDS / 2, 3 * SECONDS])
async def test_a_loop_that_was_late_says_nothing_of_others(clock: Clock, late: float) -> None:
    """Whether it came to the clock in between or not: it is tried again at once."""
    attempts = Attempts(lambda: clock.passes(late), well)
    assert await in_time(attempts, SECONDS, attempts.late.append) == "came"
    assert attempts.late == [pytest.approx(late, rel=0.3)]


async def test_a_loop_that_is_always_late(clock: Clock) -> None:
    """After so many attempts in a row the end of the time counts."""
    attempts = Attempts(*[lambda: clock.passes(SECONDS)] * (AGAIN + 2))
    with pytest.raises(TimeoutError):
        await in_time(attempts, SECONDS, attempts.late.append)
    assert len(attempts.ends) == 1
    assert len(attempts.late) == AGAIN


async def test_what_takes_long_is_doubted(clock: Clock) -> None:
    """Once, before its time is over, and although it comes in the end; what is quick is not."""
    loop, began, doubted = asyncio.get_running_loop(), 0.0, list[float]()

    async def slow() -> None:
        while loop.time() < began + SECONDS / 2:
            await asyncio.sleep(0)
            clock.ahead += 0.01

    attempts, doubt = Attempts(well, slow), Doubt(SECONDS / 4, lambda: doubted.append(loop.time()))
    assert await in_time(attempts, SECONDS, attempts.late.append, doubt) == "came"
    assert doubted == []
    began = loop.time()
    assert await in_time(attempts, SECONDS, attempts.late.append, doubt) == "came"
    assert doubted == [pytest.approx(began + SECONDS / 4, abs=1.0)]


async def test_a_loop_that_was_late_doubts_nobody(clock: Clock) -> None:
    """What would have come in time, had we looked, is none of theirs."""
    doubted = list[str]()

    async def slow() -> None:
        clock.ahead += SECONDS / 8  # while it does something else
        began = clock.ahead
        while clock.ahead < began + SECONDS / 4:
            await asyncio.sleep(0)
            clock.ahead += 0.01

    attempts = Attempts(slow)
    doubt = Doubt(SECONDS / 4, lambda: doubted.append("late"))
    assert await in_time(attempts, SECONDS, attempts.late.append, doubt) == "came"
    assert doubted == []


async def test_time_that_was_lost_is_given_back(clock: Clock) -> None:
    """Else what takes most of its time would never come to a loop that is late again."""
    loop, began = asyncio.get_running_loop(), 0.0

    async def long() -> None:
        nonlocal began
        began = loop.time()
        while loop.time() < began + 1.4 * SECONDS:
            await asyncio.sleep(0)
            clock.ahead += 0.01

    attempts = Attempts(lambda: clock.passes(SECONDS / 2), long)
    assert await in_time(attempts, SECONDS, attempts.late.append) == "came"
    assert loop.time() - began < 2 * SECONDS


async def test_a_target_that_is_silent_was_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the time of one request ends before that of the probe: that may be our fault."""
    monkeypatch.setattr(readback, "_SILENCE", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        there = f"http://127.0.0.1:{silent.getsockname()[1]}"
        target = HttpTarget("one", there, Window(900.0, 3600.0))
        with pytest.raises(readback.TooSlow, match="target one: no answer in time") as caught:
            await readback.read_back_anew(MemoryStore(), target, PROBE_ENTITY)
    assert isinstance(caught.value, TimeoutError)


async def test_other_errors_are_what_they_are(clock: Clock) -> None:
    """Who refuses has answered, however late we were."""

    async def refused() -> None:
        clock.ahead += SECONDS / 2
        raise ConnectionRefusedError

    attempts = Attempts(refused, well)
    with pytest.raises(ConnectionRefusedError):
        await in_time(attempts, SECONDS, attempts.late.append)


async def test_an_overload_of_ours_takes_no_target_down(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """The target goes on being named, and the log says whose fault it was."""
    attempts = Attempts(well, lambda: clock.passes(SECONDS / 2), well)
    told: list[State] = []

    async def read_back(target: Target, entity: Entity) -> None:
        del target, entity
        await attempts()

    one = HttpTarget("one", "http://one.example", Window(900.0, 3600.0))
    health = Health(MemoryStore(), (one,), read_back, Rules(2 * SECONDS, SECONDS))
    await health.probe()
    health.changed = lambda target, state: told.append(state)
    await health.probe()
    assert (attempts.ends, told, health.down()) == ([], [], frozenset())
    assert re.search(r"target one: .* this server itself was late by \d+", caplog.text)
