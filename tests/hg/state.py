# Law of this file: a clone is right if stock hg finds nothing wrong in it, and if it has what it
# should: the same changesets in the same phases, on the same branches, with the same names.

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.hg.session import Session

_CHANGESETS: Final = "{node} {phase} {branch} [{join(bookmarks, ' ')}] [{join(tags, ' ')}]\n"
_BRANCHES: Final = "{node} {branch} {closed}\n"


@dataclass(frozen=True, slots=True)
class State:
    """What a repository has, in no order.

    Attributes:
        changesets: node, phase, branch, bookmarks and tags of each; also of hidden ones.
        heads: nodes.
        branches: with their heads, and which are closed.
        files: of the work tree's parent, with their nodes.
    """

    changesets: frozenset[str]
    heads: frozenset[str]
    branches: frozenset[str]
    files: tuple[str, ...]

    @property
    def unnamed(self) -> frozenset[str]:
        """The changesets without bookmarks and tags."""
        return frozenset(line.partition(" [")[0] for line in self.changesets)


def state_of(session: Session, path: Path) -> State:
    """What a repository has; `hg verify` must find nothing wrong in it."""

    def said(*args: str) -> list[str]:
        return session("-R", path, *args).decode(errors="surrogateescape").splitlines()

    verified = said("verify")
    assert not any("warning" in line for line in verified), verified
    # `tip` is whatever came last, and clones may have another order.
    changesets = said("log", "--hidden", "--rev", "all()", "--template", _CHANGESETS)
    return State(
        frozenset(line.replace(" tip]", "]").replace("[tip]", "[]") for line in changesets),
        # Not `hg heads`, which fails where there is none.
        frozenset(said("log", "--rev", "head()", "--template", "{node}\n")),
        frozenset(said("branches", "--closed", "--template", _BRANCHES)),
        tuple(said("manifest", "--debug")),
    )
