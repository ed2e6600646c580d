# Law of this file: a main store that is not the one that it was is found out, by every process and
# machine, and what was published before does not count; one that is, is left alone.

from __future__ import annotations

import asyncio
import errno
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from server import main_seal as module
from server.checks_main_store import check_seal
from server.main_seal import DOCUMENT, FILE, Known, MainSeal, remembered
from stores.base import Store, StoreUnavailable
from stores.faulty import Fail, FaultyStore
from stores.memory import MemoryStore
from stores.replica import is_sealed, seal, seals

NOW = 1_700_000_000.0


@dataclass
class Mount:
    """A place where another store may be each time; the clock goes on with each look at it."""

    inner: Store = field(default_factory=MemoryStore)
    now: float = NOW

    def clock(self) -> float:
        """Seconds since the epoch."""
        self.now += 1.0
        return self.now

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)


@pytest.fixture
def mount() -> Mount:
    """With an empty store."""
    return Mount()


def machine(mount: Mount, tmp_path: Path, name: str = "one") -> MainSeal:
    """A process of a machine; those of one name share a data directory."""
    data = tmp_path / name
    data.mkdir(exist_ok=True)
    return MainSeal(mount, data, mount.clock)  # type: ignore[arg-type]


async def test_a_store_that_stays(mount: Mount, tmp_path: Path) -> None:
    """It is given a seal once, by whoever comes first; what was noted before that counts."""
    one = machine(mount, tmp_path)
    for process in (one, one, machine(mount, tmp_path), machine(mount, tmp_path, "two")):
        assert not await process.look()
        assert (process.known.era, process.known.since) == ("", 0.0)
        assert process.known.generation == one.known.generation
    assert await is_sealed(mount.inner, one.known.generation)
    assert await seals(mount.inner) == {seal(one.known.generation)[0].digest}


@pytest.mark.parametrize("documents", [False, True], ids=["all", "content"])
async def test_a_store_that_was_emptied(
    mount: Mount, tmp_path: Path, caplog: pytest.LogCaptureFixture, *, documents: bool
) -> None:
    """Each process of each machine finds out, once; all have one new era; the log says it."""
    one, beside, two = (machine(mount, tmp_path, name) for name in ("one", "one", "two"))
    for each in (one, beside, two):
        await each.look()
    before = one.known
    emptied = MemoryStore()
    if documents:
        await emptied.write_document(DOCUMENT, (await document(mount)).encode(), None)
    mount.inner = emptied
    with caplog.at_level(logging.WARNING):
        assert await one.look()
    assert "is not the one that it was" in caplog.text
    assert await beside.look()
    assert await two.look()
    assert one.known == beside.known == two.known
    assert one.known.era == one.known.generation != before.generation
    assert one.known.since > NOW
    for each in (one, beside, two):
        assert not await each.look()
    # One that is started now knows it from the start.
    assert machine(mount, tmp_path).known == one.known


async def document(mount: Mount) -> str:
    """What the store says of itself."""
    found = await mount.inner.read_document(DOCUMENT)
    assert found is not None
    return found.body.decode()


async def test_a_mount_that_goes_and_comes(mount: Mount, tmp_path: Path) -> None:
    """Neither what is below the mount point nor what comes back is what it was."""
    process = machine(mount, tmp_path)
    await process.look()
    mounted, eras = mount.inner, [process.known.era]
    below = MemoryStore()
    for store in (below, mounted, below, mounted):
        mount.inner = store
        assert await process.look()
        assert process.known.era != eras[-1]
        eras.append(process.known.era)
    assert eras[1] == eras[3]
    assert eras[2] == eras[4]


async def test_a_rule_that_removes_by_age(mount: Mount, tmp_path: Path) -> None:
    """It removes the seal, too: then all is read back anew, and there is a new seal."""
    process = machine(mount, tmp_path)
    await process.look()
    await mount.inner.delete(seal(process.known.generation)[0].digest)
    assert await process.look()
    assert await is_sealed(mount.inner, process.known.generation)
    assert not await process.look()


async def test_many_find_out_at_once(mount: Mount, tmp_path: Path) -> None:
    """They agree on one generation."""
    every = [machine(mount, tmp_path, name) for name in ("one", "one", "two", "three")]
    await asyncio.gather(*(each.look() for each in every))
    assert len({each.known.generation for each in every}) == 1
    mount.inner = MemoryStore()
    await asyncio.gather(*(each.look() for each in every))
    await asyncio.gather(*(each.look() for each in every))
    assert len({each.known for each in every}) == 1


