# Law of this file: a target that fails is not named, however it came to that, and is believed again
# only after it has answered often enough.

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redirects.damping import HELD_AT_MOST
from redirects.health import SOON, Breaker, Rules, Seen, State

RULES = Rules()
OK, BAD, AGAIN, LATE = Seen.ANSWERED, Seen.FAILED, Seen.ASKED_AGAIN, Seen.LATE
events = st.sampled_from(Seen)


def after(*seen: Seen, rules: Rules = RULES, every: float = 1.0) -> Breaker:
    """A target of which this was seen, ``every`` so many seconds."""
    breaker = Breaker()
    for number, what in enumerate(seen, 1):
        breaker = breaker.seen(what, number * every, rules)
    return breaker


@pytest.mark.parametrize(
    ("seen", "state", "named"),
    [
        ((), State.UP, True),
        ((OK,), State.UP, True),
        ((AGAIN,), State.SUSPECT, True),
        ((AGAIN, AGAIN, AGAIN), State.SUSPECT, True),
        ((AGAIN, OK), State.UP, True),
        ((AGAIN, BAD), State.SUSPECT, False),
        ((BAD,), State.SUSPECT, False),
        ((BAD, AGAIN), State.SUSPECT, False),
        ((BAD, OK), State.UP, True),
        ((BAD, OK, BAD), State.DOWN, False),
        ((BAD, OK, AGAIN, BAD), State.DOWN, False),
        ((BAD, BAD), State.DOWN, False),
        ((BAD, BAD, AGAIN), State.DOWN, False),
        ((BAD, BAD, OK), State.HALF_OPEN, False),
        ((BAD, BAD, OK, AGAIN), State.HALF_OPEN, False),
        ((BAD, BAD, OK, BAD), State.DOWN, False),
        ((BAD, BAD, OK, BAD, OK), State.HALF_OPEN, False),
        ((BAD, BAD, OK, OK), State.UP, True),
        ((LATE,), State.SUSPECT, False),
        ((LATE, AGAIN), State.SUSPECT, False),
        ((LATE, OK), State.UP, True),
        ((LATE, OK, BAD, OK), State.UP, True),
        ((LATE, BAD), State.SUSPECT, False),
        ((LATE, BAD, LATE, BAD), State.DOWN, False),
        ((AGAIN, LATE), State.SUSPECT, False),
        ((BAD, LATE, OK), State.UP, True),
        ((BAD, OK, LATE, BAD), State.DOWN, False),
        ((BAD, BAD, LATE, OK), State.HALF_OPEN, False),
        ((BAD, BAD, OK, LATE), State.HALF_OPEN, False),
        ((BAD, BAD, OK, LATE, OK), State.UP, True),
    ],
)
def test_the_way_through_the_states(seen: tuple[Seen, ...], state: State, named: bool) -> None:
    """By what was seen of it, a target is in one state, and named or not."""
    breaker = after(*seen)
    assert (breaker.state, breaker.is_named) == (state, named)


def test_thresholds() -> None:
    """How many probes it takes is what the rules say."""
    rules = Rules(down_after=3, up_after=1)
    assert after(BAD, BAD, rules=rules).state is State.SUSPECT
    assert after(BAD, BAD, BAD, rules=rules).state is State.DOWN
    assert after(BAD, BAD, BAD, OK, rules=rules).state is State.UP
    assert after(BAD, rules=Rules(down_after=1)).state is State.DOWN


@given(st.lists(events, max_size=40))
def test_nobody_is_sent_to_a_target_that_failed_last(seen: list[Seen]) -> None:
    """Whatever else was seen: after a failed probe only one that comes back lets it be named.

    Likewise while one is late.
    """
    breaker = after(*seen)
    probes = [what for what in seen if what is not AGAIN]
    if probes and probes[-1] is not OK:
        assert not breaker.is_named
    if BAD not in probes and (not probes or probes[-1] is OK):
        assert breaker.is_named


