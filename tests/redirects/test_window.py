# Law of this file: a URL lives at least its lifetime, whenever in the window it is given out.

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redirects.window import Window

spans = st.floats(0.01, 6 * 86400)
moments = st.floats(0, 4e9)


def test_golden() -> None:
    """Within a window the end is the same, a whole window plus the lifetime after its start."""
    window = Window(900, 21600)
    assert window.start(1_700_000_100.0) == 1_700_000_100
    assert window.start(1_700_000_999.9) == 1_700_000_100
    assert window.start(1_700_001_000.0) == 1_700_001_000
    assert window.end(1_700_000_100) == 1_700_022_600
    assert window.longest == 22500


@given(spans, spans, moments)
def test_lives_long_enough_and_no_longer(width: float, lifetime: float, now: float) -> None:
    """A URL lives at least `lifetime`, never more than `longest`, and never starts later."""
    window = Window(width, lifetime)
    start = window.start(now)
    assert start <= now
    assert lifetime <= window.end(start) - now <= window.longest


@given(spans, moments, st.floats(0, 1))
def test_is_the_same_within(width: float, now: float, share: float) -> None:
    """Any moment between start and start + width has the same start."""
    window = Window(width, 1)
    start = window.start(now)
    assert window.start(start) == start
    assert window.start(now - share * (now - start)) == start


@pytest.mark.parametrize(("width", "lifetime"), [(0, 1), (1, 0), (-1, 1)])
def test_needs_time(width: float, lifetime: float) -> None:
    """A window without width or lifetime is refused."""
    with pytest.raises(ValueError, match="above zero"):
        Window(width, lifetime)
