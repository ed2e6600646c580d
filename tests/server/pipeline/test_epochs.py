# Law of this file: what is published or made can be purged; nothing from before a purge is used.

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from cache.epochs import in_epoch
from cache.keys import record_key
from server.answer import Answer
from server.outcome import Outcome
from stores.base import StoreUnavailable
from stores.entity import Entity
from tests.server.pipeline.scene import CDN, CONTENT, ENTITY, HTTP, House, Running, content


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
