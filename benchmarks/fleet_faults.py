# Law of this file: what befalls the targets and the mirror during the day is written in a calendar.
# Whether a request at a moment comes to anything is read there, and nobody who decides reads it.

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Self

# Seconds after a change for which no load is compared with weights: servers need up to an interval
# to notice that a target is dead, and a few probes to believe that it lives.
SETTLING: Final = 300.0

# Seconds of a whole day.
_DAY: Final = 86_400.0

# Seconds for which a target that flaps answers, and for which it does not.
_UP: Final = (60.0, 240.0)
_DOWN: Final = (20.0, 120.0)


class Manner(Enum):
    """How a target is dead."""

    REFUSES = "refuses connections at once, and ends those that there are"
    HANGS = "answers nothing, and lets everybody wait"


@dataclass(frozen=True, slots=True)
class Outage:
    """A target is dead from ``start`` to ``end``, in seconds of the day."""

    target: str
    start: float
    end: float
    manner: Manner


class Timeline:
    """The outages of one target, one after another."""

    def __init__(self, outages: Iterable[Outage]) -> None:
        self.outages = sorted(outages, key=lambda outage: outage.start)
        self._starts = [outage.start for outage in self.outages]

    def at(self, now: float) -> Outage | None:
        """The outage that there is at this moment."""
        place = bisect_right(self._starts, now)
        if place and now < self.outages[place - 1].end:
            return self.outages[place - 1]
        return None

    def within(self, start: float, end: float) -> Outage | None:
        """The first outage that begins later than ``start``, and not later than ``end``."""
        place = bisect_right(self._starts, start)
        if place < len(self._starts) and self._starts[place] <= end:
            return self.outages[place]
        return None


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of the day, from the moment at which all has settled.

    Attributes:
        name: for people.
        start: seconds of the day.
        end: likewise.
        dead: targets that are dead all the time.
        unsteady: targets that die and rise; their load follows from that, and not from weights.
    """

    name: str
    start: float
    end: float
    dead: frozenset[str] = frozenset()
    unsteady: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Calendar:
    """What happens on the day.

    Attributes:
        length: of the day, in seconds.
        timelines: of each target, by its name.
        phases: in order; stretches of the same name count together.
        lagging: from when to when the mirror does not follow.
        events: what is marked in the picture: from, to, and what it is.
    """

    length: float
    timelines: Mapping[str, Timeline]
    phases: Sequence[Phase]
    lagging: tuple[float, float]
    events: Sequence[tuple[float, float, str]]

    @property
    def outages(self) -> Iterator[Outage]:
        """All of them."""
        return (outage for timeline in self.timelines.values() for outage in timeline.outages)

    def phase(self, now: float) -> Phase | None:
        """The phase at this moment; None while things settle."""
        for phase in self.phases:
            if phase.start <= now < phase.end:
                return phase
        return None

    @classmethod
    def draw(cls, targets: Iterable[str], length: float, chance: random.Random) -> Self:
        """The calendar of :mod:`benchmarks.fleet`: one flaps, a region is out, one goes for good.

        Args:
            targets: names of all.
            length: of the day, in seconds; everything but the flapping becomes shorter with it.
            chance: draws when the one that flaps is dead.
        """
        hour = length / 24
        flapping, lagging = (6 * hour, 9.5 * hour), (11 * hour, 13 * hour)
        outages = list(_flaps("ap-a", *flapping, chance))
        # The network of a whole region: nothing is refused, nothing comes.
        region = (15 * hour, 16.5 * hour)
        outages += (Outage(name, *region, Manner.HANGS) for name in ("us-a", "us-b"))
        gone = (19 * hour, length)
        outages.append(Outage("eu-b", *gone, Manner.REFUSES))
        settling = min(SETTLING, hour / 12)
        well, us, eu = "every target is well", frozenset({"us-a", "us-b"}), frozenset({"eu-b"})
        # Who flapped is held for as long on a short day as on a long one, where it is little.
        held = frozenset({"ap-a"}) if length < _DAY else frozenset[str]()
        phases = (
            Phase(well, 0.0, flapping[0]),
            Phase("ap-a flaps", flapping[0], flapping[1], unsteady=frozenset({"ap-a"})),
            Phase(
                "ap-a may be held" if held else well,
                flapping[1] + 2 * settling,
                region[0],
                unsteady=held,
            ),
            Phase("us-a and us-b are dead", region[0] + settling, region[1], us),
            Phase(well, region[1] + settling, gone[0]),
            Phase("eu-b is dead", gone[0] + settling, length, eu),
        )
        events = (
            (*flapping, "ap-a flaps"),
            (*lagging, "the mirror lags"),
            (*region, "region us is out"),
            (*gone, "eu-b is gone"),
        )
        timelines = {
            name: Timeline(outage for outage in outages if outage.target == name)
            for name in targets
        }
        return cls(length, timelines, phases, lagging, events)


def _flaps(target: str, start: float, end: float, chance: random.Random) -> Iterator[Outage]:
    """Dead and alive in turns, each for a time that nobody knows before."""
    now = start
    while now < end:
        until = min(now + chance.uniform(*_DOWN), end)
        yield Outage(target, now, until, Manner.REFUSES)
        now = until + chance.uniform(*_UP)
