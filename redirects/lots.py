# Law of this file: equals draw lots, which are the same each time for the same key, and the share
# of each is its weight. All are drawn at once: one by one they would be the most of a decision.
#
# It is weighted rendezvous hashing: each draws a number that depends on itself and the key alone,
# and the soonest draw wins. So who goes moves only what it had, and servers agree without talking.
# -ln(u) / weight for a uniform u is a clock that strikes at a rate of `weight`, and the chance that
# one of several clocks is the first is its share of all the rates.
#
# Python spends more on taking a step than on its arithmetic. So the lots stand side by side in one
# number, each in a lane that is wide enough for a product of two numbers of 64 bits, and each step
# of the hash is one step for all of them.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import inf, log
from struct import Struct
from typing import Final, Self

_LANE: Final = 128
_WORD: Final = (1 << 64) - 1
_UNIT: Final = 2.0**-64


@dataclass(frozen=True, slots=True)
class Lots:
    """What some equals draw their lots from.

    Attributes:
        _places: of the equals, in the order of their lanes: those of one weight side by side.
        _weights: by lane.
        _alike: the lanes of those of one weight, and this weight.
        _seeds: of all, each in its lane.
        _ones: 1 in each lane.
        _lower: all bits of the lower half of each lane.
        _words: takes the lower half of each lane out of the bytes of all.
    """

    _places: tuple[int, ...]
    _weights: tuple[float, ...]
    _alike: tuple[tuple[slice, float], ...]
    _seeds: int = field(repr=False)
    _ones: int = field(repr=False)
    _lower: int = field(repr=False)
    _words: Callable[[bytes], tuple[int, ...]] = field(repr=False, compare=False)

    @classmethod
    def of(cls, seeds: Sequence[int], weights: Sequence[float]) -> Self:
        """Of as many equals as there are ``seeds`` and ``weights``.

        Args:
            seeds: 64 bits of each, no two the same.
            weights: of each, above 0; only how they are to each other counts.
        """
        places = sorted(range(len(seeds)), key=weights.__getitem__)
        alike = []
        end = 0
        for weight, those in groupby(weights[place] for place in places):
            start, end = end, end + len(list(those))
            alike.append((slice(start, end), weight))
        lanes = [1 << _LANE * lane for lane in range(len(seeds))]
        return cls(
            tuple(places),
            tuple(weights[place] for place in places),
            tuple(alike),
            sum(seeds[place] * lane for place, lane in zip(places, lanes, strict=True)),
            sum(lanes),
            sum(lanes) * _WORD,
            Struct("<" + "Q8x" * len(seeds)).unpack,
        )

    def first(self, key: int) -> int:
        """The place of the one that wins for ``key``, 64 bits, among the equals."""
        drawn = self._draw(key)
        soonest, winner = -inf, 0
        for those, weight in self._alike:
            # Of one weight the greatest draw is the soonest, so one logarithm is enough for them.
            greatest = max(drawn[those])
            time = log((greatest + 1) * _UNIT) / weight
            # Also if it is no sooner: with the least of weights no number is as late as it strikes.
            if time >= soonest:
                soonest, winner = time, greatest
        return self._places[drawn.index(winner)]

    def order(self, key: int) -> list[int]:
        """The places of all for ``key``, the soonest first."""
        times = [*map(_time, self._draw(key), self._weights)]
        lanes = sorted(range(len(times)), key=times.__getitem__, reverse=True)
        return [self._places[lane] for lane in lanes]

    def _draw(self, key: int) -> tuple[int, ...]:
        """64 bits for each lane."""
        lower = self._lower
        # The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): every bit changes every other;
        # but for its last step, which is about the low bits, and no lot is decided by these.
        bits = self._ones * key ^ self._seeds
        bits = ((bits ^ bits >> 30) & lower) * 0xBF58476D1CE4E5B9 & lower
        bits = ((bits ^ bits >> 27) & lower) * 0x94D049BB133111EB & lower
        return self._words(bits.to_bytes(len(self._places) * _LANE // 8, "little"))


def _time(drawn: int, weight: float) -> float:
    """When the clock strikes, as a negative number: the greatest is the soonest."""
    return log((drawn + 1) * _UNIT) / weight
