# Law of this file: a picture shows what the figures say, and its bars stay within it.

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.status.counting import FIGURES
from server.status.history import HOUR, MINUTE, Point
from server.status.pictures import FOOT, HEIGHT, LAYERS, WIDTH, chart, utc

NOON = 1_800_014_400


def point(number: int, step: int = MINUTE, **figures: float) -> Point:
    """The point of a step."""
    return Point(NOON + number * step, {**dict.fromkeys(FIGURES, 0.0), "watched": 60.0, **figures})


def test_bars_are_stacked() -> None:
    """Each bar stands on the one below, as high as its share of the line at the top."""
    drawn = chart([point(0, redirect=60, miss=30), point(1, error=10)], MINUTE, "%H:%M")
    redirect, miss, error = drawn.bars
    room = HEIGHT - FOOT - drawn.top_y
    assert drawn.top == 100
    assert (redirect.kind, miss.kind, error.kind) == ("redirect", "miss", "error")
    assert redirect.height == pytest.approx(0.6 * room, abs=0.01)
    assert redirect.y + redirect.height == pytest.approx(HEIGHT - FOOT, abs=0.02)
    assert miss.y + miss.height == pytest.approx(redirect.y, abs=0.02)
    assert redirect.x < error.x
    assert not drawn.empty


def test_little_is_seen() -> None:
    """One error among a million answers has a bar."""
    (_, error) = chart([point(0, hit=1_000_000, error=1)], MINUTE, "%H:%M").bars
    assert error.kind == "error"
    assert error.height >= 1.5


def test_nothing() -> None:
    """Without answers there is no bar and no line."""
    drawn = chart([point(0), point(1)], MINUTE, "%H:%M")
    assert drawn.empty
    assert drawn.bars == ()
    assert chart([], MINUTE, "%H:%M").empty


def test_gaps() -> None:
    """Where nobody counted is marked, as one gap where steps follow one another."""
    points = [point(n, watched=0.0 if n in {2, 3, 4, 8} else 60.0) for n in range(10)]
    assert chart(points, MINUTE, "%H:%M").gaps == ((20.0, 30.0), (80.0, 10.0))


def test_times_at_the_axis() -> None:
    """Full hours are named, where they are."""
    points = [point(n, 30 * MINUTE) for n in range(48)]
    marks = chart(points, 30 * MINUTE, "%H:%M").marks
    assert [(mark.word, mark.x) for mark in marks] == [
        ("18:00", 25.0), ("00:00", 50.0), ("06:00", 75.0),
    ]  # fmt: skip


@given(st.lists(st.lists(st.integers(0, 10**9), min_size=6, max_size=6), min_size=1, max_size=60))
def test_everything_is_within(values: list[list[int]]) -> None:
    """Whatever the figures, bars are within the picture and the line is not below any sum."""
    points = [
        point(n, HOUR, **dict(zip(LAYERS, each, strict=True))) for n, each in enumerate(values)
    ]
    drawn = chart(points, HOUR, "%H:%M")
    assert drawn.top >= max(map(sum, values))
    for bar in drawn.bars:
        assert 0 <= bar.x <= bar.x + bar.width <= WIDTH
        assert bar.y >= -0.01  # six thin ones may reach into the head
        assert bar.y + bar.height <= HEIGHT - FOOT + 0.02


def test_times_that_no_calendar_has() -> None:
    """A time that is none is shown as the number that it is."""
    assert utc(NOON, "%Y-%m-%d %H:%M") == "2027-01-15 12:00"
    assert utc(1e20, "%Y") == "100000000000000000000"
