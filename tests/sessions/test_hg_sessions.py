# Law of this file: stock hg of every version moves to a real mirror with its first request, exactly
# when the mirror has our heads, bookmarks and phases; what could be a push does not.

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from tests.conftest import Serve, Served
from tests.hg.asking import serve_hg
from tests.hg.stock import CLIENT_V2, started
from tests.hg.versions import V1, V2, VERSIONS, hg, output, run
from tests.sessions.conftest import (
    SELDOM,
    Relay,
    compared,
    copied,
    decisions,
    mirror,
    watch_of,
)

REPO: Final = "repo"
NEWEST: Final = V1[-1]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with one repository, not to be changed."""
    root = tmp_path_factory.mktemp("made")
    output(hg(NEWEST), root, "init", root / REPO)
    commit(root / REPO, "first")
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """ROOT with one repository."""
    return copied(made, tmp_path / "root")


@pytest.fixture
def plain(root: Path, tmp_path: Path) -> Iterator[str]:
    """The base URL of a plain mirror: `hg serve` with a copy of the repository."""
    copy = copied(root, tmp_path / "mirror") / REPO
    with started(hg(NEWEST), copy, "--prefix", REPO) as url:
        yield url.removesuffix(f"/{REPO}")


def commit(repository: Path, name: str) -> None:
    """Commit a new file."""
    (repository / name).write_text(f"{name}\n")
    output(hg(NEWEST), repository, "commit", "--addremove", "--message", name)


async def ask_hg(version: str, at: Path, *args: str | Path) -> str:
    """All that a stock client says; it must end well."""
    done = await asyncio.to_thread(run, hg(version), at, *args)
    said = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode == 0, said
    return said


async def first(served: Served) -> str:
    """Where a client would move with its first request; empty if nowhere."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{served.url}/{REPO}?cmd=capabilities", allow_redirects=False) as response,
    ):
        assert response.status in {200, 302}
        return response.headers.get("Location", "")


async def test_every_version_moves_to_a_mirror_with_our_heads(
    serve: Serve, root: Path, plain: str, tmp_path: Path
) -> None:
    """The first stays; whoever comes after a push stays until the mirror has it."""
    settings = [mirror(plain, read_only=True)]
    served = await serve_hg(serve, root, health=SELDOM, session_mirrors=settings)
    url = f"{served.url}/{REPO}"
    await ask_hg(NEWEST, tmp_path, "clone", url, tmp_path / "first")
    assert decisions(served) == {"no_mirror": 1}
    await compared(watch_of(served))
    for version in VERSIONS:
        clone = tmp_path / version
        said = await ask_hg(version, tmp_path, "clone", url, clone)
        assert f"real URL is {plain}/{REPO}" in said
        assert (clone / "first").exists()
        assert await ask_hg(version, clone, "paths", "default") == f"{url}\n"
    assert decisions(served) == {"no_mirror": 1, "near": 3}

    commit(root / REPO, "second")
    said = await ask_hg(NEWEST, tmp_path / NEWEST, "pull", "--update")
    assert "real URL" not in said
    assert (tmp_path / NEWEST / "second").exists()
    await ask_hg(NEWEST, tmp_path / "mirror" / REPO, "pull", root / REPO)
    await watch_of(served).look()
    said = await ask_hg(NEWEST, tmp_path, "clone", url, tmp_path / "again")
    assert f"real URL is {plain}/{REPO}" in said
    assert (tmp_path / "again" / "second").exists()


async def test_a_mirror_with_other_bookmarks_is_not_used(
    serve: Serve, root: Path, plain: str, tmp_path: Path
) -> None:
    """Not heads alone are what a client gets."""
    settings = [mirror(plain, read_only=True)]
    served = await serve_hg(serve, root, health=SELDOM, session_mirrors=settings)
    await ask_hg(NEWEST, tmp_path / "mirror" / REPO, "bookmark", "-r", "tip", "here")
    assert not await first(served)
    await compared(watch_of(served))
    assert not await first(served)
    await ask_hg(NEWEST, root / REPO, "bookmark", "-r", "tip", "here")
    assert not await first(served)
    await compared(watch_of(served))
    await watch_of(served).look()
    assert await first(served) == f"{plain}/{REPO}?cmd=capabilities"


