# Law of this file: a caller reads what the settings open to it, and learns of nothing else whether
# it is there.

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.access.policies import (
    CHALLENGE,
    Allowed,
    Caller,
    Hidden,
    Names,
    Policies,
    Refused,
    Unauthorised,
)
from server.settings_upstreams import AccessSettings

ONE = "one-token-0123456789"
TWO = "two-token-0123456789"
PROXY = "10.1.2.3"


def basic(user: str, password: str) -> str:
    """A Basic header."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def policies(**values: Any) -> Policies:
    """The rules that settings make."""
    return Policies(AccessSettings.model_validate(values))


TOKENS = policies(
    auth="token",
    tokens=[
        {"token": ONE, "repositories": ["team/*", "single"]},
        {"sha256": hashlib.sha256(TWO.encode()).hexdigest(), "repositories": ["*"]},
    ],
)

PROXIES = policies(
    auth="proxy",
    proxies=["10.1.0.0/16", "2001:db8::/32", "192.0.2.7"],
    users=[
        {"user": "ann", "repositories": ["team/*"]},
        {"user": "*@example.org", "repositories": ["open"]},
        {"user": "ann", "repositories": ["other"]},
    ],
)


# --- tokens ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        f"Bearer {ONE}",
        f"bearer  {ONE}",
        basic("anybody", ONE),
        basic("", ONE),
        basic(ONE, ""),
        basic(ONE, "x-oauth-basic"),
    ],
)
def test_ways_to_show_a_token(header: str) -> None:
    """As Bearer, as password, or as user without one: a token opens what it is for."""
    assert TOKENS.check_token([header], "team/a.git") == Allowed("token 1")


def test_a_token_by_its_hash() -> None:
    """A token of which the settings hold only the hash opens as well."""
    assert TOKENS.check_token([f"Bearer {TWO}"], "anything") == Allowed("token 2")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [f"Bearer {ONE}x"],
        [f"Bearer {ONE[:-1]}"],
        [basic(ONE, "another")],
        [basic("", "")],
        [basic("x-oauth-basic", "")],
        [f"Token {ONE}"],
        ["Negotiate YIIZ"],
        [hashlib.sha256(TWO.encode()).hexdigest()],
        [f"Bearer {hashlib.sha256(TWO.encode()).hexdigest()}"],
        [f"Bearer {ONE}", f"Bearer {ONE}"],
        [f"Bearer {ONE}\x00"],
    ],
)
def test_no_token(headers: list[str]) -> None:
    """Without a token, or with what is none, a caller is asked for one, whatever it asked for."""
    verdicts = [TOKENS.check_token(headers, name) for name in ("team/a.git", "nothing", "")]
    assert all(verdict == verdicts[0] for verdict in verdicts)
    (verdict, *_) = verdicts
    assert isinstance(verdict, Unauthorised)
    assert verdict.challenge == CHALLENGE
    assert ONE[:8] not in verdict.message


@pytest.mark.parametrize("name", ["secret", "teams/a", "team", "single/a", "Team/a", ""])
def test_a_good_token_for_something_else(name: str) -> None:
    """It gets the answer of a repository that is not there."""
    assert TOKENS.check_token([f"Bearer {ONE}"], name) == Hidden()


@pytest.mark.parametrize(
    "name", ["single", "single.git", "single/.git", "/single", "single/", "single.git/.git"]
)
def test_spellings(name: str) -> None:
    """A repository has several spellings; a rule holds for all of them, however it is written."""
    assert TOKENS.check_token([f"Bearer {ONE}"], name) == Allowed("token 1")
    suffixed = policies(tokens=[{"token": ONE, "repositories": ["single.git"]}])
    assert suffixed.check_token([f"Bearer {ONE}"], name) == Allowed("token 1")


def test_a_token_that_is_listed_twice() -> None:
    """It opens what both entries open."""
    rules = policies(
        tokens=[{"token": ONE, "repositories": ["a"]}, {"token": ONE, "repositories": ["b"]}]
    )
    shown = [f"Bearer {ONE}"]
    assert [type(rules.check_token(shown, name)) for name in "abc"] == [Allowed, Allowed, Hidden]


def test_every_token_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A match does not end the comparison: time tells not which token was nearly right."""
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(other)
        return one == other

    monkeypatch.setattr("server.access.policies.hmac.compare_digest", compare)
    for shown in (ONE, TWO, "neither"):
        TOKENS.check_token([f"Bearer {shown}"], "team/a")
    assert len(compared) == 6


