# Law of this file: each decision is counted once, and who is not to be redirected is not.

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from redirects.acceptance import Location
from redirects.control import Control
from redirects.decision import Inline, Reason
from server import pipeline
from server.answer import Plan
from server.outcome import Outcome
from server.settings import RedirectSettings
from stores.entity import Entity
from tests.server.pipeline.scene import (
    CDN,
    CONTENT,
    COVERING,
    HEAD,
    HTTP,
    URL,
    House,
    Running,
    content,
    decisions,
    hangs,
)


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
