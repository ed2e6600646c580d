# Law of this file: each way that a command can take is taken here once.

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cache.records import Part
from redirects.acceptance import ACCEPTS_NOTHING, Acceptance
from redirects.audience import Audience
from server.answer import Growing, Plan, Stored
from server.outcome import Outcome
from server.settings import RedirectSettings
from stores.entity import Entity
from tests.server.pipeline.scene import (
    CDN,
    CONTENT,
    ENTITY,
    HEAD,
    HTTP,
    URL,
    House,
    Running,
    comes_back,
    content,
    fails,
    hangs,
    nowhere,
)


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


async def test_runs_are_counted_once(house: House) -> None:
    """A run counts when it is begun, not for each who follows it."""
    running = Running()
    for _ in range(3):
        await content((await house.respond(running))[0])
    figures, _ = house.metrics.render()
    counted = b'offramp_executions_total{command="fetch",dialect="git-v2",repo="p.git"} 1.0'
    assert counted in figures
