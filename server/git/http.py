# Law of this file: smart HTTP, as git's http-backend speaks it (gitprotocol-http(5)): which URL and
# which header mean which command, and nothing about how it is answered.

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from aiohttp import web

from cache.flights import CacheUnavailable
from redirects.acceptance import ACCEPTS_NOTHING, Acceptance, Client
from repos.git.discovery import git_dir_of
from repos.git.program import GitFailed
from repos.git.repository import GitRepository, Snapshot
from repos.git.upload_pack import Refused, advertise_v0, stream
from server.authorisation import Forbidden, Permission, authorise
from server.exchange import EXCHANGE, client_of
from server.git import answers
from server.git.bundles import bundle_list
from server.git.fetch import FetchCommand
from server.git.legacy import LegacyFetchCommand
from server.outcome import Outcome
from server.runtime import Runtime
from server.sending import Sender
from wire.git import pktline, v0, v2
from wire.git.capabilities import advertise, service_preface
from wire.git.pktline import ProtocolError

_log = logging.getLogger("offramp.git")

AGENT: Final = "offramp/0.1"
UPLOAD_PACK: Final = "git-upload-pack"
RECEIVE_PACK: Final = "git-receive-pack"

# Bodies up to this size are remembered with what they mean: a fleet sends the same one again.
_SMALL_BODY: Final = 64 << 10


@functools.lru_cache(maxsize=512)
def _parse_small(body: bytes) -> v2.Request | None:
    return v2.parse_request(body)


async def _parse(body: bytes) -> v2.Request | None:
    """Read a request; one with a hundred thousand haves takes long enough to need a thread."""
    if len(body) <= _SMALL_BODY:
        return _parse_small(body)
    return await asyncio.to_thread(v2.parse_request, body)


@functools.lru_cache(maxsize=64)
def _acceptance(protocols: tuple[str, ...]) -> Acceptance:
    return Acceptance(frozenset(protocols))


@functools.lru_cache(maxsize=64)
def _version(git_protocol: str) -> int:
    """The highest protocol version that a ``Git-Protocol`` header asks for."""
    words = git_protocol.split(":")
    versions = [w.removeprefix("version=") for w in words if w.startswith("version=")]
    return max((int(version) for version in versions if version in {"1", "2"}), default=0)


def _protocol(request: web.Request) -> int:
    return _version(request.headers.get("Git-Protocol", ""))


def _check_advertised(snapshot: Snapshot, fetch: v2.Fetch) -> None:
    features = snapshot.capabilities.fetch_features
    for feature, used in (("filter", fetch.filter), ("ref-in-want", fetch.want_refs)):
        if used and feature not in features:
            raise ProtocolError(f"the client asks for '{feature}', which was not advertised")


def _text(status: int, message: str) -> web.Response:
    """An answer for people; stock git prints a text/plain body after ``remote:``."""
    return web.Response(status=status, text=f"{message}\n", headers=answers.NO_CACHE)