@pytest.mark.parametrize(
    ("seen", "state"),
    [
        ((), State.UNSEEN),
        ((AGAIN,), State.UNSEEN),
        ((LATE,), State.UNSEEN),
        ((OK,), State.UP),
        ((BAD,), State.SUSPECT),
        ((BAD, OK), State.UP),
        ((BAD, BAD), State.DOWN),
    ],
)
def test_nothing_is_named_before_it_was_seen(seen: tuple[Seen, ...], state: State) -> None:
    """Of which nothing is known is named when it answered once."""
    breaker = Breaker(State.UNSEEN)
    for what in seen:
        breaker = breaker.seen(what, 1.0, RULES)
    assert (breaker.state, breaker.is_named) == (state, state is State.UP)


@given(st.lists(events, max_size=40))
def test_what_is_forgotten_is_not_named(seen: list[Seen]) -> None:
    """Before it was seen again; who was down has to answer as often as before."""
    before = after(*seen)
    forgotten = before.forgotten(50.0)
    assert not forgotten.is_named
    down = before.state in {State.DOWN, State.HALF_OPEN}
    assert forgotten.state is (State.DOWN if down else State.UNSEEN)
    assert forgotten.damping.merit == before.damping.merit
    assert forgotten.seen(OK, 51.0, Rules(up_after=2)).is_named is not down


@given(st.lists(events, max_size=40))
def test_who_has_failed(seen: list[Seen]) -> None:
    """It is known by probes alone: what clients show never makes it so, nor ends it."""
    breaker = after(*seen)
    assert breaker.has_failed == after(*(what for what in seen if what is not AGAIN)).has_failed
    assert breaker.has_failed is (not breaker.is_named)


@given(st.lists(st.tuples(events, st.floats(0, 1000)), max_size=40), st.floats(1, 60))
def test_answers_bring_every_target_back(seen: list[tuple[Seen, float]], every: float) -> None:
    """However often it fell: who answers from now on is up when the longest hold is over."""
    breaker, now = Breaker(), 0.0
    for what, pause in seen:
        now += pause
        breaker = breaker.seen(what, now, RULES)
    ends = now + HELD_AT_MOST + RULES.up_after * every
    while now < ends:
        now += every
        breaker = breaker.seen(OK, now, RULES)
    assert breaker.state is State.UP
    assert breaker.held(now) == 0


@given(
    before=st.floats(0, 1e6),
    failures=st.integers(2, 2000),
    rules=st.builds(Rules, down_after=st.integers(1, 2), up_after=st.integers(1, 5)),
)
def test_one_outage_costs_no_more_than_the_thresholds(
    before: float, failures: int, rules: Rules
) -> None:
    """However long it was: who is down once is named when it has answered `up_after` times."""
    breaker, now = Breaker(), before
    for _ in range(failures):
        now += 6
        breaker = breaker.seen(BAD, now, rules)
    assert breaker.state is State.DOWN
    assert breaker.held(now) == 0
    for _ in range(rules.up_after):
        assert not breaker.is_named
        now += 6
        breaker = breaker.seen(OK, now, rules)
    assert breaker.state is State.UP


def test_a_target_that_flaps_is_held() -> None:
    """From its second fall within ten minutes on, until it has answered for ten minutes or more."""
    breaker = after(BAD, BAD, OK, OK, BAD)
    assert breaker.state is State.DOWN
    assert breaker.held(5.0) == pytest.approx(847, abs=1)
    now = 5.0
    while breaker.state is not State.UP:
        now += 6
        breaker = breaker.seen(OK, now, RULES)
        assert breaker.held(now) > 0 or breaker.is_named
    assert 600 <= now - 5.0 <= HELD_AT_MOST


def test_who_falls_while_it_is_held_waits_anew() -> None:
    """What it answered in between counts for nothing; and the time does not become longer."""
    breaker = after(BAD, BAD, OK, OK, BAD)
    held, now = breaker.held(5.0), 5.0
    for _ in range(20):
        for what in (*[OK] * 30, BAD):
            now += 6
            breaker = breaker.seen(what, now, RULES)
            assert not breaker.is_named
        assert breaker.held(now) == pytest.approx(held)


