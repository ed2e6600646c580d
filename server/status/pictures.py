# Law of this file: where the bars of a picture stand. Their colours are the style's business, and
# every figure in them is also in a table beside it.

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from server.status.history import DAY, HOUR, Point

# Widths are in percent, heights in CSS pixels: so words are as large on a telephone as elsewhere.
WIDTH: Final = 100.0
HEIGHT: Final = 180.0

# Below the bars, for the words of the axis; and what is left free between two bars, of one.
FOOT: Final = 22.0
_GAP: Final = 0.22
# Air above the highest bar, for the figure of the line there.
_HEAD: Final = 18.0

LAYERS: Final = ("redirect", "hit", "follow", "miss", "passthrough", "error")
"""From below: what cost nothing, then what did, then what failed."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle; ``kind`` is one of :data:`LAYERS`."""

    kind: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Mark:
    """A word at the axis, at ``x``."""

    x: float
    word: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A stacked bar for each point.

    Attributes:
        bars: from the left, each stack from below.
        gaps: begin and width of where nobody counted.
        marks: times, in UTC.
        top: what the line at ``top_y`` stands for.
        top_y: where it is.
        empty: there is nothing to see.
    """

    bars: tuple[Bar, ...]
    gaps: tuple[tuple[float, float], ...]
    marks: tuple[Mark, ...]
    top: int
    top_y: float
    empty: bool


def chart(points: Sequence[Point], step: int, word: str) -> Chart:
    """Draw responses by outcome.

    Args:
        points: in order, each ``step`` seconds after the one before.
        step: see there.
        word: the format of times at the axis, as strftime takes it.
    """
    sums = [sum(point.figures[layer] for layer in LAYERS) for point in points]
    top = _round_up(max(sums, default=0.0))
    slot = WIDTH / max(len(points), 1)
    room = HEIGHT - FOOT - _HEAD
    bars: list[Bar] = []
    gaps: list[tuple[float, float]] = []
    for number, point in enumerate(points):
        x, y = number * slot, HEIGHT - FOOT
        if not point.figures["watched"]:
            gaps.append((round(x, 2), round(slot, 2)))
        for layer in LAYERS:
            height = room * point.figures[layer] / top if top else 0.0
            if height:
                # What is there is seen, however little it is of all.
                height = max(height, 1.5)
                y -= height
                where = (x + slot * _GAP / 2, y, slot * (1 - _GAP), height)
                bars.append(Bar(layer, *(round(each, 2) for each in where)))
    return Chart(tuple(bars), _joined(gaps), _marks(points, step, word, slot), top, _HEAD, not top)


def _round_up(value: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50, ...; 0 of 0."""
    if value <= 0:
        return 0
    power = 10 ** math.floor(math.log10(value))
    return int(next(power * n for n in (1, 2, 5, 10) if power * n >= value)) or 1


def _joined(gaps: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Gaps that touch, as one."""
    found: list[tuple[float, float]] = []
    for x, width in gaps:
        if found and abs(found[-1][0] + found[-1][1] - x) < 0.1:
            found[-1] = (found[-1][0], round(x + width - found[-1][0], 2))
        else:
            found.append((x, width))
    return tuple(found)


# Times at the axis stand where these many seconds are over: about five of them.
_STRIDES: Final = (10 * 60, 15 * 60, HOUR, 6 * HOUR, DAY, 2 * DAY, 28 * DAY, 91 * DAY)


def _marks(points: Sequence[Point], step: int, word: str, slot: float) -> tuple[Mark, ...]:
    if not points:
        return ()
    length = step * len(points)
    stride = next((each for each in _STRIDES if length / each <= 6), length)
    first = points[0].at
    due = range(math.ceil(first / stride) * stride, first + length, stride)
    marks = (Mark(round((at - first) / step * slot, 2), utc(at, word)) for at in due)
    # A word is centred on its time, and must not be cut off.
    return tuple(mark for mark in marks if 5 <= mark.x <= WIDTH - 5)


def utc(at: float, word: str) -> str:
    """A time (seconds since the epoch) as strftime's ``word`` says, in UTC; or else as a number."""
    try:
        return time.strftime(word, time.gmtime(at))
    except (OverflowError, ValueError, OSError):
        return f"{at:.0f}"
