# Law of this file: what failed at a mirror is kept from it for a while, ever longer, and whoever it
# did not happen to is not.

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redirects.holding_off import FIRST, LONGEST, HoldOffs, held_off_key
from redirects.suspicion import TABLE_SIZE, Asker, MemoryTable, Suspicions

NOW = 1000.0
SECRET = b"s" * 16
KEY = held_off_key("192.0.2.0/24", ("git", "app"), "near", secret=SECRET)


@pytest.fixture
def hold_offs() -> HoldOffs:
    """Nothing has failed yet."""
    return HoldOffs(MemoryTable())


def test_what_failed_is_held_off_for_a_while(hold_offs: HoldOffs) -> None:
    """Neither before nor after it."""
    assert not hold_offs.holds(KEY, NOW)
    assert hold_offs.failed(KEY, NOW) == FIRST
    assert hold_offs.holds(KEY, NOW)
    assert hold_offs.holds(KEY, NOW + FIRST - 1)
    assert not hold_offs.holds(KEY, NOW + FIRST)
    assert not hold_offs.holds(KEY, NOW - 1)


def test_what_fails_again_is_held_off_twice_as_long(hold_offs: HoldOffs) -> None:
    """Up to a day; what went well for as long as it was held off begins anew."""
    now, seconds = NOW, FIRST
    for _ in range(12):
        assert hold_offs.failed(KEY, now) == seconds
        now += seconds + 1
        seconds = min(2 * seconds, LONGEST)
    assert hold_offs.failed(KEY, now + LONGEST) == FIRST


def test_sessions_that_moved_before_say_nothing_new(hold_offs: HoldOffs) -> None:
    """Many that fail side by side are one failure."""
    hold_offs.failed(KEY, NOW)
    assert hold_offs.failed(KEY, NOW + 100) == FIRST - 100
    assert not hold_offs.holds(KEY, NOW + FIRST)


def test_a_session_that_would_fail_holds_off_those_to_come(hold_offs: HoldOffs) -> None:
    """As long as they go on, and no longer each time."""
    for minute in range(60):
        hold_offs.would_fail(KEY, NOW + 60 * minute)
    assert hold_offs.holds(KEY, NOW + 3540 + FIRST - 1)
    assert not hold_offs.holds(KEY, NOW + 3540 + FIRST)


@pytest.mark.parametrize(
    "other",
    [
        ("198.51.100.0/24", ("git", "app"), "near"),
        ("192.0.2.0/24", ("hg", "app"), "near"),
        ("192.0.2.0/24", ("git", "other"), "near"),
        ("192.0.2.0/24", ("git", "app"), "far"),
    ],
)
def test_nobody_else_is_held_off(
    hold_offs: HoldOffs, other: tuple[str, tuple[str, str], str]
) -> None:
    """No other network, repository or mirror."""
    hold_offs.failed(KEY, NOW)
    assert not hold_offs.holds(held_off_key(*other, secret=SECRET), NOW)


def test_a_table_is_for_both() -> None:
    """Who was sent where, and what is held off, do not overwrite each other."""
    table = MemoryTable()
    suspicions, hold_offs = Suspicions(table, 60.0), HoldOffs(table)
    asker = Asker.of("192.0.2.1", (), "session git app", secret=SECRET)
    suspicions.sent(asker, ["near"], NOW)
    for number in range(200):
        hold_offs.failed(held_off_key(str(number), ("git", "app"), "near", secret=SECRET), NOW)
    assert suspicions.asked_again(asker, NOW, lambda _: False)
    assert hold_offs.holds(held_off_key("199", ("git", "app"), "near", secret=SECRET), NOW)


@given(st.binary(min_size=1, max_size=64), st.floats())
def test_a_table_that_anybody_wrote_is_read(part: bytes, now: float) -> None:
    """Whatever it holds, an answer comes of it, and what failed is held off."""
    table = MemoryTable()
    table.write(TABLE_SIZE, part * ((1 << 17) // len(part)))
    hold_offs = HoldOffs(table)
    hold_offs.holds(KEY, now)
    hold_offs.would_fail(KEY, NOW)
    assert hold_offs.holds(KEY, NOW)
    assert 0 < hold_offs.failed(KEY, NOW) <= LONGEST
