# Law of this file: what is published is read from the catalogs in the store, aside, and not more of
# the time than a twentieth. Of a catalog only what is shown stays in memory.

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, Literal

from indexer.catalog import PREFIX, Bundle, Catalog, CatalogError, CloneBundle, parse
from indexer.plan import KINDS
from redirects.targets import Target
from repos.git.program import GitFailed
from repos.git.repository import GitRepository
from repos.stamps import Stamp
from server.clone_bundles import each
from server.settings import Settings
from stores.base import Store, StoreError
from wire.git.pktline import ProtocolError

_log = logging.getLogger("offramp.status")

# Seconds for which what was read counts, and how many times as long as the reading took.
_FRESH: Final = 30.0
_SPARE: Final = 20.0
# How long the first who asks waits for it.
_FIRST_WAIT: Final = 2.0

_KIND_NAMES: Final = {kind.filter: kind.name for kind in KINDS}


@dataclass(frozen=True, slots=True)
class Published:
    """One bundle, as it is shown.

    Attributes:
        id: its name in the catalog.
        kind: ``full``, ``blobless``, or a kind of clone bundle.
        size: bytes.
        holds: how many objects it holds, or changesets of a clone bundle.
        created: seconds since the epoch.
        targets: names of those through which it was read back.
        covered, tips: of how many different objects that refs of the repository point to now, how
            many are in it; None where nobody on this machine knows. Of git.
        behind: how many changesets are in the repository and not in it; None likewise. Of
            Mercurial.
        withheld: it holds what is not offered any more, and no client is told of it.
    """

    id: str
    kind: str
    size: int
    holds: int
    created: float
    targets: tuple[str, ...]
    covered: int | None = None
    tips: int | None = None
    behind: int | None = None
    withheld: bool = False


@dataclass(frozen=True, slots=True)
class Shown:
    """One repository, as it is shown.

    Attributes:
        name: at which it is served.
        kind: ``git``, ``hg``, ``mirror``, or ``elsewhere`` if only its catalog is known here.
        bundles: what is published of it.
        fault: why its catalog or its refs cannot be read; else empty.
    """

    name: str
    kind: Literal["git", "hg", "mirror", "elsewhere"]
    bundles: tuple[Published, ...] = ()
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Shelf:
    """All of them by name, and when that was read (seconds since the epoch).

    ``fault``: why the store does not say what is published; else empty.
    """

    repositories: tuple[Shown, ...]
    read: float
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Served:
    """What this machine serves, by name: git repositories, mirrors, and names of Mercurial's."""

    git: Mapping[str, GitRepository]
    mirrors: Mapping[str, GitRepository]
    hg: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Cover:
    """How much of a repository its bundles hold.

    Attributes:
        state: of its refs when that was found out.
        bundles: ids of those that were looked at.
        covered: of each, how many of the tips are in it.
        tips: how many there are.
    """

    state: tuple[Stamp, ...]
    bundles: tuple[str, ...]
    covered: tuple[int, ...]
    tips: int


