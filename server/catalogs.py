# Law of this file: requests read catalogs from memory. They are read from the store when a
# repository is first asked for, and again in the background.

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import Final

from indexer.catalog import Bundle, CatalogError, catalog_name, read
from stores.base import Store, StoreError

_log = logging.getLogger("offramp.catalogs")

# How long the first request of a repository waits for its catalog before it goes on without.
FIRST_WAIT: Final = 2.0
# A repository that nobody asked for in this time is no longer watched.
IDLE: Final = 3600.0


@dataclass(slots=True)
class _Watched:
    bundles: tuple[Bundle, ...] = ()
    asked: float = 0.0
    loading: asyncio.Task[None] | None = None
    loaded: bool = False
    version: str = ""


@dataclass(slots=True)
class Catalogs:
    """The bundles of each repository, newest first."""

    store: Store
    refresh: float
    _watched: dict[str, _Watched] = field(default_factory=dict)
    _readable: dict[str, frozenset[str]] = field(default_factory=dict)

    async def bundles(self, repository: str) -> tuple[Bundle, ...]:
        """What is published of a repository; empty while the store does not answer."""
        watched = self._watched.setdefault(repository, _Watched())
        watched.asked = time.monotonic()
        if not watched.loaded:
            if watched.loading is None:
                watched.loading = asyncio.create_task(self._load(repository, watched))
            await asyncio.wait({watched.loading}, timeout=FIRST_WAIT)
        return watched.bundles

    def readable(self, digest: str) -> frozenset[str]:
        """Fingerprints of the targets through which the indexer read this entity back.

        What a catalog names is never deleted from the store, so this does not expire.
        """
        return self._readable.get(digest, frozenset())

    async def run(self) -> None:
        """Read the catalogs again and again, until cancelled."""
        while True:
            await asyncio.sleep(self.refresh)
            await self.refresh_all()

    async def refresh_all(self) -> None:
        """Read the catalog of every watched repository once, and forget the idle ones."""
        now = time.monotonic()
        for repository, watched in list(self._watched.items()):
            if now - watched.asked > IDLE:
                del self._watched[repository]
            elif watched.loading is None:
                await self._load(repository, watched)
        self._readable = {
            digest: frozenset(fingerprints)
            for watched in self._watched.values()
            for bundle in watched.bundles
            for digest, fingerprints in bundle.readable_entities()
        }

    async def _load(self, repository: str, watched: _Watched) -> None:
        try:
            await self._read(repository, watched)
        except (StoreError, CatalogError) as error:
            # The old bundles stay valid: what a catalog named is deleted long after it is not.
            _log.warning("catalog of %s: %s", repository, error)
        finally:
            watched.loaded = True
            watched.loading = None

    async def _read(self, repository: str, watched: _Watched) -> None:
        document = await self.store.read_document(catalog_name(repository))
        version = "" if document is None else document.version
        if version == watched.version:
            return
        bundles: tuple[Bundle, ...] = ()
        if document is not None:
            # With a hundred thousand refs it is 10 MB of JSON.
            catalog = await asyncio.to_thread(read, document.body, repository, self.store.name)
            bundles = catalog.bundles
        watched.version = version
        watched.bundles = tuple(sorted(bundles, key=lambda b: b.created, reverse=True))
        for bundle in bundles:
            for digest, fingerprints in bundle.readable_entities():
                self._readable[digest] = frozenset(fingerprints)
