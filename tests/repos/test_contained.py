# Law of this file: a pack is searched by git itself, whatever stands before it and whatever it
# leaves out; no is said only of what was read to its end.

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from repos.git import contained
from repos.git.contained import Unreadable, holds, pack_holds
from repos.git.program import Git, GitFailed


def run(directory: Path, *args: str, stdin: bytes = b"") -> bytes:
    """Stock git's answer."""
    return subprocess.run(
        ["git", "-C", str(directory), *args], input=stdin, capture_output=True, check=True
    ).stdout


def oid(directory: Path, revision: str) -> str:
    """An object's id."""
    return run(directory, "rev-parse", revision).decode().strip()


@pytest.fixture(params=["sha1", "sha256"])
def repository(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Two commits; the second adds a line to a large file."""
    path = tmp_path / "repository"
    run(tmp_path, "init", "-q", f"--object-format={request.param}", str(path))
    lines = "".join(f"{number}\n" for number in range(5000))
    for number, content in enumerate((lines, lines + "end\n")):
        (path / "file").write_text(content)
        (path / f"{number}").write_text(f"{number}\n")
        run(path, "add", ".")
        run(path, "commit", "-qm", f"{number}")
    return path


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """An empty directory."""
    path = tmp_path / "scratch"
    path.mkdir()
    return path


def found(file: Path, object_id: str, scratch: Path, objects: Path | None = None) -> bool:
    """Search a file, which must be as it was afterwards."""
    before = file.read_bytes()
    try:
        return pack_holds(Git(), file, object_id, scratch=scratch, objects=objects)
    finally:
        assert file.read_bytes() == before


@pytest.mark.parametrize("look", [4, 16, 100, 1 << 20])
def test_behind_a_header_of_any_length(
    repository: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch, look: int
) -> None:
    """The pack of a bundle begins where its header ends."""
    monkeypatch.setattr(contained, "_FIRST_LOOK", look)
    run(repository, "tag", "old", "main~1")
    run(repository, "bundle", "create", "-q", "old.bundle", "old")
    for revision, there in (("main~1:0", True), ("main:1", False)):
        own = scratch / revision
        own.mkdir()
        assert found(repository / "old.bundle", oid(repository, revision), own) is there


def test_a_thin_pack(repository: Path, scratch: Path) -> None:
    """Its bases are looked for where they may be; there they do not count, unless it needs them."""
    pack = repository / "thin.pack"
    arguments = ("pack-objects", "--revs", "--thin", "--stdout", "-q")
    pack.write_bytes(run(repository, *arguments, stdin=b"main\n^main~1\n"))
    answers = {}
    for revision in ("main:file", "main:1", "main~1:file", "main~1:0"):
        own = scratch / str(len(answers))
        own.mkdir()
        object_id = oid(repository, revision)
        answers[revision] = found(pack, object_id, own, repository / ".git/objects")
    assert answers == {"main:file": True, "main:1": True, "main~1:file": True, "main~1:0": False}
    for objects in (None, scratch / "nothing"):
        own = scratch / f"without-{objects is None}"
        own.mkdir()
        with pytest.raises(Unreadable, match="cannot be indexed"):
            found(pack, oid(repository, "main:1"), own, objects)


def test_a_pack_that_was_cut_short(repository: Path, scratch: Path) -> None:
    """It is not searched as far as it goes."""
    pack = repository / "cut.pack"
    whole = run(repository, "pack-objects", "--revs", "--stdout", "-q", stdin=b"main\n")
    pack.write_bytes(whole[:-30])
    with pytest.raises(Unreadable):
        found(pack, oid(repository, "main:1"), scratch, repository / ".git/objects")


def test_what_a_repository_holds(repository: Path) -> None:
    """Whether or not a ref leads to it."""
    object_id = oid(repository, "main:1")
    run(repository, "reset", "-q", "--hard", "main~1")
    assert holds(Git(), repository / ".git", object_id)
    assert not holds(Git(), repository / ".git", "d" * len(object_id))
    with pytest.raises(GitFailed):
        holds(Git(), repository / "nothing", object_id)
