# Law of this file: operators are told what real clients did, as a page and as JSON; nobody else is
# told anything.

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from indexer.report import Silent
from server.indexing import index_all
from server.status.counting import FIGURES
from server.status.published import Shelves
from server.status.routes import _REFUSED, StatusRoutes
from server.status.spans import SPANS
from server.status.status import Status
from server.status.troubles import Troubles
from tests.conftest import Git, Serve, Served
from tests.status.scene import repository, week

PATHS = ("", "api/status", "api/history", "api/repositories", "api/errors")


async def get(
    served: Served, path: str, headers: dict[str, str] | None = None
) -> tuple[int, str, aiohttp.ClientResponse]:
    """Status, body and answer."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{served.url}/-/{path}", headers=headers) as answer,
    ):
        return answer.status, await answer.text(), answer


async def told(served: Served, path: str) -> Any:
    """What the API says."""
    status, body, answer = await get(served, f"api/{path}")
    assert status == 200, body
    assert answer.content_type == "application/json"
    return json.loads(body)


async def test_figures_of_real_clones(serve: Serve, git: Git, tmp_path: Path) -> None:
    """Inline and redirected clones of stock git are in every figure, at once."""
    root = tmp_path / "repos"
    repository(root / "a.git", 100_000)
    served = await serve(root)
    elsewhere = ("-c", "fetch.uriProtocols=http")
    await git("clone", "-q", f"{served.url}/a.git", tmp_path / "1")  # computed
    await git("clone", "-q", f"{served.url}/a.git", tmp_path / "2")  # known
    await git(*elsewhere, "clone", "-q", f"{served.url}/a.git", tmp_path / "3")
    status = await told(served, "status")
    hour = next(each for each in status["shares"] if each["span"] == "hour")
    assert hour["redirected"] > 100_000
    assert hour["inline"] > 200_000
    assert 0.2 < hour["share"] < 0.5
    saved = status["saved"][0]
    # Who is redirected has another question than who is not: it was computed, too.
    runs = served.executions()
    assert (saved["answered"], saved["runs"], saved["saved"]) == (3, runs, 3 - runs)
    assert saved["cpu"] > 0
    assert saved["worth"] == pytest.approx(3 / runs * saved["cpu"])
    target = status["targets"][0]
    assert (target["name"], target["state"], target["is_named"]) == ("self", "up", True)
    assert target["latency"] > 0
    standing = {name: target[name] for name in ("type", "store", "regions", "priority", "weight")}
    assert standing == {
        "type": "self", "store": "main", "regions": [], "priority": 1, "weight": 1.0,
    }  # fmt: skip
    assert status["mirrors"] == []
    history = await told(served, "history?span=hour")
    assert len(history["points"]) == 60
    assert sum(point["inline"] for point in history["points"]) == hour["inline"]


async def test_repositories(serve: Serve, tmp_path: Path) -> None:
    """What is published is told with sizes, times and cover."""
    root = tmp_path / "repos"
    repository(root / "a.git", 1000)
    served = await serve(root)
    await index_all(served.settings, Silent(), gc=False)
    found = await told(served, "repositories")
    assert (found["total"], found["page"], found["pages"]) == (1, 1, 1)
    bundles = found["repositories"][0]["bundles"]
    assert [each["kind"] for each in bundles] == ["full", "blobless"]
    assert bundles[0]["covered"] == bundles[0]["tips"] == 1


async def test_errors_are_told(serve: Serve, tmp_path: Path) -> None:
    """A target that nobody can read is among the warnings, and at the top of the page."""
    targets = ({"type": "http", "name": "dead", "base_url": "http://127.0.0.1:9"},)
    served = await serve(tmp_path, targets=targets)
    await served.runtime.health.probe()
    await served.runtime.health.probe()
    errors = (await told(served, "errors"))["errors"]
    assert "target dead is down" in errors[0]["message"]
    assert (await told(served, "status"))["concerns"] == ["Not every target is up: dead."]
    _, page, _ = await get(served, "")
    assert "Not every target is up: dead." in page


async def test_history_survives_a_restart(serve: Serve, git: Git, tmp_path: Path) -> None:
    """A server that is started again goes on where the one before ended."""
    root = tmp_path / "repos"
    repository(root / "a.git", 100_000)
    first = await serve(root)
    await git("clone", "-q", f"{first.url}/a.git", tmp_path / "1")
    before = (await told(first, "status"))["shares"][1]["inline"]
    await first.runtime.status.close()
    second = await serve(root)
    assert (await told(second, "status"))["shares"][1]["inline"] == before > 100_000
    await git("clone", "-q", f"{second.url}/a.git", tmp_path / "2")
    assert (await told(second, "status"))["shares"][1]["inline"] > before + 100_000


async def test_spans(serve: Serve, tmp_path: Path) -> None:
    """Every span has its page and its figures."""
    served = await serve(tmp_path)
    await asyncio.to_thread(week, served.settings.data, step=21_600)
    for span in SPANS:
        status, page, answer = await get(served, f"?span={span}&refresh=5&page=7")
        assert status == 200
        assert answer.content_type == "text/html"
        assert 'content="10"' in page  # not faster than that
        assert f'span={span}&amp;refresh=10#traffic" aria-current="true"' in page
        history = await told(served, f"history?span={span}")
        assert history["span"] == span
        assert sum(point["redirect"] for point in history["points"]) > 0


WRONG = ("?span=century", "?page=x", "?page=-1", "?refresh=%C2%B2", "?page=99999999999999999")


async def test_wrong_questions(serve: Serve, tmp_path: Path) -> None:
    """What cannot be understood is refused in a sentence, and repeated nowhere."""
    served = await serve(tmp_path)
    for query in WRONG:
        status, body, _ = await get(served, query)
        assert status == 400, query
        assert "century" not in body


async def test_only_operators(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others are refused, before anything is read."""
    served = await serve(tmp_path, access={"operators": ("192.0.2.1",)})

    def read(*_: object) -> None:
        raise AssertionError("it was read")

    for what, method in ((Status, "report"), (Status, "figures"), (Shelves, "look")):
        monkeypatch.setattr(what, method, read)
    monkeypatch.setattr(Troubles, "last", read)
    for path in PATHS:
        status, body, _ = await get(served, path)
        assert (status, body) == (403, f"{_REFUSED}\n")


