# Law of this file: content that a store has lost is named there no more once a client has failed;
# content that is there is, whoever says that he failed.

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from indexer.report import Silent
from redirects.targets import HttpTarget, Target
from redirects.window import Window
from server.indexing import index_all
from server.readback import NotReadable
from server.rereading import Rereading
from stores.entity import Entity
from tests.conformance.fleet import SELDOM, ask, one_shot
from tests.conformance.places import file_server
from tests.conformance.repositories import Repository, make
from tests.conftest import Serve, Served

ONE, TWO = (HttpTarget(n, f"http://{n}.example", Window(900, 3600)) for n in ("one", "two"))
ENTITY, OTHER = Entity("1" * 64, 1), Entity("2" * 64, 2)


@dataclass
class Publishing:
    """Stands in for the publisher; `gone` does not come back, of targets that are not away."""

    gone: set[Entity] = field(default_factory=set)
    read: list[tuple[str, Entity]] = field(default_factory=list)
    noted: list[tuple[str, Entity]] = field(default_factory=list)
    came: list[tuple[str, Entity]] = field(default_factory=list)
    away: bool = False
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def read_back_stored(self, target: Target, entity: Entity) -> None:
        """Read it back, when the test lets it."""
        self.read.append((target.name, entity))
        await self.go_on.wait()
        if entity in self.gone:
            raise NotReadable("status 404")

    async def lost(self, target: Target, entity: Entity) -> bool:
        """Note it."""
        self.noted.append((target.name, entity))
        return True

    async def found(self, target: Target, entity: Entity) -> None:
        """Note that, too."""
        self.came.append((target.name, entity))

    async def probe(self, target: Target) -> None:
        """Answer, unless all is away."""
        if self.away:
            raise NotReadable("status 502")


@pytest.fixture
def publishing() -> Publishing:
    """Everything comes back, at once."""
    publishing = Publishing()
    publishing.go_on.set()
    return publishing


@pytest.fixture
async def rereading(publishing: Publishing) -> AsyncIterator[Rereading]:
    """Whose clock stands still."""
    rereading = Rereading(publishing, publishing.probe, lambda: 0.0)  # type: ignore[arg-type]
    yield rereading
    await rereading.close()


async def settled(rereading: Rereading) -> None:
    """Wait until nothing is being read."""
    while rereading._running:
        await asyncio.gather(*rereading._running.values())


async def test_what_is_lost_is_noted(rereading: Rereading, publishing: Publishing) -> None:
    """Of the target through which it does not come, though the probe does."""
    publishing.gone = {ENTITY}
    rereading.doubt(ONE, ENTITY)
    await settled(rereading)
    assert publishing.noted == [("one", ENTITY)]


async def test_a_target_that_is_away_has_lost_nothing(
    rereading: Rereading, publishing: Publishing
) -> None:
    """Nothing comes from there, and that is seen by others."""
    publishing.gone, publishing.away = {ENTITY}, True
    rereading.doubt(ONE, ENTITY)
    await settled(rereading)
    assert publishing.noted == []
    publishing.away = False
    rereading.doubt(ONE, ENTITY)
    await settled(rereading)
    assert publishing.noted == [("one", ENTITY)]


async def test_one_at_a_time(rereading: Rereading, publishing: Publishing) -> None:
    """Of each target, however many are in doubt."""
    publishing.go_on.clear()
    for target in (ONE, ONE, TWO):
        for entity in (ENTITY, OTHER):
            rereading.doubt(target, entity)
            await asyncio.sleep(0)
    assert publishing.read == [("one", ENTITY), ("two", ENTITY)]


@pytest.mark.parametrize("there", [True, False])
async def test_what_was_read_is_not_read_again_at_once(
    rereading: Rereading, publishing: Publishing, *, there: bool
) -> None:
    """It may be large; after a while it is, whether it came or not."""
    publishing.gone = set() if there else {ENTITY}
    for now in (0.0, 599.0, 601.0):
        rereading.clock = lambda now=now: now  # type: ignore[misc]
        rereading.doubt(ONE, ENTITY)
        await settled(rereading)
    assert len(publishing.read) == 2
    assert (publishing.came, publishing.noted)[there] == []
    assert (publishing.noted, publishing.came)[there] == [("one", ENTITY)] * 2


# --- a store that was emptied, behind a real server -------------------------------------------


async def asked(served: Served, repository: Repository, who: str) -> bool:
    """Whether a client is redirected."""
    async with one_shot() as session:
        return await ask(session, served, repository, **{"User-Agent": who})


def held(copies: Path) -> set[str]:
    """What is in the store."""
    found = (path for path in (copies / "entities").rglob("*") if path.is_file())
    return {path.name for path in found if not path.read_bytes().startswith(b"offramp probe")}


@pytest.mark.parametrize("bundled", [False, True], ids=["computed", "bundle"])
async def test_a_store_that_lost_its_content(
    serve: Serve, tmp_path: Path, *, bundled: bool
) -> None:
    """From the second try of the first who fails on, nobody is sent there for what is not there."""
    repository = make(tmp_path / "root")
    copies = tmp_path / "copies"
    (copies / "entities").mkdir(parents=True)
    async with file_server(copies) as url:
        served = await serve(
            repository.root,
            stores=[{"type": "directory", "name": "eu", "path": str(copies)}],
            targets=[{"type": "http", "name": "eu", "store": "eu", "base_url": url}],
            health=SELDOM,
        )
        if bundled:
            await index_all(served.settings, Silent(), gc=False)
            await served.runtime.catalogs.refresh_all()
        assert await asked(served, repository, "git/one")
        lost = held(copies)
        for digest in lost:
            file = copies / "entities" / digest[:2] / digest
            if not file.read_bytes().startswith(b"offramp store "):  # its seal: it seems the same
                file.unlink()
        assert not await asked(served, repository, "git/one")
        await settled(served.runtime.rereading)
        # Whoever comes now is sent there only for what was put there again.
        assert await asked(served, repository, "git/two")
        assert held(copies)
        assert held(copies) <= lost
