# Law of this file: whoever serves Mercurial repositories is told a line that clones each.

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cli.serve import _greet
from server.settings import Settings, load

CLONE = "  hg clone http://127.0.0.1:8417/"


@pytest.fixture(autouse=True)
def program(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in PATH that is taken for hg; it is not run."""
    hg = here / "bin/hg"
    hg.parent.mkdir()
    hg.write_text("")
    hg.chmod(0o755)
    monkeypatch.setenv("PATH", str(hg.parent))
    return hg


def greeting(root: Path) -> list[str]:
    """The lines with which the server greets, between what names ROOT and the status page."""
    return greeted(load(None, root=root))


def greeted(loaded: Settings) -> list[str]:
    """The same, by settings."""

    @click.command()
    def command() -> None:
        _greet(loaded, "127.0.0.1:8417")

    lines = CliRunner().invoke(command, catch_exceptions=False).output.splitlines()[1:]
    return [line for line in lines if not line.startswith("  status page: ")]


def made(root: Path, *names: str) -> Path:
    """ROOT with what looks like Mercurial repositories."""
    for name in names:
        (root / name / ".hg" / "store").mkdir(parents=True)
    return root


def test_a_greeting(here: Path) -> None:
    """Each Mercurial repository has its line, which every version of hg takes."""
    root = made(here / "root", "b", "group/a")
    assert greeting(root) == [f"{CLONE}b", f"{CLONE}group/a"]


def test_both_kinds(here: Path) -> None:
    """Repositories of git come first, and both count to what is shown."""
    root = made(here / "root", *(f"h{number:02}" for number in range(20)))
    for folder in ("objects", "refs"):
        (root / "g.git" / folder).mkdir(parents=True)
    (root / "g.git" / "HEAD").write_text("ref: refs/heads/main\n")
    lines = greeting(root)
    assert lines[0].endswith(" clone http://127.0.0.1:8417/g.git")
    assert lines[1] == f"{CLONE}h00"
    assert lines[-1] == "  ... and 1 more repositories"
    assert len(lines) == 21


def test_a_strange_name_is_quoted(here: Path) -> None:
    """The line is one that a shell takes apart into a URL."""
    assert greeting(made(here / "root", "a b;c")) == [f"{CLONE}a%20b%3Bc"]


def test_upstreams(here: Path) -> None:
    """An upstream of Mercurial is cloned from by hg, one of git by git."""
    loaded = Settings.model_validate(
        {
            "upstreams": [
                {"prefix": "/hg/", "url": "https://hg.example.org", "vcs": "hg"},
                {"prefix": "/forge/", "url": "https://forge.example.org"},
            ]
        }
    )
    hg, git = greeted(loaded)
    assert hg.startswith("  hg clone http://127.0.0.1:8417/hg")
    assert git.startswith("  git ")


def test_no_hg(here: Path, program: Path) -> None:
    """It is said that Mercurial repositories cannot be served, with what to do; others can be."""
    program.unlink()
    root = made(here / "root", "a")
    *lines, last = greeting(root)
    assert lines == [f"{CLONE}a"]
    assert last.startswith("offramp: no 'hg' is found")
    assert "hg.program" in last
    (root / "a").rename(here / "elsewhere")
    assert not any("hg" in line for line in greeting(root))


def test_an_empty_root(here: Path) -> None:
    """Only where there is neither a git nor a Mercurial repository is that said."""
    (here / "root").mkdir()
    assert greeting(here / "root") == [
        "  no repository there yet; one that is added is served at once"
    ]
