# Law of this file: a run over all repositories brings the indexes of Mercurial ones up to date too,
# tells what became of each, and removes those whose repository is gone.

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.main import offramp as group
from repos.hg.generation import locked
from repos.hg.keeper import Keeper
from repos.hg.program import Hg
from repos.hg.repository import index_directory
from repos.hg.upkeep import IndexPlace
from tests.cli.hg_repositories import PROGRAM, environ, made
from tests.hg import versions
from tests.hg.repositories import work

INDEXES = Path("offramp-data/hg")


@pytest.fixture(autouse=True)
def program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands find hg."""
    for name, value in environ().items():
        monkeypatch.setenv(name, value)


def run(*args: str | Path, code: int = 0) -> Result:
    """Index in this process."""
    result = CliRunner().invoke(group, ["index", *map(str, args)])
    assert result.exit_code == code, result.output
    return result


def results(root: Path) -> dict[str, tuple[str, int, str]]:
    """By name: outcome, changesets and reason of a run."""
    said = json.loads(run(root, "--json").stdout)
    return {
        each["repository"]: (result["outcome"], result["objects"], result["reason"])
        for each in said["repositories"]
        for result in each["results"]
        if result["kind"] == "hg index" and result["size"] > 0
    }


def place(repository: Path) -> Path:
    """Where a repository's index lies."""
    return index_directory(INDEXES.absolute(), repository.resolve() / ".hg")


def test_made_grown_and_left_alone(here: Path) -> None:
    """The first run makes the index, a later one adds what is new, or does nothing."""
    root = made(here / "root", project="empty")
    with work(versions.hg(PROGRAM), root / "project") as repository:
        repository.commit(first="1\n")
        header, project, *bundles = run(root).stdout.splitlines()
        assert header.split()[:3] == ["repository", "bundle", "outcome"]
        assert project.split()[:4] == ["project", "hg", "index", "made"]
        assert project.endswith("there was none")
        assert [line.split()[1:3] for line in bundles] == [
            ["zstd-v2", "made"],
            ["gzip-v2", "made"],
            ["stream-v2", "made"],
        ]
        assert IndexPlace(place(root / "project")).exists
        repository.commit(second="2\n")
    assert results(root)["project"] == ("made", 2, "1 changeset is new")
    assert results(root)["project"] == ("up to date", 2, "no changeset is new")


