# Law of this file: which store holds what, and which target reads which, is a value. The main store
# has everything; another one has what its placements say, and a target is named for no content that
# its store is not for.

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final, Self

from redirects.names import Names
from redirects.targets import Target
from server.settings_stores import MAIN, PlacementSettings
from stores.base import Store

# Repositories of which the answer is remembered.
_REPOSITORIES: Final = 4096


@dataclass(frozen=True, slots=True)
class Placement:
    """Which stores the content of some repositories is for.

    Attributes:
        repositories: those, in lower case.
        stores: names of the stores.
    """

    repositories: Names
    stores: frozenset[str]

    @classmethod
    def of(cls, settings: PlacementSettings) -> Self:
        """What the settings say."""
        patterns = (pattern.lower() for pattern in settings.repositories)
        return cls(Names.of(patterns), frozenset(settings.stores))

    def hold(self, repository: str) -> bool:
        """Whether a repository, by its served name, is among them.

        Upper and lower case are the same: to forges they are, and a placement only keeps out.
        """
        return self.repositories.hold_repository(repository.lower())


@dataclass(frozen=True, slots=True)
class Stores:
    """The stores, what reads them, and what is placed in them.

    Attributes:
        main: documents, and every entity.
        replicas: stores of entities alone, by name.
        reads: by the name of each target, that of the store which it reads.
        placements: the first that fits a repository counts; without one, it is for every store.
    """

    main: Store
    replicas: Mapping[str, Store] = field(default_factory=dict)
    reads: Mapping[str, str] = field(default_factory=dict)
    placements: Sequence[Placement] = ()
    _of: Callable[[str], frozenset[str]] = field(init=False, repr=False, compare=False)
    _unplaced: Callable[[str], frozenset[str]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_of", lru_cache(_REPOSITORIES)(self._placed))
        object.__setattr__(self, "_unplaced", lru_cache(_REPOSITORIES)(self._barred))

    def named(self) -> dict[str, Store]:
        """Every store by its name, the main one first."""
        return {MAIN: self.main, **self.replicas}

    def read_by(self, target: Target) -> str:
        """Name of the store that a target reads."""
        return self.reads.get(target.name, MAIN)

    def store_of(self, target: Target) -> Store:
        """The store that a target reads."""
        return self.named()[self.read_by(target)]

    def of(self, repository: str) -> frozenset[str]:
        """Names of the stores that the content of a repository, by its served name, is for."""
        return self._of(repository)

    def unplaced(self, repository: str) -> frozenset[str]:
        """Names of the targets that are not to be named for a repository's content."""
        return self._unplaced(repository)

    def around(self, wrap: Callable[[str, Store], Store]) -> Self:
        """The same, each store within what ``wrap`` makes of its name and it."""
        replicas = {name: wrap(name, store) for name, store in self.replicas.items()}
        return replace(self, main=wrap(MAIN, self.main), replicas=replicas)

    def targets_of(
        self, repository: str, targets: Iterable[Target], among: Iterable[str] | None = None
    ) -> tuple[Target, ...]:
        """Those of ``targets`` through which a repository's content is to be read.

        ``among``: names of the stores that are looked at; None: all.
        """
        stores = self.of(repository)
        if among is not None:
            stores &= frozenset(among)
        return tuple(target for target in targets if self.read_by(target) in stores)

    async def close(self) -> None:
        """Let go of every store."""
        await asyncio.gather(*(store.close() for store in self.named().values()))

    def _placed(self, repository: str) -> frozenset[str]:
        for placement in self.placements:
            if placement.hold(repository):
                return placement.stores
        return frozenset(self.named())

    def _barred(self, repository: str) -> frozenset[str]:
        stores = self.of(repository)
        return frozenset(target for target, store in self.reads.items() if store not in stores)


def placements_of(settings: Iterable[PlacementSettings]) -> tuple[Placement, ...]:
    """What the settings say of what goes where."""
    return tuple(map(Placement.of, settings))
