# Law of this file: who takes content back is told in words what went, what did not, and until when
# URLs may be tried; a mistake is one line and an exit code.

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cache.epochs import Epochs
from cli.main import offramp as group
from repos.git.mirror import Mirror, mirror_path
from repos.git.program import Git
from tests.cli.conftest import Offramp

NAME = "group/a.git"


def run(*args: str | Path, code: int = 0) -> Result:
    """Run a command in this process."""
    result = CliRunner().invoke(group, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return result


def rev(root: Path, revision: str) -> str:
    """An object's id."""
    command = ("git", "-C", str(root / NAME), "rev-parse", revision)
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def indexed(root: Path, here: Path) -> Path:
    """ROOT, whose repository has bundles, which are also read through a server in front."""
    run("index", root)
    return root


def test_it_says_what_is_gone(indexed: Path) -> None:
    """In words; the warning that it comes back is on standard error."""
    result = run("purge", NAME, indexed)
    assert result.stdout.startswith(f"purged everything of {NAME}; its epoch is 1\n")
    assert "content: 4 entities" in result.stdout
    assert "self: clients may try until 20" in result.stdout
    assert "within 15 s" in result.stdout
    assert "still served from this machine" in result.stderr
    assert "nothing is published of it" not in run("bundles", NAME).output
    (left,) = Path("offramp-data/store/entities").rglob("?" * 64)
    assert left.read_bytes().startswith(b"offramp store ")  # its seal


def test_a_name_can_be_shortened_as_in_a_url(indexed: Path) -> None:
    """As clients may."""
    assert json.loads(run("purge", "/group/a/", indexed, "--json").stdout)["repository"] == NAME


def test_a_name_that_is_nearly_right(indexed: Path) -> None:
    """What may have been meant is told."""
    result = run("purge", "groop/a", indexed, code=1)
    assert result.stderr.endswith("recorded of it; did you mean group/a.git?\n")


def test_a_dry_run(indexed: Path) -> None:
    """It says the same, and all is there afterwards."""
    would = json.loads(run("purge", NAME, indexed, "--dry-run", "--json").stdout)
    assert run("purge", NAME, indexed, "--dry-run").stdout.startswith("would purge everything")
    did = json.loads(run("purge", NAME, indexed, "--json").stdout)
    assert (would.pop("dry_run"), did.pop("dry_run")) == (True, False)
    for said in (would, did):
        assert [outlet.pop("until") > 1e9 for outlet in said["urls"]] == [True]
    assert would == did


def test_one_object(indexed: Path) -> None:
    """Only what holds it; upper case is as good."""
    blob = rev(indexed, "main:file")
    said = json.loads(run("purge", NAME, indexed, "--object", blob.upper(), "--json").stdout)
    assert said["object_id"] == blob
    assert [name.partition("-")[0] for name in said["bundles"]] == ["full"]
    assert len(said["removed"]) == 2
    assert said["remains"]
    result = run("purge", NAME, indexed, "--object", blob)
    assert "git gc --prune=now" in result.stderr


def test_an_object_that_is_nowhere(indexed: Path) -> None:
    """That is no error: nothing holds it now."""
    result = run("purge", NAME, indexed, "--object", "d" * 40)
    assert "content: 0 entities" in result.stdout
    assert "URLs" not in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize("object_id", ["", "abc123", "g" * 40, "a" * 41, "HEAD"])
def test_only_a_full_id_names_an_object(indexed: Path, object_id: str) -> None:
    """A mistake of the caller's, and nothing is done."""
    result = run("purge", NAME, indexed, "--object", object_id, code=2)
    assert "git rev-parse" in result.stderr
    assert "4 entities" in run("purge", NAME, indexed).stdout


@pytest.mark.parametrize("name", ["nobody.git", "group", "../here"])
def test_an_unknown_repository(indexed: Path, name: str) -> None:
    """It is said, with exit code 1."""
    result = run("purge", name, indexed, code=1)
    assert f"{name}: there is no such repository" in result.stderr
    assert result.stdout == ""


def test_no_name(indexed: Path) -> None:
    """A slash is the name of no repository."""
    assert "names no repository" in run("purge", "/", indexed, code=2).stderr


def test_a_repository_that_is_gone(indexed: Path) -> None:
    """Its name is still that of what it left."""
    (indexed / NAME).rename(indexed.parent / "elsewhere.git")
    result = run("purge", "group/a", indexed)
    assert f"everything of {NAME}" in result.stdout
    assert "content: 4 entities" in result.stdout
    assert result.stderr == ""
    run("purge", "group/b", indexed, code=1)


@pytest.mark.parametrize(
    "kind",
    ['"http"', f'"hmac"\nkeys = [{{ id = "k", secret = "{"s" * 32}" }}]'],
    ids=["plain", "signed"],
)
def test_a_cache_in_front_is_told_of(indexed: Path, here: Path, kind: str) -> None:
    """The URLs to remove there are listed, one a line; without signatures where there are any."""
    config = here / "cdn.toml"
    config.write_text(
        f'[[targets]]\ntype = {kind}\nname = "cdn"\nbase_url = "https://cdn.example.org/x"\n'
        '[[targets]]\ntype = "self"\n'
    )
    result = run("purge", NAME, indexed, "--config", config, "--dry-run")
    said = json.loads(run("purge", NAME, indexed, "--config", config, "--json").stdout)
    urls = [line.strip() for line in result.stdout.splitlines() if "https://cdn" in line]
    assert len(urls) == 4
    assert [outlet["target"] for outlet in said["urls"]] == ["cdn", "self"]
    assert said["urls"][0]["copies"] == urls
    assert said["urls"][1]["copies"] == []
    digest = said["removed"][0]["digest"]
    assert f"https://cdn.example.org/x/entities/{digest[:2]}/{digest}" in urls


def test_a_catalog_that_cannot_be_read(indexed: Path) -> None:
    """It is named, and what to do."""
    catalog = next(Path("offramp-data/store/documents/catalogs").iterdir())
    catalog.write_text("{}")
    result = run("purge", NAME, indexed, code=1)
    assert "it is no catalog" in result.stderr
    assert result.stderr.count("\n") == 1


def test_content_of_others_stays(indexed: Path) -> None:
    """And is told, with their names."""
    subprocess.run(["cp", "-r", indexed / NAME, indexed / "fork.git"], check=True)
    run("index", indexed)
    result = run("purge", NAME, indexed)
    assert result.stdout.count(", also of fork.git") == 4
    assert "content: 0 entities" in result.stdout
    assert "purge them as well" in result.stderr
    assert "fork.git" in run("bundles", "fork.git").stdout


def test_help_is_help(offramp: Offramp) -> None:
    """It is listed, and says what it does not do."""
    assert "  purge  " in offramp("--help").stdout
    said = offramp("purge", "--help")
    assert said.returncode == 0
    assert "REPO [ROOT]" in said.stdout
    assert "is not changed" in " ".join(said.stdout.split())


def test_a_mirror(root: Path, here: Path) -> None:
    """It is found by the name at which it is served, and removed if it holds the object."""
    mirror = mirror_path(here / "offramp-data" / "mirrors", "forge/a")
    subprocess.run(["git", "clone", "-q", "--bare", root / NAME, mirror], check=True)
    empty = here / "empty"
    empty.mkdir()
    said = json.loads(run("purge", "forge/a", empty, "--object", "d" * 40, "--json").stdout)
    assert not said["mirror"]
    assert mirror.is_dir()
    blob = rev(root, "main:file")
    result = run("purge", "forge/a.git", empty, "--object", blob)
    assert "mirror: removed" in result.stdout
    assert "everything" not in result.stdout
    assert result.stderr == ""
    assert not mirror.exists()


def test_a_mirror_by_the_spelling_of_its_url(root: Path, here: Path) -> None:
    """Where an upstream takes any case, every spelling names the one mirror that there is."""
    mirror = mirror_path(here / "offramp-data" / "mirrors", "gh/acme/widget")
    subprocess.run(["git", "clone", "-q", "--bare", root / NAME, mirror], check=True)
    upstream = '[[upstreams]]\nprefix = "gh"\nurl = "https://github.com"\npublic = true\n'
    (here / "offramp.toml").write_text(upstream)
    result = run("purge", "gh/Acme/Widget.git", "--config", "offramp.toml")
    assert "mirror: removed" in result.stdout
    assert not mirror.exists()


def test_a_mirror_that_somebody_works_on(root: Path, here: Path) -> None:
    """That is said; nothing that was recorded before is used in the meantime."""
    mirror = mirror_path(here / "offramp-data" / "mirrors", "forge/a")
    subprocess.run(["git", "clone", "-q", "--bare", root / NAME, mirror], check=True)
    with Mirror(mirror, Git()).lock(0):
        result = run("purge", "forge/a", code=1)
    assert "run the same command again" in result.stderr
    assert result.stderr.count("\n") == 1
    assert mirror.is_dir()
    assert Epochs(here / "offramp-data").of("forge/a") == 1
    assert json.loads(run("purge", "forge/a", "--json").stdout)["mirror"]
