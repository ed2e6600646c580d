# Law of this file: a day is lived event by event, in virtual time. Servers learn of a dead target
# by their probes and by clients that ask again, and clients by what comes of their downloads.

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from math import log
from typing import Final

from benchmarks.fleet_clock import simulate
from benchmarks.fleet_faults import Manner, Outage
from benchmarks.fleet_mirror import Refs
from benchmarks.fleet_servers import Fleet, Server, asker_of
from benchmarks.fleet_tally import Cause, Tally
from benchmarks.fleet_world import Content, Job, World, continent
from redirects.acceptance import Client, spread_of
from redirects.decision import Inline
from redirects.health import Rules
from redirects.sessions import SessionRedirect

# Seconds of a download: half of them take no longer than this, and the mean is 1.6 times that.
_MEDIAN: Final = 3.0
_SPREAD: Final = 1.0

# Seconds until a client notices that it was refused, and for which it waits where nothing comes.
_REFUSED: Final = 0.2
_PATIENCE: Final = 20.0

# Seconds until who failed tries again, and how often it does.
_PAUSE: Final = (1.0, 10.0)
_TRIES: Final = 3


class Day:
    """The day of one world, and what happens on it.

    Args:
        world: in which it is.
        rules: by which servers probe targets.
        window: seconds within which a client that asks again is suspicious.
        seed: of what the world does not say: durations, jitter, and who is answered by which
            process.
    """

    def __init__(self, world: World, rules: Rules, window: float, seed: int) -> None:
        self._world = world
        self._chance = random.Random(f"day {seed}")
        self._refs = Refs.draw(world, self._chance)
        self._rules, self._window, self._seed = rules, window, seed
        self._jobs = iter(world.jobs)
        self.tally = Tally(world.calendar)
        self._latest = 0.0

    async def live(self) -> None:
        """Live it to its end."""
        self._loop = asyncio.get_running_loop()
        self._fleet = Fleet.start(
            self._world,
            self._refs,
            self._rules,
            window=self._window,
            seed=self._seed,
            risen=self._risen,
        )
        await self._fleet.begin()
        watching = [asyncio.create_task(server.health.run()) for server in self._fleet.servers]
        self._await(next(self._jobs))
        await asyncio.sleep(self._world.effort.seconds)
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)

    def _await(self, job: Job) -> None:
        self._loop.call_at(job.at, self._begin, job)

    def _begin(self, job: Job) -> None:
        self._ask(job, 1)
        following = next(self._jobs, None)
        if following is not None:
            self._await(following)

    def _ask(self, job: Job, tries: int) -> None:
        """A client asks, for the first time or after it failed."""
        now = self._now()
        caller, content = self._world.callers[job.caller], self._world.contents[job.content]
        machines = self._fleet.machines
        # What balances the load keeps a client with a machine, which gives it to any process.
        server = self._chance.choice(machines[spread_of(caller.address) % len(machines)])
        client = server.client(caller)
        if self._moves(server, client, content, now):
            self.tally.rescued += tries > 1
            return
        asker = asker_of(caller, content)
        if caller.accepts and server.asked_again(asker, now):
            self.tally.answered("asked_again", tries)
            return
        decision = server.decide(client, content, now, accepts=caller.accepts)
        if isinstance(decision, Inline):
            self.tally.answered(decision.reason.value, tries)
            return
        target = decision.location.target
        self.tally.redirected(now, continent(caller.region), target)
        self.tally.known += server.knows_down(target)
        outage, ends = self._download(target, now)
        server.sent(asker, target, now, ends)
        if outage is None:
            self.tally.rescued += tries > 1
            return
        self._failed(outage, now, tries)
        if tries < _TRIES:
            self._loop.call_at(ends + self._chance.uniform(*_PAUSE), self._ask, job, tries + 1)

    def _moves(self, server: Server, client: Client, content: Content, now: float) -> bool:
        """Whether the session goes on at a mirror, and so does all that follows."""
        decision = server.session(client, content, now)
        if isinstance(decision, SessionRedirect):
            self.tally.session(now, "moved")
            refs, name = self._refs, content.repository
            self.tally.stale += refs.mirrored(name, now) != refs.ours(name, now)
            return True
        for passed in decision.passed_over:
            self.tally.session(now, passed.reason.value)
        return False

    def _download(self, target: str, now: float) -> tuple[Outage | None, float]:
        """What a download meets that begins now, and when it ends, well or not."""
        timeline = self._world.calendar.timelines[target]
        outage = timeline.at(now)
        if outage is not None:
            return outage, now + (_REFUSED if outage.manner is Manner.REFUSES else _PATIENCE)
        ends = now + self._chance.lognormvariate(log(_MEDIAN), _SPREAD)
        outage = timeline.within(now, ends)
        if outage is not None:
            # Who is refused notices at once; who gets nothing any more waits.
            ends = outage.start + (0.0 if outage.manner is Manner.REFUSES else _PATIENCE)
        return outage, ends

    def _failed(self, outage: Outage, now: float, tries: int) -> None:
        named_dead = outage.start <= now
        cause = Cause.NAMED_DEAD if named_dead else Cause.UNDER_WAY
        self.tally.failed_at(now, outage.target, cause, tries)
        if named_dead:
            self.tally.last_named[outage] = now - outage.start
            self.tally.known_elsewhere += any(
                server.knows_down(outage.target) for server in self._fleet.servers
            )

    def _risen(self, target: str) -> None:
        now = self._now()
        ended = [o.end for o in self._world.calendar.timelines[target].outages if o.end <= now]
        self.tally.rose.append((target, now - max(ended)))

    def _now(self) -> float:
        now = self._loop.time()
        if now < self._latest:
            raise RuntimeError(f"the clock jumped back, from {self._latest} to {now}")
        self._latest = now
        return now


def live(world: World, rules: Rules, window: float, seed: int) -> Tally:
    """Live the day of ``world``; see :class:`Day`."""
    day = Day(world, rules, window, seed)
    with _quiet():
        simulate(day.live)
    return day.tally


@contextmanager
def _quiet() -> Iterator[None]:
    """What servers say of targets in virtual time is not for who reads now."""
    log_ = logging.getLogger("offramp.health")
    was, log_.disabled = log_.disabled, True
    try:
        yield
    finally:
        log_.disabled = was
