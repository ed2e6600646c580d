# Law of this file: what was answered of a Mercurial repository is taken back by its name, and what
# it is answered from is removed.

from __future__ import annotations

import asyncio
import functools
import json
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import cli.purge_subjects
from cli.main import offramp as group
from repos.hg.generation import locked
from repos.hg.repository import index_directory
from repos.hg.upkeep import IndexPlace
from tests.cli.hg_repositories import environ, made
from tests.conftest import Serve, Served
from tests.hg import versions
from tests.hg.stock import CLIENT_V2


@pytest.fixture(autouse=True)
def program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands and servers find hg."""
    for name, value in environ().items():
        monkeypatch.setenv(name, value)


def run(*args: str | Path, code: int = 0) -> Result:
    """Run a command in this process."""
    result = CliRunner().invoke(group, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return result


def index_of(repository: Path) -> IndexPlace:
    """Where a repository's index lies."""
    hg_dir = repository.resolve() / ".hg"
    return IndexPlace(index_directory(Path("offramp-data/hg").absolute(), hg_dir))


def left() -> set[str]:
    """Digests of all content on this machine's disk, in the cache and in the store."""
    return {path.name for path in Path("offramp-data").rglob("entities/*/*")}


async def clone(server: Served, name: str, into: Path) -> None:
    """Clone a repository with stock Mercurial, redirected."""
    argv = [*versions.hg(), "clone", "--noupdate", *CLIENT_V2, f"{server.url}/{name}", str(into)]
    process = await asyncio.create_subprocess_exec(
        *argv, env=versions.environment(into.parent), stdout=subprocess.DEVNULL
    )
    assert await process.wait() == 0


async def test_all_of_it(here: Path, serve: Serve) -> None:
    """Records, content here and in the store, and the index go, also where a server runs on."""
    root = made(here / "root", project="branches")
    server = await serve(root, data=here / "offramp-data")
    await clone(server, "project", here / "first")
    before = left()
    assert before
    assert index_of(root / "project").exists

    would = await asyncio.to_thread(run, "purge", "project", root, "--dry-run", "--json")
    assert index_of(root / "project").exists
    assert left() == before
    result = await asyncio.to_thread(run, "purge", "project", root, "--json")
    said = json.loads(result.stdout)
    assert {**json.loads(would.stdout), "dry_run": False, "urls": []} == {**said, "urls": []}
    assert said["index"]
    assert said["records"] > 0
    assert all(each["stored"] for each in said["removed"])
    assert "still served" in result.stderr
    assert not index_of(root / "project").exists
    assert len(said["removed"]) >= 3
    assert not {each["digest"] for each in said["removed"]} & left()

    misses = server.outcomes("filesdata")["miss"]
    await clone(server, "project", here / "second")
    assert server.outcomes("filesdata")["miss"] == misses + 1


async def test_another_machine_follows(here: Path, serve: Serve) -> None:
    """Who learns from the store of a purge elsewhere drops what it recorded itself."""
    root = made(here / "root", project="branches")
    server = await serve(root, data=here / "a", store={"type": "directory", "path": here / "store"})
    await clone(server, "project", here / "clone")
    assert list((here / "a/records").glob("*/*"))
    config = here / "b.toml"
    config.write_text(
        f'data = "{here / "b"}"\n[store]\ntype = "directory"\npath = "{here}/store"\n'
    )
    await asyncio.to_thread(run, "purge", "project", root, "--config", config)
    await server.runtime.catalogs.refresh_all()
    await asyncio.gather(*server.runtime.catalogs._learning)
    assert not list((here / "a/records").glob("*/*"))


def test_clone_bundles_go(here: Path) -> None:
    """They are named no more, and their content is gone from the store."""
    root = made(here / "root", project="linear")
    run("index", root)
    found = json.loads(run("bundles", "--json").stdout)["clone_bundles"]
    assert {bundle["file"] for bundle in found} <= left()
    said = json.loads(run("purge", "project", root, "--json").stdout)
    assert said["bundles"] == [bundle["id"] for bundle in found]
    assert not {bundle["file"] for bundle in found} & left()
    assert json.loads(run("bundles", "--json").stdout)["clone_bundles"] == []


def test_the_words(here: Path) -> None:
    """In words too it is told what became of the index; a repository that is gone has a name."""
    root = made(here / "root", project="empty")
    run("index", root)
    (root / "project").rename(here / "elsewhere")
    result = run("purge", "project", root)
    assert "index: removed; the next request makes it" in result.stdout
    assert result.stderr == ""
    assert not index_of(root / "project").exists
    run("purge", "nobody", root, code=1)


def test_one_object_is_of_git(here: Path) -> None:
    """It is refused rather than answered as if it had been looked for."""
    root = made(here / "root", project="empty")
    run("index", root)
    result = run("purge", "project", root, "--object", "d" * 40, code=2)
    assert "--object is for git" in result.stderr
    assert index_of(root / "project").exists


def test_an_index_that_is_in_work(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said what to do, after a while."""
    root = made(here / "root", project="empty")
    run("index", root)
    impatient = functools.partial(IndexPlace, wait_seconds=0)
    monkeypatch.setattr(cli.purge_subjects, "IndexPlace", impatient)
    with locked(index_of(root / "project").directory):
        result = run("purge", "project", root, code=1)
    assert "works on the index" in result.stderr
    assert "run the same command again" in result.stderr
    assert json.loads(run("purge", "project", root, "--json").stdout)["index"]


def test_a_name_with_both(here: Path) -> None:
    """What a directory has of git and of Mercurial is taken back together."""
    root = made(here / "root", project="linear")
    git = ("git", "-C", str(root / "project"))
    subprocess.run((*git, "init", "-q"), check=True)
    subprocess.run((*git, "commit", "-q", "--allow-empty", "-m", "first"), check=True)
    run("index", root)
    said = json.loads(run("purge", "project", root, "--json").stdout)
    assert said["index"]
    names = [name.partition("-")[0] for name in said["bundles"]]
    assert names == ["full", "blobless", "zstd", "gzip", "stream"]
    run("index", root)
    one = json.loads(run("purge", "project", root, "--object", "d" * 40, "--json").stdout)
    assert not one["index"]
    assert index_of(root / "project").exists
    assert one["bundles"] == []
    assert len(json.loads(run("bundles", "--json").stdout)["clone_bundles"]) == 3


def test_an_index_that_is_not_looked_for(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who purges a name below another ROOT is told that an index elsewhere stays."""
    monkeypatch.setenv("OFFRAMP_HG__BUNDLES", "[]")  # what is published is found whatever ROOT is
    root = made(here / "root", project="linear")
    run("index", root)
    (here / "other").mkdir()
    run("purge", "project", root, "--dry-run")
    first = run("purge", "project", here / "other", code=1)
    assert "nothing is published or recorded of it" in first.output
    assert index_of(root / "project").exists
    assert "nothing lies at" not in run("purge", "project", root).output
    again = run("purge", "project", here / "other")  # its epoch is known now
    assert "nothing lies at" not in again.output
    run("index", root)
    assert "purge it again with that ROOT" in run("purge", "project", here / "other").output
