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
from pathlib import Path
from typing import Final

from redirects.health import SOON, Breaker, Rules, Seen, State
from redirects.targets import Target
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
        latency: seconds that the last probe took that came back; None before the first.
        why: what the last thing that was seen of it said.
        suspected: set when it is to be probed soon.
    """

    target: Target
    breaker: Breaker
    probed: float
    latency: float | None = None
    why: str = ""
    suspected: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class Standing:
    """What is thought of a target, for people.

    Attributes:
        name: of the target.
        state: what is thought of it.
        seconds: for how long now.
        latency: seconds that the last probe took that came back (two requests, on a connection of
            its own); None: none did yet.
        why: what was seen of it last.
    """

    name: str
    state: State
    seconds: float
    latency: float | None
    why: str


@dataclass(slots=True)
class Health:
    """What is thought of the targets, and of the store behind them.

    Attributes:
        store: behind the targets.
        targets: the targets.
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

    def __post_init__(self) -> None:
        now = self.clock()
        for target in self.targets:
            self._watched[target.fingerprint] = _Watched(target, Breaker(since=now), now)
            self.changed(target.name, State.UP)

    def down(self) -> frozenset[str]:
        """Fingerprints of the targets that are not to be named now."""
        return self._down

    def states(self) -> tuple[tuple[str, State], ...]:
        """Names of the targets, and what is thought of each; it is down while the store is."""
        return tuple(
            (each.target.name, State.DOWN if self._store_down else each.breaker.state)
            for each in self._watched.values()
        )

    def standings(self) -> tuple[Standing, ...]:
        """As :meth:`states`, with since when, how fast it answers, and what was seen last."""
        now = self.clock()
        return tuple(
            Standing(name, state, now - watched.breaker.since, watched.latency, watched.why)
            for (name, state), watched in zip(self.states(), self._watched.values(), strict=True)
        )

    @property
    def is_store_down(self) -> bool:
        """The store did not answer when it was last asked."""
        return self._store_down

    def in_doubt(self, target: Target) -> bool:
        """It is anything but up."""
        return self._store_down or self._watched[target.fingerprint].breaker.state is not State.UP

    def suspect(self, target: Target) -> None:
        """A client that was sent to ``target`` asked the same again: have it probed now."""
        watched = self._watched[target.fingerprint]
        self._see(watched, Seen.ASKED_AGAIN, Seen.ASKED_AGAIN.value)
        watched.suspected.set()

    async def run(self) -> None:
        """Probe again and again, until cancelled."""
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
            await asyncio.sleep(self.rules.longest_pause * (1 - self.rules.jitter * self.chance()))
            await self._look_at_store()

    async def _watch(self, watched: _Watched) -> None:
        while True:
            watched.suspected.clear()
            await self._probe(watched)
            due = watched.probed + watched.breaker.pause(self.rules, self.chance())
            with suppress(TimeoutError):
                async with asyncio.timeout(max(due - self.clock(), 0.0)):
                    await watched.suspected.wait()
                    # However many ask, not faster than this.
                    soon = watched.probed + min(SOON, self.rules.longest_pause)
                    await asyncio.sleep(max(soon - self.clock(), 0.0))

    async def _probe(self, watched: _Watched) -> None:
        """Probe one target, through the URL that a client would get."""
        watched.probed = self.clock()
        if self._store_down:
            return
        try:
            async with asyncio.timeout(self.rules.timeout):
                await self.read_back(watched.target, PROBE_ENTITY)
        except TimeoutError:
            self._see(watched, Seen.FAILED, f"no answer within {self.rules.timeout:g} s")
        except Exception as error:  # noqa: BLE001 - whatever it is, clients would meet it too
            said = str(error).removeprefix(f"entity {PROBE_ENTITY.digest}, ")
            said = said.removeprefix(f"target {watched.target.name}: ")
            self._see(watched, Seen.FAILED, said or type(error).__name__)
        else:
            watched.latency = self.clock() - watched.probed
            self._see(watched, Seen.ANSWERED, Seen.ANSWERED.value)

    def _see(self, watched: _Watched, what: Seen, why: str) -> None:
        """Change what is thought of a target."""
        before = watched.breaker
        now = self.clock()
        watched.breaker = before.seen(what, now, self.rules)
        watched.why = why
        if watched.breaker.is_named != before.is_named:
            self._name()
        state = watched.breaker.state
        if state is before.state:
            return
        name, lasted = watched.target.name, now - before.since
        if not self._store_down:
            self.changed(name, state)
        # That a client asks twice is no news; that clients are sent elsewhere is.
        level = logging.INFO if before.is_named and watched.breaker.is_named else logging.WARNING
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
            fingerprint
            for fingerprint, watched in self._watched.items()
            if self._store_down or not watched.breaker.is_named
        )

    async def _look_at_store(self) -> None:
        was, self._store_down = self._store_down, not await self._holds_probe()
        if was != self._store_down:
            self._name()
            told = "does not answer, so nothing is named" if self._store_down else "answers again"
            _log.warning("the store %s", told)
            for name, state in self.states():
                self.changed(name, state)

    async def _holds_probe(self) -> bool:
        """See that the probe entity is in the store, and put it there if not."""
        try:
            async with asyncio.timeout(self.rules.interval):
                if await self.store.stat(PROBE_ENTITY.digest) is None:
                    with tempfile.TemporaryDirectory() as directory:
                        path = Path(directory, "probe")
                        path.write_bytes(PROBE)
                        await self.store.put(PROBE_ENTITY, path)
        except Exception as error:  # noqa: BLE001 - whatever it is, probing goes on
            _log.info("the store: %s", f"{error}" or type(error).__name__)
            return False
        return True
