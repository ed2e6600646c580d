# Law of this file: a target is named to clients only while a probe of it comes back. Requests look
# at what the last probe found; they never probe.

from __future__ import annotations

import asyncio
import hashlib
import logging
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from redirects.targets import Target
from stores.base import Store, StoreError
from stores.entity import Entity

_log = logging.getLogger("offramp.health")

PROBE: Final = b"offramp probe\n"
PROBE_ENTITY: Final = Entity(hashlib.sha256(PROBE).hexdigest(), len(PROBE), "text/plain")

# From the moment a target dies, this many seconds pass at most (and the time of one try) before
# no new answer names it.
INTERVAL: Final = 10.0

ReadBack = Callable[[Target, Entity], Awaitable[None]]
"""Read an entity back through a target; raises if it does not come."""


@dataclass(slots=True)
class Health:
    """Which targets answered when they were last asked."""

    store: Store
    targets: tuple[Target, ...]
    read_back: ReadBack
    interval: float = INTERVAL
    _down: frozenset[str] = field(default=frozenset())
    _store_down: bool = False

    def filter(self, fingerprints: frozenset[str]) -> frozenset[str]:
        """Those of ``fingerprints`` whose target is not known to be down."""
        return fingerprints - self._down if self._down else fingerprints

    def down(self) -> frozenset[str]:
        """Fingerprints of the targets that are known to be down."""
        return self._down

    @property
    def is_store_down(self) -> bool:
        """The store did not answer when it was last asked."""
        return self._store_down

    async def run(self) -> None:
        """Probe again and again, until cancelled."""
        while True:
            await self.probe()
            await asyncio.sleep(self.interval)

    async def probe(self) -> None:
        """Probe every target once, through the URL that a client would get."""
        self._store_down = not await self.store_probe()
        if not self._store_down:
            results = await asyncio.gather(*(self._answers(target) for target in self.targets))
            down = {t.fingerprint for t, up in zip(self.targets, results, strict=True) if not up}
        else:
            down = {target.fingerprint for target in self.targets}
        for target in self.targets:
            was, now_down = target.fingerprint in self._down, target.fingerprint in down
            if was != now_down:
                _log.warning("target %s is %s", target.name, "down" if now_down else "up again")
        self._down = frozenset(down)

    async def store_probe(self) -> bool:
        """See that the probe entity is in the store, and put it there if not."""
        try:
            if await self.store.stat(PROBE_ENTITY.digest) is None:
                with tempfile.TemporaryDirectory() as directory:
                    path = Path(directory, "probe")
                    path.write_bytes(PROBE)
                    await self.store.put(PROBE_ENTITY, path)
        except (StoreError, OSError) as error:
            _log.info("%s", error)
            return False
        return True

    async def _answers(self, target: Target) -> bool:
        try:
            await self.read_back(target, PROBE_ENTITY)
        except Exception as error:  # noqa: BLE001 - whatever it is, clients would meet it too
            _log.info("probe of target %s: %s", target.name, error)
            return False
        return True