@pytest.mark.parametrize("operators", [(), ("127.0.0.1",)])
async def test_what_other_servers_have(
    serve: Serve, tmp_path: Path, operators: tuple[str, ...]
) -> None:
    """Of a store that is shared, operators alone are told what others serve; they may ask who."""
    shared = {"type": "directory", "path": str(tmp_path / "store")}
    repository(tmp_path / "theirs" / "secret.git", 1000)
    theirs = await serve(tmp_path / "theirs", data=tmp_path / "1", store=shared)
    await index_all(theirs.settings, Silent(), gc=False)
    repository(tmp_path / "ours" / "open.git", 1000)
    access = {"operators": operators}
    served = await serve(tmp_path / "ours", data=tmp_path / "2", store=shared, access=access)
    await index_all(served.settings, Silent(), gc=False)
    found = await told(served, "repositories")
    names = [each["name"] for each in found["repositories"]]
    assert names == (["open.git", "secret.git"] if operators else ["open.git"])
    _, page, _ = await get(served, "")
    assert ("secret.git" in page) == bool(operators)


async def test_private_repositories(serve: Serve, tmp_path: Path) -> None:
    """Where something is private, who is listed sees it, and else nobody, this machine neither."""
    access = {"auth": "token", "tokens": ({"sha256": "0" * 64, "repositories": ("*",)},)}
    for operators, status in (((), 403), (("127.0.0.1",), 200)):
        served = await serve(tmp_path, access={**access, "operators": operators})
        for path in PATHS:
            assert (await get(served, path))[0] == status


async def test_how_the_page_is_sent(serve: Serve, tmp_path: Path) -> None:
    """With a policy that lets nothing in, and to be kept by nobody."""
    _, page, answer = await get(await serve(tmp_path), "")
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.charset == "utf-8"
    assert "<script" not in page


async def test_a_history_that_cannot_be_read(serve: Serve, tmp_path: Path) -> None:
    """The page says so, and shows the rest."""
    served = await serve(tmp_path)
    history = served.runtime.status.history
    object.__setattr__(history, "directory", Path("/dev/null/nowhere"))
    status, page, _ = await get(served, "")
    assert status == 200
    assert "The history cannot be read." in page


async def test_every_route_is_documented(serve: Serve, tmp_path: Path) -> None:
    """The page in the documentation names every route of ours, and every figure of a step."""
    runtime = (await serve(tmp_path)).runtime
    said = (Path(__file__).parents[2] / "docs/status-page.md").read_text()
    routes = StatusRoutes(runtime.status, runtime.access_rules).listed()
    assert [path for path, _ in routes if f"| `{path}` |" not in said] == []
    assert [figure for figure in FIGURES if f"`{figure}`" not in said] == []
