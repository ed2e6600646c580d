# Law of this file: whatever a name is, it leads to a repository inside ROOT or to nothing.

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repos.hg.discovery import Found, discover, hg_dir_of, locate


def make(path: Path) -> None:
    """What makes a directory a repository; hg itself is not needed to find it."""
    (path / ".hg" / "store").mkdir(parents=True)
    (path / ".hg" / "requires").write_text("store\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A ROOT of many shapes, between repositories that are nobody's business."""
    root = tmp_path / "root"
    for name in ("one", "group/deep/other", "a b%2f", "one/nested", "data/hidden"):
        make(root / name)
    make(tmp_path / "outside")
    for name in ("objects", "refs", "x"):
        (root / "bare.git" / name).mkdir(parents=True)
    (root / "bare.git" / "HEAD").write_text("ref: refs/heads/main\n")
    make(root / "bare.git" / "x")
    make(root / "shared")
    (root / "shared" / ".hg" / "sharedpath").write_text(str(root / "one" / ".hg"))
    (root / "to-outside").symlink_to(tmp_path / "outside")
    (root / "to-inside").symlink_to("one")
    (root / "up").symlink_to("..")
    (root / "loop").symlink_to("loop")
    (root / "empty" / ".hg").mkdir(parents=True)
    (root / "file").write_text("x")
    return root


def test_discovery(root: Path) -> None:
    """Every repository below ROOT is found once, and nothing outside, apart, or in another one."""
    found = {each.name: each.path for each in discover(root, root / "data")}
    assert found == {
        "a b%2f": root / "a b%2f" / ".hg",
        "group/deep/other": root / "group" / "deep" / "other" / ".hg",
        "one": root / "one" / ".hg",
        "to-inside": root / "one" / ".hg",
    }
    for each in discover(root):
        assert locate(root, each.name) == each


def test_names(root: Path) -> None:
    """Slashes around a name do not matter."""
    one = Found("one", root / "one" / ".hg")
    for name in ("one", "/one", "one/", "//one//"):
        assert locate(root, name) == one
    assert locate(root, "data/hidden", root / "data") is None
    assert locate(root, "data/hidden") is not None


@pytest.mark.parametrize(
    "name",
    [
        *("", "/", ".", "..", ".hg", "one/.hg", "one/.hg/store", "../outside", "group/../one"),
        *("./one", "group//deep/other", "one\0", "one\n", "\x7f", "to-outside", "up/outside"),
        *("loop", "loop/x", "empty", "file", "file/x", "shared", "-", "-/one", "x" * 300),
        *("x/" * 3000, "..\\outside", "\udcff", "bare.git"),
    ],
)
def test_names_that_lead_nowhere(root: Path, name: str) -> None:
    """What names no repository inside ROOT is None and no exception."""
    assert locate(root, name) is None


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(["..", ".", "", "one", "up", "outside", "to-outside", "root", ".hg", "\0"]),
        max_size=6,
    ).map("/".join)
)
def test_any_name(root: Path, name: str) -> None:
    """A found repository lies inside ROOT, links resolved, and its served name is a clean one."""
    found = locate(root, name)
    if found is not None:
        assert found.path == found.path.resolve()
        assert found.path.is_relative_to(root)
        assert not {"", ".", "..", ".hg"} & set(found.name.split("/"))


def test_root_itself_may_be_a_repository(root: Path) -> None:
    """ROOT is served under its directory's name."""
    one = Found("one", root / "one" / ".hg")
    assert one in list(discover(root / "one"))
    assert locate(root / "one", "one") == one


def test_no_repositories(tmp_path: Path) -> None:
    """In an empty ROOT, and in one that is gone, nothing is found."""
    assert list(discover(tmp_path)) == list(discover(tmp_path / "gone")) == []
    assert hg_dir_of(tmp_path / "gone") is None
