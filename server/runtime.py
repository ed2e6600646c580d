# Law of this file: everything that a server process has, made in one place and let go of in one.

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Self

import aiohttp

from cache.cache import Cache
from indexer.local import forget_local
from redirects.selection import Selection
from redirects.signing import SigningKeys
from redirects.suspicion import Suspicions
from redirects.targets import Target
from repos.git.mirror import mirror_path
from repos.git.program import Git
from repos.git.repository import GitRepository
from repos.hg.backend import Backend
from repos.hg.peer import Connections
from repos.hg.program import Hg
from repos.hg.repository import HgRepository
from server.access.rules import AccessRules
from server.admission import Gate, Places, Runs
from server.catalogs import Catalogs
from server.decisions import Decisions
from server.git.fetch import Coverage, Questions
from server.health import Health
from server.indexing import Indexing, changed
from server.locator import Locator
from server.logs import AccessLog, configure
from server.lookups import connector
from server.main_seal import MainSeal
from server.metrics import Metrics
from server.observing import Observing
from server.pipeline import Pipeline
from server.placing import Stores
from server.probes import PROBE_ENTITY
from server.publish import Publisher
from server.readback import probe_anew, read_back_anew
from server.repeats import FileTable, Repeats
from server.repositories import HG_INDEXES, Repositories, git_kind, hg_kind
from server.rereading import Rereading
from server.sessions.moving import Sessions
from server.settings import Settings
from server.status.published import Served, Shelves
from server.status.status import Status
from server.traces import Traces
from server.upstreams.mirrors import MIRRORS, mirrored_repositories
from server.upstreams.routes import Routes
from server.upstreams.upstreams import Upstreams
from server.wiring import (
    build_control,
    build_selection,
    build_store,
    build_stores,
    build_targets,
    signing_keys,
)
from stores.base import Store
from stores.counted import CountedStore

_log = logging.getLogger("offramp.server")

# Where, in the data directory, what `hg serve` reads lies while it runs.
HG_SERVE = "hg-serve"

# How often last uses are written down and the cache is brought back to its size.
MAINTAIN_SECONDS = 15.0

# Names that hg looks up side by side, each a process. Nobody but a person sends any.
_ASKING = 2


