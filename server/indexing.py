# Law of this file: one run over every repository below ROOT and every mirror. One that fails does
# not stop the others. While serving, a run is a process of its own, with a low priority; any
# process of this machine can say that there is something to index.

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import aiohttp

from cache.cache import Cache
from indexer.catalog import CatalogError
from indexer.gc import GcReport, collect
from indexer.hg import index_hg_repository
from indexer.hg_bundles import Bundling
from indexer.index import index_repository
from indexer.plan import KINDS
from indexer.report import Outcome, Progress, Report, Result, Silent
from redirects.targets import Target
from repos.git.program import Git
from repos.git.repository import GitRepository
from repos.hg.program import Hg
from repos.hg.upkeep import remove_vanished
from server.logs import configure, heard_by, redact
from server.lookups import connector
from server.main_seal import MainSeal, remembered
from server.orphans import end_with_parent
from server.placing import Stores
from server.probes import keep_probe, probes_at
from server.publish import Publisher
from server.refusals import Refusals
from server.repositories import HG_INDEXES, Repositories, git_kind, hg_kind
from server.settings import Settings
from server.settings_stores import MAIN
from server.status.progress import STATUS, Last, remember, told
from server.status.troubles import Keeper, Troubles
from server.upstreams.mirrors import MIRRORS, mirrored_repositories
from server.upstreams.routes import Routes
from server.wiring import build_store, build_stores, build_targets, signing_keys
from stores.base import Store, StoreError, StoreUnavailable
from stores.patient import SECONDS
from stores.replica import seals

_log = logging.getLogger("offramp.indexing")

# A program of the index may take all of a core only when nobody else wants it.
_NICENESS: Final = 10

# How often it is looked whether some process has changed a repository; the look is one stat(2).
_LOOK_SECONDS: Final = 1.0

# A burst of pushes is indexed once, this many seconds after the first was seen.
_SETTLE_SECONDS: Final = 2.0

# Its mtime, below the data directory, is when a repository was last changed through us.
_CHANGED: Final = "changed"

# Of one run that failed everywhere, so many faults are remembered.
_FAILURES: Final = 20


# Of a repository of which no bundle was made, because none could be published.
_IN_VAIN: Final = tuple(
    Result(
        kind.name,
        Outcome.FAILED,
        "every store that its content is for, and that a target reads, does not answer",
    )
    for kind in KINDS
)


def changed(data: Path) -> None:
    """Tell the process that indexes, whichever it is, that a repository has changed.

    ``data`` is the data directory. Nothing depends on it but how soon bundles are made, so a disk
    that refuses is only logged.
    """
    try:
        (data / _CHANGED).touch()
    except OSError as error:
        _log.warning("it cannot be noted that there is something to index: %s", error)


def last_change(data: Path) -> int:
    """When :func:`changed` was last called on this machine, in ns since the epoch; 0: never."""
    try:
        return (data / _CHANGED).stat().st_mtime_ns
    except OSError:
        return 0


@dataclass(frozen=True, slots=True)
class Indexed:
    """What a run did.

    Attributes:
        reports: of each repository, by name.
        collected: what was deleted from the store; None if that was not asked for or not possible.
        vanished: where Mercurial repositories were whose indexes were removed with them.
        faults: what went wrong beside single repositories: with a store beside the main one, with
            a target through which nothing came, or why nothing was collected although it was asked
            for.
    """

    reports: tuple[Report, ...]
    collected: GcReport | None = None
    vanished: tuple[Path, ...] = ()
    faults: tuple[str, ...] = ()


