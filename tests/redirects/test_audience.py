# Law of this file: what is private is named by signed URLs of listed targets, or not at all.

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redirects.acceptance import Acceptance, Client
from redirects.audience import PUBLIC, Audience
from redirects.decision import Decision, Inline, PassedOver, Reason, Redirect
from redirects.negotiation import negotiate
from redirects.selection import Selection
from redirects.signing import SigningKeys
from redirects.sigv4 import Credentials
from redirects.targets import HttpTarget, S3Target, SelfTarget, Target
from redirects.window import Window
from stores.entity import Entity

NOW = 1_700_000_100.0
WINDOW = Window(900, 21600)
ENTITY = Entity("ab" * 32, 1 << 20)
CLIENT = Client("https://git.example.org")
BOTH = Acceptance(frozenset({"http", "https"}))
CREDENTIALS = Credentials("AKIATEST", "secret", None, None)

OWN = SelfTarget("self", "memory", SigningKeys("k", {"k": b"k" * 32}), WINDOW)
SIGNED = S3Target("s3", "https://a.example.org/", "eu-west-1", WINDOW, lambda: CREDENTIALS)
OPEN = S3Target("open", "https://b.example.org/", "", WINDOW, None)
CDN = HttpTarget("cdn", "https://cdn.example.org", WINDOW)
ALL: tuple[Target, ...] = (CDN, OPEN, SIGNED, OWN)
EVERYWHERE = frozenset(target.fingerprint for target in ALL)
PRIVATE = Audience(private=True)

# What makes a URL of each target one that works for its holder only.
SIGNATURES = {"self": "signature=", "s3": "X-Amz-Signature="}


def decide(
    audience: Audience,
    targets: tuple[Target, ...] = ALL,
    readable: frozenset[str] = EVERYWHERE,
    acceptance: Acceptance = BOTH,
) -> Decision:
    """Negotiate for an audience."""
    return negotiate(
        acceptance,
        ENTITY,
        Selection(targets),
        CLIENT,
        NOW,
        readable=readable,
        min_size=0,
        enabled=True,
        audience=audience,
    )


def test_which_are_signed() -> None:
    """Our own route and a bucket with credentials are; what everybody may read is not."""
    assert [t.name for t in ALL if t.signed] == ["s3", "self"]


def test_everybody() -> None:
    """Public content is named by the first target, signed or not."""
    assert decide(PUBLIC) == Redirect(CDN.locate(ENTITY, CLIENT, NOW))


def test_private() -> None:
    """Private content passes over public targets, and the trail says why."""
    assert decide(PRIVATE) == Redirect(
        SIGNED.locate(ENTITY, CLIENT, NOW),
        (PassedOver("cdn", Reason.PUBLIC_TARGET), PassedOver("open", Reason.PUBLIC_TARGET)),
    )


def test_private_and_only_public_targets() -> None:
    """Then it goes inline, and nobody thinks that publishing would help."""
    assert decide(PRIVATE, (CDN, OPEN), frozenset()) == Inline(
        Reason.NO_TARGET,
        (PassedOver("cdn", Reason.PUBLIC_TARGET), PassedOver("open", Reason.PUBLIC_TARGET)),
    )


def test_listed_targets() -> None:
    """Only targets that the repository's settings list are named."""
    only = Audience(private=False, targets=frozenset({"self"}))
    assert decide(only) == Redirect(
        OWN.locate(ENTITY, CLIENT, NOW),
        tuple(PassedOver(t.name, Reason.NOT_FOR_REPOSITORY) for t in (CDN, OPEN, SIGNED)),
    )


def test_targets_of_stores_that_it_is_not_for() -> None:
    """They are passed over, whatever came back through them, and publishing would not help."""
    placed = Audience(private=False, unplaced=frozenset({"cdn", "s3"}))
    assert decide(placed) == Redirect(
        OPEN.locate(ENTITY, CLIENT, NOW), (PassedOver("cdn", Reason.NOT_PLACED),)
    )
    assert decide(placed, (CDN, SIGNED), frozenset()) == Inline(
        Reason.NO_TARGET, tuple(PassedOver(t.name, Reason.NOT_PLACED) for t in (CDN, SIGNED))
    )


def test_a_public_target_that_is_listed() -> None:
    """To list a public target does not make it fit for private content."""
    listed = Audience(private=True, targets=frozenset({"cdn"}))
    decision = decide(listed)
    assert isinstance(decision, Inline)
    assert decision.passed_over[0] == PassedOver("cdn", Reason.PUBLIC_TARGET)


@given(
    targets=st.lists(st.sampled_from(ALL), unique_by=lambda t: t.name),
    audience=st.builds(
        Audience,
        private=st.booleans(),
        targets=st.frozensets(st.sampled_from([*(t.name for t in ALL), "another"])),
        unplaced=st.frozensets(st.sampled_from([t.name for t in ALL])),
    ),
    readable=st.frozensets(st.sampled_from(sorted(EVERYWHERE))),
    protocols=st.frozensets(st.sampled_from(["http", "https"])),
)
def test_never_an_unsigned_location(
    targets: list[Target],
    audience: Audience,
    readable: frozenset[str],
    protocols: frozenset[str],
) -> None:
    """Whatever is configured: no private audience gets an unsigned URL, none an unlisted target."""
    decision = decide(audience, tuple(targets), readable, Acceptance(protocols))
    if isinstance(decision, Redirect):
        location = decision.location
        assert location.target not in audience.unplaced
        assert not audience.targets or location.target in audience.targets
        if audience.private:
            assert SIGNATURES[location.target] in location.url
            assert location.expires is not None


@pytest.mark.parametrize("audience", [PUBLIC, PRIVATE, Audience(True, frozenset({"s3"}))])
def test_what_was_not_read_back(audience: Audience) -> None:
    """For no audience is content named that was not read back."""
    assert isinstance(decide(audience, readable=frozenset()), Inline)
