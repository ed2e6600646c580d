# Law of this file: what refs a mirror has is known to servers by what they saw of it last, which is
# a while ago; what it really has is known here.

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

from benchmarks.fleet_world import MIRROR, World
from redirects.sessions import Sighting

# Seconds after a push until a mirror that follows has it.
_BEHIND: Final = 5.0

LOOK: Final = MIRROR.max_age / 3
"""Seconds from one look at it to the next, as `session_mirrors` are looked at."""

# Pushes to one repository on a day, in the mean.
_PUSHES: Final = 40


@dataclass(frozen=True, slots=True)
class Refs:
    """The refs of all repositories, here and at the mirror.

    Attributes:
        pushes: moments of the pushes to each repository, in seconds of the day.
        lagging: from when to when the mirror does not follow.
    """

    pushes: Mapping[str, Sequence[float]]
    lagging: tuple[float, float]

    @classmethod
    def draw(cls, world: World, chance: random.Random) -> Self:
        """Pushes at any time, as many in an hour of a short day as in one of a long day."""
        count = round(_PUSHES * world.effort.seconds / 86_400)
        names = sorted({content.repository for content in world.contents})
        pushes = {
            name: sorted(chance.random() * world.effort.seconds for _ in range(count))
            for name in names
        }
        return cls(pushes, world.calendar.lagging)

    def ours(self, repository: str, now: float) -> str:
        """What stands for the refs that servers tell at this moment."""
        return str(bisect_right(self.pushes[repository], now))

    def mirrored(self, repository: str, now: float) -> str:
        """What stands for those that the mirror has."""
        start, end = self.lagging
        followed = start if start <= now < end else now
        return self.ours(repository, followed - _BEHIND)

    def seen(self, repository: str, now: float, offset: float) -> Mapping[str, Sighting]:
        """What a server knows that looks at the mirror at ``offset`` and then again and again."""
        looked = now - (now - offset) % LOOK
        return {MIRROR.name: Sighting(looked, self.mirrored(repository, looked))}
