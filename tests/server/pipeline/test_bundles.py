# Law of this file: what a bundle covers is not computed.

from __future__ import annotations

from dataclasses import replace

from cache.records import Part
from redirects.acceptance import ACCEPTS_NOTHING
from server.answer import Answer, Plan
from server.outcome import Outcome
from tests.server.pipeline.scene import (
    AT_CDN,
    CONTENT,
    COVERING,
    ENTITY,
    HEAD,
    URL,
    House,
    Running,
    content,
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