@dataclass(slots=True)
class Runtime:
    """What the handlers of one server process work with."""

    settings: Settings
    store: Store
    stores: Stores
    targets: tuple[Target, ...]
    selection: Selection[Target]
    locator: Locator
    keys: SigningKeys
    cache: Cache
    http: aiohttp.ClientSession
    publisher: Publisher
    seal: MainSeal
    catalogs: Catalogs
    health: Health
    repeats: Repeats[Target]
    rereading: Rereading
    sessions: Sessions | None
    sent_table: FileTable
    metrics: Metrics
    decisions: Decisions
    access: AccessLog
    repositories: Repositories[GitRepository]
    hg_repositories: Repositories[HgRepository]
    hg_backend: Backend | None
    hg_pushing: Backend | None
    hg_connections: Connections
    pipeline: Pipeline
    coverage: Coverage
    questions_asked: Questions
    runs: Runs
    questions: ThreadPoolExecutor
    others: tuple[ThreadPoolExecutor, ...]
    streams: Places
    gate: Gate
    access_rules: AccessRules
    upstreams: Upstreams | None
    indexing: Indexing | None
    status: Status
    traces: Traces
    background: tuple[asyncio.Task[None], ...]

    @classmethod
    async def open(
        cls,
        settings: Settings,
        access: AccessLog,
        metrics: Metrics,
        *,
        index: bool,
        insist: bool = True,
    ) -> Self:
        """Open the store and the cache, and start what runs in the background.

        Args:
            settings: of this process.
            access: its log.
            metrics: its figures.
            index: this process is the one that indexes.
            insist: the store must answer now.

        Raises:
            OSError: the data directory cannot be used.
            stores.base.StoreError: the store does not answer.
        """
        traces = Traces.open(settings.tracing)
        settings.data.mkdir(parents=True, exist_ok=True)
        keys = signing_keys(settings.data)
        store = build_store(settings)
        stores = build_stores(settings, store)
        try:
            # A store that does not answer later only makes clones go inline. At the start it is
            # a mistake in the settings, and whoever starts the server is there to mend it.
            if insist:
                await store.stat(PROBE_ENTITY.digest)
            targets = await build_targets(settings, stores, keys)
        except BaseException:
            await stores.close()
            raise

        def counted(name: str, inner: Store) -> Store:
            return CountedStore(inner, metrics.condition.store_failed(name))

        # Not before: the targets are made from what kind of store theirs is.
        stores = stores.around(counted)
        store = stores.main
        selection = build_selection(settings, targets)
        locator = await Locator.open(settings.regions, settings.data)
        programs = settings.limits.programs
        # Runs can last for minutes; questions to git, on which every request waits, must not
        # queue behind them.
        runs = Runs(programs, settings.limits.queue, "run")
        questions = ThreadPoolExecutor(programs, "question")
        # An index of a large repository takes minutes to make; a name that hg looks up, a process.
        # Neither keeps anybody waiting who asks something else.
        building = ThreadPoolExecutor(programs, "hg-index")
        refreshing = ThreadPoolExecutor(programs, "hg-refresh")
        asking = ThreadPoolExecutor(_ASKING, "hg-name")
        cache = await Cache.open(settings.data, settings.cache.max_size, runs)
        http = aiohttp.ClientSession(connector=connector(), cookie_jar=aiohttp.DummyCookieJar())
        seal = MainSeal(store, settings.data)

        async def confirm() -> None:
            if await seal.look():
                catalogs.begin_anew()

        health = Health(
            store,
            targets,
            functools.partial(probe_anew, store),
            settings.health.rules,
            metrics.target,
            replicas=stores.replicas,
            reads=stores.reads,
            confirm=confirm,
            salt=lambda: seal.known.generation,
            # Nobody is behind a CDN that pulls from us before we listen.
            read_first=functools.partial(read_back_anew, store),
        )
        publisher = Publisher(
            stores,
            targets,
            cache.publications,
            session=http,
            keep=settings.retention.keep,
            max_url_life=settings.redirect.lifetime + settings.redirect.window,
            is_away=health.is_away,
            era=lambda: seal.known.era,
        )

        async def forget(name: str, epoch: int) -> None:
            known = (repositories.get(name), hg_repositories.get(name))
            mirror = mirror_path(settings.data.absolute() / MIRRORS, name)
            identities = {each.identity for each in known if each is not None} or {str(mirror)}
            await forget_local(cache, frozenset(identities), epoch)

        catalogs = Catalogs(
            store,
            settings.git.catalog_refresh,
            cache.epochs,
            forget,
            since=lambda: seal.known.since,
        )
        # Before anybody asks: what has not been seen to work is not named.
        await health.begin()
        decisions = Decisions(metrics, settings.log.decisions)
        table = FileTable.open(settings.data)
        suspicions = Suspicions(table, settings.health.suspicion)
        rereading = Rereading(publisher, health.look_at)
        publisher.missed = rereading.doubt
        hidden = keys.derived("who was sent where")
        repeats = Repeats(suspicions, health, metrics, hidden, doubted=rereading.doubt)
        git = Git(settings.limits.program_time)
        repositories = Repositories(
            settings.local_root,
            git_kind(git, questions, allow_filter=settings.git.allow_filter),
            settings.data,
        )
        hg = Hg(settings.limits.program_time, executable=settings.hg.program)
        hg_repositories = Repositories(
            settings.local_root,
            hg_kind(
                hg,
                questions,
                settings.data.absolute() / HG_INDEXES,
                building,
                refreshing,
                asking,
            ),
            settings.data,
        )
        sessions = Sessions.of(
            settings,
            http,
            repositories,
            hg_repositories,
            suspicions,
            metrics,
            decisions,
            # Another name for each address: whoever polls, and is sent to a mirror each time, does
            # not use up the second tries of downloads.
            keys.derived("who was moved where"),
        )
        hg_backend = hg_pushing = None
        if settings.local_root is not None:
            place = settings.data.absolute() / HG_SERVE
            hg_backend = Backend(hg, place, push=False)
            # Of its own, so that nobody who reads could push whatever was overlooked.
            hg_pushing = Backend(hg, place, push=True) if settings.hg.push else None
        indexing = Indexing(settings, catalogs.refresh_all) if index else None
        upstreams = None
        if settings.upstreams:
            upstreams = Upstreams.open(
                settings, git, questions, metrics, functools.partial(changed, settings.data)
            )

        def served() -> Served:
            mirrors = mirrored_repositories(
                settings.data.absolute() / MIRRORS, Routes(settings.upstreams), git, questions
            )
            return Served(
                {each.name: each for each in repositories.all()},
                {mirror.name: mirror for mirror, _ in mirrors},
                frozenset(each.name for each in hg_repositories.all()),
            )

        shelves = Shelves(settings, store, targets, served)
        status = Status.open(settings, metrics, health, shelves, sessions)
        observing = Observing.of(settings, metrics.condition, catalogs)
        runners = [
            health.run(),
            catalogs.run(),
            _maintain(cache, metrics),
            status.run(),
            observing.run(),
        ]
        if locator.lists:
            runners.append(locator.run(http))
        if indexing is not None:
            runners.append(indexing.run())
        if sessions is not None:
            runners.append(sessions.watch.run())
        if upstreams is not None:
            runners.append(upstreams.keeping.run())
        return cls(
            settings=settings,
            store=store,
            stores=stores,
            targets=targets,
            selection=selection,
            locator=locator,
            keys=keys,
            cache=cache,
            http=http,
            publisher=publisher,
            seal=seal,
            catalogs=catalogs,
            health=health,
            repeats=repeats,
            rereading=rereading,
            sessions=sessions,
            sent_table=table,
            metrics=metrics,
            decisions=decisions,
            access=access,
            repositories=repositories,
            hg_repositories=hg_repositories,
            hg_backend=hg_backend,
            hg_pushing=hg_pushing,
            hg_connections=Connections(),
            pipeline=Pipeline(
                cache,
                store,
                selection,
                publisher,
                catalogs,
                health,
                metrics,
                decisions,
                settings.redirect,
                build_control(settings.redirect),
            ),
            coverage=Coverage(),
            questions_asked=Questions(),
            runs=runs,
            questions=questions,
            others=(building, refreshing, asking),
            streams=Places(programs, settings.limits.queue),
            gate=Gate(),
            access_rules=AccessRules(
                settings.access, private=settings.private, unplaced=stores.unplaced
            ),
            upstreams=upstreams,
            indexing=indexing,
            status=status,
            traces=traces,
            background=tuple(map(_started, runners)),
        )

    def pushed(self) -> None:
        """A repository was pushed to."""
        changed(self.settings.data)

    async def adopt(self, settings: Settings) -> None:
        """Go on with other settings, of which only :data:`server.reloading.LIVE` differ.

        Each value that was made of the old ones is replaced here, and whoever answers a request
        looks here for them.
        """
        if settings.regions != self.settings.regions:
            await self.locator.adopt(settings.regions)
        if settings.log != self.settings.log:
            self.access = configure(settings.log, self.access.stream)
            self.decisions.share = settings.log.decisions
        self.selection = build_selection(settings, self.targets)
        self.pipeline = replace(
            self.pipeline,
            selection=self.selection,
            settings=settings.redirect,
            control=build_control(settings.redirect),
        )
        if self.sessions is not None:
            self.sessions.adopt(settings)
        if self.indexing is not None:
            self.indexing.settings = settings
        self.settings = settings

    async def close(self) -> None:
        """Stop what runs and write down what is only in memory."""
        # First: runs that wait for a Mercurial server would do so for as long as it may be silent.
        self.hg_connections.close()
        for task in self.background:
            task.cancel()
        await asyncio.gather(*self.background, return_exceptions=True)
        await self.status.close()
        backends = (self.hg_backend, self.hg_pushing)
        await asyncio.gather(*(backend.close() for backend in backends if backend is not None))
        await self.rereading.close()
        await self.publisher.close()
        if self.upstreams is not None:
            await self.upstreams.close()
        await self.http.close()
        await self.cache.close()
        await self.stores.close()
        self.sent_table.close()
        await asyncio.to_thread(self.traces.close)
        for executor in (self.questions, *self.others):
            executor.shutdown(wait=False, cancel_futures=True)
        self.runs.shutdown(wait=False, cancel_futures=True)


def _started(runner: Coroutine[None, None, None]) -> asyncio.Task[None]:
    """Run it in the background; each runs until it is cancelled, and if not, that is told."""
    task = asyncio.create_task(runner, name=str(getattr(runner, "__qualname__", runner)))
    task.add_done_callback(_ended)
    return task


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        _log.critical(
            "%s has ended, and nothing does its work; start the server again",
            task.get_name(),
            exc_info=task.exception(),
        )


async def _maintain(cache: Cache, metrics: Metrics) -> None:
    while True:
        metrics.condition.evicted(await cache.maintain())
        metrics.cache_size(*cache.figures())
        await asyncio.sleep(MAINTAIN_SECONDS)
