# Law of this file: requests read catalogs from memory. They are read from the store when a
# repository is first asked for, and again in the background.

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from cache.epochs import Epochs
from cache.errors import CacheUnavailable
from indexer.catalog import Bundle, CatalogError, CloneBundle, catalog_name, read
from indexer.plan import KINDS
from indexer.publishing import is_stored
from server.main_seal import SKEW
from stores.base import Store, StoreError

_log = logging.getLogger("offramp.catalogs")

# How long the first request of a repository waits for its catalog before it goes on without.
FIRST_WAIT: Final = 2.0
# A repository that nobody asked for in this time is no longer watched.
IDLE: Final = 3600.0
# A catalog that is older than the epoch that this machine knows is looked at at most this often.
BEHIND: Final = 1.0

_KIND_NAMES: Final = {kind.filter: kind.name for kind in KINDS}

_Bundle = TypeVar("_Bundle", Bundle, CloneBundle)

Learned = Callable[[str, int], Awaitable[object]]
"""Told the served name of a repository that was purged by another machine, and its epoch now."""


def _never() -> float:
    return 0.0


# In place of a version, that of no catalog: it is read again each time.
_INCOMPLETE: Final = "-"


@dataclass(slots=True)
class _Watched:
    bundles: tuple[Bundle, ...] = ()
    clone_bundles: tuple[CloneBundle, ...] = ()
    asked: float = 0.0
    loading: asyncio.Task[None] | None = None
    loaded: bool = False
    version: str = ""
    epoch: int = 0
    looked: float = -BEHIND

    def empty(self) -> None:
        """Nothing of it is to be named any more until it is read again."""
        self.bundles, self.clone_bundles, self.version = (), (), ""

    def readable_entities(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """The digest of each entity, with the targets through which it was read back."""
        for bundle in self.bundles:
            yield from bundle.readable_entities()
        for clone in self.clone_bundles:
            yield from clone.readable_entities()


@dataclass(slots=True)
class Catalogs:
    """The bundles of each repository, newest first, and its epoch.

    Attributes:
        store: where the catalogs are.
        refresh: seconds between two looks.
        epochs: what this machine knows of epochs; told what the catalogs say. None: nothing.
        learned: called, in a task of its own, when a catalog says more than this machine knew.
        since: when the store was found to be another one than before, in seconds since the epoch;
            of what is older it is seen first that the store has it. See
            :class:`server.main_seal.Known`.
    """

    store: Store
    refresh: float
    epochs: Epochs | None = None
    learned: Learned | None = None
    since: Callable[[], float] = _never
    _watched: dict[str, _Watched] = field(default_factory=dict)
    _readable: dict[str, frozenset[str]] = field(default_factory=dict)
    _learning: set[asyncio.Task[None]] = field(default_factory=set)
    _began: int = 0

    async def bundles(self, repository: str) -> tuple[Bundle, ...]:
        """What is published of a repository; empty while the store does not answer."""
        return (await self._current(repository)).bundles

    async def clone_bundles(self, repository: str) -> tuple[CloneBundle, ...]:
        """Likewise of a Mercurial repository, in no order that means anything."""
        return (await self._current(repository)).clone_bundles

    async def _current(self, repository: str) -> _Watched:
        watched = self._watched.setdefault(repository, _Watched())
        watched.asked = time.monotonic()
        behind = watched.epoch < self._known(repository)
        if behind and (watched.bundles or watched.clone_bundles):
            # They are of before a purge on this machine: some may be gone.
            watched.empty()
            self._find_readable()
        if not watched.loaded or (behind and watched.asked - watched.looked >= BEHIND):
            if watched.loading is None:
                watched.loading = asyncio.create_task(self._load(repository, watched))
            await asyncio.wait({watched.loading}, timeout=FIRST_WAIT)
        return watched

    def epoch(self, repository: str) -> int:
        """What was recorded of a repository before this is not used any more.

        As this machine knows it, or as the catalog says, of which :meth:`bundles` knows.
        """
        watched = self._watched.get(repository)
        return max(self._known(repository), 0 if watched is None else watched.epoch)

    def readable(self, digest: str) -> frozenset[str]:
        """Fingerprints of the targets through which the indexer read this entity back.

        What a catalog names is never deleted from the store, so this does not expire.
        """
        return self._readable.get(digest, frozenset())

    def created(self) -> Mapping[tuple[str, str], float]:
        """When each bundle was made, by served name and kind, in seconds since the epoch.

        Of the repositories that are watched now; kinds are from a table of ours.
        """
        found: dict[tuple[str, str], float] = {}
        for repository, watched in self._watched.items():
            for bundle in watched.bundles:
                kind = _KIND_NAMES.get(bundle.filter)
                if kind is not None:
                    found[repository, kind] = bundle.created
            for clone in watched.clone_bundles:
                found[repository, clone.kind] = clone.created
        return found

    async def run(self) -> None:
        """Read the catalogs again and again, until cancelled."""
        while True:
            await asyncio.sleep(self.refresh)
            await self.refresh_all()

    def begin_anew(self) -> None:
        """Forget what is published: the store is another one than it was, or was emptied."""
        self._began += 1
        for watched in self._watched.values():
            watched.empty()
            watched.loaded = False
        self._find_readable()

    async def refresh_all(self) -> None:
        """Read the catalog of every watched repository once, and forget the idle ones."""
        now = time.monotonic()
        for repository, watched in list(self._watched.items()):
            if now - watched.asked > IDLE:
                del self._watched[repository]
            elif watched.loading is None:
                await self._load(repository, watched)
        self._find_readable()

    def _known(self, repository: str) -> int:
        return 0 if self.epochs is None else self.epochs.of(repository)

    def _find_readable(self) -> None:
        self._readable = {
            digest: frozenset(fingerprints)
            for watched in self._watched.values()
            for digest, fingerprints in watched.readable_entities()
        }

    async def _load(self, repository: str, watched: _Watched) -> None:
        watched.looked = time.monotonic()
        try:
            await self._read(repository, watched)
        except (StoreError, CatalogError) as error:
            # The old bundles stay valid: what a catalog named is deleted long after it is not.
            _log.warning("catalog of %s: %s", repository, error)
        finally:
            watched.loaded = True
            watched.loading = None

    async def _read(self, repository: str, watched: _Watched) -> None:
        began = self._began
        document = await self.store.read_document(catalog_name(repository))
        version = "" if document is None else document.version
        if version == watched.version:
            return
        bundles: tuple[Bundle, ...] = ()
        clone_bundles: tuple[CloneBundle, ...] = ()
        epoch = 0
        if document is not None:
            # With a hundred thousand refs it is 10 MB of JSON.
            catalog = await asyncio.to_thread(read, document.body, repository, self.store.name)
            epoch = catalog.epoch
            bundles = await self._stored(catalog.bundles)
            clone_bundles = await self._stored(catalog.clone_bundles)
            if (bundles, clone_bundles) != (catalog.bundles, catalog.clone_bundles):
                # What is missing may be put back, and nobody writes the catalog for that.
                version = _INCOMPLETE
            if began != self._began:
                return  # what was seen is of a store that is no more
        known = self._known(repository)
        if epoch < known:
            # A purge on this machine has begun, and is about to write the catalog; or that is gone.
            watched.empty()
            self._find_readable()
            return
        watched.version = version
        if epoch > watched.epoch:
            watched.epoch = epoch
            if epoch > known:
                self._learn(repository, epoch)
        watched.bundles = tuple(sorted(bundles, key=lambda b: b.created, reverse=True))
        watched.clone_bundles = clone_bundles
        for digest, fingerprints in watched.readable_entities():
            self._readable[digest] = frozenset(fingerprints)

    async def _stored(self, bundles: tuple[_Bundle, ...]) -> tuple[_Bundle, ...]:
        """Those that are not older than the store, and those of the others that it has.

        Raises:
            StoreError: it does not answer.
        """
        since = self.since()
        if not since:
            return bundles

        async def is_there(bundle: _Bundle) -> bool:
            if bundle.created >= since + SKEW:
                return True
            return all([await is_stored(self.store, each) for each in bundle.entities()])

        found = await asyncio.gather(*map(is_there, bundles))
        return tuple(each for each, there in zip(bundles, found, strict=True) if there)

    def _learn(self, repository: str, epoch: int) -> None:
        """Another machine has purged the repository: let this one forget it, and know it."""

        async def learn() -> None:
            try:
                # In this order: who is killed in between begins again.
                if self.learned is not None:
                    await self.learned(repository, epoch)
                if self.epochs is not None:
                    await asyncio.to_thread(self.epochs.raise_to, repository, epoch)
            except CacheUnavailable as error:
                _log.warning("%s was purged elsewhere: %s", repository, error)

        task = asyncio.create_task(learn())
        self._learning.add(task)
        task.add_done_callback(self._learning.discard)