@given(st.text(max_size=60), st.text(max_size=20))
def test_nothing_made_up_opens(header: str, name: str) -> None:
    """No header but one with a token opens anything."""
    assert not isinstance(TOKENS.check_token([header], name), Allowed)


# --- proxies -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address", [PROXY, "::ffff:10.1.2.3", "2001:db8::1", "192.0.2.7", "::ffff:192.0.2.7"]
)
def test_the_proxy_is_believed(address: str) -> None:
    """A user whom a proxy names reads what the settings list for it."""
    assert PROXIES.check_proxy(address, ["ann"], "team/a") == Allowed("ann")
    assert PROXIES.check_proxy(address, ["ann"], "other.git") == Allowed("ann")
    assert PROXIES.check_proxy(address, ["bob@example.org"], "open") == Allowed("bob@example.org")


@pytest.mark.parametrize(
    "address", ["10.2.0.1", "::ffff:10.2.0.1", "192.0.2.8", "::1", "", "unix:", "10.1.2.3.4", "x"]
)
def test_others_are_not_believed(address: str) -> None:
    """Who comes past the proxy is refused, whatever it says of itself, and learns nothing."""
    said = [PROXIES.check_proxy(address, ["ann"], name) for name in ("team/a", "nothing")]
    assert isinstance(said[0], Refused)
    assert said[0] == said[1]


@pytest.mark.parametrize(
    "named", [[], [""], ["ann", "ann"], ["eve", "ann"], ["eve, ann"], ["ann\x00"], ["ann\udc80"]]
)
def test_no_user(named: list[str]) -> None:
    """A proxy that names nobody, or two of whom one may be made up, names no user."""
    assert isinstance(PROXIES.check_proxy(PROXY, named, "team/a"), Unauthorised)


@pytest.mark.parametrize(("user", "name"), [("ann", "open"), ("bob", "team/a"), ("Ann", "team/a")])
def test_a_user_for_whom_it_is_not(user: str, name: str) -> None:
    """It gets the answer of a repository that is not there."""
    assert PROXIES.check_proxy(PROXY, [user], name) == Hidden()


def test_a_mapped_network() -> None:
    """Networks of IPv4 that are written as IPv6 are those of IPv4."""
    rules = policies(proxies=["::ffff:10.1.0.0/112"])
    assert rules.check_proxy(PROXY, ["ann"], "a") == Allowed("ann")
    assert isinstance(rules.check_proxy("10.2.0.1", ["ann"], "a"), Refused)


def test_without_proxies_nobody_is_believed() -> None:
    """No list of proxies is an empty one."""
    assert isinstance(policies().check_proxy("127.0.0.1", ["ann"], "a"), Refused)


# --- which rule --------------------------------------------------------------------------


def test_each_rule_looks_at_its_own() -> None:
    """A user of the proxy is no token, a token no user, and `none` asks nobody."""
    caller = Caller([f"Bearer {ONE}"], PROXY, ["ann"])
    assert TOKENS.check("token", caller, "single") == Allowed("token 1")
    assert isinstance(TOKENS.check("proxy", caller, "single"), Refused)
    assert PROXIES.check("proxy", caller, "team/a") == Allowed("ann")
    assert isinstance(PROXIES.check("token", caller, "team/a"), Unauthorised)
    assert policies().check("none", Caller(), "anything") == Allowed("")


@given(
    st.lists(st.text(st.sampled_from("ab*?[]!/."), min_size=1, max_size=6), max_size=4),
    st.text(st.sampled_from("ab/.\n"), max_size=6),
)
def test_patterns(patterns: list[str], name: str) -> None:
    """Patterns that are matched together match what each matches by itself."""
    assert Names.of(patterns).hold(name) == any(Names.of([one]).hold(name) for one in patterns)


def test_patterns_are_of_whole_names() -> None:
    """A pattern matches from the first character to the last, and as it is written."""
    names = Names.of(["a", "b/*"])
    assert [n for n in ("a", "ab", "xa", "a\n", "b", "b/", "b/c/d", "B/c") if names.hold(n)] == [
        "a",
        "b/",
        "b/c/d",
    ]
    assert not Names.of([]).hold("")
