# Law of this file: requests look at what is known of mirrors and say what they asked for; what they
# asked for is compared in the background, soon and then again and again, until nobody asks. Each
# comparison is a probe of the mirror as well, and no failure ends them.
#
# Nothing is compared that nobody asks for. So the first who asks for a repository is answered here,
# and so is whoever comes between a push to us and the moment at which a mirror was seen to have it.

from __future__ import annotations

import asyncio
import functools
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

from redirects.decision import Reason
from redirects.health import SOON, Breaker, Rules, Seen, State
from redirects.sessions import NONE_DOWN, SessionMirror, Sighting, Vcs, verdict_on
from server.sessions.reading import Unfit, Unreachable
from server.sessions.refs import Ours

_log = logging.getLogger("offramp.sessions")

# Repositories that are compared again and again; those that were asked for last.
KEPT: Final = 256

# Comparisons side by side, for each mirror.
AT_ONCE: Final = 4

# A repository for which nobody has asked for so many times the mirror's max_age is forgotten.
_FORGOTTEN: Final = 10

# So often within max_age refs are compared again, so that one that fails does not cost freshness.
_WITHIN: Final = 3

# Seconds for which nothing is begun, so that no mistake in the above keeps the processor busy.
_LEAST: Final = 0.01

_Key = tuple[Vcs, str]

Own = Callable[[Vcs, str], Awaitable[Ours | None]]
"""What we say of a repository now; None if it is none any more, or says nothing soon."""

Changed = Callable[[str, State], None]
"""Told the name of a mirror, and what is thought of it from now on."""


@dataclass(frozen=True, slots=True)
class ComparedRepository:
    """What is known of one repository at one mirror.

    Attributes:
        vcs: of what kind it is.
        repository: its served name.
        fault: why sessions with it do not move there, as far as its refs say; None: they are ours.
        ago: seconds since they were last compared; None: not yet.
        told: why it was of no use when it was compared, for people; else empty.
    """

    vcs: Vcs
    repository: str
    fault: Reason | None
    ago: float | None
    told: str = ""


@dataclass(frozen=True, slots=True)
class ObservedMirror:
    """What is known of a mirror now, for people.

    Attributes:
        name: of the mirror.
        state: what is thought of it.
        is_named: sessions may move there.
        lasted: seconds since that state began.
        seen: what was seen of it last; empty before anything was.
        looked: seconds since it was last asked; None: not yet.
        repositories: those that clients ask for, the last one first.
    """

    name: str
    state: State
    is_named: bool
    lasted: float
    seen: str
    looked: float | None
    repositories: tuple[ComparedRepository, ...] = ()


class Reads(Protocol):
    """Asks one mirror."""

    async def digest(self, vcs: Vcs, repository: str, ours: Ours) -> str:
        """The digest of its refs, to be compared with ``ours``.

        Raises ``Unreachable`` or ``Unfit``.
        """
        ...


def _nobody(mirror: str, state: State) -> None:
    del mirror, state


@dataclass(slots=True)
class _Look:
    """When one mirror is looked at for one repository.

    Attributes:
        due: not before then.
        pause: seconds until the next one, while its refs are not ours.
        running: one is under way.
        told: why it was of no use when it was last looked at, as it was logged.
    """

    due: float
    pause: float = SOON
    running: bool = False
    told: str = ""


@dataclass(slots=True)
class _Known:
    """One repository that clients ask for.

    Attributes:
        asked: when it was last asked for.
        state: what we said of it then.
        looks: by mirror.
        seen: what came of them.
    """

    asked: float
    state: str
    looks: dict[str, _Look]
    seen: dict[str, Sighting] = field(default_factory=dict)


@dataclass(slots=True)
class _Watched:
    """One mirror under observation.

    Attributes:
        mirror: the mirror.
        reads: asks it.
        breaker: what is thought of it.
        said: what was seen of it last, for people; empty before anything was.
        looked: when that was.
        probe: when it is to be probed next, whatever is due.
        wake: set when something is due sooner than it was.
        running: comparisons that are under way.
    """

    mirror: SessionMirror
    reads: Reads
    breaker: Breaker
    probe: float
    said: str = ""
    looked: float | None = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    running: set[asyncio.Task[None]] = field(default_factory=set)


