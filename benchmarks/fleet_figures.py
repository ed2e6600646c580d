# Law of this file: what a day shows is put into figures and held against what was promised. A goal
# that is missed is said as plainly as one that is reached.

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import median
from typing import Final

from benchmarks.fleet_faults import Phase
from benchmarks.fleet_moves import Moves, of_all, of_continent
from benchmarks.fleet_tally import Cause, Tally
from benchmarks.fleet_world import STANDINGS, World, continent
from benchmarks.table import Goal
from redirects.health import Rules

# To reach: fewer failed downloads than this in 10,000 redirects, and loads this near to weights.
_FAILED: Final = 1.0
_SPLIT: Final = 0.03

# The target that is for everywhere, which clients get when none of their continent is left.
_LAST: Final = "cdn"


@dataclass(frozen=True, slots=True)
class Share:
    """What one target had of the redirects of one continent's clients in one phase.

    Attributes:
        phase: its name.
        continent: of the clients.
        target: its name.
        redirects: to it.
        share: of those of these clients.
        weight: the share that its weight is of those that are alive.
        deviation: of the share from that, relative to it.
        chance: one standard deviation of that, if each client drew its lot alone.
    """

    phase: str
    continent: str
    target: str
    redirects: int
    share: float
    weight: float
    deviation: float
    chance: float


@dataclass(frozen=True, slots=True)
class Failures:
    """Downloads of one target that failed.

    Attributes:
        target: its name.
        deaths: how often it died.
        dead: downloads for which it was named when it was dead.
        under_way: downloads that were under way when it died; no choice of a target saves them.
        latest: seconds after a death at which it was last named, the worst of all deaths; 0, never.
        risen: seconds from when it lives again until a server believes it, the median; None where
            it was never believed again.
    """

    target: str
    deaths: int
    dead: int
    under_way: int
    latest: float
    risen: float | None


@dataclass(frozen=True, slots=True)
class Result:
    """All that a day showed.

    Attributes:
        clients, jobs, redirects: how many.
        inline: answers without a redirect, by reason.
        sessions: that moved to the mirror, or why not.
        shares: of the load.
        failures: by target.
        failed_again: clients whose second or third try failed as well.
        rescued: clients that got it after they had failed.
        suspected: answers inline to clients of whom no download had failed.
        known: redirects to a target of which that server knew that it is down.
        known_elsewhere: those to a dead one of which any server knew it.
        stale: sessions that moved though the mirror's refs were not ours.
        continent: the moves when one of the equals of a continent goes.
        alike: likewise of all targets, were they equal.
        interval: of the probes, seconds.
    """

    clients: int
    jobs: int
    redirects: int
    inline: dict[str, int]
    sessions: dict[str, int]
    shares: Sequence[Share]
    failures: Sequence[Failures]
    failed_again: int
    rescued: int
    suspected: int
    known: int
    known_elsewhere: int
    stale: int
    continent: Moves
    alike: Moves
    interval: float

    @classmethod
    def of(cls, world: World, tally: Tally, rules: Rules) -> Result:
        """Put a day into figures."""
        return cls(
            clients=world.effort.clients,
            jobs=len(world.jobs),
            redirects=tally.redirects.total(),
            inline=dict(tally.inline.most_common()),
            sessions=dict(_by_word(tally.sessions).most_common()),
            shares=tuple(_shares(tally)),
            failures=tuple(_failures(tally)),
            failed_again=tally.failed_again,
            rescued=tally.rescued,
            suspected=tally.suspected,
            known=tally.known,
            known_elsewhere=tally.known_elsewhere,
            stale=tally.stale,
            continent=of_continent(world, "eu-b"),
            alike=of_all(world, "eu-b"),
            interval=rules.interval,
        )

    @property
    def worst_split(self) -> float:
        """The largest deviation of a share from its weight."""
        return max(abs(share.deviation) for share in self.shares)

    def failed(self, *, under_way: bool) -> float:
        """Failed downloads in 10,000 redirects, with those that were under way or without."""
        count = sum(each.dead + under_way * each.under_way for each in self.failures)
        return 1e4 * count / self.redirects

    def goals(self) -> Iterator[Goal]:
        """What was to be reached."""
        yield Goal("fleet: load by weight, largest deviation", self.worst_split, _SPLIT)
        for moves in (self.continent, self.alike):
            name = f"fleet: one of {moves.equals} equals goes"
            yield Goal(f"{name}: clients moved, by its share", moves.by_share, 1 + _SPLIT)
            yield Goal(f"{name}: clients moved that need not", moves.needlessly, 0)
        failed = "fleet: failed downloads in 10,000"
        yield Goal(f"{failed}, sent to a dead target", self.failed(under_way=False), _FAILED)
        yield Goal(f"{failed}, with those under way", self.failed(under_way=True), _FAILED)
        yield Goal("fleet: clients that failed twice", self.failed_again, 0)
        yield Goal("fleet: redirects to a target known to be down", self.known, 0)
        latest = max(each.latest for each in self.failures)
        yield Goal("fleet: last redirect after a death, by interval", latest / self.interval, 1)
        yield Goal("fleet: sessions moved to a mirror that lags", self.stale, 0)


def _by_word(counts: Counter[tuple[int, str]]) -> Counter[str]:
    """Counts of the whole day."""
    words: Counter[str] = Counter()
    for (_, word), count in counts.items():
        words[word] += count
    return words


def _shares(tally: Tally) -> Iterator[Share]:
    phases: dict[str, Phase] = {phase.name: phase for phase in tally.calendar.phases}
    for phase in phases.values():
        for group in dict.fromkeys(continent(name) for name in STANDINGS if name != _LAST):
            weights = {
                name: standing.weight
                for name, standing in STANDINGS.items()
                if continent(name) == group and name not in phase.dead
            } or {_LAST: 1.0}
            if phase.unsteady & weights.keys():
                continue
            found = {
                target: count
                for (name, of, target), count in tally.split.items()
                if (name, of) == (phase.name, group)
            }
            total = sum(found.values()) or 1
            for target in sorted(weights.keys() | found.keys()):
                count, weight = found.get(target, 0), weights.get(target, 0) / sum(weights.values())
                share = count / total
                # What has no weight now should have nothing at all.
                deviation = share / weight - 1 if weight else float(count > 0)
                chance = sqrt((1 - weight) / weight / total) if weight else 0.0
                yield Share(phase.name, group, target, count, share, weight, deviation, chance)


def _failures(tally: Tally) -> Iterator[Failures]:
    for name, timeline in tally.calendar.timelines.items():
        if not timeline.outages:
            continue
        counts = {
            cause: sum(
                count for (_, target, why), count in tally.failed.items()
                if (target, why) == (name, cause)
            )
            for cause in Cause
        }  # fmt: skip
        latest = [late for outage, late in tally.last_named.items() if outage.target == name]
        risen = [seconds for target, seconds in tally.rose if target == name]
        yield Failures(
            name,
            len(timeline.outages),
            counts[Cause.NAMED_DEAD],
            counts[Cause.UNDER_WAY],
            max(latest, default=0.0),
            median(risen) if risen else None,
        )
