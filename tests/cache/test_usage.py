# Law of this file: eviction removes what was not used for longest and nothing that is in use, and
# whatever becomes of the index, the file system is the truth.

from __future__ import annotations

import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache.errors import CacheUnavailable
from cache.records import Record
from cache.usage import Usage
from stores.entity import Entity

if TYPE_CHECKING:
    from conftest import House


class Clock:
    """Time that goes on by a second at each look."""

    def __init__(self) -> None:
        self.now = 4e9

    def __call__(self) -> float:
        """Seconds since the epoch."""
        self.now += 1
        return self.now


@pytest.fixture
def timed(house: House) -> House:
    """The cache, with a clock of its own."""
    house.usage._clock = Clock()
    return house


def put(house: House, number: int, size: int = 1000) -> Entity:
    """An entity of that size."""
    return house.put(b"%d" % number + b"\n" * (size - 1))


def here(house: House, *entities: Entity) -> list[bool]:
    """Which of them are on the disk."""
    return [house.entities.path(entity.digest).exists() for entity in entities]


def rows(house: House) -> set[tuple[str, str, int]]:
    """What the index says."""
    with closing(sqlite3.connect(house.layout.data / "index.sqlite")) as db:
        return set(db.execute("SELECT kind, name, size FROM files"))


def disk(house: House) -> set[tuple[str, str, int]]:
    """What the disk says."""
    return {
        (kind, name, state.st_size)
        for kind in ("entities", "records")
        for name, state in house.layout.walk(kind)
    }


def test_the_longest_unused_goes_first(timed: House) -> None:
    """Down to 90 % of what is allowed; a use counts, an adding too."""
    a, b, c, d = (put(timed, number) for number in range(4))
    timed.entities.open(a.digest).close()
    assert timed.usage.evict(4000) == 0
    assert timed.usage.evict(3999) == 1000
    assert here(timed, a, b, c, d) == [True, False, True, True]
    assert timed.usage.evict(2200) == 2000
    assert here(timed, a, b, c, d) == [True, False, False, False]
    assert rows(timed) == disk(timed)
    assert timed.usage.figures() == (1000, 1)


def test_records_are_counted_and_evicted_too(timed: House) -> None:
    """They share the space with the entities; a record that is used stays."""
    for name in ("ab", "cd"):
        timed.records.save(Record(name * 32, "r", b"x" * 1000, (), 1.0))
    entity = put(timed, 1)
    assert timed.records.load("ab" * 32) is not None
    timed.usage.flush()
    size, entities = timed.usage.figures()
    assert (size > 3000, entities) == (True, 1)
    timed.usage.evict(size - 1)
    assert timed.records.load("cd" * 32) is None
    assert timed.records.load("ab" * 32) is not None
    assert here(timed, entity) == [True]


def test_what_a_reader_holds_is_not_evicted(timed: House) -> None:
    """Whichever process reads; when it is closed, it goes like all others."""
    old, new = put(timed, 1), put(timed, 2)
    with timed.another().entities.open(old.digest):
        assert timed.usage.evict(1500) == 1000
        assert here(timed, old, new) == [True, False]
        assert timed.usage.evict(0) == 0
    assert timed.usage.evict(0) == 1000
    assert here(timed, old) == [False]


def test_what_another_process_used_counts(timed: House) -> None:
    """Last use is shared by way of the index."""
    a, b = put(timed, 1), put(timed, 2)
    timed.usage.flush()
    other = timed.another()
    other.usage._clock = lambda: 5e9
    other.entities.open(a.digest).close()
    other.usage.flush()
    timed.usage.evict(1500)
    assert here(timed, a, b) == [True, False]


def test_a_file_that_was_removed_by_hand_is_forgotten(timed: House) -> None:
    """Its use is noted, its absence is found."""
    a, b = put(timed, 1), put(timed, 2)
    timed.usage.flush()
    timed.entities.path(a.digest).unlink()
    timed.usage.touch("entities", a.digest)
    timed.usage.flush()
    assert timed.usage.figures() == (1000, 1)
    timed.entities.path(b.digest).unlink()
    timed.usage.reconcile()
    assert rows(timed) == set()
    assert timed.usage.figures() == (0, 0)