def test_one_that_fails_every_second_time_is_not_named() -> None:
    """It is never down by failures one after another, and yet its clients would fail."""
    breaker, named = Breaker(), []
    for number in range(40):
        breaker = breaker.seen((BAD, OK)[number % 2], 6.0 * number, RULES)
        named.append(breaker.is_named)
    assert named == [False, True] + [False] * 38


def test_a_packet_lost_now_and_then_is_nothing() -> None:
    """Who fails once in a quarter of an hour is back with the next probe, each time."""
    breaker = Breaker()
    for number in range(10):
        breaker = breaker.seen(BAD, 900.0 * number, RULES).seen(OK, 900.0 * number + 1, RULES)
        assert breaker.state is State.UP


def test_a_fall_long_after_is_the_first_again() -> None:
    """Who was up for a while is believed as soon as at first."""
    breaker = after(BAD, BAD, OK, OK)
    for what in (BAD, BAD, OK, OK):
        breaker = breaker.seen(what, 700.0, RULES)
    assert breaker.state is State.UP


def test_a_store_that_was_away_shortens_no_hold() -> None:
    """Nobody saw whether it answered meanwhile."""
    breaker = after(BAD, BAD, OK, OK, BAD, OK)
    held = breaker.held(5.0)
    assert breaker.forgotten(800.0).held(800.0) == pytest.approx(held)
    assert after(OK).forgotten(800.0).held(800.0) == 0


def test_when_a_probe_is_late() -> None:
    """By what the last one took, and later than a packet that was lost; not after it has failed."""
    assert RULES.patience(0.0) == 1.5
    assert RULES.patience(0.5) == 2.5
    assert RULES.patience(1.3) is None
    assert Rules(timeout=1.0).patience(0.01) is None


def test_since_when() -> None:
    """A state begins when it does, and is not begun again by more of the same."""
    assert after(BAD, BAD, BAD, BAD).since == 2.0
    assert after(OK, OK).since == 0.0


@given(
    interval=st.floats(0.1, 3600),
    share=st.floats(0.01, 0.5),
    jitter=st.floats(0, 0.99),
    chances=st.lists(st.floats(0, 1), min_size=1, max_size=20),
    when=st.floats(0, 1),
)
def test_within_one_interval_a_dead_target_is_not_named(
    interval: float, share: float, jitter: float, chances: list[float], when: float
) -> None:
    """Whenever it dies, and although its last probes say nothing until their time is over."""
    rules = Rules(interval, interval * share, jitter)
    begins, breaker = [0.0], Breaker()
    for chance in chances:
        begins.append(begins[-1] + breaker.pause(rules, chance))
    begins.append(begins[-1] + breaker.pause(rules, 0.0))
    dies = when * begins[-2]
    first = next(begin for begin in begins if begin >= dies)
    noticed = first + rules.timeout
    assert not breaker.seen(BAD, noticed, rules).is_named
    assert noticed - dies <= interval * (1 + 1e-9)


def test_what_is_in_doubt_is_probed_soon() -> None:
    """A client's suspicion, or a failed probe, is looked into at once; the rest has its pauses."""
    for seen in ((AGAIN,), (BAD,)):
        assert after(*seen).pause(RULES, 0.5) == SOON
    assert Breaker(State.UNSEEN).pause(RULES, 0.5) == SOON
    for seen in ((), (BAD, BAD), (BAD, BAD, OK)):
        assert after(*seen).pause(RULES, 0.0) == 6.0
        assert after(*seen).pause(RULES, 1.0) == 4.5


@pytest.mark.parametrize(
    "values",
    [
        {"interval": 10.0, "timeout": 6.0},
        {"timeout": 0.0},
        {"jitter": 1.0},
        {"jitter": -0.1},
        {"down_after": 0},
        {"up_after": 0},
    ],
)
def test_rules_that_cannot_be_kept(values: dict[str, float]) -> None:
    """Are refused."""
    with pytest.raises(ValueError, match=r"must|jitter"):
        Rules(**values)  # type: ignore[arg-type]
