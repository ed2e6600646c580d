# Law of this file: the doctor says that clients are kept from being redirected, and warns of what
# keeps others than was meant.

from __future__ import annotations

from pathlib import Path

import pytest

from server.checks_control import check_control
from server.settings import Settings
from server.verdict import Level, Verdict


def found(root: Path, redirect: dict[str, object], **values: object) -> list[Verdict]:
    """What is found out about these settings."""
    given = {"root": root, "data": root.parent / "data", "redirect": redirect, **values}
    return list(check_control(Settings.model_validate(given)))


@pytest.mark.parametrize(
    ("redirect", "what"),
    [
        ({"enabled": False, "shadow": True}, "switched off"),
        ({"shadow": True}, "redirect.shadow"),
        ({"percentage": 12.5}, "12.5 %"),
    ],
)
def test_it_is_said(root: Path, redirect: dict[str, object], what: str) -> None:
    """Once, and as nothing that is wrong; nothing, where nobody is kept."""
    (verdict,) = found(root, redirect)
    assert verdict.level is Level.INFO
    assert what in verdict.what
    assert found(root, {}) == []


@pytest.mark.parametrize("redirect", [{"percentage": 10}, {"off_networks": ["192.0.2.0/24"]}])
def test_clients_behind_a_proxy(root: Path, redirect: dict[str, object]) -> None:
    """Nobody knows their addresses, unless the proxy is named."""
    behind = {"public_url": "https://git.example.org"}
    assert [v.level for v in found(root, redirect, **behind)][-1] is Level.WARN
    named = found(root, redirect, regions={"proxies": ["10.0.0.1"]}, **behind)
    assert Level.WARN not in {verdict.level for verdict in named}


def test_a_pattern_that_matches_nothing(root: Path) -> None:
    """A misspelt name switches nothing off; one that fits is not told of."""
    (verdict,) = found(root, {"off_repositories": ["group/*", "grop/a.git"]})
    assert verdict.level is Level.WARN
    assert "'grop/a.git' matches no repository" in verdict.what
