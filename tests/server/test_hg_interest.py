# Law of this file: what somebody waits for is made, and what nobody waits for is given up: at once
# if it has not begun, and else after a while.

from __future__ import annotations

from dataclasses import dataclass

import pytest

from server.hg.interest import Abandoned, Interest

KEY = ("repository", b"filesdata", b"digest")


@dataclass
class Clock:
    """A clock that the test moves."""

    now: float = 100.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def test_what_is_waited_for_is_made() -> None:
    """As long as one of those who wait is left, a run begins and goes on."""
    interest = Interest(10.0, Clock())
    with interest.held(KEY):
        with interest.held(KEY):
            interest.check(KEY, begun=False)
        interest.check(KEY, begun=False)
        interest.check(KEY, begun=True)


def test_what_nobody_waits_for_does_not_begin() -> None:
    """A run whose clients went away while it was queued is given up."""
    interest = Interest(10.0, Clock())
    with interest.held(KEY):
        pass
    with pytest.raises(Abandoned):
        interest.check(KEY, begun=False)


def test_who_was_cut_off_may_come_back() -> None:
    """A run that has begun goes on for a while, and on if somebody asks again in it."""
    clock = Clock()
    interest = Interest(10.0, clock)
    with interest.held(KEY):
        pass
    clock.now += 9.0
    interest.check(KEY, begun=True)
    with interest.held(KEY):
        clock.now += 50.0
        interest.check(KEY, begun=True)
    clock.now += 9.0
    interest.check(KEY, begun=True)
    clock.now += 2.0
    with pytest.raises(Abandoned):
        interest.check(KEY, begun=True)


def test_nothing_is_remembered_for_long() -> None:
    """What was waited for once leaves nothing behind."""
    clock = Clock()
    interest = Interest(10.0, clock)
    for number in range(100):
        with interest.held((str(number),)):
            pass
        clock.now += 1.0
    assert len(interest._left) <= 11
    assert not interest._waiting
