# Law of this file: mirrors to which no session could move are refused as they are written.

from __future__ import annotations

import pytest
from pydantic import ValidationError

from redirects.sessions import SessionMirror
from server.settings import Settings
from server.wiring import build_session_selection

MIRROR = {"name": "near", "url": "https://near.example.org/vcs/"}


def read(*mirrors: dict[str, object], **values: object) -> Settings:
    """Settings with these mirrors."""
    return Settings.model_validate({"session_mirrors": mirrors, **values})


def test_mirrors_are_read_in_order() -> None:
    """Their place is their priority, unless one is written."""
    settings = read(
        {**MIRROR, "vcs": "hg", "read_only": True, "regions": ["eu-*"], "weight": 3},
        {**MIRROR, "name": "far", "offramp": True, "priority": 7, "max_age": "5m"},
    )
    selection = build_session_selection(settings)
    assert selection.targets == (
        SessionMirror(
            "near", "https://near.example.org/vcs", (), frozenset({"hg"}), read_only=True
        ),
        SessionMirror("far", "https://near.example.org/vcs", offramp=True, max_age=300.0),
    )
    standing = selection.standings["near"]
    assert (standing.regions, standing.priority, standing.weight) == (("eu-*",), 1, 3.0)
    assert selection.standings["far"].priority == 7


@pytest.mark.parametrize(
    ("mirrors", "values", "words"),
    [
        ([MIRROR, MIRROR], {}, "two session mirrors are named 'near'"),
        ([{**MIRROR, "weight": 0}], {}, "weight = 0"),
        ([MIRROR], {"public_url": "https://near.example.org/vcs"}, "the URL of this server"),
        ([{**MIRROR, "url": "https://user:secret@near.example.org"}], {}, "no base URL"),
        ([{**MIRROR, "url": "ssh://near.example.org"}], {}, "no base URL"),
        ([{**MIRROR, "max_age": 0}], {}, "greater than or equal to 1"),
        (
            [MIRROR],
            {"access": {"auth": "token", "tokens": [{"sha256": "ab" * 32, "repositories": ["*"]}]}},
            "private",
        ),
        (
            [MIRROR],
            {"access": {"auth": "proxy", "public": True, "proxies": ["192.0.2.1/32"]}},
            "would show it to a mirror",
        ),
    ],
)
def test_what_could_not_be_is_refused(
    mirrors: list[dict[str, object]], values: dict[str, object], words: str
) -> None:
    """In words that name the setting, and no secret."""
    with pytest.raises(ValidationError, match=words) as refused:
        read(*mirrors, **values)
    assert "secret@" not in str(refused.value)


def test_sessions_of_upstreams_stay() -> None:
    """Without repositories below ROOT there is nothing to move."""
    upstream = {"prefix": "up", "url": "https://up.example.org", "public": True}
    with pytest.raises(ValidationError, match="below ROOT"):
        read(MIRROR, upstreams=[upstream])
    assert read(MIRROR, upstreams=[upstream], root=".").session_mirrors
