# Law of this file: a target is named to clients only while probes of it come back. Requests look at
# what was seen of it; they never probe, but may have one begin. No failure ends the probing.

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Final

from redirects.health import SOON, Breaker, Rules, Seen, State
from redirects.targets import Target
from server.lateness import Doubt, in_time
from server.probes import PROBE_ENTITY, keep_probe
from server.settings_stores import MAIN
from stores.base import Store
from stores.entity import Entity
from stores.replica import NotTheSame

_log = logging.getLogger("offramp.health")

ReadBack = Callable[[Target, Entity], Awaitable[None]]
"""Read an entity back through a target, whole and by Range, and compare it; raises if it does not
come."""

Changed = Callable[[str, State], None]
"""Told the name of a target, and what is thought of it from now on."""


_NO_ANSWER: Final = "its store does not answer"


def _nobody(target: str, state: State) -> None:
    del target, state


async def _nothing() -> None:
    pass


@dataclass(slots=True)
class _Watched:
    """One target under observation.

    Attributes:
        target: the target.
        breaker: what is thought of it.
        probed: when its last probe began.
        latency: seconds that the last probe took that came back; None before the first.
        suspected: set when it is to be probed soon.
        turned: when clients began to be sent there, or ceased to be.
        said: what was seen of it last.
    """

    target: Target
    breaker: Breaker
    probed: float = -inf
    latency: float | None = None
    suspected: asyncio.Event = field(default_factory=asyncio.Event)
    turned: float = 0.0
    said: str = "nothing yet"


@dataclass(frozen=True, slots=True)
class Observed:
    """What is known of a target now, for people.

    Attributes:
        name: of the target.
        state: what is thought of it.
        is_named: clients may be sent there.
        lasted: seconds since that state began.
        turned: seconds since clients began to be sent there, or ceased to be.
        seen: what was seen of it last.
        latency: seconds that the last probe took that came back (two or three requests, on a
            connection of its own); None: none did yet.
        held: seconds for which it is held down at least, because it fell again and again; else 0.
    """

    name: str
    state: State
    is_named: bool
    lasted: float
    turned: float
    seen: str
    latency: float | None = None
    held: float = 0.0


@dataclass(slots=True)
class _Behind:
    """A store under observation.

    Attributes:
        name: of the settings.
        store: the store.
        targets: read it.
        probe: what it has, to probe its targets with.
        is_down: it did not answer when it was last asked, or is not the one that it was.
        said: why it is down, for people.
        looked: when it was last looked at.
        turned: when it last went or came.
    """

    name: str
    store: Store
    targets: tuple[_Watched, ...]
    probe: Entity = PROBE_ENTITY
    is_down: bool = False
    said: str = _NO_ANSWER
    looked: float = -inf
    turned: float = -inf


