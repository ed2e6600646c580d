# Law of this file: what clients ask for is told apart by path and query alone: a repository, by the
# dialect that speaks so; the same where sessions stay; or a list of bundles as a file.

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aiohttp import web
from yarl import URL

from redirects.sessions import HERE
from server.access.policies import Allowed, Hidden
from server.access.rules import answer
from server.exchange import EXCHANGE, client_of
from server.git import answers
from server.git.bundles import bundle_list
from server.git.http import GitHttp
from server.hg.http import HgHttp
from server.hg.routes import route
from server.outcome import Outcome
from server.runtime import Runtime
from server.sessions.reading import MARK, MAY_MOVE, STAY
from stores.base import StoreError

BLOBLESS: Final = "blob:none"


@dataclass(frozen=True, slots=True)
class ClientRoutes:
    """The routes for clients."""

    runtime: Runtime
    git: GitHttp
    hg: HgHttp

    async def repository(self, request: web.Request) -> web.StreamResponse:
        """A path that is not ours is a repository's; its URL says which kind of client asks."""
        routed = route(request.path, request.query.get("cmd"))
        response = await (
            self.git.handle(request) if routed is None else self.hg.handle(request, routed)
        )
        here = request[EXCHANGE].here
        if (here or self.runtime.sessions is not None) and not response.prepared:
            response.headers[MARK] = STAY if here else MAY_MOVE
        return response

    async def here(self, request: web.Request) -> web.StreamResponse:
        """What follows ``/-/here`` is a path like any other, but sessions stay there.

        Proxies may let in by path, so nothing has a second one that nobody asked for.
        """
        if not self.runtime.settings.sessions.here:
            return answers.text(404, f"Nothing is served below {HERE} (sessions.here).")
        rest = request.raw_path.removeprefix(HERE)
        # Two slashes would begin a host's name.
        if rest == request.raw_path or rest.startswith("//"):
            return answers.text(404, f"A repository's path follows {HERE}.")
        request[EXCHANGE].here = True
        return await self.repository(request.clone(rel_url=URL(rest, encoded=True)))

    async def bundles(self, request: web.Request) -> web.StreamResponse:
        """The list of bundles as a file, for ``git clone --bundle-uri=``."""
        name = request.match_info["repository"]
        exchange = request[EXCHANGE]
        exchange.dialect, exchange.command = "git-v2", "bundle-list"
        wanted = request.query.get("filter")
        if wanted not in {None, BLOBLESS}:
            return answers.text(404, f"There are bundles with filter={BLOBLESS} only.")
        mirrored = self.git.mirrored
        remote = None if mirrored is None else mirrored.named(name)
        if mirrored is not None and remote is not None:
            try:
                return await mirrored.bundle_file(request, remote, wanted)
            except StoreError as error:
                return answers.text(503, f"The store does not answer: {error}")
        verdict = self.runtime.access_rules.local(request, name)
        if not isinstance(verdict, Allowed):
            return answer(verdict)
        repository = self.runtime.repositories.get(name)
        if repository is None:
            return answer(Hidden())
        exchange.repository, exchange.outcome = repository.name, Outcome.HIT
        settings = self.runtime.settings
        client = client_of(request, settings.public_url, settings.listen)
        try:
            listing = await bundle_list(
                self.runtime,
                repository.name,
                client,
                bundle_filter=wanted,
                audience=self.runtime.access_rules.audience_of(repository.name),
            )
        except StoreError as error:
            return web.Response(status=503, text=f"The store does not answer: {error}\n")
        return answers.bundle_file(listing)
