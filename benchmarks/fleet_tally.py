# Law of this file: what happened on the day is counted where it happens, and nothing is reckoned
# from what was to be expected.

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

from benchmarks.fleet_faults import Calendar, Outage


class Cause(Enum):
    """Why a download failed."""

    NAMED_DEAD = "the target was dead when it was named"
    UNDER_WAY = "the target died while the download was under way"


@dataclass(slots=True)
class Tally:
    """Counts of a day.

    Attributes:
        calendar: of the day.
        slots: into which the day is parted for the picture.
        redirects: by slot and target.
        split: by phase, continent of the client, and target.
        inline: by reason.
        sessions: by slot; that went on at the mirror (``moved``), or why it was passed over.
        stale: those that moved though the mirror did not have the refs that we would have told.
        failed: downloads, by slot, target and cause.
        failed_again: clients whose next try failed as well.
        rescued: clients that failed, asked again, and got it.
        suspected: clients that were answered inline though none of their downloads had failed.
        known: redirects to targets of which that server knew that they are down.
        known_elsewhere: to dead targets of which another server knew it.
        last_named: of each outage, seconds until the last redirect in it that named its target.
        rose: seconds from the end of an outage until a server believed its target again, by target.
    """

    calendar: Calendar
    slots: int = 288
    redirects: Counter[tuple[int, str]] = field(default_factory=Counter)
    split: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    inline: Counter[str] = field(default_factory=Counter)
    sessions: Counter[tuple[int, str]] = field(default_factory=Counter)
    stale: int = 0
    failed: Counter[tuple[int, str, Cause]] = field(default_factory=Counter)
    failed_again: int = 0
    rescued: int = 0
    suspected: int = 0
    known: int = 0
    known_elsewhere: int = 0
    last_named: dict[Outage, float] = field(default_factory=dict)
    rose: list[tuple[str, float]] = field(default_factory=list)

    def redirected(self, now: float, group: str, target: str) -> None:
        """A client of the continent ``group`` is sent to ``target``."""
        self.redirects[self._slot(now), target] += 1
        phase = self.calendar.phase(now)
        if phase is not None:
            self.split[phase.name, group, target] += 1

    def session(self, now: float, what: str) -> None:
        """A session moves to the mirror, or does not for this reason."""
        self.sessions[self._slot(now), what] += 1

    def answered(self, reason: str, tries: int) -> None:
        """A client gets the content inline, at its first, second or third try."""
        self.inline[reason] += 1
        self.rescued += tries > 1
        self.suspected += tries == 1 and reason == "asked_again"

    def failed_at(self, now: float, target: str, cause: Cause, tries: int) -> None:
        """A download fails that was begun by a redirect to ``target`` at ``now``."""
        self.failed[self._slot(now), target, cause] += 1
        self.failed_again += tries > 1

    def failures(self, cause: Cause, slot: int) -> int:
        """Downloads that failed for this cause, of those that began in this slot."""
        return sum(self.failed[slot, target, cause] for target in self.calendar.timelines)

    def _slot(self, now: float) -> int:
        # Times are sums of fractions: the last moment of the day may be one too late.
        return min(int(now / self.calendar.length * self.slots), self.slots - 1)
