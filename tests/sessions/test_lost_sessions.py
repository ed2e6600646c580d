# Law of this file: a session that a mirror with our refs would fail fails once at most, and is
# answered here then, and so are the next ones from there, until it may have become better.

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from redirects.holding_off import FIRST
from tests.conformance.repositories import Repository, run_git
from tests.conftest import Git, Serve, Served
from tests.sessions.conftest import SELDOM, compared, decisions, mirror, watch_of
from tests.sessions.test_git_sessions import first
from tests.upstreams.forge import Forge

WATCHFUL = {**SELDOM, "suspicion": 600}


@dataclass
class Clock:
    """Of those who ask again.

    Attributes:
        now: what it says.
    """

    now: float = 1000.0

    def __call__(self) -> float:
        """What it says."""
        return self.now


async def moving(serve: Serve, repository: Repository, forge: Forge) -> tuple[Served, str, Clock]:
    """A server whose mirror has our refs, its URL of the repository, and its clock."""
    served = await serve(repository.root, health=WATCHFUL, session_mirrors=[mirror(forge.url)])
    assert served.runtime.sessions is not None
    served.runtime.sessions.repeats.clock = clock = Clock()
    url = repository.url(served.url)
    assert (await first(served, url))[0] == 200
    await compared(watch_of(served))
    return served, url, clock


@pytest.fixture
def lost(repository: Repository, forge: Forge) -> str:
    """A commit that was force-pushed away here, and that the mirror never had."""
    oid = repository.commit("refs/heads/pushed-away", 1, file="away")
    repository.git("update-ref", "-d", "refs/heads/pushed-away")
    assert forge.root.is_dir()
    return oid


Fetch = Callable[[str, str], Awaitable[bool]]


@pytest.fixture
async def fetch(git: Git, tmp_path: Path) -> Fetch:
    """Fetch from a URL one commit by its id, as machines do that build it; whether it came."""
    await git("init", work := tmp_path / "work")

    async def fetch(url: str, oid: str) -> bool:
        args = ("fetch", "--no-tags", "--depth=1", url, f"+{oid}:refs/remotes/origin/built")
        return not (await git(*args, cwd=work, check=False)).status

    return fetch


async def test_a_commit_that_was_force_pushed_away_is_lost_once(
    serve: Serve, repository: Repository, forge: Forge, fetch: Fetch, lost: str
) -> None:
    """Not every other time, and not more often the more machines build it."""
    served, url, clock = await moving(serve, repository, forge)
    assert [await fetch(url, lost) for _ in range(12)] == [False, *[True] * 11]
    assert decisions(served) == {"no_mirror": 1, "near": 1, "asked_again": 1, "held_off": 10}
    # Other repositories' sessions, and other networks', are none of its business; see
    # tests/redirects/test_holding_off.py. As long as such fetches come here, none is lost.
    for _ in range(3):
        clock.now += FIRST - 1
        assert await fetch(url, lost)
    clock.now += FIRST
    assert (await first(served, url))[0] == 302


async def test_whoever_builds_commits_here_is_not_moved_at_all(
    serve: Serve, repository: Repository, forge: Forge, fetch: Fetch, lost: str
) -> None:
    """The first of them, which came before anything was known of mirrors, tells of the others."""
    served = await serve(repository.root, health=WATCHFUL, session_mirrors=[mirror(forge.url)])
    url = repository.url(served.url)
    assert await fetch(url, lost)
    await compared(watch_of(served))
    assert await fetch(url, lost)
    assert decisions(served) == {"no_mirror": 1, "held_off": 1}


async def test_who_clones_a_part_moves(
    serve: Serve, repository: Repository, forge: Forge, git: Git, tmp_path: Path
) -> None:
    """What it fetches later, one by one and by ids, the mirror has."""
    served = await serve(repository.root, health=SELDOM, session_mirrors=[mirror(forge.url)])
    url = repository.url(served.url)
    await git("clone", "--filter=blob:none", "--no-checkout", url, tmp_path / "part")
    await git("checkout", "main", cwd=tmp_path / "part")
    await compared(watch_of(served))
    assert (await first(served, url))[0] == 302


async def test_who_follows_no_redirect_fails_once(
    serve: Serve, repository: Repository, forge: Forge, git: Git, tmp_path: Path
) -> None:
    """As with `http.followRedirects=false`, which git takes as an error."""
    _, url, _ = await moving(serve, repository, forge)
    found = [
        (
            await git(
                *("-c", "http.followRedirects=false", "clone", url, tmp_path / f"clone{number}"),
                check=False,
            )
        ).status
        for number in range(4)
    ]
    assert [bool(status) for status in found] == [True, False, False, False]


async def test_who_could_not_be_known_again_stays(
    serve: Serve, repository: Repository, forge: Forge
) -> None:
    """A proxy that is not listed asks for everybody; whom it failed could not be helped."""
    served, url, _ = await moving(serve, repository, forge)
    assert (await first(served, url, **{"X-Forwarded-For": "192.0.2.1"}))[0] == 200
    assert decisions(served)["client_unknown"] == 1


@pytest.mark.parametrize("key", ["transfer.hideRefs", "uploadpack.hideRefs"])
async def test_where_refs_are_hidden_sessions_stay(
    serve: Serve, repository: Repository, forge: Forge, *, key: str
) -> None:
    """The mirror shows the same ones, and lacks what the others lead to."""
    repository.git("update-ref", "refs/hidden/1", "HEAD")
    run_git(repository.git_dir, "config", key, "refs/hidden")
    served = await serve(repository.root, health=SELDOM, session_mirrors=[mirror(forge.url)])
    url = repository.url(served.url)
    assert [(await first(served, url))[0] for _ in range(2)] == [200, 200]
    assert decisions(served) == {"hides_refs": 2}


async def test_what_is_held_off_is_so_for_all_processes(
    serve: Serve, repository: Repository, forge: Forge, fetch: Fetch, lost: str
) -> None:
    """Whichever of them answers."""
    served, url, _ = await moving(serve, repository, forge)
    assert not await fetch(url, lost)
    assert await fetch(url, lost)
    other, url, _ = await moving(serve, repository, forge)
    assert served.settings.data == other.settings.data
    assert await fetch(url, lost)
    assert decisions(other)["held_off"] == 1
