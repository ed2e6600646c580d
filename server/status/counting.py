# Law of this file: counters only grow, until whoever counts begins anew at 0. What is made of them
# here (traffic, runs, what answers would have cost) follows from how much they grew.

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from server.metrics import ENDED, Metrics
from server.outcome import Outcome

Counters: TypeAlias = Mapping[tuple[str, ...], float]
"""By name of a sample and the values of its labels, in the order of :data:`_SAMPLES`."""

Question: TypeAlias = tuple[str, str, str]
"""What was asked: repository (empty: of none), dialect, command."""

_RESPONSES: Final = "offramp_responses_total"
_BYTES: Final = "offramp_bytes_total"
_BEGUN: Final = "offramp_executions_total"
_CPU: Final = "offramp_execution_cpu_seconds_total"
_SAMPLES: Final[Mapping[str, tuple[str, ...]]] = {
    _RESPONSES: ("repo", "dialect", "command", "outcome"),
    _BYTES: ("repo", "dialect", "path"),
    _BEGUN: ("repo", "dialect", "command"),
    ENDED: ("repo", "dialect", "command"),
    _CPU: ("repo", "dialect", "command"),
}

# Their answers are computed by a run if they are not known. Of other commands that is seen when one
# of them runs; before, nobody knows that they would have cost anything.
_COMPUTED: Final = frozenset({
    ("git-v2", "fetch"),
    ("git-v0", "fetch"),
    ("hg-v1", "getbundle"),
})  # fmt: skip
_ANSWERED: Final = frozenset({Outcome.REDIRECT, Outcome.HIT, Outcome.FOLLOW, Outcome.MISS})

OUTCOMES: Final = tuple(outcome.value for outcome in Outcome)
FIGURES: Final = (
    "inline",
    "redirected",
    *OUTCOMES,
    "answered",
    "priced",
    "runs",
    "cpu",
    "worth",
    "watched",
)
"""What is kept of each interval.

``inline`` and ``redirected`` are bytes of content; then, for each outcome, responses. ``answered``
are those to commands that are computed if they are not known, ``priced`` those of them of which it
is known what a run costs, and ``worth`` what these would have cost, each computed. ``runs`` were
begun, and cost ``cpu``. ``watched`` is for how long somebody counted. Times are in seconds, those
of ``worth`` and ``cpu`` of one processor.
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """What runs of one question took: how many there were, and their seconds of a processor."""

    runs: float
    cpu: float


def counters(metrics: Metrics) -> Counters:
    """The counters as they are now, the sum of all workers."""
    return {
        (name, *(labels[label] for label in _SAMPLES[name])): value
        for name, labels, value in metrics.samples(*_SAMPLES)
    }


def grown(now: Counters, before: Counters) -> Counters:
    """By how much counters grew; one that is lower than before began anew at 0."""
    found: dict[tuple[str, ...], float] = {}
    for series, value in now.items():
        was = before.get(series, 0.0)
        by = value - was if value >= was else value
        if by > 0:
            found[series] = by
    return found


def costs(more: Counters) -> Mapping[Question, Cost]:
    """What the runs cost that ended."""
    return {
        (repo, dialect, command): Cost(runs, more.get((_CPU, repo, dialect, command), 0.0))
        for (repo, dialect, command), runs in _of(more, ENDED)
    }


def questions(more: Counters) -> Mapping[Question, float]:
    """How many answers of each question were given, that were computed or known."""
    found: dict[Question, float] = {}
    for (repo, dialect, command, outcome), count in _of(more, _RESPONSES):
        if outcome in _ANSWERED:
            question = (repo, dialect, command)
            found[question] = found.get(question, 0.0) + count
    return found


def is_computed(question: Question) -> bool:
    """Its answer is computed if it is not known, whether or not that was seen yet."""
    return question[1:] in _COMPUTED


def traffic(more: Counters) -> dict[str, float]:
    """Bytes, responses and runs, of :data:`FIGURES`."""
    found = dict.fromkeys(FIGURES, 0.0)
    for (_, _, path), count in _of(more, _BYTES):
        found[path] += count
    for (_, _, _, outcome), count in _of(more, _RESPONSES):
        found[outcome] += count
    found["runs"] = sum(count for _, count in _of(more, _BEGUN))
    found["cpu"] = sum(count for _, count in _of(more, _CPU))
    return found


def _of(more: Counters, name: str) -> Iterator[tuple[tuple[str, ...], float]]:
    return ((series[1:], value) for series, value in more.items() if series[0] == name)
