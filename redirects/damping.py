# Law of this file: a target that falls again and again is held down until it has answered for a
# good while; one that fell once is not held at all. Only falls and time count.
#
# It is route flap damping (RFC 2439), which BGP has for the same reason: each fall costs whoever
# is under way there, so that one which rises every minute does more harm than one that is dead. In
# the words of that RFC: each fall adds 1 to a figure of merit, which decays by half in each
# half-life; above the cutoff the target is suppressed, until the figure is below the reuse
# threshold; and a ceiling bounds for how long that can be. Here the figure decays only while the
# target answers. So who is held has not failed for all that time.
#
#     one fall                         1.00   not held
#     another within ten minutes   >= 1.50    held, for 10 minutes or more
#     as many as there may be          2.12   held, for 15 minutes; more is not counted
#
# Below the cutoff there is room for a single outage with whatever belongs to it, and for one now
# and then: falls that are 20 minutes apart never add up to more than 1.34.

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp2, inf, log2
from typing import Final

# Seconds in which half of what falls have added is forgotten.
HALF_LIFE: Final = 600.0

# Held from the one on, until it is below the other.
_CUTOFF: Final = 1.5
_REUSE: Final = 0.75

# Seconds for which a target that answers is held at most.
HELD_AT_MOST: Final = 900.0

# The figure from which it takes that long to be below the reuse threshold.
_CEILING: Final = _REUSE * exp2(HELD_AT_MOST / HALF_LIFE)


@dataclass(frozen=True, slots=True)
class Damping:
    """How often one target fell lately.

    Attributes:
        merit: the figure, as it was at ``failed``.
        failed: when a probe of it last failed, in seconds of any clock that never jumps.
    """

    merit: float = 0.0
    failed: float = -inf

    @property
    def until(self) -> float:
        """When it may be named again, if it answers from now on; long ago where it is not held."""
        if self.merit < _CUTOFF:
            return -inf
        return self.failed + HALF_LIFE * log2(self.merit / _REUSE)

    def fell(self, now: float) -> Damping:
        """After it was named, or might have been, and is down."""
        return Damping(min(self._decayed(now) + 1, _CEILING), now)

    def stumbled(self, now: float) -> Damping:
        """After a probe failed, which has not taken it down yet."""
        return Damping(self._decayed(now), now)

    def stays_down(self, now: float) -> Damping:
        """After a probe failed while it was down: what it answered in between counts for nothing.

        Who was never named meanwhile has done no harm, so this adds nothing either.
        """
        return replace(self, failed=now)

    def _decayed(self, now: float) -> float:
        return self.merit * exp2((self.failed - now) / HALF_LIFE)
