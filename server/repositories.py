# Law of this file: a served name leads to one repository object, which is kept as long as the name
# still leads to the same place.

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

from repos.git import discovery as git_discovery
from repos.git.program import Git
from repos.git.repository import GitRepository
from repos.hg import discovery as hg_discovery
from repos.hg.program import Hg
from repos.hg.repository import HgRepository

# How long a name is believed to lead to the same directory.
BELIEVED: Final = 5.0

# A Git repository is a name and what its refs were. A Mercurial one keeps its index open, at least
# one file descriptor of the 1024 that a process often has, and its graph of changesets in memory.
_GIT_KEPT: Final = 10_000
_HG_KEPT: Final = 256

HG_INDEXES: Final = "hg"
"""Where, in the data directory, the indexes of Mercurial repositories lie."""


class _Served(Protocol):
    """A repository of some kind."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> Path: ...


R = TypeVar("R", bound=_Served)


@dataclass(frozen=True, slots=True)
class Kind(Generic[R]):
    """How repositories of one kind are found and made.

    Attributes:
        locate: name and place of what a client calls by a name, below a root and not in a directory
            that is apart; None if there is none.
        discover: names and places of all.
        make: the repository served at a name, from its place.
        kept: how many are kept, those that were asked for last.
    """

    locate: Callable[[Path, str, Path | None], tuple[str, Path] | None]
    discover: Callable[[Path, Path | None], Iterator[tuple[str, Path]]]
    make: Callable[[str, Path], R]
    kept: int


def git_kind(git: Git, executor: Executor, *, allow_filter: bool) -> Kind[GitRepository]:
    """Git repositories, asked through ``git`` in threads of ``executor``."""

    def locate(root: Path, name: str, apart: Path | None) -> tuple[str, Path] | None:
        found = git_discovery.locate(root, name, apart)
        return None if found is None else (found.name, found.git_dir)

    def discover(root: Path, apart: Path | None) -> Iterator[tuple[str, Path]]:
        return ((found.name, found.git_dir) for found in git_discovery.discover(root, apart))

    def make(name: str, place: Path) -> GitRepository:
        return GitRepository(name, place, git, executor, allow_filter=allow_filter)

    return Kind(locate, discover, make, _GIT_KEPT)


def hg_kind(  # noqa: PLR0917 - its executors, each of which has a reason
    hg: Hg,
    executor: Executor,
    indexes: Path,
    building: Executor | None = None,
    refreshing: Executor | None = None,
    asking: Executor | None = None,
) -> Kind[HgRepository]:
    """Mercurial repositories, read by ``hg`` into ``indexes``.

    For the executors see :class:`HgRepository`.
    """

    def locate(root: Path, name: str, apart: Path | None) -> tuple[str, Path] | None:
        found = hg_discovery.locate(root, name, apart)
        return None if found is None else (found.name, found.path)

    def discover(root: Path, apart: Path | None) -> Iterator[tuple[str, Path]]:
        return ((found.name, found.path) for found in hg_discovery.discover(root, apart))

    def make(name: str, place: Path) -> HgRepository:
        return HgRepository(name, place, hg, executor, indexes, building, refreshing, asking)

    return Kind(locate, discover, make, _HG_KEPT)


@dataclass(slots=True)
class Repositories(Generic[R]):
    """The repositories of one kind below ROOT; none, if there is no ROOT.

    The data directory (``apart``) may lie below ROOT; what is in it is nobody's to clone.
    """

    root: Path | None
    kind: Kind[R]
    apart: Path | None = None
    _by_name: OrderedDict[str, tuple[R, float]] = field(default_factory=OrderedDict)

    def get(self, name: str) -> R | None:
        """The repository that a client calls ``name``, or None."""
        now = time.monotonic()
        known = self._by_name.get(name)
        if known is not None and now - known[1] < BELIEVED:
            self._by_name.move_to_end(name)
            return known[0]
        found = None if self.root is None else self.kind.locate(self.root, name, self.apart)
        if found is None:
            self._by_name.pop(name, None)
            return None
        repository = self._repository(*found, None if known is None else known[0])
        self._by_name[name] = (repository, now)
        self._by_name.move_to_end(name)
        while len(self._by_name) > self.kind.kept:
            self._by_name.popitem(last=False)
        return repository

    def all(self) -> Iterator[R]:
        """Every repository below ROOT; walks the disk."""
        if self.root is not None:
            for name, place in self.kind.discover(self.root, self.apart):
                yield self._repository(name, place, None)

    def _repository(self, name: str, place: Path, known: R | None) -> R:
        if known is not None and (known.name, known.path) == (name, place):
            return known
        same = self._by_name.get(name)
        if same is not None and same[0].path == place:
            return same[0]
        return self.kind.make(name, place)
