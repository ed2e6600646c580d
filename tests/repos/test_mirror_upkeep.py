# Law of this file: upkeep loses nothing that a ref reaches, and takes away what nobody needs; of
# what is half made or half removed, nobody sees anything.

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from repos.git import mirror_upkeep
from repos.git.mirror import Mirror, existing, mirror_path, sweep
from repos.git.program import Git, GitFailed
from tests.repos.mirrors import NAME, Origin, create, fsck, run_git, update

OLD = 1_000_000_000


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    """One branch of three commits, and a tag."""
    origin = Origin.make(tmp_path / "origin.git")
    oid = None
    for number in range(3):
        oid = origin.commit("refs/heads/main", f"{number}", oid)
    origin.run("tag", "-a", "-m", "one", "v1", "main")
    return origin


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where mirrors lie."""
    return tmp_path / "mirrors"


@pytest.fixture
def mirror(origin: Origin, directory: Path) -> Mirror:
    """A mirror of the origin."""
    mirror = Mirror(mirror_path(directory, NAME), Git())
    create(mirror, origin)
    return mirror


def packs(mirror: Mirror, kind: str = ".pack") -> int:
    """How many there are."""
    return sum(path.suffix == kind for path in (mirror.path / "objects" / "pack").iterdir())


def by_bitmap(mirror: Mirror) -> bool:
    """Counting by bitmaps is possible, and finds what counting without finds."""
    arguments = ("rev-list", "--count", "--objects", "--branches", "--tags")
    counted = run_git(mirror.path, *arguments, "--use-bitmap-index")
    assert counted == run_git(mirror.path, *arguments)
    # Only with a bitmap can these two be told to go together.
    listed = run_git(mirror.path, "rev-list", "--test-bitmap", "main", "--quiet")
    assert listed == ""
    return any(path.suffix == ".bitmap" for path in (mirror.path / "objects/pack").iterdir())


@pytest.mark.parametrize("full", [False, True])
def test_maintenance_over_and_over(full: bool, origin: Origin, mirror: Mirror) -> None:
    """After many fetches, one with a forced push, packs are few, and all is whole."""
    for number in range(3):
        for more in range(4):
            tip = origin.run("rev-parse", "main")
            origin.commit("refs/heads/main", f"{number} {more}", tip)
            origin.commit("refs/heads/forced", f"forced {number} {more}")
            update(mirror, origin)
        assert packs(mirror) >= 4
        mirror.maintain(full)
        assert packs(mirror) <= 3
        assert packs(mirror, "") == 1, "multi-pack-index"
        assert by_bitmap(mirror)
        assert mirror.refs() == origin.refs()
        assert fsck(mirror) == ""
    assert not list((mirror.path / "refs" / "heads").glob("*")), "all are packed"
    run_git(mirror.path, "commit-graph", "verify")
    assert not (mirror.path / "info" / "refs").exists(), "what is ours is listed nowhere"


def test_maintenance_of_an_empty_mirror(tmp_path: Path, directory: Path) -> None:
    """There is nothing to do, and it is done."""
    empty = Mirror(mirror_path(directory, "empty"), Git())
    empty.create(Origin.make(tmp_path / "e.git").source, {}, None, "sha1", "empty")
    empty.maintain(full=False)
    empty.maintain(full=True)
    assert fsck(empty) == ""


def test_maintenance_of_nothing(directory: Path) -> None:
    """Who keeps up what has been removed is told so."""
    directory.mkdir()
    with pytest.raises(GitFailed):
        Mirror(mirror_path(directory, "x"), Git()).maintain(full=False)


def test_wanted_objects_are_kept_for_two_weeks(
    origin: Origin, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was wanted by its id lives through upkeep until it is old, and comes again after."""
    gone = origin.commit("refs/heads/gone", "gone")
    origin.run("update-ref", "-d", "refs/heads/gone")
    update(mirror, origin, gone)
    for file in (mirror.path / "objects").rglob("*"):
        os.utime(file, (OLD, OLD))
    mirror.maintain(full=True)
    assert run_git(mirror.path, "cat-file", "-t", gone) == "commit"
    today = mirror_upkeep._today()
    monkeypatch.setattr(mirror_upkeep, "_today", lambda: today + 14)
    mirror.maintain(full=True)
    assert run_git(mirror.path, "cat-file", "-t", gone) == "commit"
    monkeypatch.setattr(mirror_upkeep, "_today", lambda: today + 15)
    mirror.maintain(full=False)
    assert run_git(mirror.path, "cat-file", "-t", gone) == "commit"
    for file in (mirror.path / "objects").rglob("*"):
        os.utime(file, (OLD, OLD))
    mirror.maintain(full=True)
    with pytest.raises(subprocess.CalledProcessError):
        run_git(mirror.path, "cat-file", "-e", gone)
    assert mirror.refs() == origin.refs()
    update(mirror, origin, gone)
    assert run_git(mirror.path, "cat-file", "-t", gone) == "commit"