def bundles(*args: str | Path) -> str:
    """What is shown of clone bundles."""
    result = CliRunner().invoke(group, ["bundles", *map(str, args)])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_clone_bundles_are_shown(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With how far they are behind, where that is known; settings say which there are."""
    monkeypatch.setenv("OFFRAMP_HG__BUNDLES", '["gzip-v2"]')
    monkeypatch.setenv("OFFRAMP_HG__BUNDLE_GROWTH", "5")
    root = made(here / "root", project="empty")
    with work(versions.hg(PROGRAM), root / "project") as repository:
        repository.commit(first="1\n")
        run(root)
        repository.commit(second="2\n")
        repository.commit(second="3\n")
    assert "2 changesets behind" in run(root).stdout
    (shown,) = json.loads(bundles("--json"))["clone_bundles"]
    assert (shown["kind"], shown["changesets"], shown["behind"]) == ("gzip-v2", 1, None)
    assert (shown["spec"], shown["heads"], shown["targets"]) == ("gzip-v2", 1, ["self"])
    (shown,) = json.loads(bundles("project", "--json", "--root", root))["clone_bundles"]
    assert (shown["behind"], shown["offered"]) == (2, True)
    monkeypatch.setenv("OFFRAMP_ROOT", str(root))
    header, line = bundles().splitlines()
    assert header.split()[:5] == ["repository", "kind", "size", "changesets", "behind"]
    assert line.split()[0:2] == ["project", "gzip-v2"]
    assert line.split()[4:6] == ["1", "2"]
    (next(place(root / "project").glob("*/index.sqlite"))).write_bytes(b"no database" * 1000)
    (shown,) = json.loads(bundles("--json"))["clone_bundles"]
    assert shown["behind"] is None
    shutil.rmtree(root / "project")
    assert bundles().splitlines()[1].split()[5] == "-"


def test_a_bundle_that_clients_are_not_told_of(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What holds a changeset that is secret by now is marked, as soon as somebody has looked."""
    monkeypatch.setenv("OFFRAMP_HG__BUNDLES", '["gzip-v2"]')
    root = made(here / "root", project="empty")
    with work(versions.hg(PROGRAM), root / "project") as repository:
        repository.commit(first="1\n")
        run(root)
        assert bundles("--root", root).splitlines()[1].split()[-2] == "self"
        versions.output(
            versions.hg(PROGRAM), root / "project", "phase", "--secret", "--force", "--rev", "tip"
        )
    Keeper(
        Hg(60, environ(), environ()["OFFRAMP_HG__PROGRAM"]),
        root / "project/.hg",
        place(root / "project"),
    ).refresh()
    assert bundles("--root", root).splitlines()[1].split()[-2] == "withheld"


def test_upstreams_alone(here: Path) -> None:
    """Without a ROOT it is said that there is nothing, and not below what."""
    (here / "offramp.toml").write_text(
        '[[upstreams]]\nvcs = "hg"\nprefix = "code"\nurl = "https://hg.example.org"\n'
    )
    said = CliRunner().invoke(group, ["index", "--config", "offramp.toml"])
    assert said.exit_code == 0
    assert "offramp: nothing to index: there is no ROOT" in said.stderr


def test_a_damaged_index_is_made_again(here: Path) -> None:
    """Nobody has to remove it by hand."""
    root = made(here / "root", project="empty")
    run(root)
    (file,) = place(root / "project").glob("*/index.sqlite")
    file.write_bytes(b"no database" * 1000)
    assert results(root)["project"] == ("made", 0, "there was none")
    assert results(root)["project"][0] == "up to date"


def test_what_is_no_index_of_ours_is_left_alone(here: Path) -> None:
    """Of what repository it is nobody can say, so it is not removed."""
    root = made(here / "root", project="empty")
    odd = INDEXES / "of-somebody"
    odd.mkdir(parents=True)
    (odd / "current").write_text("damaged")
    assert json.loads(run(root, "--json").stdout)["vanished"] == []
    assert (odd / "current").exists()


def test_one_failure_stops_no_other(here: Path) -> None:
    """A repository that hg refuses is told with its reason; the exit code is 1."""
    root = made(here / "root", b="empty", a="empty")
    (root / "a/.hg/requires").write_text("of-the-future\n")
    result = run(root, code=1)
    _, a, b, *_ = result.stdout.splitlines()
    assert a.split()[:4] == ["a", "hg", "index", "failed"]
    assert "of-the-future" in a
    assert b.split()[:4] == ["b", "hg", "index", "made"]


def test_one_that_can_have_no_index(here: Path) -> None:
    """It is no failure, again and again: the row says so and why, and the exit code is 0."""
    root = made(here / "root", b="empty", a="empty")
    (root / "a/.hg/requires").write_text("treemanifest\nstore\n")
    _, a, b, *bundles = run(root).stdout.splitlines()
    assert a.split()[:4] == ["a", "hg", "index", "skipped"]
    assert "split by directories" in a
    assert "hg alone answers for it" in a
    assert b.split()[:4] == ["b", "hg", "index", "made"]
    assert {line.split()[2] for line in bundles} == {
        "skipped"
    }  # an empty one has nothing to bundle


def test_an_hg_that_is_not_there(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said which program was looked for."""
    root = made(here / "root", project="empty")
    monkeypatch.setenv("OFFRAMP_HG__PROGRAM", "hg-of-nobody")
    assert "'hg-of-nobody'" in run(root, code=1).stdout


def test_an_index_goes_with_its_repository(here: Path) -> None:
    """Whose place has no repository any more loses it, unless it is in work; others keep theirs."""
    root = made(here / "root", gone="empty")
    other = made(here / "other", stays="empty")
    run(root)
    run(other)  # another ROOT of the same data directory
    index = place(root / "gone")
    (root / "gone").rename(here / "elsewhere")
    with locked(index):
        assert json.loads(run(root, "--json").stdout)["vanished"] == []
    assert run(root, "--no-gc").stdout == ""
    assert IndexPlace(index).exists
    assert f"removed the index of {root / 'gone'}, which is gone" in run(root).stdout
    assert not IndexPlace(index).exists
    assert IndexPlace(place(other / "stays")).exists
    assert run(root).stdout == ""
    shutil.move(here / "elsewhere", root / "gone")
    assert results(root)["gone"][0] == "made"
