# Law of this file: the reference says what there is; what is not in it fails here.

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import click
import pytest
from aiohttp import web
from click.testing import CliRunner
from prometheus_client.metrics import MetricWrapperBase

from cli.commands_page import commands, page
from cli.main import offramp
from server.app import make_admin_app, make_app
from server.metrics import Metrics
from tests.conftest import Serve

DOCS: Final = Path(__file__).parents[2] / "docs"

# Whatever else is asked for is 404 by these, and no route of its own.
_NOTHING: Final = {"listen": "/-/{path}", "admin.listen": "/{path}"}


def test_the_page_of_commands_is_up_to_date() -> None:
    """docs/cli.md is what `offramp config docs cli` prints."""
    assert (DOCS / "cli.md").read_text() == page(), "run: offramp config docs cli > docs/cli.md"
    assert CliRunner().invoke(offramp, ["config", "docs", "cli"]).output == page()


@pytest.mark.parametrize("context", list(commands(offramp, "offramp")), ids=lambda c: c.info_name)
def test_every_command_is_described(context: click.Context) -> None:
    """A command says what it does, and so does each of its options."""
    options = [param for param in context.command.params if isinstance(param, click.Option)]
    silent = [option.name for option in options if not (option.help or "").endswith((".", "]"))]
    assert silent == []
    assert (context.command.help or "").strip()


def test_every_command_is_on_the_page() -> None:
    """None is left out but the hidden ones."""
    on_page = set(re.findall(r"^## (.*)$", page(), re.MULTILINE))
    assert on_page == {context.info_name for context in commands(offramp, "offramp")}
    assert {"offramp serve", "offramp config check"} <= on_page
    assert "offramp config docs" not in on_page


def test_every_metric_is_documented_with_its_labels() -> None:
    """operations.md lists each metric with just the labels that it has."""
    rows = re.findall(
        r"^\| `(offramp_\w+)` \| (.*?) \|", (DOCS / "operations.md").read_text(), re.MULTILINE
    )
    written = {name: re.findall(r"`(\w+)`", labels) for name, labels in rows}
    kept = {
        collector._name + ("_total" if collector._type == "counter" else ""): [
            *collector._labelnames
        ]
        for collector in Metrics()._registry._collector_to_names
        if isinstance(collector, MetricWrapperBase)
    }
    assert len(kept) > 10
    assert {name: labels for name, labels in written.items() if name in kept} == kept


Routes = dict[str, set[str]]


def _routes(app: web.Application) -> Routes:
    """Paths of an application, with the methods that they answer."""
    found: Routes = {}
    for route in app.router.routes():
        assert route.resource is not None
        path = re.sub(r"\{(\w+):[^{}]*\}", r"{\1}", route.resource.canonical)
        found.setdefault(path, set()).add(route.method)
    return found


def _written(listener: str) -> Routes:
    """Those that routes.md says a listener has, where there are two."""
    rows = re.findall(
        r"^\| `(/\S+)` \| (\w+) \| (yes|no) \| (yes|no) \|",
        (DOCS / "routes.md").read_text(),
        re.MULTILINE,
    )
    methods = {"any": {"*"}, "GET": {"GET", "HEAD"}}
    return {
        path: methods[method]
        for path, method, *has in rows
        if has[["listen", "admin.listen"].index(listener)] == "yes"
    }


async def test_every_route_is_documented(serve: Serve, tmp_path: Path) -> None:
    """routes.md lists the routes of both listeners, and says which has what."""
    (tmp_path / "repos").mkdir()
    server = await serve(tmp_path / "repos", admin={"listen": "127.0.0.1:0"})
    for listener, make in (("listen", make_app), ("admin.listen", make_admin_app)):
        routes = _routes(make(server.runtime))
        routes.pop(_NOTHING[listener])
        assert routes == _written(listener), listener


async def test_without_a_second_listener_the_first_has_all(serve: Serve, tmp_path: Path) -> None:
    """What routes.md says of either is at `listen` then."""
    (tmp_path / "repos").mkdir()
    server = await serve(tmp_path / "repos")
    assert _routes(make_app(server.runtime)) == _written("listen") | _written("admin.listen")
