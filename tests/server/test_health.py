# Law of this file: a target that does not answer is not named, and one that answers again is; no
# failure of a probe ends the probing.

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest

from redirects.targets import HttpTarget, Target
from redirects.window import Window
from server.health import PROBE, PROBE_ENTITY, Health
from server.readback import NotReadable
from stores.entity import Entity
from stores.faulty import Fail, FaultyStore
from stores.memory import MemoryStore

WINDOW = Window(900.0, 3600.0)
ONE = HttpTarget("one", "http://one.example", WINDOW)
TWO = HttpTarget("two", "http://two.example", WINDOW)
BOTH = frozenset({ONE.fingerprint, TWO.fingerprint})


class Targets:
    """Some of which do not answer."""

    def __init__(self) -> None:
        self.down: set[str] = set()
        self.error: Exception = NotReadable("no answer")
        self.probed: list[str] = []

    async def read_back(self, target: Target, entity: Entity) -> None:
        """Read the probe back."""
        assert entity == PROBE_ENTITY
        self.probed.append(target.name)
        if target.name in self.down:
            raise self.error


@pytest.fixture
def targets() -> Targets:
    """Both answer."""
    return Targets()


@pytest.fixture
def store() -> FaultyStore:
    """A store that works."""
    return FaultyStore(MemoryStore())


@pytest.fixture
def health(store: FaultyStore, targets: Targets) -> Health:
    """Of two targets."""
    return Health(store, (ONE, TWO), targets.read_back, interval=0.0)


async def test_a_target_goes_and_comes(health: Health, targets: Targets) -> None:
    """Until a probe fails a target counts; from then on it does not, until one comes back."""
    assert health.filter(BOTH) == BOTH
    targets.down = {"one"}
    await health.probe()
    assert health.filter(BOTH) == {TWO.fingerprint}
    assert health.down() == {ONE.fingerprint}
    targets.down = set()
    await health.probe()
    assert health.filter(BOTH) == BOTH


async def test_nothing_is_added(health: Health) -> None:
    """What was not readable does not become so by being up."""
    await health.probe()
    assert health.filter(frozenset({"other"})) == {"other"}
    assert health.filter(frozenset()) == frozenset()


async def test_the_probe_is_put_into_the_store_once(health: Health, store: FaultyStore) -> None:
    """It is there to be read, and is not written again while it is."""
    for _ in range(3):
        await health.probe()
    assert store.calls["put"] == 1
    content = b"".join([chunk async for chunk in store.open(PROBE_ENTITY.digest)])
    assert content == PROBE
    await store.delete(PROBE_ENTITY.digest)
    await health.probe()
    assert store.calls["put"] == 2


@pytest.mark.parametrize("method", ["stat", "put"])
async def test_a_store_that_is_down_takes_its_targets_with_it(
    health: Health, store: FaultyStore, targets: Targets, method: str
) -> None:
    """Nothing is named while the store does not answer, and no target is asked for it."""
    store.faults[method] = Fail()  # type: ignore[index]
    await health.probe()
    assert health.filter(BOTH) == frozenset()
    assert targets.probed == []
    store.faults.clear()
    await health.probe()
    assert health.filter(BOTH) == BOTH


async def test_any_error_of_a_target_is_one(health: Health, targets: Targets) -> None:
    """What a probe raises, of whatever kind, makes one target count as down, and no other."""
    for error in (NotReadable("x"), OSError("x"), TimeoutError(), KeyError("x")):
        targets.down, targets.error = {"two"}, error
        await health.probe()
        assert health.down() == {TWO.fingerprint}


async def test_a_change_is_logged_once(
    health: Health, targets: Targets, caplog: pytest.LogCaptureFixture
) -> None:
    """A target that stays down is not news."""
    targets.down = {"one"}
    for _ in range(3):
        await health.probe()
    targets.down = set()
    await health.probe()
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == ["target one is down", "target one is up again"]


async def test_no_temporary_file_can_be_made(
    health: Health, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where the probe cannot be written, nothing is named, and probing goes on."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    await health.probe()
    assert health.filter(BOTH) == frozenset()


async def test_probing_goes_on(store: FaultyStore, targets: Targets) -> None:
    """Probes follow each other until they are cancelled."""
    thrice = asyncio.Event()

    async def read_back(target: Target, entity: Entity) -> None:
        await targets.read_back(target, entity)
        if len(targets.probed) == 3:
            thrice.set()

    health = Health(store, (ONE,), read_back, interval=0.0)
    running = asyncio.create_task(health.run())
    await thrice.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
