# Law of this file: a target is named to clients only while probes of it come back. Requests look at
# what was seen of it; they never probe, but may have one begin. No failure ends the probing.

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from redirects.health import SOON, Breaker, Rules, Seen, State
from redirects.targets import Target
from server.settings_stores import MAIN
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
    probed: float
    suspected: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class Health:
    """What is thought of the targets, and of the stores behind them.

    Attributes:
        store: the main one.
        targets: the targets.
        read_back: probes one.
        rules: when, and what follows from it.
        changed: told of each change, and of how it is at first.
        clock: seconds, of any clock that never jumps.
        chance: draws from 0 to 1.
        replicas: the other stores, by name.
        reads: by the name of a target, that of the store it reads; without one, the main store.
    """

    store: Store
    targets: tuple[Target, ...]
    read_back: ReadBack
    rules: Rules = field(default_factory=Rules)
    changed: Changed = _nobody
    clock: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random
    replicas: Mapping[str, Store] = field(default_factory=dict)
    reads: Mapping[str, str] = field(default_factory=dict)
    _watched: dict[str, _Watched] = field(default_factory=dict)
    _down: frozenset[str] = field(default=frozenset())
    _stores_down: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        now = self.clock()
        for target in self.targets:
            self._watched[target.fingerprint] = _Watched(target, Breaker(since=now), now)
            self.changed(target.name, State.UP)

    def down(self) -> frozenset[str]:
        """Fingerprints of the targets that are not to be named now."""
        return self._down

    def states(self) -> tuple[tuple[str, State], ...]:
        """Names of the targets, and what is thought of each; it is down while its store is."""
        return tuple(
            (each.target.name, State.DOWN if self._is_behind(each.target) else each.breaker.state)
            for each in self._watched.values()
        )

    @property
    def is_store_down(self) -> bool:
        """The main store did not answer when it was last asked."""
        return MAIN in self._stores_down

    def in_doubt(self, target: Target) -> bool:
        """It is anything but up."""
        watched = self._watched[target.fingerprint]
        return self._is_behind(target) or watched.breaker.state is not State.UP

    def suspect(self, target: Target) -> None:
        """A client that was sent to ``target`` asked the same again: have it probed now."""
        watched = self._watched[target.fingerprint]
        self._see(watched, Seen.ASKED_AGAIN, Seen.ASKED_AGAIN.value)
        watched.suspected.set()

    async def run(self) -> None:
        """Probe again and again, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for name, store in self._stores():
                tasks.create_task(self._watch_store(name, store))

    async def probe(self) -> None:
        """Probe stores and targets once, now."""
        await self._look_at_stores()
        await asyncio.gather(*(self._probe(watched) for watched in self._watched.values()))

    def _stores(self) -> tuple[tuple[str, Store], ...]:
        return ((MAIN, self.store), *self.replicas.items())

    def _store_of(self, target: Target) -> str:
        return self.reads.get(target.name, MAIN)

    def _is_behind(self, target: Target) -> bool:
        """Whether a target reads a store that does not answer."""
        return self._store_of(target) in self._stores_down

    async def _watch_store(self, name: str, store: Store) -> None:
        """Look at a store, and then at its targets, which can give nothing before."""
        await self._look_at_store(name, store)
        async with asyncio.TaskGroup() as tasks:
            for watched in self._watched.values():
                if self._store_of(watched.target) == name:
                    tasks.create_task(self._watch(watched))
            while True:
                pause = self.rules.longest_pause * (1 - self.rules.jitter * self.chance())
                await asyncio.sleep(pause)
                await self._look_at_store(name, store)

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
        if self._is_behind(watched.target):
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
            self._see(watched, Seen.ANSWERED, Seen.ANSWERED.value)

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
        if not self._is_behind(watched.target):
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
            if self._is_behind(watched.target) or not watched.breaker.is_named
        )

    async def _look_at_stores(self) -> None:
        await asyncio.gather(*(self._look_at_store(*each) for each in self._stores()))

    async def _look_at_store(self, name: str, store: Store) -> None:
        answers = await _holds_probe(store, self.rules.interval)
        if answers != (name in self._stores_down):
            return
        self._stores_down ^= {name}
        self._name()
        told = "answers again" if answers else "does not answer, so none of its targets is named"
        _log.warning("the store %s %s", name, told)
        for watched, (target, state) in zip(self._watched.values(), self.states(), strict=True):
            if self._store_of(watched.target) == name:
                self.changed(target, state)


async def keep_probe(store: Store) -> None:
    """Put the probe entity into a store that does not have it.

    Raises:
        stores.base.StoreError: it does not answer, or does not take it.
    """
    if await store.stat(PROBE_ENTITY.digest) is None:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "probe")
            path.write_bytes(PROBE)
            await store.put(PROBE_ENTITY, path)


async def _holds_probe(store: Store, patience: float) -> bool:
    """See that the probe entity is in a store, and put it there if not."""
    try:
        async with asyncio.timeout(patience):
            await keep_probe(store)
    except Exception as error:  # noqa: BLE001 - whatever it is, probing goes on
        _log.info("%s: %s", store.name, f"{error}" or type(error).__name__)
        return False
    return True
