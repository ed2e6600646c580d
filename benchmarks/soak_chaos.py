# Law of this file: all that can go wrong goes wrong again and again, at moments that chance draws,
# and is over when the soak is; one worker is spared, so that there is one that grows old.

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.soak_origin import Author, HgOrigin
from benchmarks.soak_proxy import Fault, Proxy
from benchmarks.soak_server import Program, Serving
from benchmarks.soak_troubles import Troubles, What

# Seconds between two of a kind, on average, in a long soak.
_KILL: Final = 20.0
_STORE: Final = 30.0
_TARGET: Final = 25.0
_RELOAD: Final = 25.0
_PUSH: Final = 3.0
_GROW: Final = 20.0

# How long a fault lasts, at least and at most: some end before any probe sees them.
_LASTS: Final = (3.0, 25.0)

# How often it is looked whether a killed worker has gone.
_GOES: Final = 0.01

# Of a soak that is shorter all is shorter.
_LONG: Final = 120.0

_PORTIONS: Final = (100, 60)


@dataclass(slots=True)
class Chaos:
    """What is done to a server, and to what it leans on.

    Attributes:
        serving: the server.
        template: of its settings, in which ``PORTION`` is replaced.
        store: between it and its store.
        bucket: between clients and that store.
        files: the other target, a file server.
        files_port: where that listens.
        author: pushes.
        hg: grows.
        troubles: told of all.
        chance: decides.
        length: of the soak, in seconds.
        restarts: when the server is replaced, by that length.
        spared: the worker that is not killed.
        status: exit statuses of servers that were replaced.
    """

    serving: Serving
    template: str
    store: Proxy
    bucket: Proxy
    files: Program
    files_port: int
    author: Author
    hg: HgOrigin
    troubles: Troubles
    chance: random.Random
    length: float
    restarts: tuple[float, ...]
    spared: int = 0
    status: list[int] = field(default_factory=list)
    _portion: int = 0
    _store_lives: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def run(self, until: float) -> None:
        """Do it until a moment of :func:`time.time`."""
        self.spare()
        loops: tuple[tuple[float, Callable[[], Awaitable[None]]], ...] = (
            (_KILL, self._kill),
            (_STORE, self._store_fails),
            (_TARGET, self._bucket_fails),
            (_TARGET, self._files_stop),
            (_RELOAD, self._reload),
            (_PUSH, self.author.push),
            (_GROW, self.hg.grow),
        )
        async with asyncio.TaskGroup() as group:
            for gap, act in loops:
                group.create_task(self._again(gap, act, until))
            group.create_task(self._restarts(until))

    def spare(self) -> None:
        """From now on the oldest worker is the one that is not killed."""
        workers = self.serving.workers()
        self.spared = workers[0] if workers else 0

    def settings(self) -> str:
        """The settings as they are now."""
        return self.template.replace("PORTION", str(_PORTIONS[self._portion % 2]))

    async def _again(self, gap: float, act: Callable[[], Awaitable[None]], until: float) -> None:
        while True:
            wait = self._scaled(gap) * self.chance.uniform(0.4, 1.6)
            if time.time() + wait >= until:
                return
            await asyncio.sleep(wait)
            await act()

    def _scaled(self, seconds: float) -> float:
        return seconds * min(1.0, self.length / _LONG)

    def _lasts(self) -> float:
        return self._scaled(self.chance.uniform(*_LASTS))

    async def _kill(self) -> None:
        victims = [pid for pid in self.serving.workers() if pid != self.spared]
        if victims:
            victim = self.chance.choice(victims)
            # Until it has gone its kernel still takes connections, which end with it.
            with self.troubles.going_on(What.KILL, str(victim)), suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                while victim in self.serving.workers():  # noqa: ASYNC110 - no child of ours
                    await asyncio.sleep(_GOES)

    async def _store_fails(self) -> None:
        fault = self.chance.choice(tuple(Fault))
        async with self._store_lives:
            with self.troubles.going_on(What.STORE, fault.value):
                async with self.store.failing(fault):
                    await asyncio.sleep(self._lasts())

    async def _bucket_fails(self) -> None:
        fault = self.chance.choice(tuple(Fault))
        unseen = fault is Fault.TRUNCATES
        with self.troubles.going_on(What.BUCKET, fault.value, unseen=unseen):
            async with self.bucket.failing(fault):
                await asyncio.sleep(self._lasts())

    async def _files_stop(self) -> None:
        with self.troubles.going_on(What.FILES, "killed"):
            await self.files.kill()
            await asyncio.sleep(self._lasts())
            await self.files.start(self.files_port)

    async def _reload(self) -> None:
        self._portion += 1
        _replace(self.serving.config, self.settings())
        self.troubles.note(What.RELOAD)
        self.serving.reload()

    async def _restarts(self, until: float) -> None:
        began = until - self.length
        for share in self.restarts:
            await asyncio.sleep(max(0.0, began + share * self.length - time.time()))
            # Nobody would replace a server while its store is away: a new one would not begin.
            async with self._store_lives:
                await self._restart()

    async def _restart(self) -> None:
        with self.troubles.going_on(What.RESTART):
            async with self.serving.beside() as statuses:
                self.spare()
            self.status += statuses


def _replace(path: Path, text: str) -> None:
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.rename(path)