async def test_who_is_killed_in_the_middle(mount: Mount, tmp_path: Path) -> None:
    """He and others go on where it was, whichever call was the last."""
    for nth in (1, 2, 3):
        first = machine(mount, tmp_path, f"one-{nth}")
        await first.look()
        faulty = FaultyStore(MemoryStore())
        mount.inner = faulty
        faulty.faults["write_document" if nth < 3 else "put"] = Fail(nth if nth < 3 else 1)
        await first.look()
        faulty.faults.clear()
        other = machine(mount, tmp_path, f"two-{nth}")
        for each in (other, first):
            await each.look()
            assert await is_sealed(mount.inner, each.known.generation)
        assert first.known.era


async def test_who_may_only_read(mount: Mount, tmp_path: Path) -> None:
    """It goes on as without a seal, and does not try at each look; what is lost is lost for it."""
    faulty = FaultyStore(mount.inner, {"write_document": Fail(), "put": Fail()})
    mount.inner = faulty
    process = machine(mount, tmp_path)
    for _ in range(5):
        assert not await process.look()
    assert faulty.calls["write_document"] == 1
    assert process.known == Known()
    faulty.faults.clear()
    writer = machine(mount, tmp_path, "two")
    await writer.look()
    mount.now += module._AGAIN
    assert not await process.look()
    assert process.known.generation == writer.known.generation
    mount.inner = FaultyStore(MemoryStore(), {"write_document": Fail()})
    assert await process.look()
    assert process.known.era
    assert not await process.look()


async def test_a_first_seal_that_fails_once(mount: Mount, tmp_path: Path) -> None:
    """It is put soon after: a store without one is not watched."""
    mount.inner = FaultyStore(mount.inner, {"put": Fail(1)})
    process = machine(mount, tmp_path)
    await process.look()
    assert process.known == Known()
    mount.now += module._SOON
    await process.look()
    assert process.known.generation


async def test_what_cannot_be_noted_is_found_out_once(
    mount: Mount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither store nor disk takes anything: it begins anew once, and nothing piles up."""
    process = machine(mount, tmp_path)
    await process.look()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(module.os, "fsync", full)
    mount.inner = FaultyStore(MemoryStore(), {"write_document": Fail()})
    assert await process.look()
    era = process.known.era
    for _ in range(3):
        assert not await process.look()
    assert process.known.era == era
    assert not any((tmp_path / "one" / "incoming").iterdir())


async def test_a_store_that_does_not_answer(mount: Mount, tmp_path: Path) -> None:
    """That says nothing of what is in it."""
    process = machine(mount, tmp_path)
    await process.look()
    known = process.known
    inner, mount.inner = mount.inner, FaultyStore(mount.inner, {"stat": Fail()})
    with pytest.raises(StoreUnavailable):
        await process.look()
    mount.inner = inner
    assert not await process.look()
    assert process.known == known


@pytest.mark.parametrize("body", [b"", b"[]", b'{"generation": "x", "settled": true, "since": 0}'])
async def test_a_document_that_is_damaged(mount: Mount, tmp_path: Path, body: bytes) -> None:
    """It is replaced, and what was published before does not count."""
    await mount.inner.write_document(DOCUMENT, body, None)
    process = machine(mount, tmp_path)
    assert await process.look()
    assert process.known.era
    assert not await process.look()


@pytest.mark.parametrize(
    "body", ["", "[]", '{"generation": 1, "era": "", "since": 0, "noticed": 0}']
)
async def test_a_note_that_is_damaged(mount: Mount, tmp_path: Path, body: str) -> None:
    """It is as in a new data directory; so is an endless time."""
    process = machine(mount, tmp_path)
    await process.look()
    (tmp_path / "one" / FILE).write_text(body)
    assert remembered(tmp_path / "one") == Known()
    said = {"generation": "", "era": "", "since": float("inf"), "noticed": 0.0}
    (tmp_path / "one" / FILE).write_text(json.dumps(said))
    assert remembered(tmp_path / "one") == Known()
    assert not await process.look()
    assert remembered(tmp_path / "one") == process.known


async def test_a_disk_that_is_full(
    mount: Mount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The process knows all the same, and the store does not change with each look."""
    process = machine(mount, tmp_path)
    await process.look()
    mount.inner = MemoryStore()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.tempfile, "NamedTemporaryFile", full)
    assert await process.look()
    assert not await process.look()
    assert "cannot be noted" in caplog.text


async def test_what_doctor_says(mount: Mount, tmp_path: Path) -> None:
    """Nothing of what nobody has seen or what is well; where it is another store, what to do."""

    async def said() -> list[str]:
        checks = check_seal(mount.inner, tmp_path / "one")
        return [f"{verdict.what}: {verdict.remedy}" async for verdict in checks]

    process = machine(mount, tmp_path)
    assert await said() == []
    await process.look()
    assert await said() == []
    mount.inner = MemoryStore()
    (found,) = await said()
    assert "is not the one that it was" in found
    mount.now = 1e11  # in the future, as far as the doctor knows
    await process.look()
    (found,) = await said()
    assert "was found to be another one than before" in found
    mount.inner = FaultyStore(mount.inner, {"stat": Fail()})
    assert await said() == []
