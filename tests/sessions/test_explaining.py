# Law of this file: what is explained of a whole session is what stock git is then told, by a server
# and without one; and what is seen of mirrors is on the page and in the API.

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner

from cli.explain import _lines
from cli.main import offramp as group
from indexer.report import Silent
from server.explaining import Asked
from server.explaining_alone import explained_alone
from server.indexing import index_all
from server.status_documents import ExplanationDocument
from tests.conformance.repositories import Repository, run_git
from tests.conftest import Git, Serve, Served
from tests.sessions.conftest import NAME, SELDOM, mirror, watch_of
from tests.upstreams.forge import Forge

OPERATORS = {"operators": ["127.0.0.1"]}


async def asked(served: Served, path: str) -> Any:
    """What the API says."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{served.url}/-/{path}") as answer,
    ):
        assert answer.status == 200, await answer.text()
        return json.loads(await answer.text())


async def explained(served: Served, name: str = "project") -> dict[str, Any]:
    """What would become of a session from this machine."""
    told = await asked(served, f"api/explain?repo={name}&from=127.0.0.1&accepts=http")
    session: dict[str, Any] = told["session"]
    return session


def alone(served: Served) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The same without a server: as values, and the lines for people."""
    given = Asked.read("project", "127.0.0.1", "http", None, None)
    document = ExplanationDocument.of(
        asyncio.run(explained_alone(served.settings, given)), whole_url=False
    )
    assert document.session is not None
    return document.session.model_dump(), list(_lines(document, "http"))


@pytest.fixture
async def served(serve: Serve, repository: Repository, forge: Forge) -> Served:
    """A server with a mirror that is fresh, and one at which nobody listens."""
    served = await serve(
        repository.root,
        health=SELDOM,
        access=OPERATORS,
        session_mirrors=[
            mirror("http://127.0.0.1:1", name="dead"),
            mirror(forge.url, regions=["eu-*"]),
            mirror(forge.url, name="other", repositories=["other/*"]),
        ],
    )
    await index_all(served.settings, Silent(), gc=False)
    await served.runtime.catalogs.refresh_all()
    return served


async def test_what_is_explained_is_what_is_done(
    served: Served, git: Git, repository: Repository, tmp_path: Path
) -> None:
    """Before a comparison, after it, and after a push: a word for each mirror, then the URL."""
    before = await explained(served)
    assert (before["vcs"], before["mirror"], before["stays"]) == ("git", None, "no_mirror")
    assert [each["verdict"] for each in before["mirrors"]] == [
        "mirror_unknown", "not_mirrored", "mirror_unknown",
    ]  # fmt: skip
    # To have asked was enough to have them compared.
    await watch_of(served).look()
    moves = await explained(served)
    found = {each["name"]: each for each in moves["mirrors"]}
    assert {name: each["verdict"] for name, each in found.items()} == {
        "dead": "down", "near": "chosen", "other": "not_mirrored",
    }  # fmt: skip
    assert found["dead"]["seen"] == "no answer (no connection: connection refused)"
    assert (moves["mirror"], moves["stays"]) == ("near", None)
    url = repository.url(served.url)
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{url}/info/refs?service=git-upload-pack", allow_redirects=False) as answer,
    ):
        assert answer.headers["Location"] == moves["url"]
    await git("clone", url, tmp_path / "moved")
    repository.commit("refs/heads/main", 1, file="pushed")
    stale = await explained(served)
    assert [each["verdict"] for each in stale["mirrors"] if each["name"] == "near"] == [
        "mirror_stale"
    ]
    assert "not the ones that we have" in stale["mirrors"][-1]["text"]


