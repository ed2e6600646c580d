# Law of this file: a bundle is catalogued only after it was published and read back, by one
# compare-and-swap. Whatever happens before that, the old catalog stays as valid as it was.

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from indexer.build import Built, build
from indexer.catalog import Bundle, Catalog, CatalogError, catalog_name, encode, load
from indexer.plan import KINDS, Decision, Drop, Kind, Make, Publish, Skip, UpToDate, Values, decide
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
from indexer.report import Outcome, Progress, Report, Result, Silent, Steps
from indexer.work import Busy, work_directory
from repos.git.packs import (
    Step,
    all_reachable,
    count_new_objects,
    incomplete_history,
    object_format_of,
)
from repos.git.program import Git, GitFailed
from stores.base import Conflict, Store, StoreError
from stores.entity import Entity
from wire.git.pktline import ProtocolError
from wire.git.refs import Refs

_SILENT: Final = Silent()
_NO_REPLICAS: Final[Mapping[str, Store]] = {}


class Repository(Protocol):
    """What the indexer needs of a repository."""

    @property
    def name(self) -> str:
        """The path at which it is served."""
        ...

    @property
    def path(self) -> Path:
        """Its git directory."""
        ...

    @property
    def git(self) -> Git:
        """How programs are run."""
        ...

    async def refs(self) -> Refs:
        """The advertised refs, now. Raises GitFailed if git refuses the repository."""
        ...


async def index_repository(
    repository: Repository,
    store: Store,
    publish: Publisher,
    values: Values,
    work: Path,
    *,
    progress: Progress = _SILENT,
    targets: frozenset[str] = frozenset(),
    replicas: Mapping[str, Store] = _NO_REPLICAS,
    epoch: int = 0,
    unnamed: bool = False,
    clock: Callable[[], float] = time.time,
) -> Report:
    """Make, publish and catalog the bundles of one repository that are due.

    Never raises for what befell the repository or the store: the report says it. Cancelling it
    ends what git is doing and removes the work files.

    Args:
        repository: of which.
        store: where the catalog is, and every entity.
        publish: see :data:`indexer.publishing.Publisher`.
        values: what the settings say.
        work: a directory for work files, best on the file system of a directory store. Other
            runs share it; nothing else should.
        progress: hears how far it is.
        targets: fingerprints of the targets in use: a bundle that was not read back through all
            of them is published again. Empty: do not look.
        replicas: see :func:`indexer.publishing.still_readable`.
        epoch: of the repository as this machine knows it, for a catalog that is not there yet.
        unnamed: leave the names of its refs out of bundle files.
        clock: seconds since the epoch.
    """
    try:
        with work_directory(work, repository.name) as directory:
            refs = await repository.refs()
            run = _Run(
                repository,
                refs,
                store,
                publish,
                values,
                directory,
                targets,
                replicas,
                epoch,
                unnamed,
                clock,
                Steps(progress, repository.name),
            )
            results = [await run.result(kind) for kind in KINDS]
    except Busy as busy:
        results = [Result(kind.name, Outcome.BUSY, str(busy)) for kind in KINDS]
    except (GitFailed, ProtocolError, OSError) as error:
        results = [Result(kind.name, Outcome.FAILED, str(error)) for kind in KINDS]
    return Report(repository.name, tuple(results))


