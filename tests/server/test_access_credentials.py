# Law of this file: credentials are read as they were meant or not at all, and are never shown.

from __future__ import annotations

import base64
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.access.credentials import (
    LONGEST_HEADER,
    NOBODY,
    Basic,
    Bearer,
    Credential,
    Fingerprints,
    Malformed,
    Opaque,
    parse,
    sole,
)

SECRET = "s3cr3t-s3cr3t-s3cr3t"


def basic(text: str | bytes) -> str:
    """A Basic header."""
    data = text.encode() if isinstance(text, str) else text
    return f"Basic {base64.b64encode(data).decode()}"


printable = st.text(st.characters(categories=("L", "N", "P", "S", "Zs")))


@given(printable.filter(lambda user: ":" not in user), printable)
def test_basic(user: str, password: str) -> None:
    """A user without a colon and any password come back as they were."""
    assert parse(basic(f"{user}:{password}")) == Basic(user, password)


@given(st.from_regex(r"[A-Za-z0-9._~+/-]+=*", fullmatch=True))
def test_bearer(token: str) -> None:
    """A token comes back as it was; schemes are written in any case."""
    for scheme in ("Bearer", "bearer", "BEARER"):
        assert parse(f"{scheme} {token}") == Bearer(token)


@pytest.mark.parametrize(
    "header",
    [
        "Basic",
        "Basic !!!!",
        "Basic YTpi=",  # too much padding
        "Basic YTpiYw",  # too little
        "Basic YTpj YTpj",
        "Basic YTq=",  # bits behind the last byte
        basic("no colon"),
        basic(b"a:\xff"),
        basic("a:b\nc"),
        basic("a\x00:b"),
        basic("a:\x85"),
        "Bearer",
        "Bearer a b",
        'Bearer "a"',
        "Negotiate YIIZ",
        "NTLM TlRMTVNTUAAB",
        'Digest username="a", realm="b"',
        "token abcdef",
        "nothing",
    ],
)
def test_opaque(header: str) -> None:
    """What is not exactly Basic or Bearer is kept as it is, and is never a user or a token."""
    assert parse(header) == Opaque(header)


@given(st.text(max_size=200))
def test_any_header(text: str) -> None:
    """Any text is refused or makes a credential; what passes is fit to be sent on."""
    try:
        value = sole([text])
    except Malformed:
        return
    assert value == text
    assert value.isascii()
    assert value.isprintable()
    assert value.strip() == value
    assert isinstance(parse(value), Credential)


def test_one_header() -> None:
    """None is none; of several, nobody can say which counts."""
    assert sole([]) is None
    assert sole(["Bearer a"]) == "Bearer a"
    with pytest.raises(Malformed):
        sole(["Bearer a", "Bearer a"])


@pytest.mark.parametrize(
    "value", ["", " ", "Bearer a\r\nX: y", "Bearer \x00", "B\x7f", "Bearer \u00e9", "Bearer \udc80"]
)
def test_malformed(value: str) -> None:
    """What could be read as another header, or cannot be sent, is refused."""
    with pytest.raises(Malformed):
        sole([value])


def test_longest() -> None:
    """A header has a bound."""
    assert sole(["a" * LONGEST_HEADER])
    with pytest.raises(Malformed):
        sole(["a" * (LONGEST_HEADER + 1)])


@pytest.mark.parametrize(
    "header", [f"Bearer {SECRET}", basic(f"{SECRET}:"), basic(f"me:{SECRET}"), f"Other {SECRET}"]
)
def test_not_shown(header: str) -> None:
    """Neither printing a credential nor what remembers it shows it."""
    shown = f"{parse(header)!r} {parse(header)}"
    assert SECRET not in shown
    assert base64.b64encode(SECRET.encode()).decode()[:12] not in shown
    assert SECRET not in repr(Fingerprints(SECRET.encode()))


def test_malformed_is_not_shown() -> None:
    """A refusal does not repeat what was refused."""
    with pytest.raises(Malformed) as caught:
        sole([f"Bearer {SECRET}\n"])
    assert SECRET not in str(caught.value)


def test_fingerprints() -> None:
    """Equal headers have equal fingerprints, others others; that of none is a constant."""
    some = Fingerprints(b"k" * 32)
    assert some.of("Bearer a") == some.of("Bearer a") == Fingerprints(b"k" * 32).of("Bearer a")
    assert some.of("Bearer a") != some.of("Bearer b")
    assert re.fullmatch(r"[0-9a-f]{64}", some.of(""))
    assert some.of(None) == NOBODY == Fingerprints.random().of(None)
    assert some.of(NOBODY) != NOBODY


def test_fingerprints_of_other_processes() -> None:
    """Without the key a fingerprint cannot be made again."""
    assert Fingerprints.random().of("Bearer a") != Fingerprints.random().of("Bearer a")
