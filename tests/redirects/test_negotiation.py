# Law of this file: who accepts nothing is named nothing, what was not read back is not named, and
# every decision says why.

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redirects.acceptance import ACCEPTS_NOTHING, Acceptance, Client
from redirects.decision import Decision, Inline, PassedOver, Reason, Redirect
from redirects.negotiation import negotiate
from redirects.selection import Selection
from redirects.signing import SigningKeys
from redirects.targets import HttpTarget, S3Target, SelfTarget, Target
from redirects.window import Window
from stores.entity import Entity

NOW = 1_700_000_100.0
WINDOW = Window(900, 21600)
OWN = SelfTarget("self", "memory", SigningKeys("k", {"k": b"k" * 32}), WINDOW)
S3 = S3Target("s3", "https://bucket.example.org/", "eu-west-1", WINDOW, lambda: None)
PLAIN = HttpTarget("plain", "http://cdn.example.org", WINDOW)
SECURE = HttpTarget("secure", "https://cdn.example.org", WINDOW)
ALL = (S3, PLAIN, SECURE, OWN)
EVERYWHERE = frozenset(target.fingerprint for target in ALL)
BOTH = Acceptance(frozenset({"http", "https"}))
TLS = Acceptance(frozenset({"https"}))
ENTITY = Entity("ab" * 32, 1 << 20)
CLIENT = Client("https://git.example.org")


def decide(
    acceptance: Acceptance = BOTH,
    entity: Entity = ENTITY,
    targets: tuple[Target, ...] = ALL,
    readable: frozenset[str] = EVERYWHERE,
    down: frozenset[str] = frozenset(),
    *,
    client: Client = CLIENT,
    enabled: bool = True,
) -> Decision:
    """Negotiate with a least size of 64 KiB."""
    return negotiate(
        acceptance,
        entity,
        Selection(targets),
        client,
        NOW,
        readable=readable,
        down=down,
        min_size=65536,
        enabled=enabled,
    )


def test_the_first_that_fits_wins() -> None:
    """The first readable target of an accepted scheme is named, with the trail before it."""
    assert decide() == Redirect(
        PLAIN.locate(ENTITY, CLIENT, NOW), (PassedOver("s3", Reason.NO_CREDENTIALS),)
    )


def test_order_is_preference() -> None:
    """The order of the targets decides, and what comes after is not looked at."""
    assert decide(targets=(OWN, *ALL)) == Redirect(OWN.locate(ENTITY, CLIENT, NOW))


def test_the_trail_says_why() -> None:
    """Each target that was passed over is listed with its reason."""
    assert decide(TLS, readable=EVERYWHERE - {SECURE.fingerprint}) == Redirect(
        OWN.locate(ENTITY, CLIENT, NOW),
        (
            PassedOver("s3", Reason.NO_CREDENTIALS),
            PassedOver("plain", Reason.PROTOCOL_NOT_ACCEPTED),
            PassedOver("secure", Reason.NOT_PUBLISHED),
        ),
    )


def test_nothing_published() -> None:
    """What was not read back is not named; the trail tells where publishing would help."""
    assert decide(TLS, readable=frozenset()) == Inline(
        Reason.NO_TARGET,
        (
            PassedOver("s3", Reason.NOT_PUBLISHED),
            PassedOver("plain", Reason.PROTOCOL_NOT_ACCEPTED),
            PassedOver("secure", Reason.NOT_PUBLISHED),
            PassedOver("self", Reason.NOT_PUBLISHED),
        ),
    )


def test_what_is_down_is_not_named() -> None:
    """The trail says so, also of what was never published there: publishing would not help now."""
    down = frozenset({SECURE.fingerprint})
    for readable in (EVERYWHERE, EVERYWHERE - down):
        assert decide(TLS, readable=readable, down=down) == Redirect(
            OWN.locate(ENTITY, CLIENT, NOW),
            (
                PassedOver("s3", Reason.NO_CREDENTIALS),
                PassedOver("plain", Reason.PROTOCOL_NOT_ACCEPTED),
                PassedOver("secure", Reason.DOWN),
            ),
        )


def test_the_self_target_has_the_client_s_scheme() -> None:
    """A client that comes without TLS but accepts only https is not named our own route."""
    decision = decide(TLS, targets=(OWN,), client=Client("http://127.0.0.1:8417"))
    assert decision == Inline(Reason.NO_TARGET, (PassedOver("self", Reason.PROTOCOL_NOT_ACCEPTED),))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"enabled": False}, Reason.DISABLED),
        ({"acceptance": ACCEPTS_NOTHING}, Reason.CLIENT_ACCEPTS_NONE),
        ({"entity": Entity("ab" * 32, 65535)}, Reason.TOO_SMALL),
        ({"targets": ()}, Reason.NO_TARGET),
    ],
)
def test_inline_reasons(changed: dict[str, object], reason: Reason) -> None:
    """What needs no look at a target says so at once."""
    assert decide(**changed) == Inline(reason)


