# Law of this file: a clone bundle is catalogued only after every changeset in it was found to be
# offered, it was published and read back, by one compare-and-swap. Whatever happens before that,
# the old catalog stays as valid as it was.

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from indexer.catalog import Catalog, CatalogError, CloneBundle, catalog_name, encode, load
from indexer.hg_plan import CHANGESETS, KINDS, Decision, Publish, Values, decide
from indexer.plan import Drop, Make, Skip, UpToDate
from indexer.publishing import (
    ATTEMPTS,
    NotPublished,
    Publisher,
    Worker,
    fetched,
    is_stored,
    published,
    still_readable,
)
from indexer.report import Outcome, Result, Steps
from indexer.work import Busy, work_directory
from repos.hg.bundle_reading import BadBundle
from repos.hg.clone_bundle import STREAM, Made, make_bundles, make_stream_bundle
from repos.hg.database import IndexBroken, IndexUnreadable
from repos.hg.errors import Unservable
from repos.hg.offered import NotOffered, offer_of, offered_heads
from repos.hg.program import Hg, HgFailed
from repos.hg.repository import HgSnapshot
from stores.base import Conflict, Store, StoreError
from stores.entity import Entity

FAILURES: Final = (HgFailed, Unservable, IndexBroken, IndexUnreadable, OSError)
"""What befalls a repository that is asked for a snapshot."""

_ALL_FAILURES: Final = (
    *FAILURES,
    BadBundle,
    NotOffered,
    NotPublished,
    StoreError,
    CatalogError,
)


class Repository(Protocol):
    """What is needed of a Mercurial repository."""

    @property
    def name(self) -> str:
        """The path at which it is served."""
        ...

    @property
    def path(self) -> Path:
        """Its ``.hg`` directory."""
        ...

    @property
    def hg(self) -> Hg:
        """How programs are run."""
        ...

    def snapshot(self) -> Awaitable[HgSnapshot]:
        """What it serves now. Raises what :data:`FAILURES` lists."""
        ...


@dataclass(frozen=True, slots=True)
class Bundling:
    """What clone bundles of all repositories are made with.

    Attributes:
        store: where the catalogs are.
        publish: see :data:`indexer.publishing.Publisher`.
        values: what the settings say.
        work: a directory for work files, best on the file system of a directory store.
        targets: fingerprints of the targets in use: a bundle that was not read back through all
            of them is published again. Empty: do not look.
        epoch_of: a repository's epoch as this machine knows it, by its name, for a catalog that is
            not there yet.
        replicas: see :func:`indexer.publishing.still_readable`.
        clock: seconds since the epoch.
    """

    store: Store
    publish: Publisher
    values: Values
    work: Path
    targets: frozenset[str] = frozenset()
    epoch_of: Callable[[str], int] = lambda _: 0
    replicas: Mapping[str, Store] = field(default_factory=dict)
    clock: Callable[[], float] = time.time


async def index_clone_bundles(
    repository: Repository, bundling: Bundling, steps: Steps
) -> tuple[Result, ...]:
    """Make, publish and catalog the clone bundles of one repository that are due.

    Never raises for what befell the repository or the store: the results say it. Cancelling it
    ends what hg is doing and removes the work files.
    """
    try:
        with work_directory(bundling.work, repository.name) as directory:
            run = _Run(repository, bundling, directory, await repository.snapshot(), steps)
            return tuple([await run.result(kind) for kind in KINDS])
    except Busy as busy:
        return tuple(Result(kind, Outcome.BUSY, str(busy)) for kind in KINDS)
    except FAILURES as error:
        return tuple(Result(kind, Outcome.FAILED, str(error)) for kind in KINDS)