@dataclass(slots=True)
class MirrorWatch:
    """What is known of mirrors, and of the repositories there for which clients ask.

    Attributes:
        targets: the mirrors.
        reads: makes what asks one.
        own: what we say of a repository.
        rules: when mirrors are probed, and what follows from it.
        changed: told of each change, and of how it is at first.
        clock: seconds, of any clock that never jumps.
        chance: draws from 0 to 1.
    """

    targets: tuple[SessionMirror, ...]
    reads: Callable[[SessionMirror], Reads]
    own: Own
    rules: Rules = field(default_factory=Rules)
    changed: Changed = _nobody
    clock: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random
    _watched: dict[str, _Watched] = field(default_factory=dict)
    _known: OrderedDict[_Key, _Known] = field(default_factory=OrderedDict)
    _down: frozenset[str] = NONE_DOWN

    def __post_init__(self) -> None:
        now = self.clock()
        for mirror in self.targets:
            breaker = Breaker(since=now)
            self._watched[mirror.name] = _Watched(mirror, self.reads(mirror), breaker, now)
            self.changed(mirror.name, State.UP)

    # --- what requests ask -----------------------------------------------------------------

    def seen(self, vcs: Vcs, repository: str, state: str) -> Mapping[str, Sighting]:
        """What was last seen of a repository, by mirror; a client asks for it now.

        ``state`` is what we say of it now: where that is something new, mirrors are looked at soon.
        """
        now = self.clock()
        key = (vcs, repository)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = _Known(now, state, self._looks(key, now))
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
            self._wake(known.looks)
        else:
            self._known.move_to_end(key)
            known.asked = now
            if known.state != state:
                known.state = state
                for look in known.looks.values():
                    look.due, look.pause = min(look.due, now), SOON
                self._wake(known.looks)
        return known.seen

    def down(self) -> frozenset[str]:
        """Names of the mirrors that nobody is to be sent to now."""
        return self._down

    def states(self) -> tuple[tuple[str, State], ...]:
        """Names of the mirrors, and what is thought of each."""
        return tuple((name, each.breaker.state) for name, each in self._watched.items())

    def observed(self) -> tuple[ObservedMirror, ...]:
        """What is known of each mirror now, for people; nobody is said to ask for anything."""
        now = self.clock()
        return tuple(self._observed(each, now) for each in self._watched.values())

    def _observed(self, watched: _Watched, now: float) -> ObservedMirror:
        name, breaker = watched.mirror.name, watched.breaker
        compared = (
            ComparedRepository(
                *key,
                verdict_on(watched.mirror, known.seen.get(name), known.state, now),
                None if (seen := known.seen.get(name)) is None else now - seen.at,
                known.looks[name].told,
            )
            for key, known in reversed(self._known.items())
            if name in known.looks
        )
        return ObservedMirror(
            name,
            breaker.state,
            breaker.is_named,
            now - breaker.since,
            watched.said,
            None if watched.looked is None else now - watched.looked,
            tuple(compared),
        )

    def is_suspected(self, target: SessionMirror) -> bool:
        """A client has shown that it may not work, sessions move there, and it is being probed."""
        breaker = self._watched[target.name].breaker
        return breaker.state is State.SUSPECT and breaker.is_named

    def has_failed(self, target: SessionMirror) -> bool:
        """We have seen for ourselves that it does not work; nobody's word counts for that."""
        return self._watched[target.name].breaker.has_failed

    def suspect(self, target: SessionMirror) -> None:
        """A client that was sent to ``target`` asked the same again: have it probed now."""
        watched = self._watched[target.name]
        self._see(watched, Seen.ASKED_AGAIN, Seen.ASKED_AGAIN.value)
        watched.probe = self.clock()
        watched.wake.set()

    def _looks(self, key: _Key, now: float) -> dict[str, _Look]:
        return {mirror.name: _Look(now) for mirror in self.targets if mirror.serves(*key)}

    def _wake(self, names: Iterable[str]) -> None:
        for name in names:
            self._watched[name].wake.set()

    # --- looking -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Look at mirrors again and again, until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for watched in self._watched.values():
                    tasks.create_task(self._watch(watched))
        finally:
            running = [task for each in self._watched.values() for task in each.running]
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def look(self) -> None:
        """Compare everything that clients asked for once, now."""
        await asyncio.gather(
            *(
                self._compare(watched, key, known)
                for key, known in tuple(self._known.items())
                for name, watched in self._watched.items()
                if name in known.looks
            )
        )

    async def _watch(self, watched: _Watched) -> None:
        while True:
            watched.wake.clear()
            self._begin(watched)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._rest(watched)):
                    await watched.wake.wait()

    def _begin(self, watched: _Watched) -> None:
        """Begin what is due, as far as there is room."""
        now = self.clock()
        for key in self._due(watched, now):
            if len(watched.running) >= AT_ONCE:
                break
            self._known[key].looks[watched.mirror.name].running = True
            watched.probe = now + watched.breaker.pause(self.rules, self.chance())
            task = asyncio.create_task(self._compare(watched, key, self._known[key]))
            watched.running.add(task)
            task.add_done_callback(functools.partial(_ended, watched))

    def _due(self, watched: _Watched, now: float) -> list[_Key]:
        """Repositories to be looked at, the one before the others that was asked for last."""
        name, found = watched.mirror.name, list[_Key]()
        forgotten = now - _FORGOTTEN * max(mirror.max_age for mirror in self.targets)
        for key in [key for key, known in self._known.items() if known.asked < forgotten]:
            del self._known[key]
        # While it is not up, one at a time says whether it is again.
        probes = now >= watched.probe
        for key, known in reversed(self._known.items()):
            look = known.looks.get(name)
            if look is None or look.running:
                continue
            if probes:
                probes = False
                found.append(key)
            elif watched.breaker.state is State.UP and look.due <= now:
                found.append(key)
        return found

    def _rest(self, watched: _Watched) -> float | None:
        """Seconds until something is due; None: until somebody asks."""
        name = watched.mirror.name
        looks = [known.looks[name] for known in self._known.values() if name in known.looks]
        idle = [look for look in looks if not look.running]
        if not idle or len(watched.running) >= AT_ONCE:
            return None  # whoever is under way wakes us
        due = watched.probe
        if watched.breaker.state is State.UP:
            due = min(due, *(look.due for look in idle))
        return max(due - self.clock(), _LEAST)

    async def _compare(self, watched: _Watched, key: _Key, known: _Known) -> None:
        """Compare the refs of one repository there with ours."""
        name, now = watched.mirror.name, self.clock()
        look, told, fresh = known.looks[name], "", False
        try:
            # Ours first: whoever pushes to us in between makes the mirror stale, not fresh.
            ours = await self.own(*key)
            if ours is None:
                self._known.pop(key, None)
                return
            theirs = await watched.reads.digest(*key, ours)
            equal = theirs == ours.digest
            known.seen[name] = Sighting(now, ours.state if equal else theirs)
            fresh = equal and ours.state == known.state
            told = "" if equal else "its refs are not ours"
        except Unreachable as error:
            self._see(watched, Seen.FAILED, str(error))
            return
        except Unfit as unfit:
            known.seen[name] = Sighting(now, None, unfit.reason)
            told = str(unfit)
        except Exception:  # noqa: BLE001 - whatever it is, looking goes on
            _log.exception("session mirror %s, repository %s", name, key[1])
            return
        finally:
            self._put_off(watched, look, now, fresh=fresh)
        self._see(watched, Seen.ANSWERED, Seen.ANSWERED.value)
        _tell(look, name, key[1], told)

    @staticmethod
    def _put_off(watched: _Watched, look: _Look, now: float, *, fresh: bool) -> None:
        """Say when this look comes again: soon, and then later and later, until refs are ours."""
        usual = watched.mirror.max_age / _WITHIN
        look.running = False
        look.due = now + (usual if fresh else min(look.pause, usual))
        look.pause = SOON if fresh else min(look.pause * 2, usual)

    def _see(self, watched: _Watched, what: Seen, why: str) -> None:
        """Change what is thought of a mirror."""
        before, now = watched.breaker, self.clock()
        watched.breaker = before.seen(what, now, self.rules)
        watched.said = why
        if what is not Seen.ASKED_AGAIN:
            watched.looked = now
        # One that begins to fail is probed again sooner than was thought.
        watched.probe = min(watched.probe, now + watched.breaker.pause(self.rules, 0.0))
        if watched.breaker.is_named != before.is_named:
            self._down = frozenset(
                name for name, each in self._watched.items() if not each.breaker.is_named
            )
        state = watched.breaker.state
        if state is before.state:
            return
        self.changed(watched.mirror.name, state)
        # That a client asks twice is no news; that clients are kept here is.
        level = logging.INFO if before.is_named and watched.breaker.is_named else logging.WARNING
        _log.log(
            level,
            "session mirror %s is %s, after %.1f s of %s: %s",
            watched.mirror.name,
            state.value,
            now - before.since,
            before.state.value,
            watched.breaker.told(why, now),
        )


def _ended(watched: _Watched, task: asyncio.Task[None]) -> None:
    """There is room for another comparison: only now, whatever the task itself has said before."""
    watched.running.discard(task)
    watched.wake.set()


def _tell(look: _Look, mirror: str, repository: str, told: str) -> None:
    """Say in the log what is new."""
    if told == look.told:
        return
    look.told = told
    said = told or "its refs are ours, and sessions may move there"
    _log.info("session mirror %s, repository %s: %s", mirror, repository, said)
