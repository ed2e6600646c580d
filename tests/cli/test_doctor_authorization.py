# Law of this file: an Authorization that would go where it is not meant to go is found, by git's
# own reading of its settings; its value is in nothing that is said.

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.main import offramp as group
from redirects.targets import HttpTarget, Target
from redirects.window import Window
from repos.git.program import Git
from server.checks_authorization import check_leaks
from tests.cli.test_explain import _Handler

WINDOW = Window(900, 21600)
TARGETS: tuple[Target, ...] = (
    HttpTarget("cdn", "https://cdn.example.org/packs", WINDOW),
    HttpTarget("eu", "https://eu.example.net", WINDOW),
)
VALUE = "Authorization: Basic aHVudGVyMg=="


@pytest.mark.parametrize(
    ("key", "value", "leaks"),
    [
        ("http.https://git.example.org/.extraHeader", VALUE, []),
        ("http.https://cdn.example.org.extraHeader", VALUE, ["cdn"]),
        ("http.https://*.example.net.extraHeader", VALUE.lower(), ["eu"]),
        ("http.https://cdn.example.org/packs/.extraHeader", VALUE, ["cdn"]),
        ("http.https://cdn.example.org.extraHeader", "X-Trace: 1", []),
        # Told where this user's git is looked at, for all targets at once.
        ("http.extraHeader", VALUE, []),
    ],
)
def test_settings_that_fit_a_target(here: Path, key: str, value: str, leaks: list[str]) -> None:
    """By the URLs that git compares; a header of another name is nobody's secret."""
    subprocess.run(("git", "config", "--global", key, value), check=True)
    verdicts = list(check_leaks(Git(), TARGETS))
    assert [verdict.what.split()[1].rstrip(":") for verdict in verdicts] == leaks
    assert "aHVudGVyMg" not in json.dumps([str(verdict) for verdict in verdicts])


class _Strict(_Handler):
    """Refuses what S3 refuses: a signed URL with a header besides."""

    def do_GET(self) -> None:  # noqa: N802 - the base class's word
        if "Authorization" in self.headers:
            self.send_error(400)
        else:
            super().do_GET()


@contextmanager
def server(kind: type[_Handler], store: Path) -> Iterator[str]:
    """The URL of such a static server."""
    made = ThreadingHTTPServer(("127.0.0.1", 0), partial(kind, directory=str(store)))
    thread = threading.Thread(target=made.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{made.server_address[1]}"
    finally:
        made.shutdown()
        thread.join()
        made.server_close()


@pytest.mark.parametrize("kind", [_Handler, _Strict])
def test_a_target_that_refuses_foreign_headers(here: Path, kind: type[_Handler]) -> None:
    """It is told, with what clients are to write; one that takes no notice is in order."""
    with server(kind, here / "offramp-data/store") as url:
        (here / "x.toml").write_text(
            f'[[targets]]\ntype = "http"\nname = "cdn"\nbase_url = "{url}"\n'
        )
        output = CliRunner().invoke(group, ["doctor", "--config", "x.toml"]).output
    told = [line for line in output.splitlines() if "Authorization of somebody else" in line]
    assert len(told) == (kind is _Strict)
    assert all("info  target cdn: it refuses" in line and "(status 400)" in line for line in told)
    assert all("http.https://git.example.org/.extraHeader" in line for line in told)
