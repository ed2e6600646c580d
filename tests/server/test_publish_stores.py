# Law of this file: content goes to every store that it is for and to no other; a store beside the
# main one that fails, hangs or loses something keeps no other from being used.

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from cache.layout import Layout
from cache.publications import Publications
from redirects.targets import HttpTarget
from redirects.window import Window
from server.placing import Stores, placements_of
from server.publish import RUNS, Publisher
from server.settings_stores import PlacementSettings
from server.turns import COPIES, PARALLEL, PublishRefused
from stores.base import StoreUnavailable
from stores.entity import Entity
from stores.faulty import Fail, FaultyStore, Hang
from stores.memory import MemoryStore

WINDOW = Window(900, 6 * 3600)
NAMES = ("main", "eu", "us")
KEPT_OUT, ONLY_EU = "secret.git", "eu.git"


@dataclass
class House:
    """Three stores, a target in front of each, and a clock.

    Attributes:
        stores: by name.
        targets: by the name of their store.
        publisher: writes to them.
        source: an entity, and its file.
        away: names of the stores of which others say that they do not answer.
    """

    stores: dict[str, FaultyStore]
    targets: dict[str, HttpTarget]
    source: tuple[Entity, Path]
    now: float = 1_700_000_000.0
    away: set[str] = field(default_factory=set)
    publisher: Publisher = field(init=False)

    def prints(self, *names: str) -> set[str]:
        """Fingerprints of the targets of these stores."""
        return {self.targets[name].fingerprint for name in names}

    async def holding(self) -> set[str]:
        """Names of the stores that have the entity."""
        digest = self.source[0].digest
        found = {name: await store.stat(digest) for name, store in self.stores.items()}
        return {name for name, stored in found.items() if stored is not None}

    async def read(self, name: str) -> None:
        """Read the entity through a target."""
        await self.publisher.read_back(self.targets[name], self.source[0])

    def others(self, count: int) -> list[tuple[Entity, Path]]:
        """Other entities, and their files."""
        made = []
        for number in range(count):
            content = b"%d" % number
            path = self.source[1].with_name(f"file-{number}")
            path.write_bytes(content)
            made.append((Entity(hashlib.sha256(content).hexdigest(), len(content)), path))
        return made

    async def publish(self, repository: str = "p.git") -> set[str]:
        """Publish it, and return the names of the stores whose targets can be named."""
        came = await self.publisher.publish(*self.source, repository)
        assert came <= self.publisher.readable(self.source[0])
        return {name for name, target in self.targets.items() if target.fingerprint in came}


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """With a repository that is only for the main store, and one that is only for `eu`."""
    content = bytes(range(256)) * 20
    path = tmp_path / "file"
    path.write_bytes(content)
    entity = Entity(hashlib.sha256(content).hexdigest(), len(content))
    inner = {name: MemoryStore(lambda: house.now) for name in NAMES}

    async def serve(request: web.Request) -> web.Response:
        found = inner[request.match_info["store"]].entities[request.path.rpartition("/")[2]]
        start = request.http_range.start
        if start is None:
            return web.Response(body=found)
        part = f"bytes {start}-{len(found) - 1}/{len(found)}"
        return web.Response(status=206, body=found[start:], headers={"Content-Range": part})

    app = web.Application()
    app.router.add_get("/{store}/{path:.*}", serve)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        targets = {
            name: HttpTarget(f"of-{name}", str(server.make_url(f"/{name}")), WINDOW)
            for name in NAMES
        }
        house = House({n: FaultyStore(s) for n, s in inner.items()}, targets, (entity, path))
        placements = placements_of(
            (
                PlacementSettings(repositories=(KEPT_OUT,), stores=("main",)),
                PlacementSettings(repositories=(ONLY_EU,), stores=("eu",)),
            )
        )
        house.publisher = Publisher(
            Stores(
                house.stores["main"],
                {name: house.stores[name] for name in NAMES[1:]},
                {target.name: name for name, target in targets.items()},
                placements,
            ),
            tuple(targets.values()),
            Publications(Layout.make(tmp_path / "data")),
            session=session,
            keep=7 * 86400.0,
            max_url_life=1.0,
            is_away=lambda name: name in house.away,
            clock=lambda: house.now,
            monotonic=lambda: house.now,
        )
        yield house
        await house.publisher.close()


async def test_it_goes_to_every_store(house: House) -> None:
    """And counts through each target that gave it back from its own store."""
    assert await house.publish() == {"main", "eu", "us"}
    assert await house.holding() == {"main", "eu", "us"}


async def test_it_goes_nowhere_else(house: House) -> None:
    """The main store has what is only for another, and its target does not count for that."""
    assert await house.publish(KEPT_OUT) == {"main"}
    assert await house.holding() == {"main"}
    assert await house.publish(ONLY_EU) == {"eu"}
    assert await house.holding() == {"main", "eu"}


