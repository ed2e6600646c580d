# Law of this file: a target that fails is not named, however it came to that, and is believed again
# only after it has answered often enough.

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redirects.health import SOON, Breaker, Rules, Seen, State

RULES = Rules()
OK, BAD, AGAIN = Seen.ANSWERED, Seen.FAILED, Seen.ASKED_AGAIN
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
    """Whatever else was seen: after a failed probe only one that comes back lets it be named."""
    breaker = after(*seen)
    probes = [what for what in seen if what is not AGAIN]
    if probes and probes[-1] is BAD:
        assert not breaker.is_named
    if not probes or BAD not in probes:
        assert breaker.is_named


@pytest.mark.parametrize(
    ("seen", "state"),
    [
        ((), State.UNSEEN),
        ((AGAIN,), State.UNSEEN),
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
    assert forgotten.falls == before.falls
    assert forgotten.seen(OK, 51.0, Rules(up_after=2)).is_named is not down


@given(st.lists(events, max_size=40))
def test_who_has_failed(seen: list[Seen]) -> None:
    """It is known by probes alone: what clients show never makes it so, nor ends it."""
    breaker = after(*seen)
    assert breaker.has_failed == after(*(what for what in seen if what is not AGAIN)).has_failed
    assert breaker.has_failed is (not breaker.is_named)


@given(st.lists(events, max_size=40))
def test_answers_bring_every_target_back(seen: list[Seen]) -> None:
    """However often it flapped, a target that answers from now on is up again after 512 probes."""
    breaker = after(*seen)
    for _ in range(512):
        breaker = breaker.seen(OK, 100.0, RULES)
    assert breaker.state is State.UP


def test_a_target_that_flaps_must_answer_longer() -> None:
    """Each fall soon after it rose takes four times as many answers, up to 256 times as many."""
    breaker, taken = Breaker(), []
    for _ in range(7):
        breaker = breaker.seen(BAD, 0.0, RULES).seen(BAD, 0.0, RULES)
        answers = 0
        while breaker.state is not State.UP:
            breaker = breaker.seen(OK, 0.0, RULES)
            answers += 1
        taken.append(answers)
    assert taken == [2, 8, 32, 128, 512, 512, 512]


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
    """Who was up for ten minutes is believed as soon as at first."""
    breaker = after(BAD, BAD, OK, OK, BAD, BAD, OK, OK)
    assert breaker.state is State.HALF_OPEN
    for second in range(5, 11):
        breaker = breaker.seen(OK, float(second), RULES)
    assert (breaker.state, breaker.since) == (State.UP, 10.0)
    for what in (BAD, BAD, OK, OK):
        breaker = breaker.seen(what, 700.0, RULES)
    assert breaker.state is State.UP


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
