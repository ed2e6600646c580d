# Law of this file: who moves when a target goes is found by asking the engine twice for everybody,
# once with the target and once without.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.fleet_servers import ACCEPTS, BASE_URL
from benchmarks.fleet_world import Caller, World, continent
from redirects.acceptance import Client
from redirects.decision import Decision, Redirect
from redirects.locality import Locality
from redirects.negotiation import negotiate
from redirects.selection import Selection, Standing
from redirects.targets import Target

_NOW: Final = 1_700_000_000.0


@dataclass(frozen=True, slots=True)
class Moves:
    """One of several equals is gone.

    Attributes:
        equals: how many there were.
        clients: that were sent to one of them.
        moved: those of them that are now sent elsewhere.
        needlessly: those of these that had not been sent to the one that is gone.
    """

    equals: int
    clients: int
    moved: int
    needlessly: int

    @property
    def by_share(self) -> float:
        """Clients that moved, as a multiple of one of ``equals`` shares."""
        return self.moved / self.clients * self.equals


def of_continent(world: World, gone: str) -> Moves:
    """The target ``gone`` is gone, which had equals on its continent."""
    callers = [c for c in world.callers if continent(c.region) == continent(gone)]
    equals = sum(continent(name) == continent(gone) for name in world.selection.standings)
    return _moves(world, callers, world.selection, gone, equals)


def of_all(world: World, gone: str) -> Moves:
    """As if all targets were equal and for everywhere, and ``gone`` were gone."""
    targets = world.selection.targets
    alike = Selection(targets, {target.name: Standing() for target in targets})
    return _moves(world, world.callers, alike, gone, len(targets))


def _moves(
    world: World, callers: Sequence[Caller], selection: Selection[Target], gone: str, equals: int
) -> Moves:
    locality, moved, needlessly = Locality(world.table), 0, 0
    readable = frozenset(target.fingerprint for target in selection.targets)
    down = frozenset(t.fingerprint for t in selection.targets if t.name == gone)
    for number, caller in enumerate(callers):
        where = locality.find(caller.address)
        client = Client(BASE_URL, where.region, where.network, where.address)
        entity = world.contents[number % len(world.contents)].entity
        names = [
            _target(
                negotiate(
                    ACCEPTS, entity, selection, client, _NOW, readable=readable, down=unnamed,
                    min_size=0, enabled=True,
                )
            )
            for unnamed in (frozenset[str](), down)
        ]  # fmt: skip
        moved += names[0] != names[1]
        needlessly += names[0] != names[1] and names[0] != gone
    return Moves(equals, len(callers), moved, needlessly)


def _target(decision: Decision) -> str:
    return decision.location.target if isinstance(decision, Redirect) else ""