async def test_who_else_has_it_adds_its_stores(house: House) -> None:
    """Two repositories with one content, at the same time: it is in the stores of both."""
    both = await asyncio.gather(house.publish(KEPT_OUT), house.publish(ONLY_EU))
    assert both == [{"main"}, {"eu"}]
    assert await house.holding() == {"main", "eu"}
    assert house.publisher.readable(house.source[0]) == house.prints("main", "eu")


async def test_a_store_that_fails_is_left_alone(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    """Its target does not count; the others do; it is asked again when its time is over."""
    house.stores["eu"].faults["put"] = Fail()
    with caplog.at_level(logging.WARNING, "offramp.publish"):
        assert await house.publish() == {"main", "us"}
        assert await house.publish() == {"main", "us"}
    assert house.stores["eu"].calls["put"] == 1
    assert len([r for r in caplog.records if "is left alone for 30 s" in r.message]) == 1
    del house.stores["eu"].faults["put"]
    house.now += 30
    assert await house.publish() == {"main", "eu", "us"}
    assert house.stores["us"].calls["put"] == 1


async def test_nothing_counts_without_the_main_store(house: House) -> None:
    """A purge looks there for what there is."""
    house.stores["main"].faults["put"] = Fail()
    with pytest.raises(StoreUnavailable):
        await house.publish()
    assert house.publisher.readable(house.source[0]) == frozenset()
    with pytest.raises(PublishRefused):
        await house.publish(ONLY_EU)


def tells(store: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set when something was written to a store."""
    told, put = asyncio.Event(), store.put

    async def telling(entity: Entity, path: Path) -> None:
        await put(entity, path)
        told.set()

    monkeypatch.setattr(store, "put", telling)
    return told


async def test_no_copy_counts_before_the_main_store_has_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However fast it was written; it counts when the main store has it, too."""
    written = [tells(house.stores[name], monkeypatch) for name in ("eu", "us")]
    released = asyncio.Event()
    house.stores["main"].faults["put"] = Hang(released)
    running = asyncio.create_task(house.publish())
    await asyncio.gather(*(event.wait() for event in written))
    assert await house.holding() == {"eu", "us"}
    # Longer than it would take to read them back, over loopback, if anybody did.
    assert len(await asyncio.gather(*(house.read(name) for name in ("eu", "us") * 5))) == 10
    assert house.publisher.readable(house.source[0]) == frozenset()
    released.set()
    assert await running == {"main", "eu", "us"}


@pytest.mark.parametrize("lost", NAMES)
async def test_what_one_has_lost_is_put_there_again(house: House, lost: str) -> None:
    """Whichever it is; the others are not written to, but for the main one."""
    await house.publish()
    await house.stores[lost].delete(house.source[0].digest)
    assert await house.publish() == {"main", "eu", "us"}
    assert await house.holding() == {"main", "eu", "us"}
    written = {name for name in NAMES if house.stores[name].calls["put"] == 2}
    assert written == {lost, "main"}


async def test_one_that_does_not_answer_whether_it_has_it(house: House) -> None:
    """It does not count now, and no other has to be asked again."""
    await house.publish()
    house.stores["us"].faults["stat"] = Fail()
    assert await house.publish() == {"main", "eu"}


async def test_who_has_enough_does_not_wait(house: House) -> None:
    """A store that hangs keeps nobody waiting who can be sent to another, and goes on by itself."""
    released = asyncio.Event()
    house.stores["us"].faults["put"] = Hang(released)
    entity, path = house.source

    def enough() -> bool:
        return house.prints("eu") <= house.publisher.readable(entity)

    came = await house.publisher.publish(entity, path, "p.git", enough=enough)
    assert house.prints("eu") <= came
    assert not house.prints("us") & house.publisher.readable(entity)
    released.set()
    assert await house.publish() == {"main", "eu", "us"}
    assert house.stores["us"].calls["put"] == 1


async def test_one_that_hangs_takes_no_turn_of_another(house: House) -> None:
    """However much is to be written to it."""
    house.stores["us"].faults["put"] = Hang(asyncio.Event())
    for entity, path in house.others(6):

        def enough(entity: Entity = entity) -> bool:
            return house.prints("main", "eu") <= house.publisher.readable(entity)

        await house.publisher.publish(entity, path, "p.git", enough=enough)
        assert enough()


class Holds:
    """Counts what is kept open."""

    def __init__(self) -> None:
        self.count = 0
        self.changed = asyncio.Event()

    def __call__(self) -> Holds.One:
        """Keep one more."""
        self.add(1)
        return Holds.One(self)

    def add(self, number: int) -> None:
        """So many more are kept."""
        self.count += number
        self.changed.set()

    async def until(self, count: int) -> None:
        """Wait until so many are kept."""
        async with asyncio.timeout(60):
            while self.count != count:
                self.changed.clear()
                await self.changed.wait()

    class One:
        """Something that is kept."""

        def __init__(self, holds: Holds) -> None:
            self._holds = holds

        def __del__(self) -> None:
            self._holds.add(-1)


async def test_one_that_hangs_keeps_few_files_open(house: House) -> None:
    """However much is to be written to it; the rest is published without it."""
    released = asyncio.Event()
    house.stores["us"].faults["put"] = Hang(released)
    holds = Holds()
    others = house.others(COPIES + 9)

    def enough(entity: Entity) -> bool:
        return house.prints("main", "eu") <= house.publisher.readable(entity)

    for entity, path in others:
        await house.publisher.publish(
            entity, path, "p.git", enough=partial(enough, entity), hold=holds
        )
    assert all(enough(entity) for entity, _ in others)
    await holds.until(COPIES)
    released.set()
    # What waited for a turn is copied, and what was left out when it is published again.
    for entity, path in others:
        assert await house.publisher.publish(entity, path, "p.git") == house.prints(*NAMES)
    await holds.until(0)


async def test_a_main_store_that_hangs_keeps_few_files_open(house: House) -> None:
    """Whoever would be one more is told at once, and served inline."""
    released = asyncio.Event()
    house.stores["main"].faults["put"] = Hang(released)
    holds = Holds()
    *many, last = house.others(RUNS + 1)
    running = [
        asyncio.create_task(house.publisher.publish(*each, "p.git", hold=holds)) for each in many
    ]
    await holds.until(RUNS)
    with pytest.raises(PublishRefused, match="enough"):
        await house.publisher.publish(*last, "p.git", hold=holds)
    with pytest.raises(PublishRefused, match="enough"):
        await house.publisher.claim("p.git", last[0])
    released.set()
    await asyncio.gather(*running)
    await house.publisher.publish(*last, "p.git", hold=holds)
    await holds.until(0)


async def test_what_a_target_has_lost_is_not_named_there(house: House) -> None:
    """Whoever had read it back before, the indexer too; until it was published again."""
    await house.publish()
    entity, readable = house.source[0], house.prints(*NAMES)
    assert house.publisher.still(entity, readable) == readable
    await house.publisher.lost(house.targets["eu"], entity)
    assert house.publisher.readable(entity) == house.prints("main", "us")
    assert house.publisher.still(entity, readable) == house.prints("main", "us")
    await house.stores["eu"].delete(entity.digest)
    assert await house.publish() == {"main", "eu", "us"}
    assert house.publisher.still(entity, readable) == readable
    assert await house.holding() == {"main", "eu", "us"}


async def test_what_is_gone_is_not_published(house: House) -> None:
    """It was evicted before its run began."""
    assert not await house.publisher.publish(*house.source, "p.git", hold=lambda: None)
    assert await house.holding() == set()


@pytest.mark.parametrize("name", ["main", "us"])
async def test_who_waits_for_one_that_fails_does_not_ask_it(
    house: House, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """However many wait for a turn."""
    fail, asked = asyncio.Event(), 0

    async def put(entity: Entity, path: Path) -> None:
        nonlocal asked
        asked += 1
        await fail.wait()
        raise StoreUnavailable("it does not answer")

    monkeypatch.setattr(house.stores[name], "put", put)
    others = house.others(PARALLEL + 2)
    holds = Holds()
    publishing = [
        asyncio.create_task(house.publisher.publish(*each, "p.git", hold=holds)) for each in others
    ]
    await holds.until(PARALLEL + 2)
    fail.set()
    results = await asyncio.gather(*publishing, return_exceptions=True)
    assert asked <= PARALLEL
    if name == "main":
        assert all(isinstance(result, StoreUnavailable) for result in results)
    else:
        assert results == [house.prints("main", "eu")] * len(others)


async def test_a_store_that_is_known_to_be_away_is_not_asked(house: House) -> None:
    """Neither to write to it nor whether it has what it had; nothing goes on without the main."""
    house.away = {"us"}
    assert await house.publish() == {"main", "eu"}
    assert await house.publish() == {"main", "eu"}
    assert not house.stores["us"].calls
    house.away = set()
    assert await house.publish() == {"main", "eu", "us"}
    house.away = {"main"}
    with pytest.raises(PublishRefused, match="asked again when a probe"):
        await house.publish()


async def test_what_is_held_is_held_to_the_end(house: House) -> None:
    """The file must not be evicted while it is written to the slowest store."""
    released = asyncio.Event()
    house.stores["us"].faults["put"] = Hang(released)

    class Held:
        gone = False

        def __del__(self) -> None:
            Held.gone = True

    entity, path = house.source
    await house.publisher.publish(
        entity,
        path,
        "p.git",
        enough=lambda: bool(house.publisher.readable(entity)),
        hold=Held,
    )
    assert not Held.gone
    released.set()
    await house.publish()
    assert Held.gone
