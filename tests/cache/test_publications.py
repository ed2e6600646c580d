# Law of this file: law 1, nothing is advertised that was not read back, in whichever process.

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.errors import CacheUnavailable
from cache.layout import Layout
from cache.publications import Publications, parse_leases

DIGEST = "ab" * 32
NOW = 1_000_000.0


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A data directory."""
    return Layout.make(tmp_path)


@pytest.fixture
def ours(layout: Layout) -> Publications:
    """This process's."""
    return Publications(layout)


@pytest.fixture
def theirs(layout: Layout) -> Publications:
    """Another process's."""
    return Publications(layout)


def test_law_1_what_was_not_read_back_is_not_readable(ours: Publications) -> None:
    """No record, no target."""
    assert ours.readable(DIGEST, NOW) == frozenset()


def test_what_was_read_back_is_readable_until_its_lease_ends(ours: Publications) -> None:
    """Each target by itself; noting it again makes the lease longer, never shorter."""
    ours.record(DIGEST, ["cdn"], NOW, 100)
    ours.record(DIGEST, ["s3"], NOW, 200)
    assert ours.readable(DIGEST, NOW) == {"cdn", "s3"}
    assert ours.readable(DIGEST, NOW + 99.9) == {"cdn", "s3"}
    assert ours.readable(DIGEST, NOW + 100) == {"s3"}
    assert ours.readable(DIGEST, NOW + 200) == frozenset()
    ours.record(DIGEST, ["cdn"], NOW, 300)
    ours.record(DIGEST, ["cdn"], NOW, 1)
    assert ours.readable(DIGEST, NOW + 299) == {"cdn"}


def test_a_note_takes_the_place_of_others(ours: Publications, theirs: Publications) -> None:
    """What was found is noted, and that it was otherwise before is forgotten, at once."""
    ours.record(DIGEST, ["cdn", "s3"], NOW, 100)
    ours.record(DIGEST, ["-cdn"], NOW, 50, instead_of=["cdn", "unknown"])
    assert ours.readable(DIGEST, NOW) == theirs.readable(DIGEST, NOW) == {"s3", "-cdn"}


def test_asking_about_later_does_not_change_the_answer_for_now(ours: Publications) -> None:
    """A publisher asks whether a lease will last; clients are answered for this moment."""
    ours.record(DIGEST, ["cdn"], NOW, 100)
    ours.record(DIGEST, ["s3"], NOW, 1000)
    assert ours.readable(DIGEST, NOW + 500) == {"s3"}
    assert ours.readable(DIGEST, NOW) == {"cdn", "s3"}


def test_the_format_of_the_ledger(ours: Publications, layout: Layout) -> None:
    """Ends of leases in seconds since the epoch; what has ended is dropped when written."""
    ours.record(DIGEST, ["old"], NOW, 1)
    ours.record(DIGEST, ["cdn", "s3"], NOW + 2, 10)
    path = layout.data / "published" / "ab" / DIGEST
    assert path.read_bytes() == b'{"cdn": 1000012.0, "s3": 1000012.0}'


def test_what_another_process_notes_is_seen_within_a_second(
    ours: Publications, theirs: Publications
) -> None:
    """News, more news and a retraction."""
    assert ours.readable(DIGEST, NOW) == frozenset()
    theirs.record(DIGEST, ["cdn"], NOW, 100)
    assert ours.readable(DIGEST, NOW + 0.9) == frozenset()
    assert ours.readable(DIGEST, NOW + 1) == {"cdn"}
    theirs.record(DIGEST, ["s3"], NOW, 100)
    assert ours.readable(DIGEST, NOW + 2) == {"cdn", "s3"}
    theirs.forget(DIGEST)
    assert ours.readable(DIGEST, NOW + 3) == frozenset()
    assert theirs.readable(DIGEST, NOW) == frozenset()


def test_noting_merges_with_what_others_noted(ours: Publications, theirs: Publications) -> None:
    """Though this process had looked before."""
    assert ours.readable(DIGEST, NOW) == frozenset()
    theirs.record(DIGEST, ["cdn"], NOW, 100)
    ours.record(DIGEST, ["s3"], NOW, 100)
    assert ours.readable(DIGEST, NOW) == {"cdn", "s3"}


