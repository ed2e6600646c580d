# Law of this file: lots that are drawn at once are those that would be drawn one by one.

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redirects.lots import Lots

WORD = (1 << 64) - 1

words = st.integers(0, WORD)
weights = st.sampled_from([0.5, 1.0, 1.0, 3.0, 7.0]) | st.floats(1e-3, 1e3)


def strikes(seed: int, weight: float, key: int) -> float:
    """When the clock of one strikes, as the law of `redirects/lots.py` says."""
    bits = key ^ seed
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 & WORD
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB & WORD
    return -math.log((bits + 1) / 2**64) / weight


@given(st.dictionaries(words, weights, min_size=1, max_size=40), words)
def test_lots_are_those_of_each(equals: dict[int, float], key: int) -> None:
    """However many draw, and whatever their weights: each has its own, and the soonest wins."""
    lots = Lots.of(list(equals), list(equals.values()))
    times = [strikes(seed, weight, key) for seed, weight in equals.items()]
    order = lots.order(key)
    assert sorted(order) == list(range(len(times)))
    assert [times[place] for place in order] == sorted(times)
    assert times[lots.first(key)] == min(times)


@pytest.mark.parametrize("weight", [5e-324, 1.7e308])
def test_weights_at_the_ends_of_numbers_are_shared(weight: float) -> None:
    """Times that no number holds are no reason to send everybody to the same one."""
    lots = Lots.of([1, 2, 3], [weight] * 3)
    won = Counter(lots.first(key * 0x9E3779B97F4A7C15 & WORD) for key in range(3000))
    assert all(won[place] == pytest.approx(1000, rel=0.15) for place in range(3))
