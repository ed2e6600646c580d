# Law of this file: what fails is not recorded, and what is not valid or was lost is not served.

from __future__ import annotations

from pathlib import Path

import pytest

from cache.flights import CacheUnavailable
from redirects.acceptance import ACCEPTS_NOTHING, Acceptance
from server.outcome import Outcome
from tests.server.pipeline.scene import CONTENT, ENTITY, HTTP, House, Running, content


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


async def test_a_cache_that_cannot_be_written(house: House, tmp_path: Path) -> None:
    """That is raised, for the dialect to answer without it."""
    incoming = tmp_path / "data" / "incoming"
    incoming.rmdir()
    incoming.write_text("in the way")
    with pytest.raises(CacheUnavailable):
        await house.respond(Running())