@dataclass(slots=True)
class _Run:
    """One run on one repository; its methods are also what the plan asks."""

    repository: Repository
    refs: Refs
    store: Store
    publish: Publisher
    values: Values
    directory: Path
    targets: frozenset[str]
    replicas: Mapping[str, Store]
    new_epoch: int
    unnamed: bool
    clock: Callable[[], float]
    steps: Steps
    epoch: int | None = None
    worker: Worker = field(default_factory=Worker)

    async def result(self, kind: Kind) -> Result:
        """Do what is due about one kind of bundle."""
        began = time.monotonic()
        try:
            result = await self._settle(kind)
        except (GitFailed, ProtocolError, StoreError, CatalogError, NotPublished, OSError) as error:
            result = Result(kind.name, Outcome.FAILED, str(error))
        finally:
            self.steps.end()
        return replace(result, seconds=time.monotonic() - began)

    async def _settle(self, kind: Kind) -> Result:
        name = self.repository.name
        made: Bundle | None = None
        tried: Bundle | None = None
        why = ""
        for _ in range(ATTEMPTS):
            catalog, version = await self._catalog()
            bundle = catalog.bundle(kind.filter)
            decision = await self._decide(kind, bundle)
            match decision:
                case UpToDate(reason):
                    if bundle is not None and bundle == tried:
                        # It was our own write that we met: the store had tried twice.
                        return _about(kind, Outcome.MADE, why, bundle)
                    return _about(kind, Outcome.UP_TO_DATE, reason, bundle)
                case Skip(reason):
                    return _about(kind, Outcome.SKIPPED, reason, None)
                case Drop(why):
                    outcome, bundle = Outcome.DROPPED, None
                    changed = catalog.without(kind.filter, self.clock())
                case Publish(why, bundle):
                    outcome, bundle = Outcome.PUBLISHED, await self._publish_again(kind, bundle)
                    changed = catalog.with_bundle(bundle, self.clock())
                case Make(why):
                    made = made or await self._make(kind)
                    now = self.clock()
                    outcome = Outcome.MADE
                    bundle = replace(made, created=now, creation_token=catalog.next_token(now))
                    changed = catalog.with_bundle(bundle, now)
                    tried = bundle
            try:
                await self.store.write_document(catalog_name(name), encode(changed), version)
            except Conflict:
                continue  # somebody was faster: what is due may be another thing now
            return _about(kind, outcome, why, bundle)
        raise Conflict(
            f"{self.store.name}: the catalog of {name} was changed by others {ATTEMPTS} times"
            " while it was being written; the next run will try again"
        )

    async def _catalog(self) -> tuple[Catalog, str | None]:
        """The catalog as it is, and its version; both empty if there is none."""
        tip = next(iter(self.refs.tips), None)
        loaded = await load(self.store, self.repository.name)
        epoch = self.new_epoch if loaded is None else loaded[0].epoch
        if self.epoch is None:
            self.epoch = epoch
        if epoch != self.epoch:
            # What is being made here may hold what was purged.
            raise Conflict(
                f"{self.store.name}: {self.repository.name} was purged while it was being indexed;"
                " the next run will index what it is now"
            )
        if loaded is None:
            known = "sha1" if tip is None else object_format_of(tip)
            return Catalog(self.repository.name, known, epoch=epoch), None
        catalog, version = loaded
        if tip is not None:
            catalog = catalog.in_format(object_format_of(tip), self.clock())
        return catalog, version

    async def _decide(self, kind: Kind, bundle: Bundle | None) -> Decision:
        bundle = None if bundle is None else await self._as_it_is(bundle)
        obstacle = incomplete_history(self.repository.path)
        return await decide(
            kind,
            bundle,
            self.refs.tips,
            self.values,
            targets=self.targets,
            obstacle=obstacle,
            questions=self,
        )

    async def _as_it_is(self, bundle: Bundle) -> Bundle:
        """The bundle, readable only where it was not lost since."""
        readable = await still_readable(self.replicas, bundle.readable, bundle.pack.entity)
        file, file_readable = bundle.bundle_file, bundle.bundle_readable
        if file is not None:
            file_readable = await still_readable(self.replicas, file_readable, file)
        return replace(bundle, readable=readable, bundle_readable=file_readable)

    # --- what the plan asks ---------------------------------------------------------------

    async def reachable(self, tips: tuple[str, ...]) -> bool:
        """See :meth:`indexer.plan.Questions.reachable`."""
        git, path = self.repository.git, self.repository.path
        return await self.worker.run(
            partial(all_reachable, git, path, tips, self.refs.tips, told=self._check)
        )

    async def new_objects(self, base: tuple[str, ...], filter_spec: str | None, limit: int) -> int:
        """See :meth:`indexer.plan.Questions.new_objects`."""
        git, path = self.repository.git, self.repository.path
        return await self.worker.run(
            partial(
                count_new_objects,
                git,
                path,
                self.refs.tips,
                base,
                filter_spec=filter_spec,
                limit=limit,
                told=self._check,
            )
        )

    async def stored(self, bundle: Bundle) -> bool:
        """See :meth:`indexer.plan.Questions.stored`."""
        return all([await is_stored(self.store, entity) for entity in bundle.entities()])

    # --- what is done ---------------------------------------------------------------------

    async def _make(self, kind: Kind) -> Bundle:
        loop = asyncio.get_running_loop()

        def told(step: Step) -> None:
            self._check(step)
            loop.call_soon_threadsafe(self.steps.show, kind.name, step)

        built = await self.worker.run(
            partial(
                build,
                self.repository.git,
                self.repository.path,
                self.refs,
                kind,
                self.directory,
                bundle_file=self.values.bundle_uri,
                unnamed=self.unnamed,
                told=told,
            )
        )
        readable = await self._published(kind, built.pack.entity, built.pack_path)
        bundle_readable: tuple[str, ...] = ()
        if built.file is not None:
            bundle_readable = await self._published(kind, *built.file)
        return self._bundle(kind, built, readable, bundle_readable)

    def _bundle(
        self, kind: Kind, built: Built, readable: tuple[str, ...], bundle_readable: tuple[str, ...]
    ) -> Bundle:
        """The bundle, with the time still to be told."""
        return Bundle(
            id=f"{kind.name}-{built.pack.entity.digest[:16]}",
            filter=kind.filter,
            pack=built.pack,
            bundle_file=None if built.file is None else built.file[0],
            objects=built.objects,
            tips=tuple(sorted(self.refs.tips)),
            peeled=dict(self.refs.peeled),
            created=0.0,
            creation_token=0,
            readable=readable,
            bundle_readable=bundle_readable,
        )

    async def _publish_again(self, kind: Kind, bundle: Bundle) -> Bundle:
        """Fetch what the bundle is made of from the store, and publish that."""
        read: list[tuple[str, ...]] = []
        for entity in bundle.entities():
            self.steps.begin(f"{kind.name}: fetching from the store")
            path = await fetched(self.store, entity, self.directory)
            read.append(await self._published(kind, entity, path))
        return replace(bundle, readable=read[0], bundle_readable=read[1] if len(read) > 1 else ())

    async def _published(self, kind: Kind, entity: Entity, path: Path) -> tuple[str, ...]:
        self.steps.begin(f"{kind.name}: publishing")
        return await published(self.publish, entity, path)

    def _check(self, _: Step) -> None:
        self.worker.check()


def _about(kind: Kind, outcome: Outcome, reason: str, bundle: Bundle | None) -> Result:
    if bundle is None:
        return Result(kind.name, outcome, reason)
    return Result(kind.name, outcome, reason, bundle.objects, bundle.pack.entity.size)