@dataclass(frozen=True, slots=True)
class GitHttp:
    """The handlers of one server process for git clients."""

    runtime: Runtime

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request for a path that is not ours."""
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
        return _text(404, "There is nothing here. git clients use /<repository>/info/refs.")

    async def _with_repository(
        self,
        request: web.Request,
        name: str,
        handler: Callable[[web.Request, GitRepository, Snapshot], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        repository = self.runtime.repositories.get(name)
        if repository is None:
            return _text(404, "There is no such repository here.")
        exchange = request[EXCHANGE]
        exchange.repository = repository.name
        try:
            snapshot = await repository.snapshot()
        except GitFailed as failure:
            if git_dir_of(repository.path) is None:
                return _text(404, "There is no such repository here.")
            _log.error("repository %s: %s", repository.name, failure)
            return _text(
                500,
                "git refuses this repository; the server's log says why"
                f" (request {exchange.request_id}).",
            )
        try:
            return await handler(request, repository, snapshot)
        except Forbidden as forbidden:
            return _text(403, forbidden.reason)

    # --- discovery ---------------------------------------------------------------------

    async def _info_refs(
        self, request: web.Request, repository: GitRepository, snapshot: Snapshot
    ) -> web.StreamResponse:
        service = request.query.get("service")
        exchange = request[EXCHANGE]
        exchange.command = "info-refs"
        if service == UPLOAD_PACK:
            authorise(Permission.PULL, repository.name, snapshot, self.runtime.settings.git)
            protocol = _protocol(request)
            if protocol == 2:
                exchange.dialect, exchange.outcome = "git-v2", Outcome.HIT
                return answers.plain(service, "advertisement", self._capabilities(snapshot))
            exchange.dialect, exchange.outcome = "git-v0", Outcome.PASSTHROUGH
            word = "version=1" if protocol == 1 else ""
            body = await repository.in_thread(
                functools.partial(advertise_v0, repository, snapshot, word)
            )
            return answers.plain(service, "advertisement", service_preface(service) + body)
        if service == RECEIVE_PACK:
            return await self._push_advertisement(request, repository, snapshot)
        return _text(
            403, "This server speaks git's smart HTTP protocol only; use git 1.6.6 or later."
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
            return _text(415, f"Content-Type must be application/x-{UPLOAD_PACK}-request.")
        body = await self._body(request)
        protocol = _protocol(request)
        try:
            if protocol == 2:
                exchange.dialect = "git-v2"
                return await self._v2(request, repository, snapshot, body)
            exchange.dialect, exchange.command = "git-v0", "fetch"
            return await self._v0(request, repository, snapshot, body, protocol)
        except (ProtocolError, Refused, GitFailed) as error:
            if exchange.begun:
                # In these protocols only a broken connection says that an answer is not whole.
                raise ConnectionResetError(str(error)) from error
            exchange.outcome = Outcome.ERROR
            if isinstance(error, GitFailed):
                _log.error("request %s, %s: %s", exchange.request_id, repository.name, error)
            return answers.refusal(UPLOAD_PACK, "result", error, exchange)

    async def _body(self, request: web.Request) -> bytes:
        """The request's body, decompressed; bounded in size and time."""
        if request.content.is_eof():  # it came with the head; a timer would cost more than it
            return await request.read()
        try:
            async with asyncio.timeout(self.runtime.settings.limits.request_time):
                return await request.read()
        except TimeoutError:
            late = web.HTTPRequestTimeout(text="The request took too long to arrive.\n")
            late.force_close()
            raise late from None

    async def _v2(
        self, request: web.Request, repository: GitRepository, snapshot: Snapshot, body: bytes
    ) -> web.StreamResponse:
        exchange = request[EXCHANGE]
        parsed = await _parse(body)
        if parsed is None:
            exchange.command, exchange.outcome = "goodbye", Outcome.HIT
            return answers.plain(UPLOAD_PACK, "result", b"")
        if parsed.session.object_format != snapshot.object_format:
            raise ProtocolError(
                f"mismatched object format: server {snapshot.object_format};"
                f" client {parsed.session.object_format}"
            )
        match parsed:
            case v2.LsRefs():
                exchange.command, exchange.outcome = "ls-refs", Outcome.HIT
                listing = snapshot.refs.answer(
                    peel=parsed.peel,
                    symrefs=parsed.symrefs,
                    unborn=parsed.unborn,
                    prefixes=parsed.prefixes,
                )
                return answers.listing(listing, request.headers.get("Accept-Encoding", ""))
            case v2.BundleUri():
                exchange.command, exchange.outcome = "bundle-uri", Outcome.HIT
                bundles = await bundle_list(
                    self.runtime, repository.name, self._client(request), bundle_filter=None
                )
                return answers.plain(UPLOAD_PACK, "result", bundles.to_lines())
            case v2.ObjectInfo():
                exchange.command = "object-info"
                if not snapshot.capabilities.has("object-info"):
                    raise ProtocolError("unknown command 'object-info'")
                return await self._passthrough(request, repository, snapshot, body, "version=2")
            case v2.Fetch():
                exchange.command = "fetch"
                return await self._fetch(request, repository, snapshot, parsed)

    async def _fetch(
        self,
        request: web.Request,
        repository: GitRepository,
        snapshot: Snapshot,
        fetch: v2.Fetch,
    ) -> web.StreamResponse:
        if not fetch.wants and not fetch.want_refs:
            # As upload-pack: who wants nothing is told nothing.
            request[EXCHANGE].outcome = Outcome.HIT
            return answers.plain(UPLOAD_PACK, "result", b"")
        if fetch.filter or fetch.want_refs:
            _check_advertised(snapshot, fetch)
        exchange = request[EXCHANGE]
        redirecting = self.runtime.settings.redirect.enabled and bool(fetch.packfile_uris)
        common = await self._common(repository, snapshot, fetch.haves)
        if fetch.haves and not common and not fetch.done:
            # Nothing in common yet, as git says it; the client goes on telling what it has.
            exchange.outcome = Outcome.HIT
            nak = pktline.text(b"acknowledgments") + pktline.text(b"NAK") + pktline.FLUSH
            return answers.plain(UPLOAD_PACK, "result", nak)
        if common != fetch.haves:
            fetch = replace(fetch, haves=common)
        question = self.runtime.questions_asked.question(
            fetch, snapshot, repository.identity, redirecting=redirecting
        )

        def observe(seconds: float) -> None:
            self.runtime.metrics.execution(repository.name, "git-v2", "fetch", seconds)

        command = FetchCommand(
            git=repository,
            snapshot=snapshot,
            question=question,
            client=self._client(request),
            acceptance=_acceptance(fetch.packfile_uris) if redirecting else ACCEPTS_NOTHING,
            coverage=self.runtime.coverage,
            observe=observe,
        )
        try:
            answer, exchange.outcome = await self.runtime.pipeline.respond(command)
            named = ((ref, snapshot.refs.oid(ref)) for ref in fetch.want_refs)
            return await answers.send_fetch(
                request,
                answer,
                snapshot.object_format,
                tuple((ref, oid) for ref, oid in named if oid is not None),
                self.runtime.settings.limits.stall_time,
            )
        except CacheUnavailable as error:
            if exchange.begun:
                raise
            _log.error("answering without the cache: %s", error)
            whole = v2.encode_fetch(replace(fetch, packfile_uris=()), AGENT)
            return await self._passthrough(request, repository, snapshot, whole, "version=2")

    async def _common(
        self, repository: GitRepository, snapshot: Snapshot, haves: Sequence[str]
    ) -> tuple[str, ...]:
        """Those of the client's haves that the repository has too."""
        if not haves:
            return ()
        others = [oid for oid in haves if oid not in snapshot.refs.tips]
        existing = await repository.presence.existing(others)
        return tuple(oid for oid in haves if oid in existing or oid in snapshot.refs.tips)

    async def _v0(
        self,
        request: web.Request,
        repository: GitRepository,
        snapshot: Snapshot,
        body: bytes,
        protocol: int,
    ) -> web.StreamResponse:
        fetch = v0.parse_request(body)
        word = "version=1" if protocol == 1 else ""
        exchange = request[EXCHANGE]

        def observe(seconds: float) -> None:
            self.runtime.metrics.execution(repository.name, "git-v0", "fetch", seconds)

        command = LegacyFetchCommand(
            git=repository,
            snapshot=snapshot,
            fetch=fetch,
            protocol=word,
            client=self._client(request),
            observe=observe,
        )
        try:
            answer, exchange.outcome = await self.runtime.pipeline.respond(command)
            stall_time = self.runtime.settings.limits.stall_time
            return await answers.send_raw(request, answer, stall_time)
        except CacheUnavailable as error:
            if exchange.begun:
                raise
            _log.error("answering without the cache: %s", error)
            return await self._passthrough(request, repository, snapshot, fetch.canonical, word)

    # --- what goes through ---------------------------------------------------------------

    async def _passthrough(
        self,
        request: web.Request,
        repository: GitRepository,
        snapshot: Snapshot,
        body: bytes,
        protocol: str,
    ) -> web.StreamResponse:
        """Have git answer this client alone, as stock git's http-backend does."""

        async def once() -> AsyncIterator[bytes]:
            yield body

        args = ("upload-pack", "--stateless-rpc", "--strict", str(repository.path))
        request[EXCHANGE].outcome = Outcome.PASSTHROUGH
        return await self._stream(
            request,
            repository,
            args,
            once(),
            service=UPLOAD_PACK,
            protocol=protocol,
            config=snapshot.config,
        )

    async def _push_advertisement(
        self, request: web.Request, repository: GitRepository, snapshot: Snapshot
    ) -> web.StreamResponse:
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
                env={"GIT_PROTOCOL": "version=1"} if _protocol(request) == 1 else {},
            )
        )
        return answers.plain(RECEIVE_PACK, "advertisement", service_preface(RECEIVE_PACK) + body)

    async def _receive_pack(
        self, request: web.Request, repository: GitRepository, snapshot: Snapshot
    ) -> web.StreamResponse:
        authorise(Permission.PUSH, repository.name, snapshot, self.runtime.settings.git)
        exchange = request[EXCHANGE]
        exchange.dialect, exchange.command = "git-v0", "push"
        exchange.outcome = Outcome.PASSTHROUGH
        args = ("receive-pack", "--stateless-rpc", str(repository.path))
        word = "version=1" if _protocol(request) == 1 else ""
        limit = self.runtime.settings.limits.push_body

        async def body() -> AsyncIterator[bytes]:
            received = 0
            async for chunk in request.content.iter_any():
                received += len(chunk)
                if received > limit:
                    raise web.HTTPRequestEntityTooLarge(max_size=limit, actual_size=received)
                yield chunk

        try:
            return await self._stream(
                request, repository, args, body(), service=RECEIVE_PACK, protocol=word
            )
        finally:
            self.runtime.pushed()

    async def _stream(
        self,
        request: web.Request,
        repository: GitRepository,
        args: Sequence[str],
        body: AsyncIterator[bytes],
        *,
        service: str,
        protocol: str,
        config: Sequence[tuple[str, str]] = (),
    ) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={**answers.NO_CACHE, "Content-Type": f"application/x-{service}-result"}
        )
        sender = Sender(request, response, self.runtime.settings.limits.stall_time)
        exchange = request[EXCHANGE]
        async with self.runtime.streams:
            pieces = stream(repository.git, args, body, config=config, protocol=protocol)
            try:
                async for piece in pieces:
                    if not exchange.begun:
                        await sender.begin()
                    await sender.write(piece)
            except GitFailed as failure:
                exchange.outcome = Outcome.ERROR
                _log.error("request %s, %s: %s", exchange.request_id, repository.name, failure)
                if not exchange.begun:
                    return answers.refusal(service, "result", failure, exchange)
            finally:
                exchange.sent = sender.sent
                await pieces.aclose()  # type: ignore[attr-defined]
        if not exchange.begun:
            await sender.begin()
        await response.write_eof()
        return response

    def _client(self, request: web.Request) -> Client:
        settings = self.runtime.settings
        return client_of(request, settings.public_url, settings.listen)