async def test_without_a_server(served: Served, forge: Forge) -> None:
    """Each mirror is asked, and the same is said, in lines for people as well."""
    session, lines = await asyncio.to_thread(alone, served)
    assert session["mirror"] == "near"
    assert session["url"] == f"{forge.url}/{NAME}/info/refs?service=git-upload-pack"
    assert ("session", "moves to the mirror near, if it carries no credentials") in lines
    assert ("mirror", "near: chosen") in lines
    (dead,) = [text for title, text in lines if title == "mirror" and text.startswith("dead")]
    assert dead.startswith("dead: down: ")
    assert dead.endswith("Seen last: no answer (no connection: connection refused)")
    run_git(forge.root / NAME, "update-ref", "refs/heads/ahead", "refs/heads/main")
    session, lines = await asyncio.to_thread(alone, served)
    assert (session["mirror"], session["stays"]) == (None, "no_mirror")
    assert lines[-1][1].startswith("stays here: no_mirror: ")
    (near,) = [each for each in session["mirrors"] if each["name"] == "near"]
    assert (near["verdict"], near["seen"]) == ("mirror_stale", "its refs are not ours")


async def test_what_keeps_every_session(serve: Serve, repository: Repository, forge: Forge) -> None:
    """A repository that hides refs stays, and no mirror is asked for it."""
    served = await serve(
        repository.root, health=SELDOM, access=OPERATORS, session_mirrors=[mirror(forge.url)]
    )
    await index_all(served.settings, Silent(), gc=False)
    await served.runtime.catalogs.refresh_all()
    run_git(repository.path, "config", "transfer.hideRefs", "refs/pull")
    session = await explained(served)
    assert (session["mirror"], session["stays"]) == (None, "hides_refs")
    assert session["mirrors"][0]["verdict"] == "mirror_unknown"
    assert watch_of(served).observed()[0].repositories == ()


async def test_what_is_seen_of_mirrors(
    served: Served, git: Git, repository: Repository, tmp_path: Path
) -> None:
    """The API and the page tell health, freshness, when it was asked, and who moved."""
    assert [each["repositories"] for each in (await asked(served, "api/mirrors"))["mirrors"]] == [
        [], [], [],
    ]  # fmt: skip
    url = repository.url(served.url)
    await git("ls-remote", url)
    await watch_of(served).look()
    await git("clone", url, tmp_path / "moved")
    dead, near, other = (await asked(served, "api/mirrors"))["mirrors"]
    assert (dead["state"] in {"suspect", "down"}, dead["named"], dead["moved"]) == (True, False, 0)
    assert (near["state"], near["named"], near["moved"]) == ("up", True, 1)
    assert (near["regions"], near["priority"], near["weight"]) == (["eu-*"], 2, 1.0)
    (fresh,) = near["repositories"]
    assert (fresh["repository"], fresh["vcs"], fresh["fault"]) == (NAME, "git", None)
    assert fresh["compared"] <= near["looked"]
    assert other["repositories"] == []
    status = await asked(served, "api/status")
    assert [each["moved"] for each in status["mirrors"]] == [0, 1, 0]
    assert status["concerns"] == ["Not every session mirror is up: dead."]
    async with aiohttp.ClientSession() as session, session.get(f"{served.url}/-/") as answer:
        page = await answer.text()
    assert f"{NAME}: its refs are ours" in page
    assert "no connection: connection refused" in page


async def test_no_mirrors(serve: Serve, repository: Repository) -> None:
    """Where there are none, nothing is said of sessions."""
    served = await serve(repository.root, access=OPERATORS)
    await index_all(served.settings, Silent(), gc=False)
    await served.runtime.catalogs.refresh_all()
    assert await explained(served) is None
    assert (await asked(served, "api/mirrors"))["mirrors"] == []


async def test_the_server_is_asked(served: Served) -> None:
    """`offramp explain --server` prints what it says."""
    await explained(served)
    await watch_of(served).look()
    args = ("--repo", "project", "--from", "127.0.0.1", "--accepts", "http", "--server", served.url)
    done = await asyncio.to_thread(CliRunner().invoke, group, ["explain", *args])
    assert done.exit_code == 0, done.output
    assert "mirror    other: not_mirrored: " in done.stdout
    assert "session   moves to the mirror near, if it carries no credentials\n" in done.stdout
