# Law of this file: what a span of time is made of. Every figure of a span is a sum of points of the
# history, so that no two figures of a page contradict each other.

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from server.status.counting import FIGURES
from server.status.history import DAY, HOUR, MINUTE, History, Point


@dataclass(frozen=True, slots=True)
class Span:
    """A length of time that ends now.

    Attributes:
        name: in URLs, such as ``day``.
        title: for people, such as ``last 24 hours``.
        resolution: of the points it is made of, in seconds.
        step: seconds of one bar of the picture; a multiple of the resolution.
        steps: how many of them there are.
    """

    name: str
    title: str
    resolution: int
    step: int
    steps: int


NOW: Final = Span("now", "last 5 minutes", MINUTE, MINUTE, 5)
SPANS: Final = {
    span.name: span
    for span in (
        Span("hour", "last hour", MINUTE, MINUTE, 60),
        Span("day", "last 24 hours", MINUTE, 30 * MINUTE, 48),
        Span("week", "last 7 days", HOUR, 3 * HOUR, 56),
        Span("year", "last 52 weeks", DAY, 7 * DAY, 52),
    )
}
"""Those of which there is a picture, by name."""


def points(history: History, span: Span, now: float) -> tuple[Point, ...]:
    """The span, step by step, the one that is not over yet at the end.

    Of a step in which nothing was counted every figure is 0; if ``watched`` is, nobody counted.

    Args:
        history: blocks.
        span: which.
        now: seconds since the epoch.

    Raises:
        server.status.history.HistoryUnavailable: it cannot be read.
    """
    end = (int(now // span.step) + 1) * span.step
    start = end - span.step * span.steps
    found: dict[int, dict[str, float]] = {
        start + number * span.step: dict.fromkeys(FIGURES, 0.0) for number in range(span.steps)
    }
    for point in history.points(span.resolution, start, end):
        into = found[start + (point.at - start) // span.step * span.step]
        for figure, value in point.figures.items():
            into[figure] += value
    return tuple(Point(at, figures) for at, figures in found.items())


def total(of: Iterable[Point]) -> Mapping[str, float]:
    """The sum of points."""
    found = dict.fromkeys(FIGURES, 0.0)
    for point in of:
        for figure, value in point.figures.items():
            found[figure] += value
    return found


@dataclass(frozen=True, slots=True)
class Share:
    """How much of the content of a span clients were sent elsewhere for.

    Attributes:
        span: its name.
        title: for people.
        redirected, inline: bytes named by a location, and sent from here.
        share: of all these bytes, those that were redirected, from 0 to 1; None if there were none.
    """

    span: str
    title: str
    redirected: int
    inline: int
    share: float | None


def share(span: Span, figures: Mapping[str, float]) -> Share:
    """What a span's figures say."""
    redirected, inline = int(figures["redirected"]), int(figures["inline"])
    together = redirected + inline
    return Share(
        span.name, span.title, redirected, inline, redirected / together if together else None
    )


@dataclass(frozen=True, slots=True)
class Saved:
    """What answers of a span did not cost.

    Attributes:
        span: its name.
        title: for people.
        answered: answers that would each have been computed by a run.
        runs: how many runs there were.
        saved: how many there were not.
        cpu: seconds of a processor that the runs took.
        worth: what these answers would have taken, each computed; as far as that is known.
        saved_cpu: the difference.
        unpriced: answers of which nobody knows what they would have taken.
    """

    span: str
    title: str
    answered: int
    runs: int
    saved: int
    cpu: float
    worth: float
    saved_cpu: float
    unpriced: int


def saved(span: Span, figures: Mapping[str, float]) -> Saved:
    """What a span's figures say.

    A run that began at the end of a span is counted in it, and its answer in the next: hence no
    difference is below 0.
    """
    answered, runs = int(figures["answered"]), int(figures["runs"])
    return Saved(
        span=span.name,
        title=span.title,
        answered=answered,
        runs=runs,
        saved=max(answered - runs, 0),
        cpu=figures["cpu"],
        worth=figures["worth"],
        saved_cpu=max(figures["worth"] - figures["cpu"], 0.0),
        unpriced=max(answered - int(figures["priced"]), 0),
    )
