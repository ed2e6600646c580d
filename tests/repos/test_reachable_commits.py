# Law of this file: of what is asked about, only commits that the roots reach are named, whatever
# else lies in the repository or is missing in it.

from __future__ import annotations

from pathlib import Path

import pytest

from repos.git.packs import reachable_commits
from repos.git.program import Git, GitFailed
from tests.conformance.repositories import Repository, dropped, make


@pytest.fixture(params=["sha1", "sha256"])
def repository(tmp_path: Path, request: pytest.FixtureRequest) -> Repository:
    """Branches, a merge, and tags of both kinds, in either object format."""
    return make(tmp_path, "project.git", f"--object-format={request.param}")


def reached(repository: Repository, oids: list[str], from_: list[str]) -> frozenset[str]:
    """What the function says."""
    return reachable_commits(Git(), repository.path, oids, from_)


def absent(repository: Repository) -> str:
    """An id that no object has."""
    return ("1234567890abcdef" * 4)[: len(repository.oid("main"))]


def test_both_sides_of_a_merge_are_reached(repository: Repository) -> None:
    """Every commit behind the root, itself too; no other one, as git's own list says."""
    every = repository.git("rev-list", "--all").split()
    for root in ("main", "topic", "old", "main~1"):
        oid = repository.oid(root)
        expected = repository.git("rev-list", oid).split()
        assert reached(repository, [*every, dropped(repository)], [oid]) == set(expected)
    assert repository.oid("topic") in repository.git("rev-list", "main").split()


def test_several_roots_reach_together(repository: Repository) -> None:
    """What one of them reaches is reached, also if another does not."""
    lost, topic = dropped(repository), repository.oid("topic")
    asked = [lost, topic, repository.oid("main")]
    assert reached(repository, asked, [lost, topic]) == {lost, topic}


def test_what_is_no_commit_is_left_out(repository: Repository) -> None:
    """Tags, trees and blobs, even where a root reaches or is them."""
    names = ("v1.0", "v1.0-again", "main^{tree}", "main:README")
    others = [repository.oid(name) for name in names]
    commit = repository.oid("main")
    assert reached(repository, [*others, commit], [commit, *others]) == {commit}
    assert reached(repository, others, [commit]) == frozenset()


def test_tags_as_roots_reach_what_they_point_to(repository: Repository) -> None:
    """Also by way of another tag."""
    commit = repository.oid("v1.0^{commit}")
    for name in ("v1.0", "v1.0-again"):
        found = reached(repository, [commit, repository.oid("main")], [repository.oid(name)])
        assert found == {commit}


def test_trees_and_blobs_as_roots_reach_nothing(repository: Repository) -> None:
    """And take nothing from roots beside them; so does a tag of a blob."""
    repository.git("tag", "-a", "-m", "a key", "key", "main:README")
    odd = [repository.oid(name) for name in ("main^{tree}", "main:README", "key")]
    topic = repository.oid("topic")
    assert reached(repository, [topic], odd) == frozenset()
    assert reached(repository, [topic, repository.oid("main")], [*odd, topic]) == {topic}


def test_missing_objects_are_not_reached_and_reach_nothing(repository: Repository) -> None:
    """Among what is asked, and among the roots."""
    nothing, topic = absent(repository), repository.oid("topic")
    assert reached(repository, [nothing, topic], [topic]) == {topic}
    assert reached(repository, [nothing, topic], [nothing]) == frozenset()
    assert reached(repository, [topic], [nothing, topic]) == {topic}


def test_without_roots_or_questions_nothing_is_reached(repository: Repository) -> None:
    """Neither is an error."""
    main = repository.oid("main")
    assert reached(repository, [main], []) == frozenset()
    assert reached(repository, [], [main]) == frozenset()
    assert reached(repository, [], []) == frozenset()


def test_a_hole_in_the_history_makes_no_yes(repository: Repository) -> None:
    """What lies behind a missing commit is not reached, or the damage is told."""
    hole = repository.oid("main~1")
    objects = repository.path / "objects"
    for pack in sorted((objects / "pack").glob("*.pack")):
        moved = pack.rename(repository.path / pack.name)
        pack.with_suffix(".idx").unlink()
        repository.git("unpack-objects", "-q", stdin=moved.read_bytes())
    (objects / hole[:2] / hole[2:]).unlink()
    assert reached(repository, [repository.oid("old")], [repository.oid("main")]) == frozenset()
    with pytest.raises(GitFailed):
        reached(repository, [repository.oid("main")], [repository.oid("old")])
