# Law of this file: what the status API says is what was done to stock git, and the page about it
# shows what is really answered; whoever may not ask is told nothing, and nobody a key.

from __future__ import annotations

import asyncio
import json
import logging
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
from click.testing import CliRunner

from cli.main import offramp as group
from indexer.report import Silent
from redirects.decision import Reason
from server.access.rules import AccessRules
from server.indexing import index_all
from server.settings_upstreams import AccessSettings
from tests.conformance.clones import accepting, locations
from tests.conformance.processes import Offramp
from tests.conformance.repositories import Repository
from tests.conformance.test_regions import file_server, from_address
from tests.conftest import Serve, Served

PAGE: Final = (Path(__file__).parents[2] / "docs/status-api.md").read_text()

# Each command of the page, and the JSON that it says is answered.
SHOWN: Final = re.findall(
    r"^curl 'http://127.0.0.1:8417(/\S+)'\n```\n\n```json\n(.*?)^```$",
    PAGE,
    re.MULTILINE | re.DOTALL,
)
AMERICA: Final = "198.51.100.7"


class Asking:
    """A server with a target in America that is down, and one in Europe, and how it is asked."""

    def __init__(self, served: Served, session: aiohttp.ClientSession) -> None:
        self.served = served
        self._session = session

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Status and body."""
        async with self._session.get(self.served.url + path, headers=headers) as answer:
            return answer.status, await answer.text()

    async def json(self, path: str) -> dict[str, Any]:
        """What is told to an operator."""
        status, body = await self.get(path)
        assert status == 200, body
        told: dict[str, Any] = json.loads(body)
        return told


@pytest.fixture
async def asking(serve: Serve, repository: Repository, tmp_path: Path) -> AsyncIterator[Asking]:
    """The server, indexed while both were up; then America went."""
    store = tmp_path / "data/store"
    (store / "entities").mkdir(parents=True)
    async with file_server(store) as eu, aiohttp.ClientSession() as session:
        async with file_server(store) as us:
            served = await serve(
                repository.root,
                targets=[
                    {"type": "http", "name": "eu", "base_url": eu, "regions": ["eu-*"]},
                    {"type": "http", "name": "us", "base_url": us, "regions": ["us-*"]},
                    {"type": "self"},
                ],
                regions={
                    "networks": {"us-east-1": ["198.51.100.0/24"]},
                    "proxies": ["127.0.0.0/8"],
                },
                redirect={"min_size": 0},
                access={"operators": ["127.0.0.1"]},
            )
            await index_all(served.settings, Silent(), gc=True)
            await served.runtime.catalogs.refresh_all()
        for _ in range(2):
            await served.runtime.health.probe()
        yield Asking(served, session)


def shape(value: object) -> object:
    """Keys of all objects, and of lists what their items have."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return None


def keys(value: object) -> set[str]:
    """Keys of all objects, wherever."""
    found = re.findall(r"'(\w+)':", repr(shape(value)))
    return set(found)


async def test_the_page_shows_what_is_answered(asking: Asking, tmp_path: Path) -> None:
    """Each address of docs/status-api.md is answered with the keys that stand below it."""
    client = from_address(accepting(tmp_path), AMERICA)
    await client("clone", "--bare", asking.served.url + "/project.git", "clone")
    assert len(SHOWN) == 3
    for path, shown in SHOWN:
        told = await asking.json(path)
        assert keys(told) == keys(json.loads(shown)), path


async def test_what_was_done_is_told(asking: Asking, tmp_path: Path) -> None:
    """A clone from America was sent elsewhere, because the target there was down, since when."""
    client = from_address(accepting(tmp_path), AMERICA).traced()
    said = await client("clone", "--bare", asking.served.url + "/project.git", "clone")
    told = await asking.json("/-/api/decisions")
    (made,) = told["decisions"]
    assert (made["outcome"], made["target"], made["reason"]) == ("redirect", "self", "")
    assert made["passed_over"] == [{"target": "us", "reason": "down"}]
    assert (made["region"], made["network"]) == ("us-east-1", "198.51.100.0/24")
    assert made["repository"] == "project.git"
    assert re.fullmatch("[0-9a-f]{16}", made["request_id"])

    path = f"/-/api/explain?repo=project&from={AMERICA}&accepts=http"
    told = await asking.json(path)
    verdicts = {each["name"]: each for each in told["targets"]}
    assert {name: each["verdict"] for name, each in verdicts.items()} == {
        "us": "down", "self": "chosen", "eu": "nearer_target",
    }  # fmt: skip
    (us,) = [
        each for each in (await asking.json("/-/api/targets"))["targets"] if each["name"] == "us"
    ]
    assert (us["state"], us["named"]) == ("down", False)
    assert us["seen"] == verdicts["us"]["seen"]
    # It was not named any more from the first probe on, and down with the second.
    assert verdicts["us"]["since"] <= us["since"]

    (url,) = locations(said).values()
    assert told["redirect"]["url"] == url.partition("?")[0] != url
    status, _ = await asking.get(told["redirect"]["url"].removeprefix(asking.served.url))
    assert status == 403