async def index_all(settings: Settings, progress: Progress, *, gc: bool) -> Indexed:
    """Make and publish the bundles, and the indexes, of every repository that needs them.

    Other processes of this machine can see how far it is, and what became of it.

    Raises:
        server.wiring.Unusable: the store or a target cannot be built from the settings.
        StoreError: there are no credentials to sign with.
        OSError: the data directory cannot be used.
    """
    began = time.monotonic()
    with told(settings.data / STATUS, progress) as tells:
        indexed = await _index_all(settings, tells, gc=gc)
    results = [(report.repository, each) for report in indexed.reports for each in report.results]
    failures = tuple(
        (name.encode(errors="backslashreplace").decode(), each.kind, redact(each.reason))
        for name, each in results
        if each.outcome is Outcome.FAILED
    )
    last = Last(
        ended=time.time(),
        seconds=time.monotonic() - began,
        outcomes=dict(Counter(each.outcome.value for _, each in results)),
        failures=failures[:_FAILURES],
    )
    remember(settings.data / STATUS, last)
    return indexed


async def _index_all(settings: Settings, progress: Progress, *, gc: bool) -> Indexed:
    """See :func:`index_all`."""
    async with AsyncExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(settings.limits.programs, "index"))
        store = build_store(settings, patience=SECONDS)
        stores = build_stores(settings, store, patience=SECONDS)
        stack.push_async_callback(stores.close)
        targets = await build_targets(settings, stores, signing_keys(settings.data))
        away = await _away(stores, remembered(settings.data).generation)
        answering = stores.named().keys() - away.keys()
        faults = tuple(
            f"no bundle was looked for in the store {name}: {said}" for name, said in away.items()
        )
        cache = await Cache.open(settings.data, settings.cache.max_size, threads)
        stack.push_async_callback(cache.close)
        seal = MainSeal(store, settings.data)
        with suppress(StoreError):  # each repository says what is wrong
            await seal.look()
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=connector(), cookie_jar=aiohttp.DummyCookieJar())
        )
        refusals = Refusals()
        publisher = Publisher(
            stores,
            targets,
            cache.publications,
            session=session,
            keep=settings.retention.keep,
            max_url_life=settings.redirect.lifetime + settings.redirect.window,
            is_away=away.__contains__,
            era=lambda: seal.known.era,
            told=refusals.told,
        )
        stack.push_async_callback(publisher.close)
        git = Git(settings.limits.program_time)
        repositories = Repositories(
            settings.local_root,
            git_kind(git, threads, allow_filter=settings.git.allow_filter),
            settings.data,
        )
        mirrors = mirrored_repositories(
            settings.data.absolute() / MIRRORS, Routes(settings.upstreams), git, threads
        )
        # Of others it is not known what they have lost, and they are not asked.
        replicas = {
            target.fingerprint: stores.store_of(target)
            for target in targets
            if stores.read_by(target) in answering - {MAIN}
        }

        def is_in_vain(name: str) -> bool:
            """Whether a repository's bundles could be read through no target now."""
            every = stores.targets_of(name, targets)
            return bool(every) and not stores.targets_of(name, every, answering)

        async def indexed(repository: GitRepository, *, unnamed: bool) -> Report:
            if is_in_vain(repository.name):
                return Report(repository.name, _IN_VAIN)
            return await index_repository(
                repository,
                store,
                partial(publisher.publish, repository=repository.name),
                settings.index,
                settings.data / "work",
                progress=progress,
                targets=_fingerprints(stores.targets_of(repository.name, targets, answering)),
                replicas=replicas,
                epoch=cache.epochs.of(repository.name),
                unnamed=unnamed,
            )

        reports = [await indexed(each, unnamed=False) for each in repositories.all()]
        # Whose refs all callers may see, only a public upstream says.
        reports += [
            await indexed(mirror, unnamed=not remote.upstream.public) for mirror, remote in mirrors
        ]
        indexes = settings.data.absolute() / HG_INDEXES
        hg = Hg(settings.limits.program_time, executable=settings.hg.program)
        hg_repositories = Repositories(
            settings.local_root, hg_kind(hg, threads, indexes), settings.data
        )

        def bundling(name: str) -> Bundling | None:
            if is_in_vain(name):
                return None
            return Bundling(
                store,
                partial(publisher.publish, repository=name),
                settings.hg,
                settings.data / "work",
                _fingerprints(stores.targets_of(name, targets, answering)),
                cache.epochs.of,
                replicas,
            )

        reports += [
            await index_hg_repository(each, bundling(each.name), progress)
            for each in hg_repositories.all()
        ]
        faults += refusals.faults()
        if not gc:
            return Indexed(tuple(reports), faults=faults)
        vanished = await asyncio.to_thread(remove_vanished, indexes)
        now, keep = time.time(), settings.retention.keep
        try:
            collected = await collect(
                store,
                now,
                keep,
                replicas=tuple(stores.replicas[name] for name in answering - {MAIN}),
                away=tuple(away.values()),
                permanent=await seals(store) | probes_at(now, seal.known.generation),
            )
        except (CatalogError, StoreError) as error:
            faults += (f"nothing was collected: {error}",)
            return Indexed(tuple(reports), vanished=vanished, faults=faults)
        faults += tuple(f"nothing was collected there: {each}" for each in collected.unreached)
        return Indexed(tuple(reports), collected, vanished, faults)


