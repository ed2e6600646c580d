# Law of this file: in which order targets are tried for one client and one entity, and nothing
# else. First come the targets of the client's region, then those of no region, then the others;
# among these priority, and among equals a lot that is always the same, weighted. It is drawn for
# the client's network and the entity, so one client stays with one target.

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import groupby
from math import inf
from typing import Final, Generic, NamedTuple, Protocol, Self, TypeVar

from redirects.acceptance import Client, spread_of
from redirects.decision import Reason
from redirects.lots import Lots

# Regions that are remembered with their order. Clients can make words up, which push others out.
_REGIONS: Final = 1024


class Named(Protocol):
    """What can be ordered: a target, or a mirror to which whole sessions move."""

    @property
    def name(self) -> str:
        """By which the settings know it, and from which its lots are drawn."""


N = TypeVar("N", bound=Named)


@dataclass(frozen=True, slots=True)
class Standing:
    """What the settings say of a target beside how it is read.

    Attributes:
        regions: shell patterns of the regions that it serves; empty: it is for everywhere.
        priority: lower goes before higher.
        weight: its share among its equals, relative to theirs; 0: nobody is sent there.

    Raises:
        ValueError: the weight is negative or no number.
    """

    regions: tuple[str, ...] = ()
    priority: int = 0
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight < inf:
            raise ValueError(f"a weight of {self.weight}: write 0 or a positive number")

    def serves(self, region: str) -> bool:
        """Whether ``region`` is one of its regions."""
        return any(fnmatchcase(region, pattern) for pattern in self.regions)


class Distance(IntEnum):
    """How far a target is from a client, as far as that is known."""

    SAME_REGION = 0
    EVERYWHERE = 1
    OTHER_REGION = 2


@dataclass(frozen=True, slots=True)
class Candidate(Generic[N]):
    """A target as it stands to the clients of one region.

    Attributes:
        target: the target.
        distance: to these clients.
        priority: as in :class:`Standing`.
        weight: likewise.
        bar: why it is named to none of them, whatever they ask for; None if it may be.
    """

    target: N
    distance: Distance
    priority: int
    weight: float
    bar: Reason | None

    @property
    def rank(self) -> tuple[bool, Distance, int]:
        """What is compared before lots are drawn; those that are barred are last."""
        return self.bar is not None, self.distance, self.priority


def behind(chosen: Candidate[N], other: Candidate[N]) -> Reason:
    """Why ``other``, which could be named as well, is not, where ``chosen`` is."""
    if chosen.distance != other.distance:
        return Reason.NEARER_TARGET
    if chosen.priority != other.priority:
        return Reason.LOWER_PRIORITY
    return Reason.BY_WEIGHT


class _Equals(NamedTuple, Generic[N]):
    """Candidates of one rank.

    Attributes:
        candidates: in the order of the settings.
        lots: what they draw; None where there is one alone.
    """

    candidates: tuple[Candidate[N], ...]
    lots: Lots | None


_Ranked = tuple[_Equals[N], ...]


@dataclass(frozen=True, slots=True)
class Selection(Generic[N]):
    """The targets of a server, and what decides between them.

    Attributes:
        targets: in the order of the settings.
        standings: by name of the target. Those without one go after each other in that order,
            everywhere.
        other_regions: clients may be sent to targets of other regions than theirs, when there is
            none of theirs and none for everywhere. Where a client is of no known region, every
            region is another one.
    """

    targets: tuple[N, ...]
    standings: Mapping[str, Standing] = field(default_factory=dict)
    other_regions: bool = True
    _ranked: Callable[[str | None], _Ranked[N]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ranked", lru_cache(_REGIONS)(self._rank))

    @classmethod
    def of(cls, *targets: N) -> Self:
        """Targets that are tried in this order, wherever the client is."""
        return cls(targets)

    def order(
        self, client: Client, digest: str, wanted: Sequence[str] | None = None
    ) -> Iterator[Candidate[N]]:
        """The targets, the one to be tried first for this client and entity before the others.

        Args:
            client: who asks.
            digest: of the entity, hex; empty for an order that holds for no entity in particular.
            wanted: names in the client's own order, which then decides alone; those that it does
                not list come last.
        """
        ranked = self._ranked(client.region)
        if wanted is not None:
            yield from _as_wanted(ranked, wanted)
            return
        for candidates, lots in ranked:
            if lots is None:
                yield candidates[0]
                continue
            # A digest is as good as chance already, and so is what is made of the network.
            key = client.spread ^ int(digest[:16] or "0", 16)
            first = lots.first(key)
            yield candidates[first]
            # Only for who cannot be sent to the first.
            yield from (candidates[place] for place in lots.order(key) if place != first)

    def _rank(self, region: str | None) -> _Ranked[N]:
        """The targets for clients of one region: groups of equals, in order."""
        candidates = [
            self._candidate(target, place, region) for place, target in enumerate(self.targets)
        ]
        candidates.sort(key=lambda candidate: candidate.rank)
        return tuple(
            group
            for _, equals in groupby(candidates, key=lambda candidate: candidate.rank)
            for group in _grouped(tuple(equals))
        )

    def _candidate(self, target: N, place: int, region: str | None) -> Candidate[N]:
        standing = self.standings.get(target.name) or Standing(priority=place + 1)
        if not standing.regions:
            distance = Distance.EVERYWHERE
        elif region is not None and standing.serves(region):
            distance = Distance.SAME_REGION
        else:
            distance = Distance.OTHER_REGION
        bar = None
        if standing.weight == 0:
            bar = Reason.NO_WEIGHT
        elif distance is Distance.OTHER_REGION and not self.other_regions:
            bar = Reason.WRONG_REGION
        return Candidate(target, distance, standing.priority, standing.weight, bar)


def _grouped(equals: tuple[Candidate[N], ...]) -> _Ranked[N]:
    # What is barred needs no lot, and could have no weight to draw one with.
    if len(equals) == 1 or equals[0].bar is not None:
        return tuple(_Equals((one,), None) for one in equals)
    seeds = [spread_of(one.target.name) for one in equals]
    return (_Equals(equals, Lots.of(seeds, [one.weight for one in equals])),)


def _as_wanted(ranked: _Ranked[N], wanted: Sequence[str]) -> list[Candidate[N]]:
    places = {name: place for place, name in reversed(tuple(enumerate(wanted)))}
    candidates = (candidate for equals in ranked for candidate in equals.candidates)
    return sorted(candidates, key=lambda one: places.get(one.target.name, len(wanted)))
