# Law of this file: what a push changes of a question does not make it another client's; what a
# client has or says of itself does.

from __future__ import annotations

from dataclasses import replace

import pytest

from server.git import known_again
from wire.git.v2 import Fetch, Session

A, B, C = ("a" * 40, "b" * 40, "c" * 40)
CLONE = Fetch(Session(), wants=(A, B), done=True, ofs_delta=True)
PULL = replace(CLONE, haves=(C,), include_tag=True, thin_pack=True)
SHALLOW_CLONE = replace(CLONE, wants=(A,), deepen=1, include_tag=True)
BUILD = replace(CLONE, wants=(A,), deepen=1)
BY_NAME = replace(CLONE, wants=(), want_refs=(b"refs/heads/main",))
LEFT_OUT = replace(CLONE, wants=("1" * 40, "2" * 40), filter="blob:none")


def known_by(fetch: Fetch, identity: str) -> str:
    """Where the refs name all commits that there are."""
    return known_again.known_by(fetch, identity, frozenset((A, B, C)))


@pytest.mark.parametrize(
    "fetch", [CLONE, PULL, SHALLOW_CLONE], ids=["clone", "pull", "clone with a depth"]
)
def test_what_a_push_changes(fetch: Fetch) -> None:
    """Other tips, and tags that there were not before, are wanted by the same client."""
    pushed = replace(fetch, wants=(*fetch.wants[1:], C, B), include_tag=not fetch.include_tag)
    if fetch.deepen is not None:
        pushed = replace(pushed, include_tag=True)
    assert known_by(pushed, "one") == known_by(fetch, "one")


def test_how_it_is_said() -> None:
    """In which order, by which program and with how much progress makes no difference."""
    said = replace(PULL, wants=(B, A), no_progress=True, packfile_uris=("http",))
    said = replace(said, session=Session(agent="git/2.99"))
    assert known_by(said, "one") == known_by(PULL, "one")


def test_what_makes_another_client() -> None:
    """Another repository, depth, filter, boundary or past, a ref by name, objects by id."""
    others = [
        known_by(CLONE, "one"),
        known_by(CLONE, "other"),
        known_by(PULL, "one"),
        known_by(replace(PULL, haves=(B,)), "one"),
        known_by(replace(PULL, shallows=(B,)), "one"),
        known_by(SHALLOW_CLONE, "one"),
        known_by(replace(SHALLOW_CLONE, deepen=2), "one"),
        known_by(replace(CLONE, deepen_since=1), "one"),
        known_by(replace(CLONE, deepen_not=(b"refs/heads/old",)), "one"),
        known_by(replace(CLONE, filter="blob:none"), "one"),
        known_by(BY_NAME, "one"),
        known_by(replace(BY_NAME, want_refs=(b"refs/heads/topic",)), "one"),
        known_by(BUILD, "one"),
        known_by(replace(BUILD, wants=(B,)), "one"),
        known_by(LEFT_OUT, "one"),
        known_by(replace(LEFT_OUT, wants=("1" * 40,)), "one"),
    ]
    assert len(set(others)) == len(others)
