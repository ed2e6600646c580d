# Law of this file: where clients are sent is shown with all that decides between the places: what
# is seen of each, and what the settings say.

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from redirects.health import State
from server.health import Health, Observed
from server.sessions.moving import Sessions
from server.sessions.watch import ComparedRepository
from server.settings_sessions import SessionMirrorSettings
from server.settings_stores import MAIN
from server.settings_targets import TargetSettings


@dataclass(frozen=True, slots=True)
class ShownTarget(Observed):
    """A target.

    Attributes:
        type: of the settings, such as ``s3``.
        store: the one that it reads.
        regions: that it serves; empty: everywhere.
        priority: lower is tried before higher.
        weight: its share among its equals; 0: nobody is sent there.
    """

    type: str = "self"
    store: str = MAIN
    regions: tuple[str, ...] = ()
    priority: int = 1
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class ShownMirror:
    """A mirror of whole sessions.

    Attributes:
        name: of the settings.
        url: its base URL.
        state: what is thought of it.
        is_named: sessions may move there.
        lasted: seconds since that state began.
        seen: what was seen of it last; empty before anything was.
        looked: seconds since it was last asked; None: not yet.
        moved: sessions that this process sent there.
        regions, priority, weight: as of a target.
        repositories: those that clients ask for, and whether their refs there are ours.
    """

    name: str
    url: str
    state: State
    is_named: bool
    lasted: float
    seen: str
    looked: float | None
    moved: int
    regions: tuple[str, ...] = ()
    priority: int = 1
    weight: float = 1.0
    repositories: tuple[ComparedRepository, ...] = ()

    @property
    def fresh(self) -> int:
        """How many of these repositories it has with our refs."""
        return sum(each.fault is None for each in self.repositories)


def shown_targets(health: Health, settings: Iterable[TargetSettings]) -> tuple[ShownTarget, ...]:
    """The targets, in the order of the settings."""
    observed = {each.name: each for each in health.observed()}
    return tuple(
        ShownTarget(
            seen.name,
            seen.state,
            seen.is_named,
            seen.lasted,
            seen.turned,
            seen.seen,
            seen.latency,
            seen.held,
            target.type,
            target.store,
            target.regions,
            place if target.priority is None else target.priority,
            target.weight,
        )
        for place, target in enumerate(settings, 1)
        if (seen := observed.get(target.name)) is not None
    )


def shown_mirrors(
    sessions: Sessions | None, settings: Iterable[SessionMirrorSettings]
) -> tuple[ShownMirror, ...]:
    """The mirrors, in the order of the settings."""
    if sessions is None:
        return ()
    observed = {each.name: each for each in sessions.watch.observed()}
    return tuple(
        ShownMirror(
            seen.name,
            mirror.url,
            seen.state,
            seen.is_named,
            seen.lasted,
            seen.seen,
            seen.looked,
            sessions.moved[seen.name],
            mirror.regions,
            place if mirror.priority is None else mirror.priority,
            mirror.weight,
            seen.repositories,
        )
        for place, mirror in enumerate(settings, 1)
        if (seen := observed.get(mirror.name)) is not None
    )
