# Law of this file: where case means nothing, one repository has one name, and what is denied,
# private or placed is so in each of its spellings.

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from server.settings import Settings
from server.settings_upstreams import UpstreamSettings
from server.upstreams.routes import Routes

TOKEN = "a-token-of-ours-0123456789"


def upstream(**values: Any) -> UpstreamSettings:
    """Settings of an upstream below ``/up/``."""
    found = {"prefix": "/up/", "url": "https://forge.example.org", **values}
    return UpstreamSettings.model_validate(found)


def to(path: str, **values: Any) -> tuple[str, str] | None:
    """Name and URL of where a path leads."""
    routed = Routes((upstream(**values),)).route(path, lambda _: False)
    return None if routed is None else (routed.remote.name, routed.remote.url)


@pytest.mark.parametrize(
    ("url", "said", "ignored"),
    [
        ("https://github.com", None, True),
        ("https://GitHub.com/acme", None, True),
        ("https://gitlab.com", None, True),
        ("https://gitlab.com", False, False),
        ("https://github.com.example.org", None, False),
        ("https://forge.example.org", None, False),
        ("https://forge.example.org", True, True),
    ],
)
def test_known_forges(url: str, said: bool | None, ignored: bool) -> None:
    """Of some hosts it is known that case means nothing there; of others it is said."""
    assert upstream(url=url, ignore_case=said).any_case is ignored


@pytest.mark.parametrize("path", ["Acme/Widget", "ACME/WIDGET.git", "acme/widget", "aCme/%57idget"])
def test_one_name_for_all_spellings(path: str) -> None:
    """Whatever a client writes, one repository is named, and asked for."""
    expected = ("up/acme/widget", "https://forge.example.org/acme/widget.git")
    assert to(f"/up/{path}/info/refs", ignore_case=True) == expected


def test_spellings_elsewhere() -> None:
    """Where case means something, each spelling is another repository."""
    names = [to(f"/up/{each}/info/refs") for each in ("a/B", "A/b")]
    assert names == [
        ("up/a/B", "https://forge.example.org/a/B.git"),
        ("up/A/b", "https://forge.example.org/A/b.git"),
    ]


@pytest.mark.parametrize("path", ["a/.GIT", ".Git/b", "a/x.GIT.git"])
def test_no_name_becomes_an_impossible_one(path: str) -> None:
    """What no repository can be called is not reached by another spelling."""
    assert to(f"/up/{path}/info/refs", ignore_case=True) is None


def test_letters_beyond_ascii_stay() -> None:
    """What no forge has in a name is not taken for what one has: the Kelvin sign is no k."""
    assert to("/up/a/%E2%84%AA/info/refs", ignore_case=True) == (
        "up/a/\N{KELVIN SIGN}",
        "https://forge.example.org/a/%E2%84%AA.git",
    )


@given(st.text("aBc/*?[]", max_size=12), st.text("aAbB/c", min_size=1, max_size=8))
def test_patterns_of_names_below(pattern: str, name: str) -> None:
    """All spellings are allowed or none, denied or none, mirrored or none."""
    if not pattern.strip("/") or pattern != pattern.strip("/"):
        return
    some = upstream(ignore_case=True, allow=[pattern], mirror=[pattern])
    for each in (name.lower(), name.upper()):
        assert some.allows(each) == some.allows(name)
        assert some.mirrors(each) == some.mirrors(name)


def test_listed() -> None:
    """What is listed is mirrored from the start under its one name."""
    some = upstream(ignore_case=True, listed=["Acme/Widget"], mirror=["none"])
    (remote,) = Routes((some,)).listed()
    assert (remote.name, remote.mirrored) == ("up/acme/widget", True)


def settings(tmp_path: Path, **values: Any) -> Settings:
    """Settings with an upstream to which case means nothing."""
    forge = {"prefix": "/up/", "url": "https://github.com", "public": True}
    return Settings(data=tmp_path, upstreams=(UpstreamSettings.model_validate(forge),), **values)


@pytest.mark.parametrize("pattern", ["up/Acme/*", "*/Acme/x", "[u]p/Acme", "u*/A", "up/[aA]/x"])
def test_patterns_that_match_nothing_are_refused(tmp_path: Path, pattern: str) -> None:
    """A pattern that could only match a spelling which no repository has is no silent gap."""
    tokens = [{"token": TOKEN, "repositories": [pattern]}]
    with pytest.raises(ValidationError, match="below /up/ all names are in lower case") as raised:
        settings(tmp_path, access={"auth": "token", "tokens": tokens})
    assert TOKEN not in str(raised.value)
    # These only keep content from somewhere, and do so in any spelling.
    assert settings(tmp_path, redirect={"off_repositories": [pattern]})


def test_patterns_that_are_let_be(tmp_path: Path) -> None:
    """Those of other places, those in lower case, and those beside their other spelling."""
    patterns = ["Team/*", "up/acme/*", "Up/x", "*/Acme/x", "*/acme/x", "*"]
    tokens = [{"token": TOKEN, "repositories": patterns}]
    found = settings(tmp_path, access={"auth": "token", "tokens": tokens})
    assert found.access.tokens[0].repositories == tuple(patterns)


def test_one_repository_has_one_spelling() -> None:
    """Of a single repository there is nothing to ignore."""
    with pytest.raises(ValidationError, match="`ignore_case` goes with `prefix`"):
        upstream(prefix=None, repository="/one", ignore_case=True)