@dataclass(slots=True)
class _Run:
    """One run on one repository."""

    repository: Repository
    bundling: Bundling
    directory: Path
    snapshot: HgSnapshot
    steps: Steps
    epoch: int | None = None
    worker: Worker = field(default_factory=Worker)
    made: dict[str, tuple[Made, tuple[str, ...]]] = field(default_factory=dict)

    async def result(self, kind: str) -> Result:
        """Do what is due about one kind of bundle."""
        began = time.monotonic()
        try:
            result = await self._settle(kind)
        except _ALL_FAILURES as error:
            result = Result(kind, Outcome.FAILED, str(error))
        finally:
            self.steps.end()
        return replace(result, seconds=time.monotonic() - began)

    async def _settle(self, kind: str) -> Result:
        name, store = self.repository.name, self.bundling.store
        made: CloneBundle | None = None
        tried: CloneBundle | None = None
        refused = False
        why = ""
        for _ in range(ATTEMPTS):
            catalog, version = await self._catalog()
            bundle = catalog.clone_bundle(kind)
            match await self._decide(kind, bundle):
                case UpToDate(reason):
                    if bundle is not None and bundle == tried:
                        # It was our own write that we met: the store had tried twice.
                        return _about(kind, Outcome.MADE, why, bundle)
                    return _about(kind, Outcome.UP_TO_DATE, reason, bundle)
                case Skip(reason):
                    return Result(kind, Outcome.SKIPPED, reason)
                case Drop(why):
                    outcome, bundle = Outcome.DROPPED, None
                    changed = catalog.without_clone_bundle(kind, self.bundling.clock())
                case Publish(why, bundle):
                    outcome, bundle = Outcome.PUBLISHED, await self._publish_again(bundle)
                    changed = catalog.with_clone_bundle(bundle, self.bundling.clock())
                case Make(why):
                    try:
                        made = made or await self._make(kind, catalog)
                    except NotOffered:
                        if refused:
                            raise
                        refused = True
                        continue  # it changed meanwhile: what is due may be another thing now
                    outcome, now = Outcome.MADE, self.bundling.clock()
                    tried = bundle = replace(made, created=now)
                    changed = catalog.with_clone_bundle(bundle, now)
            try:
                await store.write_document(catalog_name(name), encode(changed), version)
            except Conflict:
                continue  # somebody was faster: what is due may be another thing now
            return _about(kind, outcome, why, bundle)
        raise Conflict(
            f"{store.name}: the catalog of {name} was changed by others {ATTEMPTS} times"
            " while it was being written; the next run will try again"
        )

    async def _catalog(self) -> tuple[Catalog, str | None]:
        """The catalog as it is, and its version; both empty if there is none."""
        name, store = self.repository.name, self.bundling.store
        loaded = await load(store, name)
        epoch = self.bundling.epoch_of(name) if loaded is None else loaded[0].epoch
        if self.epoch is None:
            self.epoch = epoch
        if epoch != self.epoch:
            # What is being made here may hold what was purged.
            raise Conflict(
                f"{store.name}: {name} was purged while it was being indexed; the next run will"
                " index what it is now"
            )
        # Of git, which may lie in the same directory; its indexer corrects the format.
        return loaded or (Catalog(name, "sha1", epoch=epoch), None)

    async def _decide(self, kind: str, bundle: CloneBundle | None) -> Decision:
        async def stored(each: CloneBundle) -> bool:
            return await is_stored(self.bundling.store, each.entity)

        if bundle is not None:
            replicas, entity = self.bundling.replicas, bundle.entity
            readable = await still_readable(replicas, bundle.readable, entity)
            bundle = replace(bundle, readable=readable)
        return await decide(
            kind,
            bundle,
            offer_of(self.snapshot),
            self.bundling.values,
            targets=self.bundling.targets,
            stored=stored,
        )

    # --- what is done ---------------------------------------------------------------------

    async def _make(self, kind: str, catalog: Catalog) -> CloneBundle:
        if kind not in self.made:
            await (self._stream() if kind == STREAM else self._changesets(kind, catalog))
        made, heads = self.made.pop(kind)
        self.steps.begin(f"{kind}: publishing")
        entity = Entity(made.digest, made.size)
        return CloneBundle(
            id=f"{kind}-{made.digest[:16]}",
            kind=kind,
            spec=made.spec,
            entity=entity,
            heads=heads,
            changesets=made.changesets,
            created=0.0,
            readable=await published(self.bundling.publish, entity, made.path),
            required_ram=made.required_ram,
            store_fingerprint=made.store_fingerprint,
        )

    async def _changesets(self, kind: str, catalog: Catalog) -> None:
        """Make ``kind``, and whatever else the same run of hg can make and is due."""
        due = [kind] + [
            other
            for other in CHANGESETS[CHANGESETS.index(kind) + 1 :]
            if isinstance(await self._decide(other, catalog.clone_bundle(other)), Make)
        ]
        self.steps.begin(f"{', '.join(due)}: hg bundle")
        every = await self.worker.run(
            partial(
                make_bundles,
                self.repository.hg,
                self.repository.path.parent,
                {each: self.directory / each for each in due},
                publishing=self.snapshot.publishing,
                level=self.bundling.values.bundle_level,
                told=self.worker.check,
            )
        )
        heads = offered_heads(every[0].nodes, await self._renewed())
        self.made |= {made.kind: (made, heads) for made in every}

    async def _stream(self) -> None:
        before = self.snapshot
        self.steps.begin(f"{STREAM}: hg bundle")
        made = await self.worker.run(
            partial(
                make_stream_bundle,
                self.repository.hg,
                self.repository.path.parent,
                self.directory / STREAM,
                told=self.worker.check,
            )
        )
        after = await self._renewed()
        if not offer_of(after).streams or after.epoch != before.epoch:
            raise NotOffered(
                "the store changes while it is read, and what was read of it may not be offered"
                " any more; the next run will try again"
            )
        self.made[STREAM] = made, offered_heads(made.nodes, after)

    async def _renewed(self) -> HgSnapshot:
        """The repository as it is now, after what was made of it."""
        self.snapshot = await self.repository.snapshot()
        return self.snapshot

    async def _publish_again(self, bundle: CloneBundle) -> CloneBundle:
        """Fetch the bundle from the store, and publish that."""
        self.steps.begin(f"{bundle.kind}: fetching from the store")
        path = await fetched(self.bundling.store, bundle.entity, self.directory)
        self.steps.begin(f"{bundle.kind}: publishing")
        readable = await published(self.bundling.publish, bundle.entity, path)
        return replace(bundle, readable=readable)


def _about(kind: str, outcome: Outcome, reason: str, bundle: CloneBundle | None) -> Result:
    if bundle is None:
        return Result(kind, outcome, reason)
    return Result(kind, outcome, reason, bundle.changesets, bundle.entity.size)
