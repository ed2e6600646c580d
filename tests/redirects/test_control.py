# Law of this file: who is not redirected is decided by settings alone, stays so, and is told why;
# a shadow decides like a redirect and names nothing.

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redirects.acceptance import ACCEPTS_NOTHING, Acceptance, Client
from redirects.control import EVERYBODY, Control, lot
from redirects.decision import Decision, Inline, PassedOver, Reason, Redirect
from redirects.negotiation import explain, negotiate, unwilling
from redirects.selection import Selection
from redirects.targets import HttpTarget
from redirects.window import Window
from stores.entity import Entity

NOW = 1_700_000_100.0
WINDOW = Window(900, 21600)
FIRST = HttpTarget("first", "http://one.example.org", WINDOW)
SECOND = HttpTarget("second", "https://two.example.org", WINDOW)
BOTH = Acceptance(frozenset({"http", "https"}))
ENTITY = Entity("ab" * 32, 1 << 20)

networks = st.integers(0, 2**24 - 1).map(lambda n: f"{n >> 16}.{n >> 8 & 255}.{n & 255}.0/24")
repositories = st.sampled_from(["a.git", "group/b.git", "c"])


def client(address: str = "192.0.2.7", network: str = "192.0.2.0/24") -> Client:
    """A client at an address."""
    return Client("https://git.example.org", network=network, address=address)


@pytest.mark.parametrize(
    ("control", "reason"),
    [
        (EVERYBODY, None),
        (Control(off_repositories=("a/*",)), Reason.OFF_FOR_REPOSITORY),
        (Control(off_repositories=("b/*", "*.git")), Reason.OFF_FOR_REPOSITORY),
        (Control(off_repositories=("b/*", "a")), None),
        (Control(off_repositories=("a/b/c",)), Reason.OFF_FOR_REPOSITORY),
        (Control(off_repositories=("A/B/C.git",)), Reason.OFF_FOR_REPOSITORY),
        (Control(off_networks=(ip_network("192.0.2.7/32"),)), Reason.OFF_FOR_NETWORK),
        (Control(off_networks=(ip_network("192.0.2.8/32"), ip_network("::/0"))), None),
        (Control(percentage=0), Reason.NOT_IN_PERCENTAGE),
        (Control(percentage=100), None),
        (Control(shadow=True), None),
    ],
)
def test_who_is_held_back(control: Control, reason: Reason | None) -> None:
    """By the served name, with .git or not, the very address, and the share; by shadow nobody."""
    for _ in range(2):  # the second time it is remembered
        assert control.held_back(client(), "a/b/c.git") is reason


def test_addresses_of_both_kinds() -> None:
    """IPv4 in IPv6 is IPv4; who is at no address that is known may be in any network."""
    control = Control(off_networks=(ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")))
    for address in ("::ffff:192.0.2.9", "2001:db8::1", "", "localhost"):
        assert control.held_back(client(address), "r") is Reason.OFF_FOR_NETWORK
    assert control.held_back(client("198.51.100.1"), "r") is None
    assert EVERYBODY.held_back(client(""), "r") is None


@given(networks, repositories, st.floats(0, 100), st.floats(0, 100))
def test_a_client_stays_on_its_side(
    network: str, repository: str, one: float, other: float
) -> None:
    """Who is redirected is so, too, when the share is raised; every server says the same."""
    less, more = sorted((one, other))
    asks = client(network=network)
    if Control(percentage=less).held_back(asks, repository) is None:
        assert Control(percentage=more).held_back(asks, repository) is None
    assert 0 <= lot(network, repository) <= 100


def test_the_share_is_that_of_the_networks() -> None:
    """Of 10,000 networks, within a tenth; and not the same ones for each repository."""
    asking = [client(network=f"10.{n >> 8}.{n & 255}.0/24") for n in range(10_000)]
    control = Control(percentage=20)
    let = {name: {c.network for c in asking if control.held_back(c, name) is None} for name in "ab"}
    for found in let.values():
        assert 1800 < len(found) < 2200
    assert 300 < len(let["a"] & let["b"]) < 500


@pytest.mark.parametrize("percentage", [-1, 100.5, float("nan")])
def test_no_percentage(percentage: float) -> None:
    """What is no share of a hundred is refused."""
    with pytest.raises(ValueError, match="from 0 to 100"):
        Control(percentage=percentage)


# --- in a decision ---------------------------------------------------------------------------


def decide(
    acceptance: Acceptance = BOTH,
    *,
    enabled: bool = True,
    held_back: Reason | None = None,
    shadow: bool = False,
) -> Decision:
    """Negotiate, with the second target alone readable."""
    return negotiate(
        acceptance,
        ENTITY,
        Selection.of(FIRST, SECOND),
        client(),
        NOW,
        readable=frozenset({SECOND.fingerprint}),
        min_size=0,
        enabled=enabled,
        held_back=held_back,
        shadow=shadow,
    )


def test_who_is_held_back_is_told_why() -> None:
    """No target is looked at; who accepts nothing is not said to be held back, nor are all."""
    assert decide(held_back=Reason.OFF_FOR_NETWORK) == Inline(Reason.OFF_FOR_NETWORK)
    nothing = decide(ACCEPTS_NOTHING, held_back=Reason.OFF_FOR_NETWORK)
    assert nothing == Inline(Reason.CLIENT_ACCEPTS_NONE)
    assert decide(enabled=False, held_back=Reason.OFF_FOR_NETWORK) == Inline(Reason.DISABLED)
    assert unwilling(BOTH, enabled=True, held_back=None) is None


def test_a_shadow_is_the_decision_without_the_redirect() -> None:
    """The same trail and the same location, which is not named; what is inline stays what it is."""
    made = decide()
    assert isinstance(made, Redirect)
    assert made.passed_over == (PassedOver("first", Reason.NOT_PUBLISHED),)
    assert decide(shadow=True) == Inline(Reason.SHADOW, made.passed_over, made.location)
    assert decide(ACCEPTS_NOTHING, shadow=True) == Inline(Reason.CLIENT_ACCEPTS_NONE)
    held_back = decide(held_back=Reason.NOT_IN_PERCENTAGE, shadow=True)
    assert held_back == Inline(Reason.NOT_IN_PERCENTAGE)


@pytest.mark.parametrize("shadow", [False, True])
def test_what_is_said_of_targets_is_the_same(shadow: bool) -> None:
    """An explanation of a shadow, or of who is held back, tells what would have been chosen."""
    for held_back in (None, Reason.NOT_IN_PERCENTAGE):
        decision, verdicts = explain(
            BOTH,
            ENTITY,
            Selection.of(FIRST, SECOND),
            client(),
            NOW,
            readable=frozenset({SECOND.fingerprint}),
            down=frozenset(),
            min_size=0,
            enabled=True,
            held_back=held_back,
            shadow=shadow,
        )
        assert isinstance(decision, Redirect) == (held_back is None and not shadow)
        assert [(v.target, v.reason) for v in verdicts] == [
            ("first", Reason.NOT_PUBLISHED),
            ("second", None),
        ]