def test_min_size_is_enough() -> None:
    """Content of just the least size is redirected."""
    assert isinstance(decide(entity=Entity("ab" * 32, 65536)), Redirect)


subsets = st.frozensets(st.sampled_from(sorted(EVERYWHERE)))


@given(st.frozensets(st.sampled_from(["http", "https"])), subsets, st.permutations(ALL))
def test_never_what_was_not_read_back(
    protocols: frozenset[str], readable: frozenset[str], targets: list[Target]
) -> None:
    """Whatever is configured: a named target is readable, of an accepted scheme, and in order."""
    decision = decide(Acceptance(protocols), targets=tuple(targets), readable=readable)
    names = [target.name for target in targets]
    passed = [one.target for one in decision.passed_over]
    if isinstance(decision, Redirect):
        location = decision.location
        chosen = next(t for t in targets if t.name == location.target)
        assert chosen.fingerprint in readable
        assert location.protocol in protocols
        assert location.url.startswith(f"{location.protocol}://")
        passed.append(chosen.name)
        assert passed == names[: len(passed)]
    else:
        assert passed == (names if protocols else [])


def test_reasons_are_words_with_sentences() -> None:
    """Every reason has a stable word for metrics and a sentence for people."""
    assert {reason.value for reason in Reason} == {
        "disabled",
        "client_accepts_none",
        "too_small",
        "no_target",
        "not_published",
        "public_target",
        "not_for_repository",
        "not_placed",
        "protocol_not_accepted",
        "target_not_accepted",
        "no_credentials",
        "down",
        "no_weight",
        "wrong_region",
        "nearer_target",
        "lower_priority",
        "by_weight",
        "clients_order",
        "off_for_repository",
        "off_for_network",
        "not_in_percentage",
        "shadow",
        "not_in_time",
        "stays_here",
        "carries_credentials",
        "private_repository",
        "takes_pushes",
        "asked_again",
        "held_off",
        "client_unknown",
        "hides_refs",
        "has_markers",
        "no_mirror",
        "not_mirrored",
        "mirror_takes_pushes",
        "less_safe",
        "mirror_unknown",
        "mirror_stale",
        "mirror_unreadable",
        "mirror_lacks",
        "mirror_cut_off",
        "mirror_redirects",
        "mirror_moves_sessions",
        "mirror_no_offramp",
    }
    for reason in Reason:
        assert re.fullmatch(r"[A-Z].*\.", reason.text)


@pytest.mark.parametrize(
    "url",
    [
        "https://git.example.org",
        "http://127.0.0.1:8417",
        "http://[::1]:8417",
        "https://example.org/git/repos",
    ],
)
def test_base_urls(url: str) -> None:
    """Where a client reaches us may have a port and a path."""
    assert Client(url).base_url == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "git.example.org",
        "ftp://git.example.org",
        "https://git.example.org/",
        "https://git.example.org\nhttp://evil.example.org",
        "https://git.example.org\n",
        "https://a b",
        "https://a?b",
        "https://a#b",
        "https://user@a",
        "https://\u00e9",
        "https://\U0001f600",
    ],
)
def test_made_up_base_urls(url: str) -> None:
    """A Host header that would break a line, or is no host, makes no client."""
    with pytest.raises(ValueError, match="base URL"):
        Client(url)


def test_only_targets_that_the_client_lists_are_named() -> None:
    """A client that names the targets it can use is sent to no other."""
    decision = decide(Acceptance(BOTH.protocols, ("self",)))
    assert isinstance(decision, Redirect)
    assert decision.location.target == "self"
    assert decide(Acceptance(BOTH.protocols, ("nowhere",))) == Inline(
        Reason.NO_TARGET,
        tuple(PassedOver(target.name, Reason.TARGET_NOT_ACCEPTED) for target in ALL),
    )


def test_the_clients_own_order_goes_before_ours() -> None:
    """The first target in the client's order that fits is named, whatever ours is."""
    decision = decide(Acceptance(BOTH.protocols, ("secure", "s3", "plain")))
    assert decision == Redirect(SECURE.locate(ENTITY, CLIENT, NOW))
    assert decide(Acceptance(BOTH.protocols, ("s3", "self", "plain"))) == Redirect(
        OWN.locate(ENTITY, CLIENT, NOW), (PassedOver("s3", Reason.NO_CREDENTIALS),)
    )


@pytest.mark.parametrize("target", [PLAIN, SECURE, OWN, S3])
def test_every_url_of_a_target_begins_with_its_prefix(target: Target) -> None:
    """What clients are told that locations look like is what they look like."""
    if target is S3:
        assert target.prefix(CLIENT) == "https://bucket.example.org/"
    else:
        assert target.locate(ENTITY, CLIENT, NOW).url.startswith(target.prefix(CLIENT))