async def test_no_key_and_no_address_is_told(asking: Asking, tmp_path: Path) -> None:
    """Neither a signature nor more of a client's address than its network is in any answer."""
    client = from_address(accepting(tmp_path), AMERICA)
    await client("clone", "--bare", asking.served.url + "/project.git", "clone")
    decisions = (await asking.get("/-/api/decisions"))[1]
    assert AMERICA not in decisions
    explained = (await asking.get(SHOWN[0][0]))[1]
    for text in (decisions, explained, (await asking.get("/-/api/targets"))[1]):
        assert "?" not in text
        assert "signature" not in text


@pytest.mark.parametrize("path", [path for path, _ in SHOWN])
async def test_others_are_told_nothing(asking: Asking, path: str) -> None:
    """This machine is no operator by itself: behind a plain proxy on it, everybody is this machine.

    A question that is none does not change that.
    """
    asking.served.runtime.access_rules = AccessRules(AccessSettings())
    for each in (path, path.partition("?")[0]):
        for headers in ({}, {"X-Forwarded-For": "203.0.113.9"}, {"Host": "localhost"}):
            status, body = await asking.get(each, **headers)
            assert (status, body.split()[:4]) == (403, ["This", "is", "for", "access.operators,"])


@pytest.mark.parametrize(
    ("query", "status", "why"),
    [
        ("from=192.0.2.7", 400, "Which repo?"),
        ("repo=project", 400, "Which from?"),
        ("repo=project&from=here", 400, "from=here: no IP address"),
        ("repo=project&from=192.0.2.7&accepts=ftp", 400, "neither http nor https"),
        ("repo=project&from=192.0.2.7&region=%3F", 400, "no name of a region"),
        ("repo=project&from=192.0.2.7&entity=abc", 400, "no SHA-256"),
        ("repo=made-up&from=192.0.2.7", 404, "no such repository"),
        (f"repo=project&from=192.0.2.7&entity={'ab' * 32}", 404, "nor is it in cache or store"),
    ],
)
async def test_what_cannot_be_explained(asking: Asking, query: str, status: int, why: str) -> None:
    """It is said what is missing; and no name that somebody made up is remembered."""
    watched = set(asking.served.runtime.catalogs._watched)
    answered, body = await asking.get(f"/-/api/explain?{query}")
    assert answered == status
    assert why in body
    assert set(asking.served.runtime.catalogs._watched) <= watched | {"project.git"}


async def test_offramp_explain_asks_a_server(asking: Asking) -> None:
    """It prints what the server says, the moment since when a target is down included."""
    args = ("--repo", "project", "--from", AMERICA, "--accepts", "http")
    done = await asyncio.to_thread(
        CliRunner().invoke, group, ["explain", *args, "--server", asking.served.url]
    )
    assert done.exit_code == 0, done.stderr
    assert re.search(
        r"^target    us: down since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC: Probes .* Seen last: ",
        done.stdout,
        re.MULTILINE,
    )
    assert "answer    a redirect to self, by a URL that works until " in done.stdout


async def test_a_share_of_the_decisions_is_logged(
    asking: Asking, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of two clones the one that the lot falls on, with what was passed over and no URL."""
    draws = iter((0.5, 0.4))
    decisions = asking.served.runtime.decisions
    decisions.share, decisions.chance = 0.5, lambda: next(draws)
    client = from_address(accepting(tmp_path), AMERICA)
    with caplog.at_level(logging.INFO, "offramp.decisions"):
        await client("clone", "--bare", asking.served.url + "/project.git", "first")
        assert "decision" not in caplog.messages
        await client("clone", "--bare", asking.served.url + "/project.git", "second")
    (line,) = [record for record in caplog.records if record.name == "offramp.decisions"]
    newest = next(decisions.last())
    assert line.__dict__["request_id"] == newest.request_id
    assert line.__dict__["passed_over"] == [f"us: {Reason.DOWN.value}"]


async def test_the_log_has_the_decision_that_is_told(
    offramp: Offramp, repository: Repository, tmp_path: Path
) -> None:
    """Once SIGHUP says that all decisions are to be logged, by the same request id."""
    config = tmp_path / "offramp.toml"
    text = (
        'regions.proxies = ["127.0.0.0/8"]\nredirect.min_size = 0\nlog.format = "json"\n'
        'access.operators = ["127.0.0.1"]\n'
    )
    config.write_text(f"{text}log.decisions = 0\n")
    server = await offramp.serve(repository.root, "--config", str(config))
    client = from_address(accepting(tmp_path), AMERICA)
    await client("clone", "--bare", repository.url(server.url), "first")
    config.write_text(f"{text}log.decisions = 1\n")
    server.process.send_signal(signal.SIGHUP)
    await server.logged("goes on with new log.decisions")
    await client("clone", "--bare", repository.url(server.url), "second")
    line = json.loads(await server.logged('"event": "decision"'))
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{server.url}/-/api/decisions") as answer,
    ):
        told = await answer.json()
    assert told["process"] in {server.process.pid, *server.workers()}
    second, first = told["decisions"]
    assert line["request_id"] == second["request_id"] != first["request_id"]
    assert (line["target"], line["network"]) == (second["target"], "198.51.100.0/24")
