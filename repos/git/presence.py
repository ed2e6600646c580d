# Law of this file: which objects a repository has, answered again without a process for as long as
# the directories that could hold them have not changed.

from __future__ import annotations

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final

from repos.git.program import Git
from repos.stamps import RACY_SECONDS, Stamp, is_racy, stamp

__all__ = ["RACY_SECONDS", "Presence", "Stamp", "is_racy", "stamp"]

# Objects that are remembered, of all repositories together: some 40 MiB. Of each repository on its
# own it would be as much again for each that somebody asks for made-up objects.
_REMEMBERED: Final = 100_000
_ALTERNATES_DEPTH: Final = 5  # as git itself follows them

Known = OrderedDict[tuple[int, str], tuple[bool, tuple[Stamp, ...]]]
"""Whether an object was there, and as of when; by the number of who asked, and the object's id."""

_SHARED: Final[Known] = OrderedDict()
_owners: Final = count()


@dataclass(slots=True)
class Presence:
    """Which objects the repository at ``git_dir`` holds, itself or in its alternates.

    An object's presence can only change when a pack comes or goes (``objects/pack`` changes) or
    a loose object does (``objects/ab`` changes): both are stat'ed at each question.
    """

    git: Git
    git_dir: Path
    executor: Executor
    _known: Known = field(default_factory=lambda: _SHARED)
    _owner: int = field(default_factory=_owners.__next__)
    _stores: tuple[str, ...] = ()
    _stores_stamps: tuple[Stamp, ...] = ()

    async def existing(self, oids: Iterable[str]) -> frozenset[str]:
        """Those of ``oids`` (hex) that exist.

        Raises:
            GitFailed: git could not say.
        """
        wanted = tuple(oids)
        if not wanted:
            return frozenset()
        found: set[str] = set()
        unknown: dict[str, tuple[Stamp, ...]] = {}
        directories = self._object_directories()
        packs = tuple(stamp(f"{directory}/pack") for directory in directories)
        fanouts: dict[str, tuple[Stamp, ...]] = {}
        for oid in wanted:
            prefix = oid[:2]
            if prefix not in fanouts:
                loose = tuple(stamp(f"{directory}/{prefix}") for directory in directories)
                fanouts[prefix] = packs + loose
            stamps = fanouts[prefix]
            known = self._known.get((self._owner, oid))
            if known is None or known[1] != stamps:
                unknown[oid] = stamps
            elif known[0]:
                found.add(oid)
        if unknown:
            now = time.time()
            loop = asyncio.get_running_loop()
            answered = await loop.run_in_executor(self.executor, self._ask, tuple(unknown))
            for oid, stamps in unknown.items():
                if not is_racy(stamps, now):
                    self._known[self._owner, oid] = (oid in answered, stamps)
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
            found |= answered
        return frozenset(found)

    def _ask(self, oids: tuple[str, ...]) -> set[str]:
        output = self.git.run(
            f"--git-dir={self.git_dir}",
            "cat-file",
            "--batch-check=%(objectname)",
            "--buffer",
            stdin="".join(f"{oid}\n" for oid in oids).encode(),
        )
        # A missing object is answered by `<oid> missing`.
        return {line.decode() for line in output.splitlines() if b" " not in line}

    def _object_directories(self) -> tuple[str, ...]:
        stamps = tuple(stamp(f"{directory}/info/alternates") for directory in self._stores)
        if not self._stores or stamps != self._stores_stamps:
            self._stores = tuple(_with_alternates(self.git_dir / "objects", _ALTERNATES_DEPTH))
            self._stores_stamps = tuple(
                stamp(f"{directory}/info/alternates") for directory in self._stores
            )
        return self._stores


def _with_alternates(objects: Path, depth: int) -> Iterable[str]:
    """``objects`` and the object directories that it borrows from (gitrepository-layout)."""
    yield str(objects)
    if depth == 0:
        return
    try:
        lines = (objects / "info" / "alternates").read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        if line and not line.startswith(b"#"):
            yield from _with_alternates(objects / os.fsdecode(line), depth - 1)
