# Law of this file: a session moves only to a mirror that has our refs, and only where it may.

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from redirects.acceptance import Client
from redirects.audience import Audience
from redirects.control import Control
from redirects.decision import PassedOver, Reason
from redirects.negotiation import Verdict
from redirects.selection import Selection, Standing
from redirects.sessions import (
    Session,
    SessionMirror,
    SessionRedirect,
    Sighting,
    Stay,
    choose,
    explain_session,
)

NOW = 1000.0
ASKED = Session("git", "team/app", "ours")
A = SessionMirror("a", "https://a.example.org/git")
B = SessionMirror("b", "https://b.example.org", offramp=True)
FRESH = Sighting(NOW - 5, "ours")
BOTH = {"a": FRESH, "b": FRESH}
BOTH_MIRRORS = Selection.of(A, B)


def test_a_session_moves_to_the_first_mirror_that_has_our_refs(client: Client) -> None:
    """The redirect keeps the tail that stock clients ask for."""
    found = choose(ASKED, BOTH_MIRRORS, client, NOW, seen=BOTH)
    assert isinstance(found, SessionRedirect)
    assert found.location.url == (
        "https://a.example.org/git/team/app/info/refs?service=git-upload-pack"
    )
    assert (found.location.target, found.location.expires) == ("a", None)


def test_a_session_moves_below_the_path_where_an_offramp_moves_none(client: Client) -> None:
    """A mirror that is an Offramp is asked where sessions stay."""
    asked = replace(ASKED, vcs="hg")
    found = choose(asked, Selection.of(B), client, NOW, seen=BOTH)
    assert isinstance(found, SessionRedirect)
    assert found.location.url == "https://b.example.org/-/here/team/app?cmd=capabilities"


def test_the_path_is_written_by_us(client: Client) -> None:
    """Whatever a repository is called, no part of its name is read as something else."""
    asked = replace(ASKED, repository="a b/c?d#e%2fé")
    found = choose(asked, Selection.of(A), client, NOW, seen=BOTH)
    assert isinstance(found, SessionRedirect)
    path = found.location.url.removeprefix("https://a.example.org/git/")
    assert path == "a%20b/c%3Fd%23e%252f%C3%A9/info/refs?service=git-upload-pack"


@pytest.mark.parametrize(
    ("sighting", "reason"),
    [
        (None, Reason.MIRROR_UNKNOWN),
        (Sighting(NOW - 61, "ours"), Reason.MIRROR_UNKNOWN),
        (Sighting(NOW + 1, "ours"), Reason.MIRROR_UNKNOWN),
        (Sighting(NOW, "theirs"), Reason.MIRROR_STALE),
        (Sighting(NOW, None, Reason.MIRROR_REDIRECTS), Reason.MIRROR_REDIRECTS),
        (Sighting(NOW, "ours", Reason.MIRROR_MOVES_SESSIONS), Reason.MIRROR_MOVES_SESSIONS),
    ],
)
def test_a_mirror_that_is_not_known_to_be_as_fresh_is_passed_over(
    sighting: Sighting | None, reason: Reason, client: Client
) -> None:
    """The next one is chosen, and the trail says why this one was not."""
    seen = {"b": FRESH} if sighting is None else {"a": sighting, "b": FRESH}
    found = choose(ASKED, BOTH_MIRRORS, client, NOW, seen=seen)
    assert isinstance(found, SessionRedirect)
    assert found.location.target == "b"
    assert found.passed_over == (PassedOver("a", reason),)


def test_a_sighting_holds_for_as_long_as_the_mirror_s_settings_say(client: Client) -> None:
    """At its end it still holds, and then no more."""
    short = Selection.of(replace(A, max_age=5.0))
    assert isinstance(choose(ASKED, short, client, NOW, seen=BOTH), SessionRedirect)
    assert choose(ASKED, short, client, NOW + 0.1, seen=BOTH) == Stay(
        Reason.NO_MIRROR, (PassedOver("a", Reason.MIRROR_UNKNOWN),)
    )


def test_nobody_is_sent_to_a_mirror_that_is_down(client: Client) -> None:
    """However fresh it was."""
    found = choose(ASKED, BOTH_MIRRORS, client, NOW, seen=BOTH, down={"a", "b"})
    down = (PassedOver("a", Reason.DOWN), PassedOver("b", Reason.DOWN))
    assert found == Stay(Reason.NO_MIRROR, down)


@pytest.mark.parametrize(
    "mirror",
    [replace(A, repositories=("other/*",)), replace(A, vcs=frozenset({"hg"}))],
)
def test_a_mirror_gets_only_what_it_is_for(mirror: SessionMirror, client: Client) -> None:
    """Neither other repositories nor those of another kind."""
    found = choose(ASKED, Selection.of(mirror), client, NOW, seen=BOTH)
    assert found == Stay(Reason.NO_MIRROR, (PassedOver("a", Reason.NOT_MIRRORED),))
    fitting = replace(A, repositories=("other/*", "team/*"))
    assert isinstance(choose(ASKED, Selection.of(fitting), client, NOW, seen=BOTH), SessionRedirect)


