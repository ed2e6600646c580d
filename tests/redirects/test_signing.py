# Law of this file: what we signed verifies until it ends, and nothing else ever does.

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redirects.signing import Expired, Forged, SigningKeys

DIGEST = "ab" * 32
KEYS = SigningKeys("new", {"old": b"o" * 32, "new": b"n" * 32})
NOW = 1_700_000_000
MERCURIAL = "application/mercurial-0.2"


def signed(keys: SigningKeys = KEYS, digest: str = DIGEST, expires: int = NOW + 60) -> dict:
    """The parameters of a signed URL."""
    return dict(parse_qsl(keys.sign(digest, expires)))


def test_golden() -> None:
    """The format does not change under URLs that are out there."""
    assert KEYS.sign(DIGEST, NOW) == (
        "expires=1700000000&key=new&signature="
        "155df4e68cdef18f378302f295082e985f4e6b74b93b16d7d728b4fea6b4f44d"
    )


def test_golden_with_a_type() -> None:
    """Nor does that of URLs which carry a type."""
    assert KEYS.sign(DIGEST, NOW, MERCURIAL) == (
        "expires=1700000000&key=new&type=application%2Fmercurial-0.2&signature="
        "4db1b4098268a718c3403b4060ce9f1fc20facf4b863128a8698bfb88d3ee955"
    )


def test_a_type_is_bound() -> None:
    """A type that was signed verifies; changed, added or taken away it does not."""
    typed = dict(parse_qsl(KEYS.sign(DIGEST, NOW + 60, MERCURIAL)))
    assert typed["type"] == MERCURIAL
    assert KEYS.verify(DIGEST, typed, NOW) == NOW + 60
    bare = {name: value for name, value in typed.items() if name != "type"}
    for query in (
        typed | {"type": "application/mercurial-0.1"},
        typed | {"type": ""},
        bare,
        signed() | {"type": MERCURIAL},
        signed() | {"type": ""},
    ):
        with pytest.raises(Forged):
            KEYS.verify(DIGEST, query, NOW)


def test_only_demanded_types_are_believed() -> None:
    """Not even our own signature makes content a page."""
    for media_type in ("text/html", "application/octet-stream", f"{MERCURIAL};charset=utf-8"):
        query = dict(parse_qsl(KEYS.sign(DIGEST, NOW + 60, media_type)))
        with pytest.raises(Forged):
            KEYS.verify(DIGEST, query, NOW)


def test_a_digest_cannot_pass_for_a_type() -> None:
    """A digest, which may be any text, makes no message that was signed for another URL."""
    digest = f"{MERCURIAL}\nnew\n{NOW + 60}\n{DIGEST}"
    typed = dict(parse_qsl(KEYS.sign(DIGEST, NOW + 60, MERCURIAL)))
    untyped = {name: value for name, value in typed.items() if name != "type"}
    for claimed in (digest, f"{DIGEST}\n{MERCURIAL}", f"{MERCURIAL}\n{DIGEST}"):
        with pytest.raises(Forged):
            KEYS.verify(claimed, untyped, NOW)


def test_own_signature_verifies() -> None:
    """A signed query verifies until its end, which is returned."""
    assert KEYS.verify(DIGEST, signed(), NOW) == NOW + 60
    assert KEYS.verify(DIGEST, signed(), NOW + 59.9) == NOW + 60


def test_an_expired_url_is_refused() -> None:
    """At its end, a URL has ended."""
    with pytest.raises(Expired, match="expired"):
        KEYS.verify(DIGEST, signed(), NOW + 60)


def test_rotation() -> None:
    """The current key signs; an older one is still believed; a removed one no more."""
    before = SigningKeys("old", {"old": b"o" * 32})
    assert signed(before)["key"] == "old"
    assert KEYS.verify(DIGEST, signed(before), NOW)
    after = SigningKeys("new", {"new": b"n" * 32})
    with pytest.raises(Forged):
        after.verify(DIGEST, signed(before), NOW)