@dataclass(slots=True)
class Shelves:
    """Reads what is published when somebody wants to know.

    Attributes:
        settings: of the server.
        store: where the catalogs are.
        targets: whose names are shown.
        served: what this machine serves; walks the disk.
    """

    settings: Settings
    store: Store
    targets: Sequence[Target]
    served: Callable[[], Served]
    _last: Shelf | None = None
    _due: float = 0.0
    _reading: asyncio.Task[None] | None = None
    _covers: dict[str, _Cover] = field(default_factory=dict)

    async def look(self) -> Shelf | None:
        """What was read last; None while it is read for the first time, and that takes long.

        What is not fresh is read again meanwhile, for who looks next.
        """
        if self._reading is None and time.monotonic() >= self._due:
            self._reading = asyncio.create_task(self._read())
        if self._last is None and self._reading is not None:
            await asyncio.wait({self._reading}, timeout=_FIRST_WAIT)
        return self._last

    async def close(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        began = time.monotonic()
        try:
            self._last = await self._shelf()
        except Exception:  # noqa: BLE001 - whatever it is, the page goes on and the log says it
            _log.exception("it cannot be read what is published")
        finally:
            ended = time.monotonic()
            self._due = ended + max(_FRESH, _SPARE * (ended - began))
            self._reading = None

    async def _shelf(self) -> Shelf:
        served = await asyncio.to_thread(self.served)
        found: dict[str, Shown] = {}
        fault = ""
        try:
            async with aclosing(self._catalogs()) as catalogs:
                async for name, catalog in catalogs:
                    if isinstance(catalog, CatalogError):
                        found[name] = Shown(name, _kind(served, name), fault=str(catalog))
                    else:
                        found[name] = await self._shown(served, catalog)
        except StoreError as error:
            fault = str(error)
        self._covers = {name: cover for name, cover in self._covers.items() if name in found}
        for name in (*served.git, *served.mirrors, *served.hg):
            found.setdefault(name, Shown(name, _kind(served, name)))
        ordered = tuple(found[name] for name in sorted(found))
        return Shelf(ordered, time.time(), fault)

    async def _catalogs(self) -> AsyncGenerator[tuple[str, Catalog | CatalogError], None]:
        names = [name async for name in self.store.list_documents(PREFIX)]
        for name in names:
            document = await self.store.read_document(name)
            if document is None:
                continue
            try:
                catalog = await asyncio.to_thread(parse, document.body)
            except CatalogError as error:
                yield name.removeprefix(PREFIX).removesuffix(".json"), error
            else:
                yield catalog.repository, catalog

    async def _shown(self, served: Served, catalog: Catalog) -> Shown:
        name = catalog.repository
        repository = served.git.get(name) or served.mirrors.get(name)
        cover: _Cover | None = None
        fault = ""
        if repository is not None and catalog.bundles:
            try:
                cover = await self._cover(repository, catalog.bundles)
            except (GitFailed, ProtocolError, OSError) as error:
                fault = str(error)
        of_git = tuple(
            self._bundle(bundle, None if cover is None else (cover.covered[n], cover.tips))
            for n, bundle in enumerate(catalog.bundles)
        )
        of_hg = await asyncio.to_thread(self._clone_bundles, catalog)
        return Shown(name, _kind(served, name), (*of_git, *of_hg), fault)

    async def _cover(self, repository: GitRepository, bundles: Sequence[Bundle]) -> _Cover:
        """How much they hold; git is asked only where something changed."""
        state = await repository.in_thread(repository.state)
        ids = tuple(bundle.id for bundle in bundles)
        known = self._covers.get(repository.name)
        if known is not None and (known.state, known.bundles) == (state, ids):
            return known
        tips = (await repository.refs()).tips
        covered = tuple(len(tips.intersection(bundle.tips)) for bundle in bundles)
        cover = self._covers[repository.name] = _Cover(state, ids, covered, len(tips))
        return cover

    def _bundle(self, bundle: Bundle, cover: tuple[int, int] | None) -> Published:
        return Published(
            id=bundle.id,
            kind=_KIND_NAMES.get(bundle.filter, bundle.filter or ""),
            size=bundle.pack.entity.size,
            holds=bundle.objects,
            created=bundle.created,
            targets=self._names(bundle),
            covered=None if cover is None else cover[0],
            tips=None if cover is None else cover[1],
        )

    def _clone_bundles(self, catalog: Catalog) -> tuple[Published, ...]:
        return tuple(
            Published(
                id=bundle.id,
                kind=bundle.kind,
                size=bundle.entity.size,
                holds=bundle.changesets,
                created=bundle.created,
                targets=self._names(bundle),
                behind=behind,
                withheld=offered is False,
            )
            for _, bundle, behind, offered in each(self.settings, [catalog])
        )

    def _names(self, bundle: Bundle | CloneBundle) -> tuple[str, ...]:
        return tuple(each.name for each in self.targets if each.fingerprint in bundle.readable)


def _kind(served: Served, name: str) -> Literal["git", "hg", "mirror", "elsewhere"]:
    if name in served.git:
        return "git"
    if name in served.mirrors:
        return "mirror"
    return "hg" if name in served.hg else "elsewhere"
