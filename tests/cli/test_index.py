# Law of this file: a run over all repositories makes what is due, tells what failed, and what it
# published can be seen.

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cli.bar import bar
from cli.tables import age, size, table

Offramp = Callable[..., subprocess.CompletedProcess[str]]


def test_made_and_shown(offramp: Offramp, root: Path) -> None:
    """What is indexed is published, with the targets that it was read back through."""
    result = offramp("index", "root")
    assert result.returncode == 0, result.stderr
    assert not result.stderr  # nobody watches: no bar
    header, full, blobless = result.stdout.splitlines()
    assert header.split()[:3] == ["repository", "bundle", "outcome"]
    assert full.split()[:3] == ["group/a.git", "full", "made"]
    assert blobless.split()[:3] == ["group/a.git", "blobless", "made"]
    shown = offramp("bundles").stdout.splitlines()
    assert shown[0].split() == ["repository", "filter", "size", "objects", "age", "targets", "id"]
    assert shown[1].split()[:2] == ["group/a.git", "-"]
    assert shown[2].split()[:2] == ["group/a.git", "blob:none"]
    assert all("self" in line for line in shown[1:])
    for options in (("group/a.git",), ("group/a",), ("/group/a/", "--root", "root")):
        again = offramp("bundles", *options).stdout.splitlines()
        assert list(map(ageless, again)) == list(map(ageless, shown))
    unknown = offramp("bundles", "a", "--root", "root")
    assert unknown.returncode == 1
    assert unknown.stderr == (
        "offramp: a: nothing is published of it, and there is no such repository; did you mean"
        " group/a.git?\n"
    )


def ageless(line: str) -> list[str]:
    """The words of a line without the age, which grows from one call to the next."""
    return [word for word in line.split() if not re.fullmatch(r"\d+s", word)]


def test_nothing_to_do(offramp: Offramp, root: Path) -> None:
    """A second run makes nothing."""
    offramp("index", "root")
    run = json.loads(offramp("index", "root", "--json").stdout)
    (repository,) = run["repositories"]
    assert repository["repository"] == "group/a.git"
    assert not repository["failed"]
    assert {result["outcome"] for result in repository["results"]} == {"up to date"}
    assert run["gc"]["deleted"] == []
    assert run["gc"]["kept"] == run["gc"]["named"] == 4


def test_s3(offramp: Offramp, root: Path, s3_config: Path) -> None:
    """With an S3 store, bundles are read back through its presigned URLs."""
    result = offramp("index", "root", "--config", "offramp.toml", "--json")
    assert result.returncode == 0, result.stderr
    shown = json.loads(offramp("bundles", "--config", "offramp.toml", "--json").stdout)["bundles"]
    assert [bundle["filter"] for bundle in shown] == [None, "blob:none"]
    assert all(bundle["targets"] == ["s3", "self"] for bundle in shown)
    assert all(bundle["objects"] and bundle["size"] and bundle["age"] >= 0 for bundle in shown)


def test_one_failure_stops_no_other(offramp: Offramp, root: Path) -> None:
    """A broken repository is told, the others are indexed, and the exit code is 1."""
    subprocess.run(
        ("git", "clone", "-q", "--bare", root / "group/a.git", root / "broken.git"), check=True
    )
    (root / "broken.git" / "config").write_text("[core\n")
    result = offramp("index", "root")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    outcomes = {tuple(line.split()[:3:2]) for line in result.stdout.splitlines()[1:]}
    assert outcomes == {("broken.git", "failed"), ("group/a.git", "made")}


def test_old_entities_are_collected(offramp: Offramp, root: Path, here: Path) -> None:
    """What no catalog names and no URL can name any more is deleted, unless it is asked not to."""
    digest = "ab" * 32
    old = here / "offramp-data" / "store" / "entities" / "ab" / digest
    old.parent.mkdir(parents=True)
    old.write_bytes(b"old")
    os.utime(old, (1, 1))
    assert "deleted" not in offramp("index", "root", "--no-gc").stdout
    assert old.exists()
    assert "deleted 1 old entities, 3 B" in offramp("index", "root").stdout
    assert not old.exists()


