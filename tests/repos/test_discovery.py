# Law of this file: whatever a name is, it leads to a repository inside ROOT or to nothing.

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repos.git.discovery import Found, discover, git_dir_of, locate


def git(*args: str | Path, cwd: Path | None = None) -> None:
    """Run stock git."""
    subprocess.run(["git", *map(str, args)], cwd=cwd, check=True, capture_output=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A ROOT of many shapes, between repositories that are nobody's business."""
    root = tmp_path / "root"
    for name in ("bare.git", "group/deep/other.git", "a b%2f.git"):
        git("init", "-q", "--bare", root / name)
    git("init", "-q", root / "work")
    git("init", "-q", root / "work" / "nested")
    git("commit", "-q", "--allow-empty", "-m", "x", cwd=root / "work")
    git("worktree", "add", "-q", "--detach", root / "linked-worktree", cwd=root / "work")
    git("init", "-q", f"--separate-git-dir={root / 'separate.dir'}", root / "separated")
    git("init", "-q", "--bare", tmp_path / "outside.git")
    (root / "to-outside.git").symlink_to(tmp_path / "outside.git")
    (root / "to-inside.git").symlink_to("bare.git")
    (root / "up").symlink_to("..")
    (root / "loop").symlink_to("loop")
    (root / "empty").mkdir()
    (root / "file").write_text("gitdir: bare.git\n")
    return root


def test_discovery(root: Path) -> None:
    """Every repository below ROOT is found once, under its path, and nothing outside."""
    found = {f.name: f.git_dir for f in discover(root)}
    assert found == {
        "a b%2f.git": root / "a b%2f.git",
        "bare.git": root / "bare.git",
        "group/deep/other.git": root / "group" / "deep" / "other.git",
        "separate.dir": root / "separate.dir",
        "separated": root / "separate.dir",
        "to-inside.git": root / "bare.git",
        "work": root / "work" / ".git",
    }


def test_what_is_discovered_is_located(root: Path) -> None:
    """Each name that discovery gives leads to the same place."""
    for found in discover(root):
        assert locate(root, found.name) == found


def test_names_by_which_a_repository_is_known(root: Path) -> None:
    """With and without ``.git``, with slashes around, and with ``/.git`` behind."""
    bare = Found("bare.git", root / "bare.git")
    for name in ("bare", "bare.git", "/bare.git", "bare/", "bare.git/.git", "//bare//"):
        assert locate(root, name) == bare
    work = Found("work", root / "work" / ".git")
    assert locate(root, "work") == work
    assert locate(root, "work/.git") == work


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        ".",
        "..",
        ".git",
        "../outside.git",
        "group/../bare.git",
        "group/../../outside.git",
        "./bare.git",
        "group//deep/other.git",
        "bare.git\0",
        "bare\n.git",
        "\x7f",
        "to-outside.git",
        "to-outside",
        "up/outside.git",
        "loop",
        "loop/x",
        "empty",
        "file",
        "file/x",
        "linked-worktree",
        "-",
        "-/bare.git",
        "work/.git/refs",
        "bare.git/objects",
        "x" * 300,
        "x/" * 3000,
        "..\\outside.git",
        "\udcff",
    ],
)
def test_names_that_lead_nowhere(root: Path, name: str) -> None:
    """What names no repository inside ROOT is None and no exception."""
    assert locate(root, name) is None


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.text(max_size=40),
        st.lists(
            st.sampled_from(
                [
                    *("..", ".", "", "bare.git", "work", ".git", "up", "outside", "outside.git"),
                    *("to-outside.git", "root", "loop", "group", "deep", "\0", "\\", "%2e%2e"),
                ]
            ),
            max_size=7,
        ).map("/".join),
    )
)
def test_any_name(root: Path, name: str) -> None:
    """A found repository lies inside ROOT, links resolved, and its served name is a clean one."""
    found = locate(root, name)
    if found is not None:
        assert found.git_dir == found.git_dir.resolve()
        assert found.git_dir.is_relative_to(root)
        assert not {"", ".", "..", ".git"} & set(found.name.split("/"))


def test_root_itself_may_be_a_repository(root: Path) -> None:
    """ROOT is served under its directory's name, bare or not."""
    assert list(discover(root / "bare.git")) == [Found("bare.git", root / "bare.git")]
    assert locate(root / "bare.git", "bare") == Found("bare.git", root / "bare.git")
    assert Found("work", root / "work" / ".git") in list(discover(root / "work"))
    assert locate(root / "work", "work.git") == Found("work", root / "work" / ".git")


def test_root_may_be_a_link(root: Path, tmp_path: Path) -> None:
    """A ROOT that is reached through a link is the same ROOT."""
    (tmp_path / "alias").symlink_to(root)
    assert set(discover(tmp_path / "alias")) == set(discover(root))
    assert locate(tmp_path / "alias", "bare") == locate(root, "bare")


def test_an_empty_root(tmp_path: Path) -> None:
    """No repositories, and a ROOT that is gone, are found nothing in."""
    assert list(discover(tmp_path)) == []
    assert list(discover(tmp_path / "gone")) == []
    assert locate(tmp_path / "gone", "p") is None


def test_gitfiles(tmp_path: Path) -> None:
    """A gitfile leads where it says, relative to itself; a broken one leads nowhere."""
    git("init", "-q", "--bare", tmp_path / "real")
    place = tmp_path / "place"
    place.mkdir()
    for line in (f"gitdir: {tmp_path / 'real'}\n", "gitdir: ../real", "gitdir: ../real\r\n"):
        (place / ".git").write_text(line)
        found = git_dir_of(place)
        assert found is not None
        assert found.resolve() == tmp_path / "real"
    for broken in ("", "gitdir:", "gitdir: ", "gitdir: /nowhere", "real", "\0", "gitdir: \0\n"):
        (place / ".git").write_text(broken)
        assert git_dir_of(place) is None


def test_a_gitfile_that_leads_outside(root: Path, tmp_path: Path) -> None:
    """A gitfile that names a repository outside ROOT is not followed, found or located."""
    (root / "escape").mkdir()
    (root / "escape" / ".git").write_text(f"gitdir: {tmp_path / 'outside.git'}\n")
    assert locate(root, "escape") is None
    assert "escape" not in {found.name for found in discover(root)}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_directory_that_we_may_not_read_stops_nobody(root: Path) -> None:
    """A directory that is not ours to read holds no repository, and the others are found."""
    before = {found.name for found in discover(root)}
    (root / "closed" / "p.git").mkdir(parents=True)
    (root / "closed").chmod(0)
    try:
        assert locate(root, "closed") is None
        assert locate(root, "closed/p.git") is None
        assert {found.name for found in discover(root)} == before
    finally:
        (root / "closed").chmod(0o700)


def test_a_broken_gitfile_stops_nobody(root: Path) -> None:
    """A gitfile with a NUL or an endless name is no repository, and the others are found."""
    before = {found.name for found in discover(root)}
    for number, target in enumerate(("\0", "x" * 3000, "a/" * 2000)):
        (root / f"broken{number}").mkdir()
        (root / f"broken{number}" / ".git").write_text(f"gitdir: {target}\n")
        assert locate(root, f"broken{number}") is None
    assert {found.name for found in discover(root)} == before