def test_a_fetch_from_a_mirror(origin: Origin, mirror: Mirror, tmp_path: Path) -> None:
    """Stock git clones a mirror before and after upkeep, and sees the upstream's refs alone."""
    wanted = origin.commit("refs/x", "x")
    update(mirror, origin, wanted)
    for full in (False, True):
        mirror.maintain(full)
        run_git(tmp_path, "clone", "-q", "--mirror", str(mirror.path), str(tmp_path / f"c{full}"))
        listed = run_git(tmp_path / f"c{full}", "for-each-ref", "--format=%(refname)")
        assert [name.encode() for name in listed.splitlines()] == list(origin.refs())


def test_when_it_was_used_last(mirror: Mirror, directory: Path) -> None:
    """It is written down once a minute, for what is there."""
    used = mirror.path.with_suffix(".used")
    made = mirror.last_used()
    assert made == used.stat().st_mtime > OLD
    mirror.touch()
    assert mirror.last_used() == made
    os.utime(used, (OLD, OLD))
    mirror.touch()
    assert mirror.last_used() >= made
    other = Mirror(mirror_path(directory, "other"), Git())
    other.touch()
    assert other.last_used() == 0
    assert not other.path.with_suffix(".used").exists()


def test_size(mirror: Mirror, directory: Path) -> None:
    """It is what the files take on disk."""
    before = mirror.size()
    assert before > 0
    (mirror.path / "objects" / "pack" / "more").write_bytes(os.urandom(1 << 20))
    assert mirror.size() - before >= 1 << 20
    assert Mirror(directory / "nothing.git", Git()).size() == 0


def test_removal(origin: Origin, mirror: Mirror, directory: Path) -> None:
    """It is gone with all that belongs to it, and can be made again; twice is once."""
    left = mirror.path.with_suffix(".gone")
    (left / "objects").mkdir(parents=True)
    mirror.remove()
    assert not mirror.exists
    assert [path.suffix for path in directory.iterdir()] == [".lock"]
    mirror.remove()
    create(mirror, origin)
    assert mirror.refs() == origin.refs()


@pytest.mark.parametrize("name", [NAME, 'a "b" \\c', "\N{SNOWMAN}", "x]\\", "a#b;c"])
def test_names(name: str, origin: Origin, directory: Path) -> None:
    """A mirror knows at which name it is served, and git reads the same in it."""
    mirror = Mirror(mirror_path(directory, name), Git())
    mirror.create(origin.source, origin.refs(), None, "sha1", name)
    assert list(existing(directory)) == [(name, mirror.path)]
    assert run_git(mirror.path, "config", "offramp.name") == name
    mirror.maintain(full=False)
    assert list(existing(directory)) == [(name, mirror.path)]


@pytest.mark.parametrize("name", ["", "a\nb", "a\0b"])
def test_names_that_are_none(name: str, origin: Origin, mirror: Mirror) -> None:
    """What would be no line of a config file is refused before anything is done."""
    with pytest.raises(ValueError, match="cannot be served"):
        mirror.create(origin.source, origin.refs(), None, "sha1", name)


def test_a_name_never_becomes_a_path(directory: Path) -> None:
    """Whatever is asked for, it would lie in the directory itself."""
    names = ("../../etc", "/etc/passwd", "a", "A", "a/b", "a\udcff", "")
    paths = {mirror_path(directory, name) for name in names}
    assert {path.parent for path in paths} == {directory}
    assert len(paths) == len(names)
    assert all(len(path.stem) == 40 for path in paths)


def test_only_mirrors_are_listed(mirror: Mirror, directory: Path) -> None:
    """What is being made, lies elsewhere than its name says, or is none, is left out."""
    other = mirror_path(directory, "other")
    for path in (other, mirror.path.with_suffix(".new"), directory / "x.git"):
        path.mkdir()
        (path / "config").write_bytes((mirror.path / "config").read_bytes())
    mirror_path(directory, "empty").mkdir()
    assert list(existing(directory)) == [(NAME, mirror.path)]
    assert list(existing(directory / "nothing")) == []


def test_sweep(mirror: Mirror, directory: Path) -> None:
    """What killed processes left goes; complete mirrors and strangers' files stay."""
    left = [
        mirror.path.with_suffix(".new"),
        mirror_path(directory, "a").with_suffix(".new"),
        mirror_path(directory, "b").with_suffix(".gone"),
    ]
    for path in left:
        (path / "objects").mkdir(parents=True)
    left.append(mirror_path(directory, "c").with_suffix(".used"))
    left.append(mirror.path / "objects" / "pack" / "tmp_pack_x")
    for file in left[3:]:
        file.touch()
    (directory / "other.new").mkdir()
    sweep(directory)
    assert not any(path.exists() for path in left)
    assert (directory / "other.new").exists()
    assert mirror.path.with_suffix(".used").exists()
    assert fsck(mirror) == ""
    sweep(directory / "nothing")


def test_sweep_lets_be_what_is_worked_on(mirror: Mirror, directory: Path) -> None:
    """Who holds a mirror's lock may have things half done."""
    left = [mirror.path.with_suffix(".new"), mirror.path / "objects" / "pack" / "tmp_pack_x"]
    left[0].mkdir()
    left[1].touch()
    with mirror.lock(0):
        sweep(directory)
    assert all(path.exists() for path in left)
    sweep(directory)
    assert not any(path.exists() for path in left)
