# Law of this file: what no request tells (how old bundles are, what the indexer did, what is left
# of disks) is looked at now and then, aside; it asks no store and nobody on the network.

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from server.catalogs import Catalogs
from server.condition import Condition
from server.indexing import last_change
from server.settings import Settings
from server.settings_stores import MAIN
from server.settings_targets import DirectoryStoreSettings
from server.status.progress import STATUS, last_run

_log = logging.getLogger("offramp.observing")

# Prometheus asks every 15 seconds to a minute.
LOOK_SECONDS: Final = 15.0

DATA: Final = "data"
"""The label of the data directory's disk; others have the name of their store."""


@dataclass(slots=True)
class Observing:
    """Tells figures what can only be looked up.

    Attributes:
        condition: told.
        catalogs: of the repositories that clients asked this process for lately.
        data: the data directory.
        places: directories whose disks are watched, by label.
    """

    condition: Condition
    catalogs: Catalogs
    data: Path
    places: Mapping[str, Path]
    _bundles: frozenset[tuple[str, str]] = field(default_factory=frozenset)

    @classmethod
    def of(cls, settings: Settings, condition: Condition, catalogs: Catalogs) -> Self:
        """What follows from the settings; tells at once what will not change."""
        condition.cache_limit(settings.cache.max_size)
        places = {DATA: settings.data}
        stores = {MAIN: settings.store, **{store.name: store for store in settings.stores}}
        for name, store in stores.items():
            if isinstance(store, DirectoryStoreSettings) and store.path is not None:
                places[name] = store.path
        return cls(condition, catalogs, settings.data, places)

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Look once."""
        created = self.catalogs.created()
        for repository, kind in self._bundles - created.keys():
            self.condition.bundle(repository, kind, 0.0)
        for (repository, kind), when in created.items():
            self.condition.bundle(repository, kind, when)
        self._bundles = frozenset(created)
        await asyncio.to_thread(self._look_at_disks)

    def _look_at_disks(self) -> None:
        last = last_run(self.data / STATUS)
        if last is not None:
            self.condition.indexed(last.ended, last.seconds, last.outcomes)
        self.condition.changed(last_change(self.data) / 1e9)
        for place, path in self.places.items():
            try:
                usage = shutil.disk_usage(path)
            except OSError as error:
                _log.warning("it cannot be seen how full the disk of %s is: %s", path, error)
            else:
                self.condition.disk(place, usage.free, usage.total)