def test_reconciling_adds_what_has_no_row_and_keeps_what_was_known(timed: House) -> None:
    """A crash between a rename and the next flush loses no file and no last use."""
    a, b = put(timed, 1), put(timed, 2)
    timed.entities.open(a.digest).close()
    timed.usage.flush()
    lost = timed.another()
    c = put(lost, 3)  # and its process dies before it flushes
    os.utime(timed.entities.path(c.digest), (1, 1))
    again = timed.another()
    again.usage.reconcile()
    assert rows(again) == disk(again)
    assert again.usage.figures() == (3000, 3)
    again.usage.evict(2999)
    assert here(timed, a, b, c) == [True, True, False]
    again.usage.evict(1500)
    assert here(timed, a, b) == [True, False]


@pytest.mark.parametrize(
    "damage", [None, b"", b"not a database, but long enough to look like one" * 100, "schema"]
)
def test_a_lost_or_corrupt_index_is_made_again(timed: House, damage: bytes | str | None) -> None:
    """While we run, and without a word from the operator."""
    put(timed, 1)
    timed.records.save(Record("ab" * 32, "r", b"", (), 1.0))
    timed.usage.flush()
    index = timed.layout.data / "index.sqlite"
    if damage is None:
        index.unlink()
    elif damage == "schema":
        with closing(sqlite3.connect(index)) as db:
            db.execute("PRAGMA user_version = 99")
            db.execute("ALTER TABLE files RENAME COLUMN used TO other")
    else:
        index.write_bytes(damage)
    timed.usage.flush()
    assert rows(timed) == disk(timed)
    assert len(rows(timed)) == 2


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.integers(0), garbage=st.binary(min_size=1, max_size=200), evict=st.booleans())
def test_any_damage_of_the_index_is_mended(
    house: House, at: int, garbage: bytes, *, evict: bool
) -> None:
    """Whatever bytes of it change, eviction works, and the next start finds all files."""
    entities = [put(house, number) for number in range(3)]
    house.usage.flush()
    index = house.layout.data / "index.sqlite"
    body = bytearray(index.read_bytes())
    at %= len(body)
    body[at : at + len(garbage)] = garbage
    index.write_bytes(body)
    if evict:
        house.usage.evict(2500)
    house.usage.reconcile()
    left = sum(here(house, *entities))
    assert house.usage.figures() == (1000 * left, left)
    assert house.usage.evict(0) == 1000 * left


def test_damage_for_which_the_disk_is_blamed_is_mended_at_the_next_start(house: House) -> None:
    """Here a format that may only be read, by its header."""
    put(house, 1)
    house.usage.flush()
    index = house.layout.data / "index.sqlite"
    body = bytearray(index.read_bytes())
    body[18] = 3
    index.write_bytes(body)
    put(house, 2)
    with pytest.raises(CacheUnavailable):
        house.usage.flush()
    house.usage.reconcile()
    assert house.usage.figures() == (2000, 2)


def test_an_index_that_cannot_be_used_keeps_what_was_noted(timed: House) -> None:
    """The next flush writes it down; and eviction goes by the files' age meanwhile."""
    a, b = put(timed, 1), put(timed, 2)
    os.utime(timed.entities.path(b.digest), (1, 1))
    index = timed.layout.data / "index.sqlite"
    index.mkdir()
    with pytest.raises(CacheUnavailable, match=r"index\.sqlite"):
        timed.usage.flush()
    assert timed.usage.figures() == (2000, 0)
    assert timed.usage.evict(1500) == 1000
    assert here(timed, a, b) == [True, False]
    index.rmdir()
    timed.usage.flush()
    assert timed.usage.figures() == (1000, 1)


def test_a_full_disk_makes_room_below_what_is_allowed(timed: House) -> None:
    """The disk is smaller than the operator said."""
    entities = [put(timed, number) for number in range(10)]
    assert timed.usage.evict(1 << 40, disk_full=True) == 1000
    assert here(timed, *entities) == [False] + [True] * 9


def test_processes_work_on_the_index_at_once(house: House) -> None:
    """Nothing is lost and nobody is refused."""
    places = [house.another() for _ in range(4)]

    def work(place: House) -> None:
        for number in range(10):
            body = b"x" * (10 + number)
            place.records.save(Record(f"{number:064x}", "r", body, (), 1.0))
            place.usage.flush()
            if number == 5:
                place.usage.reconcile()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, places))
    assert rows(house) == disk(house)
    assert len(rows(house)) == 10


def test_touching_costs_no_disk(house: House) -> None:
    """Nothing is written until the flush."""
    usage = Usage(house.layout)
    for _ in range(1000):
        usage.touch("entities", "ab" * 32)
    usage.add("entities", "cd" * 32, 10)
    assert usage.figures() == (10, 0)
    assert not (house.layout.data / "index.sqlite").exists()
