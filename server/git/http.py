# Law of this file: smart HTTP, as git's http-backend speaks it (gitprotocol-http(5)): which URL and
# which header mean which command, and nothing about how it is answered.

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Self

from aiohttp import web

from redirects.sessions import HERE
from repos.git.discovery import git_dir_of
from repos.git.program import GitFailed
from repos.git.repository import GitRepository, Snapshot
from repos.git.upload_pack import Refused, advertise_v0
from server.access.policies import Allowed, Hidden
from server.access.rules import answer
from server.authorisation import Forbidden, Permission, authorise
from server.exchange import EXCHANGE
from server.git import answers
from server.git.answers import RECEIVE_PACK, UPLOAD_PACK
from server.git.bundles import bundle_list
from server.git.mirrored import MirroredGit
from server.git.requests import asker, body_of, parsed, protocol_of, word_of
from server.git.streaming import streamed, upload_pack_alone
from server.git.upload_pack import AGENT, Terms, UploadPack
from server.outcome import Outcome
from server.runtime import Runtime
from server.sessions.asked import git_session
from wire.git import v0, v2
from wire.git.capabilities import advertise, service_preface
from wire.git.pktline import ProtocolError

_log = logging.getLogger("offramp.git")


@dataclass(frozen=True, slots=True)
class GitHttp:
    """The handlers of one server process for git clients."""

    runtime: Runtime
    uploads: UploadPack
    mirrored: MirroredGit | None

    @classmethod
    def of(cls, runtime: Runtime) -> Self:
        """The handlers of ``runtime``."""
        uploads = UploadPack(runtime)
        mirrored = MirroredGit.of(runtime, uploads)
        return cls(runtime, uploads, mirrored)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request for a path that is not ours."""
        if self.mirrored is not None:
            routed = self.mirrored.route(request)
            if routed is not None:
                return await self.mirrored.handle(request, routed)
        path = request.path
        for suffix, methods, handler in (
            ("/info/refs", ("GET", "HEAD"), self._info_refs),
            (f"/{UPLOAD_PACK}", ("POST",), self._upload_pack),
            (f"/{RECEIVE_PACK}", ("POST",), self._receive_pack),
        ):
            if path.endswith(suffix):
                if request.method not in methods:
                    raise web.HTTPMethodNotAllowed(request.method, methods)
                return await self._with_repository(request, path.removesuffix(suffix), handler)
        return answers.text(
            404,
            "There is nothing here. git clients use /<repository>/info/refs, and those of Mercurial"
            " /<repository>?cmd=capabilities.",
        )

    async def _with_repository(
        self,
        request: web.Request,
        name: str,
        handler: Callable[[web.Request, GitRepository, Snapshot], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        verdict = self.runtime.access_rules.local(request, name)
        if not isinstance(verdict, Allowed):
            return answer(verdict)
        repository = self.runtime.repositories.get(name)
        if repository is None:
            return answer(Hidden())
        exchange = request[EXCHANGE]
        exchange.repository = repository.name
        try:
            snapshot = await repository.snapshot()
        except GitFailed as failure:
            if git_dir_of(repository.path) is None:
                return answer(Hidden())
            _log.error("repository %s: %s", repository.name, failure)
            return answers.text(
                500,
                "git refuses this repository; the server's log says why"
                f" (request {exchange.request_id}).",
            )
        try:
            return await handler(request, repository, snapshot)
        except Forbidden as forbidden:
            return answers.text(403, forbidden.reason)

    # --- discovery ---------------------------------------------------------------------

    async def _info_refs(
        self, request: web.Request, repository: GitRepository, snapshot: Snapshot
    ) -> web.StreamResponse:
        service = request.query.get("service")
        exchange = request[EXCHANGE]
        exchange.command = "info-refs"
        if service == UPLOAD_PACK:
            authorise(Permission.PULL, repository.name, snapshot, self.runtime.settings.git)
            protocol = protocol_of(request)
            moved = self._moved(request, repository, snapshot)
            if moved is not None:
                exchange.dialect = "git-v2" if protocol == 2 else "git-v0"
                return moved
            if protocol == 2:
                exchange.dialect, exchange.outcome = "git-v2", Outcome.HIT
                return answers.plain(service, "advertisement", self._capabilities(snapshot))
            exchange.dialect, exchange.outcome = "git-v0", Outcome.PASSTHROUGH
            word = word_of(protocol)
            body = await repository.in_thread(
                functools.partial(advertise_v0, repository, snapshot, word)
            )
            return answers.plain(service, "advertisement", service_preface(service) + body)
        if service == RECEIVE_PACK:
            return await self._push_advertisement(request, repository, snapshot)
        return answers.text(
            403, "This server speaks git's smart HTTP protocol only; use git 1.6.6 or later."
        )

    def _moved(
        self, request: web.Request, repository: GitRepository, snapshot: Snapshot
    ) -> web.Response | None:
        """The redirect by which a session moves to a mirror; None if it stays."""
        sessions = self.runtime.sessions
        if sessions is None or request.method != "GET":
            return None
        session = git_session(repository.name, snapshot)
        return sessions.redirect(
            request, session, self.runtime.pipeline.control, self._terms(repository).audience
        )

    def _capabilities(self, snapshot: Snapshot) -> bytes:
        return service_preface(UPLOAD_PACK) + advertise(
            snapshot.capabilities,
            AGENT,
            packfile_uris=self.runtime.settings.redirect.enabled,
            bundle_uri=True,
        )

    # --- fetching ----------------------------------------------------------------------

    async def _upload_pack(
        self, request: web.Request, repository: GitRepository, snapshot: Snapshot
    ) -> web.StreamResponse:
        authorise(Permission.PULL, repository.name, snapshot, self.runtime.settings.git)
        exchange = request[EXCHANGE]
        if request.content_type != f"application/x-{UPLOAD_PACK}-request":
            return answers.text(415, f"Content-Type must be application/x-{UPLOAD_PACK}-request.")
        body = await body_of(request, self.runtime.settings.limits.request_time)
        protocol = protocol_of(request)
        try:
            if protocol == 2:
                exchange.dialect = "git-v2"
                return await self._v2(request, repository, snapshot, body)
            exchange.dialect, exchange.command = "git-v0", "fetch"
            fetch = v0.parse_request(body)
            return await self.uploads.legacy(
                request,
                repository,
                snapshot,
                fetch,
                protocol=protocol,
                terms=self._terms(repository),
            )
        except (ProtocolError, Refused, GitFailed) as error:
            return answers.failed(error, repository.name, exchange)

    async def _v2(
        self, request: web.Request, repository: GitRepository, snapshot: Snapshot, body: bytes
    ) -> web.StreamResponse:
        exchange = request[EXCHANGE]
        asked = await parsed(body)
        if asked is None:
            exchange.command, exchange.outcome = "goodbye", Outcome.HIT
            return answers.plain(UPLOAD_PACK, "result", b"")
        answers.check_format(snapshot.object_format, asked.session.object_format)
        match asked:
            case v2.LsRefs():
                exchange.command, exchange.outcome = "ls-refs", Outcome.HIT
                return answers.refs(request, snapshot.refs, asked)
            case v2.BundleUri():
                exchange.command, exchange.outcome = "bundle-uri", Outcome.HIT
                bundles = await bundle_list(
                    self.runtime,
                    repository.name,
                    asker(self.runtime, request, asked.session.server_options),
                    bundle_filter=None,
                    audience=self._terms(repository).audience,
                )
                return answers.plain(UPLOAD_PACK, "result", bundles.to_lines())
            case v2.ObjectInfo():
                exchange.command = "object-info"
                if not snapshot.capabilities.has("object-info"):
                    raise ProtocolError("unknown command 'object-info'")
                return await upload_pack_alone(
                    self.runtime, request, repository, snapshot, body=body, protocol=word_of(2)
                )
            case v2.Fetch():
                exchange.command = "fetch"
                if self.runtime.sessions is not None:
                    self.runtime.sessions.fetched(request, repository.name, asked, snapshot.refs)
                return await self.uploads.fetch(
                    request, repository, snapshot, asked, terms=self._terms(repository)
                )

    def _terms(self, repository: GitRepository) -> Terms:
        return Terms(self.runtime.access_rules.audience_of(repository.name))

    # --- pushing -------------------------------------------------------------------------

    async def _push_advertisement(
        self, request: web.Request, repository: GitRepository, snapshot: Snapshot
    ) -> web.StreamResponse:
        _no_push_here(request)
        authorise(Permission.PUSH, repository.name, snapshot, self.runtime.settings.git)
        exchange = request[EXCHANGE]
        exchange.dialect, exchange.outcome = "git-v0", Outcome.PASSTHROUGH
        # receive-pack speaks v0 and v1 only.
        body = await repository.in_thread(
            functools.partial(
                repository.git.run,
                "receive-pack",
                "--stateless-rpc",
                "--advertise-refs",
                str(repository.path),
                env={"GIT_PROTOCOL": "version=1"} if protocol_of(request) == 1 else {},
            )
        )
        return answers.plain(RECEIVE_PACK, "advertisement", service_preface(RECEIVE_PACK) + body)

    async def _receive_pack(
        self, request: web.Request, repository: GitRepository, snapshot: Snapshot
    ) -> web.StreamResponse:
        _no_push_here(request)
        authorise(Permission.PUSH, repository.name, snapshot, self.runtime.settings.git)
        exchange = request[EXCHANGE]
        exchange.dialect, exchange.command = "git-v0", "push"
        exchange.outcome = Outcome.PASSTHROUGH
        args = ("receive-pack", "--stateless-rpc", str(repository.path))
        word = "version=1" if protocol_of(request) == 1 else ""
        limit = self.runtime.settings.limits.push_body

        async def body() -> AsyncIterator[bytes]:
            received = 0
            async for chunk in request.content.iter_any():
                received += len(chunk)
                if received > limit:
                    raise web.HTTPRequestEntityTooLarge(max_size=limit, actual_size=received)
                yield chunk

        try:
            return await streamed(
                self.runtime,
                request,
                repository,
                args,
                body(),
                service=RECEIVE_PACK,
                protocol=word,
            )
        finally:
            self.runtime.pushed()


def _no_push_here(request: web.Request) -> None:
    """Refuse pushes where only those come who were redirected, and none is for a push."""
    if request[EXCHANGE].here:
        raise Forbidden(f"Nothing is pushed below {HERE}/; push to where the repository lives.")