async def test_where_markers_of_what_is_obsolete_are_exchanged_sessions_stay(
    serve: Serve, root: Path, plain: str
) -> None:
    """The mirror need not have them, and what they hide would come up again at clients."""
    settings = [mirror(plain, read_only=True)]
    hgrc = root / REPO / ".hg" / "hgrc"
    hgrc.write_text("[experimental]\nevolution = all\n")
    served = await serve_hg(serve, root, health=SELDOM, session_mirrors=settings)
    assert not await first(served)
    await compared(watch_of(served))
    assert await first(served)
    output(hg(NEWEST), root / REPO, "debugobsolete", "ab" * 20)
    assert not await first(served)
    assert decisions(served)["has_markers"] == 1
    # Whoever keeps them to himself changes nothing for clients.
    hgrc.write_text("[experimental]\nevolution = createmarkers\n")
    await first(served)
    await watch_of(served).look()
    assert await first(served)


async def test_what_may_be_a_push_does_not_move(
    serve: Serve, root: Path, plain: str, tmp_path: Path
) -> None:
    """A push begins with the same request, and is taken here."""
    settings = [mirror(plain, read_only=True)]
    served = await serve_hg(
        serve, root, hg={"push": [REPO]}, health=SELDOM, session_mirrors=settings
    )
    url, clone = f"{served.url}/{REPO}", tmp_path / "clone"
    for _ in range(2):
        assert not await first(served)
    assert decisions(served) == {"takes_pushes": 2}
    await ask_hg(NEWEST, tmp_path, "clone", url, clone)
    commit(clone, "pushed")
    await ask_hg(NEWEST, clone, "push")
    assert "pushed" in await ask_hg(NEWEST, root / REPO, "log", "-T", "{desc}\n")


async def test_two_that_name_each_other_do_not_send_a_client_to_and_fro(
    serve: Serve, root: Path, relay: Relay, tmp_path: Path
) -> None:
    """A clone ends at the other one, and nothing is pushed there, whatever it takes else."""
    other_root = copied(root, tmp_path / "other")
    one = await serve_hg(
        serve,
        root,
        health=SELDOM,
        sessions={"here": True},
        session_mirrors=[mirror(relay.url, offramp=True)],
    )
    other = await serve_hg(
        serve,
        other_root,
        hg={"push": [REPO]},
        health=SELDOM,
        data=tmp_path / "other-data",
        sessions={"here": True},
        session_mirrors=[mirror(one.url, offramp=True)],
    )
    relay.lead_to(other.url)
    url, clone = f"{one.url}/{REPO}", tmp_path / "clone"
    assert not await first(one)
    await compared(watch_of(one))
    said = await ask_hg(NEWEST, tmp_path, "clone", url, clone)
    assert f"real URL is {relay.url}/-/here/{REPO}" in said
    commit(clone, "pushed")
    pushed = await asyncio.to_thread(run, hg(NEWEST), clone, "push")
    assert pushed.returncode
    assert b"nothing is pushed below /-/here/" in pushed.stdout + pushed.stderr
    for repository in (root / REPO, other_root / REPO):
        log = await ask_hg(NEWEST, repository, "log", "-T", "{desc}\n")
        assert "pushed" not in log


async def test_protocol_version_2_stays(
    serve: Serve, root: Path, plain: str, tmp_path: Path
) -> None:
    """Its clients go on at the URL that they were given."""
    served = await serve_hg(
        serve, root, health=SELDOM, session_mirrors=[mirror(plain, read_only=True)]
    )
    assert not await first(served)
    await compared(watch_of(served))
    url = f"{served.url}/{REPO}"
    said = await ask_hg(V2, tmp_path, *CLIENT_V2, "clone", url, tmp_path / "clone")
    assert "real URL" not in said
    assert served.outcomes("changesetdata")
    assert await first(served)