def test_every_part_is_bound() -> None:
    """Another digest, end, or key id, or the same id with another secret, does not verify."""
    good = signed()
    twin = SigningKeys("twin", {"twin": b"n" * 32, "new": b"n" * 32})
    stranger = SigningKeys("new", {"new": b"x" * 32})
    for keys, digest, query in (
        (KEYS, "ac" * 32, good),
        (KEYS, DIGEST, good | {"expires": str(NOW + 61)}),
        (KEYS, DIGEST, good | {"key": "old"}),
        (twin, DIGEST, good | {"key": "twin"}),
        (stranger, DIGEST, good),
    ):
        with pytest.raises(Forged):
            keys.verify(digest, query, NOW)


def test_forged_comes_before_expired() -> None:
    """Only what was ours is said to have ended."""
    with pytest.raises(Forged):
        KEYS.verify(DIGEST, signed() | {"expires": "1"}, NOW)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("expires", ""),
        ("expires", f"0{NOW + 60}"),
        ("expires", f" {NOW + 60}"),
        ("expires", f"+{NOW + 60}"),
        ("expires", "1_700_000_060"),
        ("expires", "\u0661\u0667"),  # digits, but not ASCII's
        ("expires", "9" * 5000),
        ("expires", "inf"),
        ("key", ""),
        ("key", "nobody"),
        ("signature", ""),
        ("signature", "\u00e9" * 64),
    ],
)
def test_malformed_is_forged(name: str, value: str) -> None:
    """A malformed value is Forged, and no other error."""
    with pytest.raises(Forged):
        KEYS.verify(DIGEST, signed() | {name: value}, NOW)


def test_upper_case_signature_is_forged() -> None:
    """There is one spelling of a signature, so that a cache sees one URL."""
    query = signed()
    with pytest.raises(Forged):
        KEYS.verify(DIGEST, query | {"signature": query["signature"].upper()}, NOW)


def test_other_parameters_are_ignored() -> None:
    """A proxy may add parameters of its own."""
    assert KEYS.verify(DIGEST, signed() | {"utm": "1"}, NOW)


@given(
    st.text(),
    st.dictionaries(st.sampled_from(["expires", "key", "type", "signature", "x"]), st.text()),
    st.floats(allow_nan=False),
)
def test_garbage_is_forged(digest: str, query: dict[str, str], now: float) -> None:
    """Any garbage is Forged, and no other error."""
    with pytest.raises(Forged):
        KEYS.verify(digest, query | {"key": "new", "signature": "0" * 64, "expires": "9"}, now)
    with pytest.raises(Forged):
        KEYS.verify(digest, query, now)


@given(st.integers(0, 200), st.characters(codec="utf-8"))
def test_a_changed_character_is_forged(at: int, other: str) -> None:
    """A change of any one character of a query is never believed."""
    text = KEYS.sign(DIGEST, NOW + 60)
    at %= len(text)
    query = dict(parse_qsl(text[:at] + other + text[at + 1 :], keep_blank_values=True))
    if query != signed():
        with pytest.raises(Forged):
            KEYS.verify(DIGEST, query, NOW)


def test_secrets_for_other_uses() -> None:
    """Each use has its own, of the key that signs; none is that key."""
    derived = KEYS.derived("one")
    assert len(derived) == 32
    assert derived == SigningKeys("new", {"new": b"n" * 32}).derived("one")
    others = (KEYS.derived("two"), SigningKeys("old", KEYS.secrets).derived("one"), b"n" * 32)
    assert derived not in others


def test_secrets_are_hidden() -> None:
    """The repr shows which key signs, and no secret."""
    assert "nnnn" not in repr(KEYS)
    assert "current='new'" in repr(KEYS)


@pytest.mark.parametrize(
    ("current", "secrets", "message"),
    [
        ("a", {}, "no secret"),
        ("a", {"a": b"short"}, "at least 32"),
        ("a b", {"a b": b"x" * 32}, "signing key id"),
        ("", {"": b"x" * 32}, "signing key id"),
    ],
)
def test_bad_keys_are_refused(current: str, secrets: dict[str, bytes], message: str) -> None:
    """Weak secrets, ids that do not fit into URLs, and a missing current key are errors."""
    with pytest.raises(ValueError, match=message):
        SigningKeys(current, secrets)