def test_a_client_of_https_is_not_sent_to_http(client: Client) -> None:
    """A session does not become less safe by moving; one over http may move to either."""
    plain = Selection.of(replace(A, base_url="http://a.example.org"))
    found = choose(ASKED, plain, client, NOW, seen=BOTH)
    assert found == Stay(Reason.NO_MIRROR, (PassedOver("a", Reason.LESS_SAFE),))
    over_http = Client("http://git.example.org")
    assert isinstance(choose(ASKED, plain, over_http, NOW, seen=BOTH), SessionRedirect)


def test_the_nearest_mirror_goes_first_and_equals_share_by_weight() -> None:
    """Regions, priority and lots are those of targets."""
    far = SessionMirror("far", "https://far.example.org")
    standings = {
        "a": Standing(("eu-*",), 1, 3.0),
        "b": Standing(("eu-*",), 1, 1.0),
        "far": Standing(("us-*",), 1, 1.0),
    }
    selection = Selection((far, A, B), standings)
    seen = {**BOTH, "far": FRESH}
    found: Counter[str] = Counter()
    for number in range(4000):
        client = Client("https://git.example.org", "eu-west-1", f"10.{number >> 8}.{number & 255}")
        moved = choose(ASKED, selection, client, NOW, seen=seen)
        assert isinstance(moved, SessionRedirect)
        assert moved == choose(ASKED, selection, client, NOW, seen=seen)
        found[moved.location.target] += 1
    assert found["far"] == 0
    assert found["a"] / 4000 == pytest.approx(0.75, abs=0.03)


def test_a_client_has_another_lot_for_another_repository(client: Client) -> None:
    """One network does not load one mirror with everything that it asks."""
    standings = {"a": Standing(), "b": Standing()}
    selection = Selection((A, B), standings)
    found = Counter(
        moved.location.target
        for number in range(1000)
        if isinstance(
            moved := choose(
                replace(ASKED, repository=f"r{number}"), selection, client, NOW, seen=BOTH
            ),
            SessionRedirect,
        )
    )
    assert found["a"] / 1000 == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(
    "reason",
    [
        Reason.STAYS_HERE,
        Reason.CARRIES_CREDENTIALS,
        Reason.TAKES_PUSHES,
        Reason.ASKED_AGAIN,
    ],
)
def test_what_must_stay_stays(reason: Reason, client: Client) -> None:
    """Whatever mirrors there are."""
    asked = replace(ASKED, stays=reason)
    assert choose(asked, BOTH_MIRRORS, client, NOW, seen=BOTH) == Stay(reason)


def test_nothing_private_moves(client: Client) -> None:
    """A mirror's own rules may be others than ours."""
    found = choose(ASKED, BOTH_MIRRORS, client, NOW, seen=BOTH, audience=Audience(private=True))
    assert found == Stay(Reason.PRIVATE_REPOSITORY)


@pytest.mark.parametrize(
    ("control", "reason"),
    [
        (Control(off_repositories=("team/*",)), Reason.OFF_FOR_REPOSITORY),
        (Control(percentage=0), Reason.NOT_IN_PERCENTAGE),
    ],
)
def test_who_is_held_back_stays(control: Control, reason: Reason, client: Client) -> None:
    """Sessions are switched off by the same words as locations of content."""
    held_back = control.held_back(client, ASKED.repository)
    found = choose(ASKED, BOTH_MIRRORS, client, NOW, seen=BOTH, held_back=held_back)
    assert found == Stay(reason)


def test_switched_off_all_stay(client: Client) -> None:
    """``redirect.enabled = false`` is for sessions too."""
    found = choose(ASKED, BOTH_MIRRORS, client, NOW, seen=BOTH, enabled=False)
    assert found == Stay(Reason.DISABLED)


def test_in_shadow_a_session_stays_and_says_where_it_would_have_gone(client: Client) -> None:
    """Decisions are made and counted, and nobody moves."""
    found = choose(ASKED, BOTH_MIRRORS, client, NOW, seen=BOTH, shadow=True)
    assert isinstance(found, Stay)
    assert found.shadowed is not None
    assert (found.reason, found.shadowed.target) == (Reason.SHADOW, "a")


def test_a_decision_is_explained_mirror_by_mirror(client: Client) -> None:
    """Those behind the chosen one are told of as well."""
    third = SessionMirror("c", "https://c.example.org")
    decision, verdicts = explain_session(ASKED, Selection.of(third, A, B), client, NOW, seen=BOTH)
    assert isinstance(decision, SessionRedirect)
    assert verdicts == (
        Verdict("c", Reason.MIRROR_UNKNOWN),
        Verdict("a", None),
        Verdict("b", Reason.LOWER_PRIORITY),
    )


def test_a_mirror_has_an_http_url() -> None:
    """Stock clients are redirected over HTTP only."""
    with pytest.raises(ValueError, match="neither"):
        SessionMirror("a", "ssh://a.example.org")
