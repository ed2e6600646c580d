# Law of this file: a served name leads to one repository object, which is kept as long as the name
# still leads to the same place.

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from repos.git.discovery import Found, discover, locate
from repos.git.program import Git
from repos.git.repository import GitRepository

# How long a name is believed to lead to the same directory.
BELIEVED: Final = 5.0
_KEPT: Final = 10_000


@dataclass(slots=True)
class Repositories:
    """The git repositories below ROOT; none, if there is no ROOT.

    The data directory (``apart``) may lie below ROOT; what is in it is nobody's to clone.
    """

    root: Path | None
    git: Git
    executor: Executor
    allow_filter: bool
    apart: Path | None = None
    _by_name: OrderedDict[str, tuple[GitRepository, float]] = field(default_factory=OrderedDict)

    def get(self, name: str) -> GitRepository | None:
        """The repository that a client calls ``name``, or None."""
        now = time.monotonic()
        known = self._by_name.get(name)
        if known is not None and now - known[1] < BELIEVED:
            return known[0]
        found = None if self.root is None else locate(self.root, name, self.apart)
        if found is None:
            self._by_name.pop(name, None)
            return None
        repository = self._repository(found, None if known is None else known[0])
        self._by_name[name] = (repository, now)
        while len(self._by_name) > _KEPT:
            self._by_name.popitem(last=False)
        return repository

    def all(self) -> Iterator[GitRepository]:
        """Every repository below ROOT; walks the disk."""
        for found in () if self.root is None else discover(self.root, self.apart):
            yield self._repository(found, None)

    def _repository(self, found: Found, known: GitRepository | None) -> GitRepository:
        if known is not None and (known.name, known.path) == (found.name, found.git_dir):
            return known
        same = self._by_name.get(found.name)
        if same is not None and same[0].path == found.git_dir:
            return same[0]
        return GitRepository(
            found.name, found.git_dir, self.git, self.executor, allow_filter=self.allow_filter
        )
