# Law of this file: for how long a target is held follows from its falls and the time between them.

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redirects.damping import HALF_LIFE, HELD_AT_MOST, Damping

pauses = st.lists(st.floats(0, 1e5), max_size=50)


def fallen(*pauses: float) -> tuple[Damping, float]:
    """A target that fell at 0, and again after each of these; and when it fell last."""
    now = 0.0
    damping = Damping().fell(now)
    for pause in pauses:
        now += pause
        damping = damping.fell(now)
    return damping, now


def test_who_never_fell_is_not_held() -> None:
    """Nor who stumbled, or stays away, before its first fall."""
    assert Damping().until < 0
    assert Damping().stumbled(5.0).until < 0
    assert Damping().stays_down(5.0).until < 0


@pytest.mark.parametrize(
    ("pauses", "held"),
    [
        ((), None),
        ((0.0,), 849.0),
        ((HALF_LIFE - 1,), 600.4),
        ((HALF_LIFE + 1,), None),
        ((900.0,), None),
        ((900.0,) * 2, None),
        ((900.0,) * 9, 626.7),
        ((1200.0,) * 99, None),
        ((60.0,) * 9, HELD_AT_MOST),
    ],
)
def test_for_how_long(pauses: tuple[float, ...], held: float | None) -> None:
    """Twice within a half-life is too often, every twenty minutes is not; and there is a bound."""
    damping, now = fallen(*pauses)
    if held is None:
        assert damping.until < now
    else:
        assert damping.until - now == pytest.approx(held, abs=0.1)


@given(pauses)
def test_nobody_is_held_for_longer_than_the_bound(pauses: list[float]) -> None:
    """Whenever it fell, and however often; and who is held, is so for a half-life at least."""
    damping, now = fallen(*pauses)
    held = damping.until - now
    assert held < 0 or HALF_LIFE - 1e-6 <= held <= HELD_AT_MOST + 1e-6


@given(pauses, st.floats(0, 1e5))
def test_who_stays_down_waits_as_long_as_before(pauses: list[float], later: float) -> None:
    """From then on; what it answered in between is forgotten, and nothing is added."""
    damping, now = fallen(*pauses)
    still = damping.stays_down(now + later)
    assert still.merit == damping.merit
    if damping.until > now:
        assert still.until - (now + later) == pytest.approx(damping.until - now)


@given(st.floats(0, 1e5), st.floats(0, 1e5))
def test_a_stumble_adds_nothing(first: float, second: float) -> None:
    """Who stumbled between two falls is held for as long as who did not."""
    straight = Damping().fell(0.0).fell(first + second)
    stumbled = Damping().fell(0.0).stumbled(first).fell(first + second)
    assert stumbled.merit == pytest.approx(straight.merit)