def test_broken_catalog(offramp: Offramp, root: Path, here: Path) -> None:
    """A catalog that cannot be read is one line each; nothing is collected, the rest is shown."""
    offramp("index", "root")
    (here / "offramp-data" / "store" / "documents" / "catalogs" / "x.json").write_text("{")
    result = offramp("index", "root")
    assert result.returncode == 1
    assert result.stderr.startswith("offramp: nothing was collected: ")
    shown = offramp("bundles")
    assert shown.returncode == 1
    assert "group/a.git" in shown.stdout
    assert len(shown.stderr.splitlines()) == 1
    assert "catalogs/x.json" in shown.stderr
    only = offramp("bundles", "x")
    assert (only.returncode, only.stdout) == (1, "")


def test_empty_root(offramp: Offramp, here: Path) -> None:
    """A ROOT without repositories is told, and is no failure."""
    (here / "root").mkdir()
    result = offramp("index", "root")
    assert result.returncode == 0
    assert "no repository below" in result.stderr


def test_nothing_published(offramp: Offramp) -> None:
    """Without bundles there is a hint; a repository that has none was perhaps misspelt."""
    everything, one = offramp("bundles"), offramp("bundles", "group/b")
    assert (everything.returncode, everything.stdout) == (0, "")
    assert "`offramp index` makes them" in everything.stderr
    assert one.returncode == 1
    assert "group/b: nothing is published of it" in one.stderr
    assert json.loads(offramp("bundles", "--json").stdout) == {
        "bundles": [],
        "clone_bundles": [],
    }


@pytest.mark.parametrize("command", [("index", "root"), ("bundles",)])
def test_bucket_out_of_reach(
    offramp: Offramp, root: Path, here: Path, command: tuple[str, ...]
) -> None:
    """A bucket that cannot be reached is told, without a traceback and without a secret."""
    (here / "offramp.toml").write_text(
        '[store]\ntype = "s3"\nbucket = "b"\nregion = "us-east-1"\npath_style = true\n'
        'endpoint = "http://127.0.0.1:9"\nmax_attempts = 1\ntimeout = "2s"\n'
        'access_key_id = "AKIATEST"\nsecret_access_key = "hunter2"\n'
    )
    result = offramp(*command, "--config", "offramp.toml")
    assert result.returncode == 1
    assert "failed: no connection; look whether `endpoint`" in result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert "hunter2" not in result.stdout + result.stderr


def test_unusable_data(offramp: Offramp, root: Path, here: Path) -> None:
    """A data directory that cannot be one is one line."""
    (here / "file").touch()
    result = offramp("index", "root", "--data", "file")
    assert result.returncode == 1
    assert result.stderr.startswith("offramp: file")
    assert len(result.stderr.splitlines()) == 1


def test_bar_on_a_terminal(root: Path) -> None:
    """Who watches sees a bar on standard error, and the table on standard output is clean."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", "from cli.main import main; main()", "index", "root"],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 4096):
            seen += chunk
    except OSError:  # how a terminal ends
        pass
    finally:
        os.close(ours)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"group/a.git: full" in seen
    assert b"\x1b" not in output


def test_bar_draws_what_it_hears() -> None:
    """Steps of any name are drawn one after another."""
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with bar(console) as drawn:
        drawn.advance(1)  # nothing has begun
        drawn.start("[bold]a\udcff", "full: writing objects", 10)
        drawn.advance(4)
        drawn.progress.refresh()
        drawn.start("a", "full: publishing", None)
        drawn.done()
        drawn.done()
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[bold]a\\udcff: full: writing objects" in text
    assert "4/10" in text


def test_table() -> None:
    """Columns are aligned, numbers to the right, and no line ends in blanks."""
    rows = [("a", "1", "x"), ("long\udcff", "100", "")]
    assert table(("name", "size", "why"), rows, frozenset({1})) == (
        "name        size  why\na              1  x\nlong\\udcff   100\n"
    )


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (13_421_773, "12.8 MiB"),
        (1 << 40, "1.0 TiB"),
        (1 << 52, "4096.0 TiB"),
    ],
)
def test_size(count: int, text: str) -> None:
    """Sizes have a unit."""
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-5, "0s"), (0.5, "0s"), (59, "59s"), (3599, "59m"), (200_000, "2d")]
)
def test_age(seconds: float, text: str) -> None:
    """Ages have one unit."""
    assert age(seconds) == text


@given(st.integers(0, 1 << 60))
def test_any_size_is_short(count: int) -> None:
    """Every size fits into a column."""
    assert len(size(count)) <= 13
