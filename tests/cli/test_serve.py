# Law of this file: whoever starts the server is told where it is, and lines that work when they are
# pasted.

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from urllib.request import urlopen

import click
import pytest
from click.testing import CliRunner

from cli.serve import _greet, _greet_aside, clone_url, uri_protocols
from server.settings import Settings, load

S3 = {"type": "s3", "bucket": "b"}
KEYS = [{"id": "k", "file": "cdn.key"}]


PAGE = "  status page: "


def greeting(
    root: Path, address: str = "127.0.0.1:8417", admin: str | None = None, **settings: object
) -> list[str]:
    """The lines with which the server greets."""
    loaded = load(None, root=root, **settings)

    @click.command()
    def command() -> None:
        _greet(loaded, address, admin)

    done = CliRunner().invoke(command, catch_exceptions=False)
    return done.output.splitlines()


def test_greeting_keeps_nobody_waiting(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever calls it serves meanwhile, however long it takes to walk ROOT."""
    began, served = Event(), Event()

    def walk(*_: object) -> None:
        began.set()
        served.wait()

    monkeypatch.setattr("cli.serve._greet", walk)
    _greet_aside(load(None, root=here), "127.0.0.1:8417")
    assert began.wait(60)
    served.set()


def made(root: Path, *names: str) -> Path:
    """ROOT with empty repositories."""
    for name in names:
        for folder in ("objects", "refs"):
            (root / name / folder).mkdir(parents=True)
        (root / name / "HEAD").write_text("ref: refs/heads/main\n")
    return root


def test_a_greeting(here: Path) -> None:
    """The address, for each repository a line to paste, in order, and where the page is."""
    root = made(here / "root", "b.git", "group/a.git")
    assert greeting(root) == [
        f"Offramp serves {root} at http://127.0.0.1:8417/",
        "  git -c fetch.uriProtocols=http,https clone http://127.0.0.1:8417/b.git",
        "  git -c fetch.uriProtocols=http,https clone http://127.0.0.1:8417/group/a.git",
        f"{PAGE}http://127.0.0.1:8417/-/",
    ]


def test_an_empty_root(here: Path) -> None:
    """Where there is nothing yet, that is said."""
    (here / "root").mkdir()
    assert greeting(here / "root")[1:-1] == [
        "  no repository there yet; one that is added is served at once"
    ]


def test_many_repositories(here: Path) -> None:
    """Of many, the first are shown and the others counted."""
    root = made(here / "root", *(f"r{number:02}.git" for number in range(23)))
    lines = greeting(root)
    assert len(lines) == 23
    assert lines[-2:] == ["  ... and 3 more repositories", f"{PAGE}http://127.0.0.1:8417/-/"]


def test_public_url_is_shown(here: Path) -> None:
    """Clients are told of the address that they can reach."""
    root = made(here / "root", "p.git")
    lines = greeting(root, public_url="https://git.example.org/x/")
    assert lines[0].endswith(" at https://git.example.org/x/")
    assert lines[1].endswith("=https clone https://git.example.org/x/p.git")


@pytest.mark.parametrize("address", ["0.0.0.0:80", "[::]:80"])
def test_an_address_that_means_every_interface(here: Path, address: str) -> None:
    """What is shown can be connected to."""
    (here / "root").mkdir()
    assert greeting(here / "root", address)[0].endswith(" at http://127.0.0.1:80/")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "http,https"),
        ({"public_url": "https://git.example.org"}, "https"),
        ({"public_url": "http://git.example.org"}, "http,https"),
        ({"targets": [{"type": "http", "name": "cdn", "base_url": "https://cdn"}]}, "https"),
        ({"targets": [{"type": "http", "name": "cdn", "base_url": "http://cdn"}]}, "http,https"),
        ({"targets": [{"type": "hmac", "base_url": "https://cdn", "keys": KEYS}]}, "https"),
        (
            {"targets": [{"type": "secure_link", "base_url": "http://c", "keys": KEYS}]},
            "http,https",
        ),
        ({"store": S3, "targets": [{"type": "s3"}]}, "https"),
        ({"store": S3}, "http,https"),
        ({"store": S3, "public_url": "https://git.example.org"}, "https"),
        ({"store": {**S3, "endpoint": "http://s3"}, "targets": [{"type": "s3"}]}, "http,https"),
        ({"store": {**S3, "endpoint": "https://s3"}, "targets": [{"type": "s3"}]}, "https"),
        (
            {
                "store": {**S3, "endpoint": "http://inside"},
                "targets": [{"type": "s3", "endpoint": "https://outside"}],
            },
            "https",
        ),
        ({"redirect": {"enabled": False}}, ""),
    ],
)
def test_the_schemes_of_all_targets(settings: dict[str, object], expected: str) -> None:
    """``https`` alone where every target is https; nothing where nothing is redirected."""
    loaded = Settings(**settings)  # type: ignore[arg-type]
    base = loaded.public_url or "http://127.0.0.1:8417"
    assert uri_protocols(loaded, base) == expected


def test_without_redirects_the_line_is_a_plain_clone(here: Path) -> None:
    """No setting is asked of a client that it would not use."""
    root = made(here / "root", "p.git")
    lines = greeting(root, redirect={"enabled": False})
    assert lines[1] == "  git clone http://127.0.0.1:8417/p.git"


@pytest.mark.parametrize("name", ["a b.git", "a'b;$(x).git", "ü.git", "100%.git", "a&b?c#d.git"])
def test_a_strange_name_is_quoted(here: Path, name: str) -> None:
    """The line is one that a shell takes apart into a URL of that repository."""
    words = shlex.split(greeting(made(here / "root", name))[1])
    assert words[-2] == "clone"
    assert not set(words[-1]) - set("abcdefghijklmnopqrstuvwxyz0123456789ABCDEF:/.%_-~")
    assert shlex.split(clone_url("http://h", name)) == [words[-1].replace("127.0.0.1:8417", "h")]


def test_a_name_that_is_no_utf8(here: Path) -> None:
    """A repository whose name is no UTF-8 does not keep the others from being served."""
    root = made(here / "root", "a.git", "b\udcff.git", "c.git")
    lines = greeting(root)
    assert any("/a.git" in line for line in lines)
    assert any("/c.git" in line for line in lines)


OPERATORS = {"operators": ["192.0.2.7"]}
PRIVATE = {"auth": "token", "tokens": [{"sha256": "ab" * 32, "repositories": ["*"]}]}


@pytest.mark.parametrize(
    ("admin", "access", "said"),
    [
        (None, {}, "http://127.0.0.1:8417/-/"),
        (None, OPERATORS, "http://127.0.0.1:8417/-/ (for access.operators)"),
        (None, PRIVATE | OPERATORS, "http://127.0.0.1:8417/-/ (for access.operators)"),
        (None, PRIVATE, None),
        ("http://127.0.0.1:9100/", PRIVATE, "http://127.0.0.1:9100/-/"),
        ("http://0.0.0.0:9100/", OPERATORS, "http://127.0.0.1:9100/-/ (for access.operators)"),
        ("unix:/a b", OPERATORS, "/-/ at unix:/a b: curl --unix-socket '/a b' http://offramp/-/"),
    ],
)
def test_the_page(
    here: Path, admin: str | None, access: dict[str, object], said: str | None
) -> None:
    """It is told where the status page is, and for whom; nothing, where it is closed to all."""
    (here / "root").mkdir()
    lines = greeting(here / "root", admin=admin, access=access)
    found = [line.removeprefix(PAGE) for line in lines if line.startswith(PAGE)]
    assert found == ([] if said is None else [said])


@contextmanager
def serving(root: Path, *args: str, lines: int = 2) -> Iterator[list[str]]:
    """Run the command; the lines that it greets with."""
    with subprocess.Popen(
        [sys.executable, "-c", "from cli.main import main; main()", "serve", str(root), *args],
        env={**os.environ, "OFFRAMP_LISTEN": "127.0.0.1:0", "OFFRAMP_LOG__ACCESS": "false"},
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        try:
            yield [running.stdout.readline().rstrip("\n") for _ in range(lines)]
        finally:
            running.send_signal(signal.SIGTERM)


def test_the_line_can_be_pasted(root: Path, here: Path) -> None:
    """The line that is printed clones, when it is printed and not later."""
    with serving(root) as (_, line):
        subprocess.run(f"{line} clone", shell=True, check=True, cwd=here)  # noqa: S602 - the promise
    assert (here / "clone" / "file").exists()


def test_flags(root: Path, here: Path) -> None:
    """``--data`` says where everything goes; nothing else is written."""
    with serving(root, "--data", "elsewhere", "--no-index") as lines:
        assert lines[0].startswith(f"Offramp serves {root} at http://127.0.0.1:")
    assert {path.name for path in here.iterdir()} == {"elsewhere", "root"}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_page_can_be_opened(
    root: Path, here: Path, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    """The address that is printed, on a listener of its own with a free port, has the page."""
    monkeypatch.setenv("OFFRAMP_ADMIN__LISTEN", "127.0.0.1:0")
    with serving(root, "--workers", workers, lines=3) as printed:
        assert printed[2].startswith(PAGE)
        with urlopen(printed[2].removeprefix(PAGE)) as page:  # noqa: S310 - http, as is asserted
            assert b"<h1>Offramp</h1>" in page.read()


def test_bad_flags(offramp, root: Path) -> None:
    """A number of workers that makes no sense is exit code 2."""
    for workers in ("0", "257", "many"):
        assert offramp("serve", str(root), "--workers", workers).returncode == 2
