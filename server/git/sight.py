# Law of this file: a mirror holds what many callers may see; one caller's request touches only what
# its own view of the upstream reaches. What cannot be held to that here is not answered here.

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from repos.git.packs import all_reachable, reachable_commits
from repos.git.repository import GitRepository
from server.git.fetch import names_refs
from wire.git.refs import Refs
from wire.git.v0 import V0Fetch
from wire.git.v2 import WHOLE, Fetch

_REMEMBERED: Final = 200_000


@dataclass(slots=True)
class Sight:
    """What views reach in mirrors; objects never change, so a yes is one for good."""

    _reached: OrderedDict[tuple[str, str], bool] = field(default_factory=OrderedDict)

    async def reached(
        self, repository: GitRepository, refs: Refs, oids: Collection[str]
    ) -> frozenset[str]:
        """Those of ``oids`` that are tips of ``refs``, or commits behind them, in the mirror."""
        found = {oid for oid in oids if oid in refs.tips}
        unknown = []
        for oid in oids:
            if oid in found:
                continue
            known = self._reached.get((refs.digest, oid))
            if known is None:
                unknown.append(oid)
            elif known:
                found.add(oid)
        if unknown:
            behind = await repository.in_thread(
                functools.partial(
                    reachable_commits, repository.git, repository.path, unknown, refs.tips
                )
            )
            found |= behind
            self._reached.update(((refs.digest, oid), oid in behind) for oid in unknown)
            while len(self._reached) > _REMEMBERED:
                self._reached.popitem(last=False)
        return frozenset(found)

    async def may_answer(
        self, repository: GitRepository, asked: Fetch | V0Fetch, wants: Collection[str]
    ) -> bool:
        """Whether git, asked in the mirror, would send only what ``wants`` reach.

        Haves are another matter, see :meth:`reached`. ``wants`` the caller may have.
        """
        if asked.deepen_not or names_refs(asked.filter):
            return False  # it names refs, which git would look up in the mirror
        if asked.deepen != WHOLE or not asked.shallows:
            return True
        return await repository.in_thread(
            functools.partial(all_reachable, repository.git, repository.path, asked.shallows, wants)
        )
