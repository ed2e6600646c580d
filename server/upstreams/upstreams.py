# Law of this file: everything about upstreams that a server process has, made in one place and let
# go of in one.

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final, Self

import aiohttp

from repos.git.program import Git
from server.access.credentials import Fingerprints
from server.lookups import connector
from server.metrics import Metrics
from server.settings import Settings
from server.upstreams.abilities import Abilities
from server.upstreams.asking import Asking
from server.upstreams.credentials import own_authorization
from server.upstreams.hg_asking import HgAsking
from server.upstreams.hg_views import HgViews
from server.upstreams.keeping import Keeping
from server.upstreams.mirrors import MIRRORS, Mirrors
from server.upstreams.passing import Passing
from server.upstreams.routes import Remote, Routed, Routes
from server.upstreams.views import Views

# Connections to all upstreams together: as many as clients that are passed through at once.
_CONNECTIONS: Final = 512


@dataclass(frozen=True, slots=True)
class Upstreams:
    """The upstreams of one server process.

    Attributes:
        routes: which path is whose.
        views: what upstreams said.
        mirrors: what is mirrored.
        abilities: what the local git can do.
        keeping: keeps the mirrors; whoever opens this runs it.
        passing: hands on what is not answered here.
        hg_views: what upstreams of Mercurial said.
    """

    routes: Routes
    views: Views
    mirrors: Mirrors
    abilities: Abilities
    keeping: Keeping
    passing: Passing
    hg_views: HgViews
    _asks: aiohttp.ClientSession
    _passes: aiohttp.ClientSession

    @classmethod
    def open(
        cls,
        settings: Settings,
        git: Git,
        questions: Executor,
        metrics: Metrics,
        changed: Callable[[], None],
    ) -> Self:
        """Open what the settings describe.

        Args:
            settings: of the server.
            git: how programs are run.
            questions: threads for short questions to git.
            metrics: where figures are kept.
            changed: called when a mirror has come into being or has grown.

        Raises:
            server.wiring.Unusable: a credential cannot be read.
        """
        own = {upstream.title: own_authorization(upstream) for upstream in settings.upstreams}
        asks = _session(decompress=True)
        passes = _session(decompress=False)
        asking = Asking(asks, metrics.asked)
        routes = Routes(settings.upstreams)
        fingerprints = Fingerprints.random()
        views = Views(asking, fingerprints)
        hg_views = HgViews(HgAsking(asking), fingerprints)
        mirrors = Mirrors(
            directory=settings.data.absolute() / MIRRORS,  # git runs elsewhere
            git=git,
            questions=questions,
            fetches=asyncio.Semaphore(settings.mirrors.fetches),
            views=views,
            own=own,
            changed=changed,
        )
        passing = Passing(passes, asking, settings.limits.stall_time)
        keeping = Keeping(
            routes, mirrors, settings.mirrors, settings.limits.program_time, metrics.mirrors
        )
        abilities = Abilities(git, questions)
        return cls(routes, views, mirrors, abilities, keeping, passing, hg_views, asks, passes)

    def route(self, raw_path: str) -> Routed | None:
        """Where a request for ``raw_path`` goes; None: to no upstream."""
        return self.routes.route(raw_path, self._known)

    def own(self, remote: Remote) -> str | None:
        """The settings' credential for its upstream, as the value of a header."""
        return self.mirrors.own[remote.upstream.title]

    async def close(self) -> None:
        """End what runs, and let go of connections."""
        await self.mirrors.close()
        await self._asks.close()
        await self._passes.close()

    def _known(self, name: str) -> bool:
        return any(remote.name == name for remote in self.routes.listed()) or self.mirrors.known(
            name
        )


def _session(*, decompress: bool) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector(limit=_CONNECTIONS, limit_per_host=_CONNECTIONS // 2),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=decompress,
    )