@dataclass(slots=True)
class Health:
    """What is thought of the targets, and of the stores behind them.

    At first nothing is known, so nothing is named; nor is it after its store was away, before a
    probe of a target has come back.

    Attributes:
        store: the main one.
        targets: the targets; each has a name of its own, and several may lead to the same place.
        read_back: probes one.
        rules: when, and what follows from it.
        changed: told of each change, and of how it is at first.
        clock: seconds, of any clock that never jumps.
        wall: seconds since the epoch.
        chance: draws from 0 to 1.
        replicas: the other stores, by name.
        reads: by the name of a target, that of the store it reads; without one, the main store.
        confirm: called before each look at the main store; what it raises is a failure of that.
        salt: the generation of the main store, for probes; empty while that is not known.
        read_first: probes one at the beginning, while nobody asks us yet; None: as later.
    """

    store: Store
    targets: tuple[Target, ...]
    read_back: ReadBack
    rules: Rules = field(default_factory=Rules)
    changed: Changed = _nobody
    clock: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random
    wall: Callable[[], float] = time.time
    replicas: Mapping[str, Store] = field(default_factory=dict)
    reads: Mapping[str, str] = field(default_factory=dict)
    confirm: Callable[[], Awaitable[None]] = _nothing
    salt: Callable[[], str] = str
    read_first: ReadBack | None = None
    _watched: dict[str, _Watched] = field(default_factory=dict)
    _behind: dict[str, _Behind] = field(default_factory=dict)
    _down: frozenset[str] = field(default=frozenset())
    _begins: bool = False

    def __post_init__(self) -> None:
        now = self.clock()
        for target in self.targets:
            self._watched[target.name] = _Watched(target, Breaker(State.UNSEEN, now), turned=now)
            self.changed(target.name, State.UNSEEN)
        for name, store in ((MAIN, self.store), *self.replicas.items()):
            readers = (each for each in self._watched.values() if self._reads(each) == name)
            self._behind[name] = _Behind(name, store, tuple(readers))
        self._name()

    def down(self) -> frozenset[str]:
        """Fingerprints of the targets that are not to be named now.

        Targets with one fingerprint lead to one place: if one of them fails, none is named.
        """
        return self._down

    def states(self) -> tuple[tuple[str, State], ...]:
        """Names of the targets, and what is thought of each; it is down while its store is."""
        return tuple(
            (each.target.name, State.DOWN if self._store_of(each).is_down else each.breaker.state)
            for each in self._watched.values()
        )

    def observed(self) -> tuple[Observed, ...]:
        """What is known of each target; while its store is down, that."""
        now = self.clock()
        return tuple(self._observed(watched, now) for watched in self._watched.values())

    def _observed(self, watched: _Watched, now: float) -> Observed:
        name, breaker, behind = watched.target.name, watched.breaker, self._store_of(watched)
        if behind.is_down:
            lasted = now - behind.turned
            return Observed(name, State.DOWN, False, lasted, lasted, behind.said, watched.latency)
        lasted, turned, latency = now - breaker.since, now - watched.turned, watched.latency
        held, seen = breaker.held(now), breaker.told(watched.said, now)
        return Observed(name, breaker.state, breaker.is_named, lasted, turned, seen, latency, held)

    @property
    def is_store_down(self) -> bool:
        """The main store did not answer when it was last asked."""
        return self._behind[MAIN].is_down

    def is_away(self, store: str) -> bool:
        """A store, by its name, did not answer when it was last asked."""
        return self._behind[store].is_down

    def is_suspected(self, target: Target) -> bool:
        """A client has shown that it may not work, it is named all the same, and being probed."""
        breaker = self._watched[target.name].breaker
        return breaker.state is State.SUSPECT and breaker.is_named

    def has_failed(self, target: Target) -> bool:
        """We have seen for ourselves that it does not work; nobody's word counts for that."""
        watched = self._watched[target.name]
        return self._store_of(watched).is_down or watched.breaker.has_failed

    def suspect(self, target: Target) -> None:
        """A client that was sent to ``target`` asked the same again: have it probed now."""
        watched = self._watched[target.name]
        self._see(watched, Seen.ASKED_AGAIN, Seen.ASKED_AGAIN.value)
        watched.suspected.set()

    async def look_at(self, target: Target) -> None:
        """Probe one target, for somebody else: nothing follows from it here.

        Raises:
            Exception: what :attr:`read_back` raises where it does not come back.
        """
        await self.read_back(target, self._probe_for(target))

    async def begin(self) -> None:
        """Probe stores and targets, before anybody asks, in the time that one probe has.

        Who has not answered by then is not named, and keeps nobody waiting.
        """
        self._begins = True
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.rules.timeout):
                    await self.probe()
        finally:
            self._begins = False

    async def run(self) -> None:
        """Probe again and again, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for behind in self._behind.values():
                tasks.create_task(self._watch_store(behind))

    async def probe(self) -> None:
        """Probe stores and targets once, now; none waits for another store's."""
        await asyncio.gather(*(self._probe_all(behind) for behind in self._behind.values()))

    async def look_at_stores(self) -> None:
        """Ask each store once, now."""
        await asyncio.gather(*(self._look_at_store(behind) for behind in self._behind.values()))

    def _reads(self, watched: _Watched) -> str:
        return self.reads.get(watched.target.name, MAIN)

    def _store_of(self, watched: _Watched) -> _Behind:
        return self._behind[self._reads(watched)]

    def _probe_for(self, target: Target) -> Entity:
        return self._store_of(self._watched[target.name]).probe

    async def _probe_all(self, behind: _Behind) -> None:
        await self._look_at_store(behind)
        await asyncio.gather(*(self._probe(watched) for watched in behind.targets))

    async def _watch_store(self, behind: _Behind) -> None:
        """Look at a store, and at its targets, which can give nothing before."""
        async with asyncio.TaskGroup() as tasks:
            if behind.looked == -inf:
                await self._look_at_store(behind)
            for watched in behind.targets:
                again = self._for_ever(watched.target.name, partial(self._watch, watched))
                tasks.create_task(again)
            await self._for_ever(behind.name, partial(self._watch_alone, behind))

    async def _for_ever(self, what: str, watch: Callable[[], Awaitable[None]]) -> None:
        """Watch it again and again; what goes wrong with that is told, and is no end of it."""
        while True:
            try:
                await watch()
            except Exception:  # noqa: BLE001 - whatever it is, probing goes on
                _log.exception("something went wrong while %s was probed; that goes on", what)
                await asyncio.sleep(SOON)

    async def _watch_alone(self, behind: _Behind) -> None:
        due = behind.looked + self._pause()
        await asyncio.sleep(max(due - self.clock(), 0.0))
        await self._look_at_store(behind)

    def _pause(self) -> float:
        return self.rules.longest_pause * (1 - self.rules.jitter * self.chance())

    async def _watch(self, watched: _Watched) -> None:
        due = watched.probed + watched.breaker.pause(self.rules, self.chance())
        with suppress(TimeoutError):
            async with asyncio.timeout(max(due - self.clock(), 0.0)):
                await watched.suspected.wait()
                # However many ask, not faster than this.
                soon = watched.probed + min(SOON, self.rules.longest_pause)
                await asyncio.sleep(max(soon - self.clock(), 0.0))
        watched.suspected.clear()
        await self._probe(watched)

    def _tell(self, watched: _Watched, state: State) -> None:
        """Tell whoever keeps figures; that this may fail is no reason to see nothing any more."""
        try:
            self.changed(watched.target.name, state)
        except Exception:  # noqa: BLE001 - theirs, whatever it is
            _log.exception("target %s is %s, which was not noted", watched.target.name, state.value)

    async def _probe(self, watched: _Watched) -> None:
        """Probe one target, and see what follows from it."""
        began = watched.probed = self.clock()
        behind = self._store_of(watched)
        if behind.is_down:
            return

        def see(seen: Seen, why: str) -> None:
            # What was seen while the store went or came says nothing of how it is now.
            if not behind.is_down and began >= behind.turned:
                self._see(watched, seen, why)

        seen, why = await self._probed(watched.target, self._doubt(watched, see))
        if seen is Seen.ANSWERED:
            watched.latency = self.clock() - began
        see(seen, why)

    def _doubt(self, watched: _Watched, see: Callable[[Seen, str], None]) -> Doubt | None:
        """What is seen before its time is over, where a probe takes longer than it used to."""
        if watched.latency is None:
            return None
        patience, usual = self.rules.patience(watched.latency), watched.latency
        if patience is None:
            return None
        why = f"no answer within {patience:.1f} s, where the last one took {usual:.2f} s"
        return Doubt(patience, partial(see, Seen.LATE, why))

    async def _probed(self, target: Target, doubt: Doubt | None) -> tuple[Seen, str]:
        """Probe one target, through the URL that a client would get."""
        probe = self._probe_for(target)
        read_back = self.read_back
        if self._begins and self.read_first is not None:
            read_back = self.read_first

        def late(seconds: float) -> None:
            _log.warning(
                "target %s: no answer within %g s, but this server itself was late by %.1f s; it"
                " has too much to do, and probes again",
                target.name,
                self.rules.timeout,
                seconds,
            )

        try:
            await in_time(
                lambda: read_back(target, probe),
                self.rules.timeout,
                told=late,
                doubt=doubt,
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, clients would meet it too
            said = str(error).removeprefix(f"entity {probe.digest}, ")
            said = said.removeprefix(f"target {target.name}: ")
            if not said and isinstance(error, TimeoutError):
                said = f"no answer within {self.rules.timeout:g} s"
            return Seen.FAILED, said or type(error).__name__
        return Seen.ANSWERED, Seen.ANSWERED.value

    def _see(self, watched: _Watched, what: Seen, why: str) -> None:
        """Change what is thought of a target."""
        before = watched.breaker
        now = self.clock()
        watched.breaker, watched.said = before.seen(what, now, self.rules), why
        if watched.breaker.is_named != before.is_named:
            watched.turned = now
            self._name()
            if before.is_named:
                self._doubt_others(watched)
        state = watched.breaker.state
        if state is before.state:
            return
        name, lasted = watched.target.name, now - before.since
        if not self._store_of(watched).is_down:
            self._tell(watched, state)
        # That all is well from the beginning is no news; that a target is not named any more is
        # what somebody should look at.
        level = logging.WARNING
        if watched.breaker.is_named and before.state is State.UNSEEN:
            level = logging.DEBUG
        elif watched.breaker.is_named:
            level = logging.INFO
        _log.log(
            level,
            "target %s is %s, after %.1f s of %s: %s",
            name,
            state.value,
            lasted,
            before.state.value,
            watched.breaker.told(why, now),
        )

    def _doubt_others(self, watched: _Watched) -> None:
        """Probe the others soon: what took this one may have taken them, as a region's outage does.

        They are named until a probe of their own says something else.
        """
        for other in self._watched.values():
            if other is not watched and other.breaker.is_named:
                other.suspected.set()

    def _name(self) -> None:
        """Settle which targets are not to be named."""
        self._down = frozenset(
            watched.target.fingerprint
            for watched in self._watched.values()
            if self._store_of(watched).is_down or not watched.breaker.is_named
        )

    async def _look_at_store(self, behind: _Behind) -> None:
        behind.looked = self.clock()
        answers = await self._holds_probe(behind)
        if answers != behind.is_down:
            return  # as before
        behind.is_down = not answers
        behind.turned = self.clock()
        for watched in behind.targets:
            # Nobody was probed while the store was away: what was known is old by now.
            watched.breaker = watched.breaker.forgotten(behind.turned)
            watched.turned, watched.said = behind.turned, "nothing since its store answers again"
            watched.suspected.set()
        self._name()
        told = "answers again"
        if behind.is_down:
            told = "does not answer" if behind.said == _NO_ANSWER else "is refused"
            told += ", so none of its targets is named"
        _log.warning("the store %s %s", behind.name, told)
        for watched in behind.targets:
            state = State.DOWN if behind.is_down else watched.breaker.state
            self._tell(watched, state)

    async def _holds_probe(self, behind: _Behind) -> bool:
        """See that a store has what its targets are probed with now, and put it there if not."""

        def late(seconds: float) -> None:
            _log.warning(
                "the store %s did not answer within %g s, but this server itself was late by %.1f"
                " s; it has too much to do, and asks again",
                behind.name,
                self.rules.interval,
                seconds,
            )

        async def kept() -> Entity:
            if behind.name == MAIN:
                await self.confirm()
            return await keep_probe(behind.store, self.wall(), self.rules.timeout, self.salt())

        before = behind.probe
        try:
            behind.probe = await in_time(kept, self.rules.interval, told=late)
        except NotTheSame as error:
            if behind.said != error.what:
                _log.warning("%s", error)
            behind.said = error.what
            return False
        except Exception as error:  # noqa: BLE001 - whatever it is, probing goes on
            _log.info("the store %s: %s", behind.name, f"{error}" or type(error).__name__)
            behind.said = _NO_ANSWER
            return False
        behind.said = _NO_ANSWER
        if behind.probe == PROBE_ENTITY != before:
            _log.warning(
                "the store %s is read and takes nothing new; that its content is gone is not seen"
                " while a cache before it has what targets are probed with",
                behind.name,
            )
        return True
