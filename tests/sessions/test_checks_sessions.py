# Law of this file: the doctor says of each mirror whether sessions would move there, and if not,
# why, and how to mend it.

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from repos.git.program import Git
from server.checks_sessions import check_session_mirrors
from server.settings import Settings
from server.verdict import Level, Verdict
from tests.conformance.repositories import Repository
from tests.conftest import Serve
from tests.sessions.conftest import NAME, copied, mirror
from tests.upstreams.forge import Forge


async def found(root: Path, given: dict[str, Any], **values: object) -> list[Verdict]:
    """What is found out about one mirror."""
    settings = Settings.model_validate(
        {
            "root": root,
            "data": root.parent / "data",
            "public_url": "http://git.example.org",
            "session_mirrors": [given],
            **values,
        }
    )
    async with aiohttp.ClientSession() as session:
        checks = check_session_mirrors(settings, Git(60.0), session)
        return [verdict async for verdict in checks]


async def test_a_mirror_is_compared_for_one_repository(
    repository: Repository, forge: Forge
) -> None:
    """As servers do; one that is behind is told of."""
    given = mirror(forge.url, vcs="git")
    verdict, proxies = await found(repository.root, given)
    assert proxies.level is Level.INFO
    assert "X-Forwarded-User" in proxies.remedy
    assert (verdict.level, verdict.what) == (
        Level.OK,
        f"session mirror near, {NAME}: its refs are ours",
    )
    repository.commit("refs/heads/main", 1, file="pushed")
    verdict, _ = await found(repository.root, given)
    assert verdict.level is Level.WARN
    assert "its refs are not ours" in verdict.what


async def test_what_keeps_sessions_here_is_told(
    serve: Serve, repository: Repository, tmp_path: Path
) -> None:
    """With what to write instead."""
    copy, root = copied(repository.root, tmp_path / "other"), repository.root
    other = await serve(copy, data=tmp_path / "other-data")
    *_, verdict, _ = await found(root, mirror(other.url, vcs="git", offramp=True))
    assert "sessions.here = true" in verdict.remedy
    other = await serve(
        copy,
        data=tmp_path / "other-data",
        sessions={"here": True},
        session_mirrors=[mirror("http://127.0.0.1:1")],
    )
    *_, verdict, _ = await found(root, mirror(other.url, vcs="git"))
    assert "offramp = true" in verdict.remedy
    *_, verdict, _ = await found(root, mirror(other.url, vcs="git", offramp=True))
    assert verdict.level is Level.OK
    *_, verdict, _ = await found(root, mirror(f"{other.url}/below", vcs="git", offramp=True))
    assert "status 404" in verdict.what
    *_, verdict, _ = await found(root, mirror("http://127.0.0.1:1", vcs="git"))
    assert "no answer" in verdict.what
    *_, verdict, _ = await found(root, mirror(other.url, repositories=["nothing"], vcs="git"))
    assert "no repository" in verdict.what


@pytest.mark.parametrize(
    ("values", "given", "level", "words"),
    [
        ({"listen": "127.0.0.1:1"}, {}, Level.FAIL, "this server's own"),
        ({"public_url": "https://git.example.org"}, {}, Level.WARN, "clients of https"),
        ({"public_url": None}, {}, Level.INFO, "nothing says by which clients come here"),
        ({}, {"vcs": "both"}, Level.INFO, "takes no pushes"),
    ],
)
async def test_what_is_seen_without_asking(
    repository: Repository,
    values: dict[str, object],
    given: dict[str, object],
    level: Level,
    words: str,
) -> None:
    """Told before the mirror is asked."""
    first, *_ = await found(
        repository.root, mirror("http://127.0.0.1:1", **{"vcs": "git", **given}), **values
    )
    assert first.level is level
    assert words in first.what
