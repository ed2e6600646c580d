# Law of this file: nobody exceeds the rate for long, whatever the pauses; nobody is refused who
# keeps to it; and the table does not grow.

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.rates import Buckets

PAUSES = st.lists(st.floats(0, 3, allow_nan=False), min_size=1, max_size=60)


def test_a_burst_and_then_the_rate() -> None:
    """A quiet client has its burst at once, and after it one request for each that comes back."""
    buckets = Buckets()
    assert [buckets.take("a", 2.0, 3, 100.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert buckets.take("a", 2.0, 3, 100.5) == 0.0
    assert buckets.take("a", 2.0, 3, 100.5) > 0.0
    assert [buckets.take("a", 2.0, 3, 900.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_clients_are_apart() -> None:
    """What one asks is not taken off another."""
    buckets = Buckets()
    assert buckets.take("a", 1.0, 1, 0.0) == 0.0
    assert buckets.take("a", 1.0, 1, 0.0) > 0.0
    assert buckets.take("b", 1.0, 1, 0.0) == 0.0


@given(rate=st.floats(0.1, 50), burst=st.integers(1, 20), pauses=PAUSES)
def test_the_rate_holds(rate: float, burst: int, pauses: list[float]) -> None:
    """Over any time no more than the burst and what came back is allowed."""
    buckets, now, allowed = Buckets(), 0.0, 0
    for pause in pauses:
        now += pause
        allowed += not buckets.take("a", rate, burst, now)
        assert allowed <= burst + rate * now + 1e-6


@given(rate=st.floats(0.1, 50), burst=st.integers(1, 20), pauses=PAUSES)
def test_who_waits_as_told_is_let_in(rate: float, burst: int, pauses: list[float]) -> None:
    """The time that a refused client is told is right: after it, it may ask."""
    buckets, now = Buckets(), 0.0
    for pause in pauses:
        now += pause
        wait = buckets.take("a", rate, burst, now)
        if wait:
            now += wait + 1e-9
            assert buckets.take("a", rate, burst, now) == pytest.approx(0.0, abs=1e-6)


def test_the_table_is_bounded() -> None:
    """Who asked longest ago is forgotten first."""
    buckets = Buckets(most=3)
    for client in "abcd":
        assert buckets.take(client, 1.0, 1, 0.0) == 0.0
    assert len(buckets) == 3
    assert buckets.take("d", 1.0, 1, 0.0) > 0.0
    assert buckets.take("a", 1.0, 1, 0.0) == 0.0
