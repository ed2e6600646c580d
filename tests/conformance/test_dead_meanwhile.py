# Law of this file: what is newer than a bundle may take git long, and a target that dies meanwhile
# is not named for the bundle: where that is, is said when the answer is sent.

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.git import answers
from tests.conformance.clones import accepting, locations, state, stock
from tests.conformance.faults import Fault, Wrapper
from tests.conformance.fleet import Fleet, fleet_of
from tests.conformance.repositories import Repository
from tests.conftest import Finished, Serve

pytestmark = pytest.mark.nginx


@pytest.fixture
async def slowed(
    serve: Serve,
    repository: Repository,
    wrapper: Wrapper,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Fleet]:
    """A fleet whose git can be held, and a commit that is newer than the bundle."""
    monkeypatch.setattr(answers, "KEEPALIVE_SECONDS", 60.0)
    with wrapper.on_path():
        # What is newer is smaller than what is named, and nobody waits for it to be published.
        made = fleet_of(
            serve, repository, tmp_path / "data", redirect={"min_size": 600, "max_wait": 0.01}
        )
        async with made as fleet:
            repository.commit("refs/heads/main", 20)
            yield fleet


async def cloned_while(
    fleet: Fleet, repository: Repository, wrapper: Wrapper, fault: Fault, dies: tuple[str, ...]
) -> Finished:
    """Clone; while git is held by ``fault`` these file servers die, and it is seen."""
    client = accepting(repository.root.parent).traced()
    wrapper.fault(fault)
    cloning = asyncio.create_task(
        client("clone", "--bare", repository.url(fleet.served.url), "clone", check=False)
    )
    await wrapper.held()
    for name in dies:
        fleet.servers[name].kill()
    await fleet.served.runtime.health.probe()
    down = fleet.served.runtime.health.down()
    wrapper.fault("")
    with wrapper.released():
        said = await cloning
    assert len(down) == len(dies)
    return said


@pytest.mark.parametrize("fault", ["waits", "says-packfile"])
@pytest.mark.parametrize("dies", ["a", "abc"])
async def test_a_target_that_dies_while_git_computes(
    slowed: Fleet,
    repository: Repository,
    wrapper: Wrapper,
    tmp_path: Path,
    *,
    fault: Fault,
    dies: str,
) -> None:
    """The bundle is named where it is to be had by then, or all comes inline; the clone is whole.

    So it is whether git has said nothing yet, or that a pack will come.
    """
    said = await cloned_while(slowed, repository, wrapper, fault, tuple(dies))
    assert said.status == 0, said.stderr
    assert slowed.sent_to(said) == ({"b"} if dies == "a" else set())
    assert len(locations(said)) == (dies == "a")
    made = [each.target for each in slowed.served.runtime.decisions.last()]
    assert "a" not in made
    await stock(tmp_path)("clone", "--bare", repository.stock_url, "stock")
    expected = await state(stock(tmp_path), tmp_path / "stock")
    assert await state(accepting(tmp_path), tmp_path / "clone") == expected


async def test_a_target_that_lives_is_named(
    slowed: Fleet, repository: Repository, wrapper: Wrapper
) -> None:
    """Another one that dies changes nothing."""
    del wrapper
    client = accepting(repository.root.parent).traced()
    slowed.servers["b"].kill()
    await slowed.served.runtime.health.probe()
    said = await client("clone", "--bare", repository.url(slowed.served.url), "clone")
    assert slowed.sent_to(said) == {"a"}
    assert len(locations(said)) == 1