async def _away(stores: Stores, salt: str) -> dict[str, str]:
    """What is wrong with the stores that cannot be written to, by name.

    The main one, whose generation ``salt`` is, is taken for granted: without it, each repository
    says what is wrong. A store has
    the same time for each answer later on; see :class:`stores.patient.PatientStore`.
    """

    async def said(name: str, store: Store) -> tuple[str, str]:
        try:
            async with asyncio.timeout(SECONDS):
                await keep_probe(store, time.time(), SECONDS, salt)
        except TimeoutError:
            return name, f"{store.name} has not answered within {SECONDS:.0f} s"
        except StoreUnavailable as error:
            return name, str(error)
        return name, ""

    every = await asyncio.gather(*(said(*each) for each in stores.replicas.items()))
    return {name: what for name, what in every if what}


def _fingerprints(targets: Iterable[Target]) -> frozenset[str]:
    return frozenset(target.fingerprint for target in targets)


def _run(settings: Settings) -> None:
    """One run in a process of its own; what it found is logged."""
    end_with_parent()
    os.nice(_NICENESS)
    configure(settings.log)
    with heard_by(Keeper(Troubles(settings.data / STATUS))):
        _report(asyncio.run(index_all(settings, Silent(), gc=True)))
    # A thread that hangs in a store would be waited for without end, and no run come after this.
    logging.shutdown()
    os._exit(0)


def _report(indexed: Indexed) -> None:
    """Log what a run did."""
    for report in indexed.reports:
        for result in report.results:
            level = logging.WARNING if report.failed else logging.INFO
            _log.log(
                level, "%s %s: %s %s", report.repository, result.kind, result.outcome, result.reason
            )
    for fault in indexed.faults:
        _log.warning("%s", fault)


@dataclass(slots=True)
class Indexing:
    """Indexes again and again while serving: at an interval, and soon after :func:`changed`.

    ``done`` is called after each run. Other settings count from the next one on, and for when that
    is.
    """

    settings: Settings
    done: Callable[[], Awaitable[None]]

    async def run(self) -> None:
        """Index, wait, index again, until cancelled."""
        while True:
            # What changes while it runs may have been overlooked, and is a reason to run again.
            seen = last_change(self.settings.data)
            await self.once()
            await self._rest(seen)

    async def _rest(self, seen: int) -> None:
        """Wait for the next run: because of a change after that at ``seen``, or just because."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while last_change(self.settings.data) == seen:
            left = began + self.settings.index.interval - loop.time()
            if left <= 0:
                return
            await asyncio.sleep(min(left, _LOOK_SECONDS))
        await asyncio.sleep(_SETTLE_SECONDS)

    async def once(self) -> None:
        """One run, in a process that ends with us, however we end."""
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=_run, args=(self.settings,), name="index", daemon=True)
        process.start()
        try:
            await _ended(process.sentinel)
        except asyncio.CancelledError:
            process.terminate()
            raise
        finally:
            await asyncio.to_thread(process.join)
        if process.exitcode != 0:
            _log.error("indexing ended with exit code %s", process.exitcode)
        await self.done()


async def _ended(sentinel: int) -> None:
    """Wait until the process behind ``sentinel`` has ended."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(sentinel, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(sentinel)
