# Law of this file: a target is named to clients only while probes of it come back. Requests look at
# what was seen of it; they never probe, but may have one begin. No failure ends the probing.

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Final

from redirects.health import SOON, Breaker, Rules, Seen, State
from redirects.targets import Target
from server.lateness import in_time
from stores.base import Store
from stores.entity import Entity

_log = logging.getLogger("offramp.health")

PROBE: Final = b"offramp probe\n"
PROBE_ENTITY: Final = Entity(hashlib.sha256(PROBE).hexdigest(), len(PROBE), "text/plain")

ReadBack = Callable[[Target, Entity], Awaitable[None]]
"""Read an entity back through a target, whole and by Range, and compare it; raises if it does not
come."""

Changed = Callable[[str, State], None]
"""Told the name of a target, and what is thought of it from now on."""


def _nobody(target: str, state: State) -> None:
    del target, state


@dataclass(slots=True)
class _Watched:
    """One target under observation.

    Attributes:
        target: the target.
        breaker: what is thought of it.
        probed: when its last probe began.
        suspected: set when it is to be probed soon.
    """

    target: Target
    breaker: Breaker
    probed: float = -inf
    suspected: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class Health:
    """What is thought of the targets, and of the store behind them.

    At first nothing is known, so nothing is named; nor is it after the store was away, before a
    probe of each target has come back.

    Attributes:
        store: behind the targets.
        targets: the targets; each has a name of its own, and several may lead to the same place.
        read_back: probes one.
        rules: when, and what follows from it.
        changed: told of each change, and of how it is at first.
        clock: seconds, of any clock that never jumps.
        chance: draws from 0 to 1.
    """

    store: Store
    targets: tuple[Target, ...]
    read_back: ReadBack
    rules: Rules = field(default_factory=Rules)
    changed: Changed = _nobody
    clock: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random
    _watched: dict[str, _Watched] = field(default_factory=dict)
    _down: frozenset[str] = field(default=frozenset())
    _store_down: bool = False
    # When the store was last looked at, and when it last went or came.
    _looked: float = -inf
    _turned: float = -inf

    def __post_init__(self) -> None:
        now = self.clock()
        for target in self.targets:
            self._watched[target.name] = _Watched(target, Breaker(State.UNSEEN, now))
            self.changed(target.name, State.UNSEEN)
        self._name()

    def down(self) -> frozenset[str]:
        """Fingerprints of the targets that are not to be named now.

        Targets with one fingerprint lead to one place: if one of them fails, none is named.
        """
        return self._down

    def states(self) -> tuple[tuple[str, State], ...]:
        """Names of the targets, and what is thought of each; it is down while the store is."""
        return tuple(
            (each.target.name, State.DOWN if self._store_down else each.breaker.state)
            for each in self._watched.values()
        )

    @property
    def is_store_down(self) -> bool:
        """The store did not answer when it was last asked."""
        return self._store_down

    def is_suspected(self, target: Target) -> bool:
        """A client has shown that it may not work, it is named all the same, and being probed."""
        breaker = self._watched[target.name].breaker
        return breaker.state is State.SUSPECT and breaker.is_named

    def has_failed(self, target: Target) -> bool:
        """We have seen for ourselves that it does not work; nobody's word counts for that."""
        return self._store_down or self._watched[target.name].breaker.has_failed

    def suspect(self, target: Target) -> None:
        """A client that was sent to ``target`` asked the same again: have it probed now."""
        watched = self._watched[target.name]
        self._see(watched, Seen.ASKED_AGAIN, Seen.ASKED_AGAIN.value)
        watched.suspected.set()

    async def begin(self) -> None:
        """Probe store and targets, before anybody asks, in the time that one probe has.

        Who has not answered by then is not named, and keeps nobody waiting.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(self.rules.timeout):
                await self.probe()

    async def run(self) -> None:
        """Probe again and again, until cancelled."""
        if self._looked == -inf:
            await self._look_at_store()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_store())
            for watched in self._watched.values():
                tasks.create_task(self._watch(watched))

    async def probe(self) -> None:
        """Probe store and targets once, now."""
        await self._look_at_store()
        await asyncio.gather(*(self._probe(watched) for watched in self._watched.values()))

    async def _watch_store(self) -> None:
        while True:
            due = self._looked + self._pause()
            await asyncio.sleep(max(due - self.clock(), 0.0))
            await self._look_at_store()

    def _pause(self) -> float:
        return self.rules.longest_pause * (1 - self.rules.jitter * self.chance())

    async def _watch(self, watched: _Watched) -> None:
        while True:
            due = watched.probed + watched.breaker.pause(self.rules, self.chance())
            with suppress(TimeoutError):
                async with asyncio.timeout(max(due - self.clock(), 0.0)):
                    await watched.suspected.wait()
                    # However many ask, not faster than this.
                    soon = watched.probed + min(SOON, self.rules.longest_pause)
                    await asyncio.sleep(max(soon - self.clock(), 0.0))
            watched.suspected.clear()
            await self._probe(watched)

    async def _probe(self, watched: _Watched) -> None:
        """Probe one target, and see what follows from it."""
        began = watched.probed = self.clock()
        if self._store_down:
            return
        seen, why = await self._probed(watched.target)
        # What was seen while the store went or came says nothing of how it is now.
        if not self._store_down and began >= self._turned:
            self._see(watched, seen, why)

    async def _probed(self, target: Target) -> tuple[Seen, str]:
        """Probe one target, through the URL that a client would get."""

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
                lambda: self.read_back(target, PROBE_ENTITY), self.rules.timeout, told=late
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, clients would meet it too
            said = str(error).removeprefix(f"entity {PROBE_ENTITY.digest}, ")
            said = said.removeprefix(f"target {target.name}: ")
            if not said and isinstance(error, TimeoutError):
                said = f"no answer within {self.rules.timeout:g} s"
            return Seen.FAILED, said or type(error).__name__
        return Seen.ANSWERED, Seen.ANSWERED.value

    def _see(self, watched: _Watched, what: Seen, why: str) -> None:
        """Change what is thought of a target."""
        before = watched.breaker
        now = self.clock()
        watched.breaker = before.seen(what, now, self.rules)
        if watched.breaker.is_named != before.is_named:
            self._name()
        state = watched.breaker.state
        if state is before.state:
            return
        name, lasted = watched.target.name, now - before.since
        if not self._store_down:
            self.changed(name, state)
        # That all is well from the beginning is no news, nor that a client asks twice; that clients
        # are sent elsewhere is, and from when on they are not.
        level = logging.WARNING
        if watched.breaker.is_named and before.state is State.UNSEEN:
            level = logging.DEBUG
        elif watched.breaker.is_named and before.is_named:
            level = logging.INFO
        _log.log(
            level,
            "target %s is %s, after %.1f s of %s: %s",
            name,
            state.value,
            lasted,
            before.state.value,
            why,
        )

    def _name(self) -> None:
        """Settle which targets are not to be named."""
        self._down = frozenset(
            watched.target.fingerprint
            for watched in self._watched.values()
            if self._store_down or not watched.breaker.is_named
        )

    async def _look_at_store(self) -> None:
        self._looked = self.clock()
        holds = await self._holds_probe()
        if holds != self._store_down:
            return  # as before
        self._store_down = not holds
        self._turned = self.clock()
        for watched in self._watched.values():
            # Nobody was probed while the store was away: what was known is old by now.
            watched.breaker = watched.breaker.forgotten(self._turned)
            watched.suspected.set()
        self._name()
        told = "answers again" if holds else "does not answer, so nothing is named"
        _log.warning("the store %s", told)
        for name, state in self.states():
            self.changed(name, state)

    async def _holds_probe(self) -> bool:
        """See that the probe entity is in the store, and put it there if not."""

        def late(seconds: float) -> None:
            _log.warning(
                "the store did not answer within %g s, but this server itself was late by %.1f s;"
                " it has too much to do, and asks again",
                self.rules.interval,
                seconds,
            )

        try:
            await in_time(self._put_probe, self.rules.interval, told=late)
        except Exception as error:  # noqa: BLE001 - whatever it is, probing goes on
            _log.info("the store: %s", f"{error}" or type(error).__name__)
            return False
        return True

    async def _put_probe(self) -> None:
        if await self.store.stat(PROBE_ENTITY.digest) is None:
            with tempfile.TemporaryDirectory() as directory:
                path = Path(directory, "probe")
                path.write_bytes(PROBE)
                await self.store.put(PROBE_ENTITY, path)
