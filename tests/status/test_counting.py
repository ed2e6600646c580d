# Law of this file: what is made of counters is right, whoever counts begins anew at whatever time.

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.metrics import Metrics
from server.outcome import Outcome
from server.status.counting import Cost, costs, counters, grown, is_computed, questions, traffic

FETCH = ("a", "git-v2", "fetch")
SERIES = ("offramp_responses_total", *FETCH, "hit")


def counted() -> Metrics:
    """Figures of a repository: a miss, two hits, a redirect, an error."""
    metrics = Metrics()
    for outcome in (Outcome.MISS, Outcome.HIT, Outcome.HIT, Outcome.REDIRECT, Outcome.ERROR):
        metrics.response(*FETCH, outcome)
    metrics.content("a", "git-v2", "inline", 10)
    metrics.content("a", "git-v2", "redirected", 90)
    metrics.executed(*FETCH)
    metrics.execution(*FETCH, 3.0, 2.0)
    return metrics


def test_growth() -> None:
    """Only what grew is counted, by how much it did."""
    assert grown({SERIES: 5.0, ("x",): 1.0}, {SERIES: 2.0, ("x",): 1.0}) == {SERIES: 3.0}


def test_a_counter_that_began_anew() -> None:
    """A counter that is lower than before has counted all of it since."""
    assert grown({SERIES: 2.0}, {SERIES: 5.0}) == {SERIES: 2.0}


@given(st.lists(st.tuples(st.integers(0, 1000), st.booleans()), max_size=30))
def test_growths_add_up(steps: list[tuple[int, bool]]) -> None:
    """Whatever is counted, by processes that begin anew, adds up, unless it hides the beginning.

    One hides it that has counted as much as the one before when it is first looked at.
    """
    before: dict[tuple[str, ...], float] = {}
    value = added = total = 0.0
    for by, anew in steps:
        if anew and by < value:
            value = 0.0
        value += by
        total += by
        added += grown({SERIES: value}, before).get(SERIES, 0.0)
        before = {SERIES: value}
    assert added == total


def test_traffic() -> None:
    """Bytes, responses and runs are summed over repositories and dialects."""
    metrics = counted()
    metrics.response("b", "hg-v1", "getbundle", Outcome.HIT)
    found = traffic(counters(metrics))
    assert (found["inline"], found["redirected"]) == (10, 90)
    assert {name: found[name] for name in Outcome} == {
        "redirect": 1, "hit": 3, "follow": 0, "miss": 1, "passthrough": 0, "error": 1,
    }  # fmt: skip
    assert (found["runs"], found["cpu"]) == (1, 2)


def test_questions_and_costs() -> None:
    """Answers that were given, without errors, and what runs cost."""
    now = counters(counted())
    assert questions(now) == {FETCH: 4}
    assert costs(now) == {FETCH: Cost(1, 2)}


def test_what_is_computed() -> None:
    """A list of refs never costs a run of its own, a fetch would."""
    assert is_computed(FETCH)
    assert not is_computed(("a", "git-v2", "ls-refs"))
