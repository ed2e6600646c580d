# Law of this file: what is remembered and logged of decisions is bounded, can be read by machines,
# and gives nothing away.

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import structlog

from redirects.acceptance import Client, Location
from redirects.decision import Decision, Inline, PassedOver, Reason, Redirect
from redirects.sessions import Session, Stay
from server.decisions import KEPT, Decisions
from server.exchange import CURRENT, Exchange
from server.logs import configure
from server.metrics import Metrics
from server.settings import LogSettings

CLIENT: Final = Client("https://git.example.org", "us-east-1", "198.51.100.0/24", "198.51.100.7")
PASSED: Final = (PassedOver("us", Reason.DOWN), PassedOver("ap", Reason.NOT_PUBLISHED))
KEY: Final = Location("https://cdn.example.org/e?Signature=hunter2", "eu", "https", None)
PAGE: Final = (Path(__file__).parents[2] / "docs/status-api.md").read_text()


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """All that is logged; the logging of the process is then as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure(LogSettings(format="json"), stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize(
    ("decision", "words"),
    [
        (Redirect(KEY, PASSED), ("redirect", "eu", "")),
        (Inline(Reason.SHADOW, PASSED, KEY), ("shadow", "eu", "")),
        (Inline(Reason.NO_TARGET, PASSED), ("inline", "", "no_target")),
    ],
)
def test_a_line_says_all_but_the_url(
    log: io.StringIO, decision: Decision, words: tuple[str, str, str]
) -> None:
    """Request, repository, network, outcome and trail, as docs/status-api.md shows it; no key."""
    token = CURRENT.set(Exchange("9f3a61c7d2b04e58"))
    try:
        Decisions(Metrics(), share=1.0).made("project.git", CLIENT, decision)
    finally:
        CURRENT.reset(token)
    (line,) = log.getvalue().splitlines()
    said = json.loads(line)
    assert (said["outcome"], said["target"], said["reason"]) == words
    assert said["passed_over"] == ["us: down", "ap: not_published"]
    assert (said["event"], said["request_id"]) == ("decision", "9f3a61c7d2b04e58")
    assert "hunter2" not in line
    assert CLIENT.address not in line
    (shown,) = [each for each in PAGE.splitlines() if each.startswith('{"request_id"')]
    assert said.keys() == json.loads(shown).keys()


@pytest.mark.parametrize(
    ("share", "logged"), [(0.0, ()), (0.25, (0, 1)), (0.5, (0, 1, 2, 3)), (1.0, range(8))]
)
def test_the_share_decides(
    caplog: pytest.LogCaptureFixture, share: float, logged: tuple[int, ...]
) -> None:
    """Of eight draws, evenly spread, as many fall below the share as it says."""
    draws = iter(number / 8 for number in range(8))
    decisions = Decisions(Metrics(), share, draws.__next__, clock=lambda: 0.0)
    with caplog.at_level(logging.INFO, "offramp.decisions"):
        for number in range(8):
            decisions.made(str(number), CLIENT, Inline(Reason.DISABLED))
    assert [record.__dict__["repository"] for record in caplog.records] == [*map(str, logged)]


def test_the_last_are_remembered() -> None:
    """So many of them, the newest first."""
    clock = iter(range(KEPT + 10))
    decisions = Decisions(Metrics(), clock=lambda: float(next(clock)))
    for _ in range(KEPT + 10):
        decisions.made("project.git", CLIENT, Redirect(KEY, PASSED))
    assert [made.when for made in decisions.last()] == [*range(KEPT + 9, 9, -1)]
    assert "hunter2" not in repr(list(decisions.last()))


def test_sessions_have_places_of_their_own() -> None:
    """Every poll is one: they push out nothing that was decided of content."""
    clock = iter(range(KEPT + 10))
    decisions = Decisions(Metrics(), clock=lambda: float(next(clock)))
    decisions.made("project.git", CLIENT, Inline(Reason.NO_TARGET))
    polled = Session("hg", "project", "ab")
    for _ in range(KEPT + 1):
        decisions.session(polled, CLIENT, Stay(Reason.NO_MIRROR, PASSED))
    first, *_, last = decisions.last()
    assert (first.about, first.outcome, first.reason) == ("hg session", "stay", "no_mirror")
    assert (first.repository, first.passed_over) == ("project", PASSED)
    assert (last.about, last.outcome) == ("content", "inline")
