# Law of this file: what is promised of times is kept by what runs, on a clock that the test moves.

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from redirects.health import Rules
from redirects.targets import HttpTarget, Target
from redirects.window import Window
from server.health import Health
from stores.entity import Entity
from stores.memory import MemoryStore

ONE = HttpTarget("one", "http://one.example", Window(900.0, 3600.0))
RULES = Rules(10.0, 4.0, 0.25)
# The clock goes on by this much at a time; a few times until what is due has been done.
STEP = 0.01


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("dies", [0.01, 3.0, 5.99, 6.01, 11.5])
async def test_one_interval_after_it_died_it_is_not_named(
    monkeypatch: pytest.MonkeyPatch, dies: float, chance: float
) -> None:
    """Whenever it dies, and although it does not even refuse its probes but is silent."""
    loop = asyncio.get_running_loop()
    now = 0.0
    monkeypatch.setattr(loop, "time", lambda: now)

    async def read_back(target: Target, entity: Entity) -> None:
        del target, entity
        if now >= dies:
            await asyncio.Event().wait()

    health = Health(
        MemoryStore(),
        (ONE,),
        read_back,
        RULES,
        clock=lambda: now,
        chance=lambda: chance,
        wall=lambda: 0.0,
    )
    await health.begin()
    assert not health.down()
    running = asyncio.create_task(health.run())
    while not health.down() or now < dies:
        assert now - dies <= RULES.interval + 10 * STEP
        await asyncio.sleep(0)
        now += STEP
    assert dies <= now
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