def test_a_warm_answer_costs_no_system_call(
    ours: Publications, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 6: the hot path asks nobody; and it asks the disk once a second."""
    ours.record(DIGEST, ["cdn"], NOW, 100)
    looks = 0
    plain = Path.stat

    def counting(path: Path) -> os.stat_result:
        nonlocal looks
        looks += 1
        return plain(path)

    monkeypatch.setattr(Path, "stat", counting)
    answers = {id(ours.readable(DIGEST, NOW + step / 1000)) for step in range(1000)}
    assert (looks, len(answers)) == (0, 1)
    ours.readable(DIGEST, NOW + 1)
    assert looks == 1


def test_a_clock_that_is_set_back_does_not_freeze_what_is_known(
    ours: Publications, theirs: Publications
) -> None:
    """The file is looked at again."""
    assert ours.readable(DIGEST, NOW) == frozenset()
    theirs.record(DIGEST, ["cdn"], NOW - 500, 100)
    assert ours.readable(DIGEST, NOW - 500) == {"cdn"}


def test_a_full_disk_notes_nothing(
    ours: Publications, theirs: Publications, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be told to the others is not known here either; the old note stays."""
    ours.record(DIGEST, ["cdn"], NOW, 100)

    def full(file: int, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cache.layout.write_all", full)
    with pytest.raises(CacheUnavailable):
        ours.record(DIGEST, ["s3"], NOW, 100)
    assert ours.readable(DIGEST, NOW) == theirs.readable(DIGEST, NOW) == {"cdn"}


@given(st.binary() | st.from_type(type(None)).map(lambda _: b"[" * 100_000))
def test_a_damaged_note_promises_nothing_it_does_not_say(body: bytes) -> None:
    """Garbage never raises, and yields no target unless it is a JSON object with numbers."""
    leases = parse_leases(body)
    assert all(isinstance(target, str) for target in leases)
    assert leases == {} or isinstance(json.loads(body), dict)


@given(st.dictionaries(st.text(), st.floats() | st.none() | st.text() | st.booleans()))
def test_only_finite_times_are_leases(fields: dict[str, object]) -> None:
    """A lease that never ends is none."""
    leases = parse_leases(json.dumps(fields).encode())
    assert leases == {
        target: end for target, end in fields.items() if isinstance(end, float) and abs(end) < 1e12
    }


def test_notes_whose_leases_have_ended_are_swept(ours: Publications, layout: Layout) -> None:
    """The ledger does not grow for ever."""
    ours.record(DIGEST, ["cdn"], NOW, 10)
    ours.record("cd" * 32, ["cdn"], NOW, 1000)
    ours.sweep(NOW + 20)
    assert [name for name, _ in layout.walk("published")] == ["cd" * 32]


def test_memory_is_bounded(ours: Publications, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests that are asked for once do not stay."""
    monkeypatch.setattr("cache.publications._REMEMBERED", 10)
    for number in range(20):
        ours.readable(f"{number:064x}", NOW)
    assert len(ours._known) == 10


async def test_one_publisher_per_digest(ours: Publications, theirs: Publications) -> None:
    """In one process and in several; others of another digest do not wait."""
    inside = 0
    done = 0

    async def publish(place: Publications) -> None:
        nonlocal inside, done
        async with place.lock(DIGEST):
            inside += 1
            assert inside == 1
            await asyncio.sleep(0)
            inside -= 1
            done += 1

    async with ours.lock("cd" * 32):
        await asyncio.gather(*(publish(place) for place in [ours, theirs] * 10))
    assert done == 20
    assert list((ours._layout.data / "incoming").iterdir()) == []


async def test_a_publisher_that_fails_or_dies_lets_the_next_one_in(
    ours: Publications, layout: Layout
) -> None:
    """The lock goes with its holder, and what it left is no lock."""
    with pytest.raises(ZeroDivisionError):
        async with ours.lock(DIGEST):
            _ = 1 / 0
    program = (
        "import asyncio, os, pathlib, sys\n"
        "from cache.layout import Layout\n"
        "from cache.publications import Publications\n"
        "async def main():\n"
        "    async with Publications(Layout.make(pathlib.Path(sys.argv[1]))).lock(sys.argv[2]):\n"
        "        os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program, str(layout.data), DIGEST], check=False
    )
    assert process.returncode == -9
    assert layout.incoming(f"publish-{DIGEST}").exists()
    async with ours.lock(DIGEST):
        pass
    assert list((layout.data / "incoming").iterdir()) == []


async def test_names_that_are_no_digests_are_refused(ours: Publications) -> None:
    """Nothing outside of the data directory is named."""
    with pytest.raises(ValueError, match="names nothing"):
        ours.readable("../../x", NOW)
    with pytest.raises(ValueError, match="names nothing"):
        async with ours.lock("../../x"):
            pass
