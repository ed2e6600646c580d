# Law of this file: a repository of an upstream is shown to a caller as the upstream would show it;
# which path means what is said here, and what is not ours to answer goes to the upstream unchanged.

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import quote

from aiohttp import web

from server.exchange import EXCHANGE
from server.git import answers
from server.git.answers import RECEIVE_PACK, UPLOAD_PACK
from server.git.callers import Answered, Caller, caller_of, refusal, silence
from server.git.mirrored_fetch import MirroredFetch
from server.git.requests import asker, body_of
from server.git.sight import Sight
from server.git.upload_pack import UploadPack
from server.outcome import Outcome
from server.runtime import Runtime
from server.upstreams.asking import Down, Refused
from server.upstreams.lfs import Repeats, download_request, without_credential
from server.upstreams.routes import Remote, Routed
from server.upstreams.upstreams import Upstreams

_LFS_BATCH: Final = "/info/lfs/objects/batch"

_Handler = Callable[[web.Request, Remote, Caller], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class MirroredGit:
    """The handlers for repositories of upstreams."""

    runtime: Runtime
    upstreams: Upstreams
    fetches: MirroredFetch

    @classmethod
    def of(cls, runtime: Runtime, uploads: UploadPack) -> Self | None:
        """The handlers of ``runtime``; None where there are no upstreams."""
        upstreams = runtime.upstreams
        if upstreams is None:
            return None
        return cls(runtime, upstreams, MirroredFetch(runtime, upstreams, uploads, Sight()))

    def route(self, request: web.Request) -> Routed | None:
        """Where at the upstreams a request goes, if it goes there."""
        return self.upstreams.route(request.raw_path.partition("?")[0])

    def named(self, name: str) -> Remote | None:
        """The repository of an upstream that is served as ``name``, in any of its spellings."""
        routed = self.upstreams.route(f"/{quote(name)}/info/refs")
        return None if routed is None else routed.remote

    async def handle(self, request: web.Request, routed: Routed) -> web.StreamResponse:
        """Answer one request for a repository of an upstream, or for what is below it."""
        remote = routed.remote
        service = request.query.get("service")
        if routed.rest == "/info/refs" and service == UPLOAD_PACK:
            _only(request, "GET", "HEAD")
            return await self._for_caller(request, remote, self.fetches.info_refs)
        if routed.rest == f"/{UPLOAD_PACK}":
            _only(request, "POST")
            return await self._for_caller(request, remote, self.fetches.upload_pack)
        others = functools.partial(self._others, rest=routed.rest)
        return await self._for_caller(request, remote, others)

    async def bundle_file(
        self, request: web.Request, remote: Remote, bundle_filter: str | None
    ) -> web.StreamResponse:
        """Answer with the list of bundles as a file."""

        async def listed(
            request: web.Request, remote: Remote, caller: Caller
        ) -> web.StreamResponse:
            view = await self.upstreams.views.recent(remote, caller.shown)
            exchange = request[EXCHANGE]
            exchange.repository, exchange.outcome = remote.name, Outcome.HIT
            client = asker(self.runtime, request)
            bundles = await self.fetches.bundles(client, remote, view, bundle_filter)
            return answers.bundle_file(bundles)

        return await self._for_caller(request, remote, listed)

    async def _for_caller(
        self, request: web.Request, remote: Remote, answer_to: _Handler
    ) -> web.StreamResponse:
        """Let the caller in, or say why not."""
        try:
            caller = caller_of(self.runtime, self.upstreams, request, remote)
            return await answer_to(request, remote, caller)
        except Answered as answered:
            return answered.response
        except Refused as refused:
            return refusal(remote, refused)
        except Down as down:
            return silence(request, remote, down)

    async def _others(
        self, request: web.Request, remote: Remote, caller: Caller, *, rest: str
    ) -> web.StreamResponse:
        """Pushes, LFS, and what we do not know."""
        exchange = request[EXCHANGE]
        exchange.dialect = "git-v0"
        service = request.query.get("service")
        pushes = rest == f"/{RECEIVE_PACK}" or service == RECEIVE_PACK
        exchange.command = "push" if pushes else "other"
        # Only those come below /-/here/ who were redirected, and none is for a push.
        if caller.passes and not exchange.here:
            try:
                return await self.upstreams.passing.through(
                    request,
                    remote,
                    f"{self.upstreams.views.base(remote)}{rest}",
                    caller.own,
                    private_headers=(self.runtime.settings.access.user_header,),
                )
            finally:
                if rest == f"/{RECEIVE_PACK}":
                    self.runtime.pushed()
        if rest == _LFS_BATCH and request.method == "POST":
            body = await body_of(request, self.runtime.settings.limits.request_time)
            asked = download_request(body)
            if asked is not None:
                return await self._locate(request, remote, caller, asked)
        return answers.text(
            403,
            "Through this server, this repository can only be read."
            + (f" Push to {remote.url}." if pushes else ""),
        )

    async def _locate(
        self, request: web.Request, remote: Remote, caller: Caller, body: bytes
    ) -> web.StreamResponse:
        """Tell where LFS objects are, as the upstream tells it to this server's credential."""
        shown = caller.shown
        try:
            return await self.upstreams.passing.through(
                request,
                remote,
                f"{self.upstreams.views.base(remote)}{_LFS_BATCH}",
                shown,
                query="",
                body=body,
                edit=None if shown is None else functools.partial(without_credential, shown=shown),
            )
        except Repeats:
            raise Down(
                "the upstream's answer to git-lfs repeats this server's credential"
            ) from None


def _only(request: web.Request, *methods: str) -> None:
    if request.method not in methods:
        raise web.HTTPMethodNotAllowed(request.method, methods)
