# Law of this file: Mercurial's HTTP, as hgweb speaks it: which URL and which header mean what, and
# what is refused before a frame is read. Where frames are expected, frames are what is sent.

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final, Self

from aiohttp import web

from repos.hg.database import IndexBroken, IndexUnreadable
from repos.hg.errors import Unservable
from repos.hg.lookup import Lookups
from repos.hg.program import HgFailed
from repos.hg.repository import HgRepository
from server.access.policies import Allowed, Hidden
from server.access.rules import answer
from server.exchange import EXCHANGE, client_of
from server.git import answers
from server.hg.answering import MULTIREQUEST, Answering
from server.hg.command import DIALECT
from server.hg.compressed import Compressor
from server.hg.describe import descriptor
from server.hg.interest import Interest
from server.hg.questions import Questions
from server.hg.requests import Requests
from server.hg.responding import Shared
from server.hg.routes import V1, Apis, CommandUrl, Nothing, Route
from server.hg.v1.bundling import Bundling
from server.hg.v1.front import Front
from server.hg.v1.upstream import UpstreamFront
from server.outcome import Outcome
from server.runtime import Runtime
from wire.hg.cbor import Value
from wire.hg.commands import COMMANDS
from wire.hg.handshake import (
    API_NAME,
    asks_upgrade,
    encode_descriptor,
    encode_handshake,
    wants_upgrade,
)
from wire.hg.messages import CBOR_MEDIA_TYPE, FRAMING_MEDIA_TYPE

_log = logging.getLogger("offramp.hg")

# Repositories of which is remembered what was asked, which keeps them open.
_KEPT: Final = 256

_V1_ERROR: Final = "application/hg-error"


@dataclass(frozen=True, slots=True)
class HgHttp:
    """The handlers of one server process for Mercurial clients."""

    runtime: Runtime
    shared: Shared
    front: Front
    upstream: UpstreamFront | None
    requests: Requests = field(default_factory=Requests)
    questions: OrderedDict[str, Questions] = field(default_factory=OrderedDict)

    @classmethod
    def of(cls, runtime: Runtime) -> Self:
        """The handlers of ``runtime``."""
        shared = Shared(runtime, Interest(), Compressor(runtime.pipeline))
        bundling = Bundling(runtime)
        front, upstream = Front(runtime, bundling), UpstreamFront.of(runtime, bundling)
        return cls(runtime, shared, front, upstream)

    async def handle(self, request: web.Request, routed: Route) -> web.StreamResponse:
        """Answer one request for a URL of a Mercurial client."""
        if self.upstream is not None and isinstance(routed, V1):
            remote = self.upstream.route(request)
            if remote is not None:
                return await self.upstream.answer(request, remote, routed.command)
        name = routed.repository
        verdict = self.runtime.access_rules.local(request, name)
        if not isinstance(verdict, Allowed):
            return answer(verdict)
        repository = self.runtime.hg_repositories.get(name)
        if repository is None:
            return answer(Hidden())
        exchange = request[EXCHANGE]
        exchange.repository, exchange.dialect = repository.name, DIALECT
        match routed:
            case V1(command=command):
                return await self._v1(request, repository, command)
            case Apis():
                exchange.command, exchange.outcome = "apis", Outcome.HIT
                return answers.text(200, f"APIs that can be accessed here:\n\n{API_NAME}")
            case Nothing():
                return answers.text(
                    404, f"Commands are at api/{API_NAME}/<ro or rw>/<command or {MULTIREQUEST}>."
                )
            case CommandUrl() as url:
                return await self._command(request, repository, url)

    # --- the handshake ---------------------------------------------------------------------------

    async def _v1(
        self, request: web.Request, repository: HgRepository, command: str
    ) -> web.StreamResponse:
        lookups = self._questions(repository).lookups
        if command != "capabilities" or not asks_upgrade(request.headers):
            return await self.front.answer(request, lookups, command)
        exchange = request[EXCHANGE]
        exchange.command, exchange.outcome = command, Outcome.HIT
        try:
            snapshot = await repository.snapshot()
        except (IndexBroken, IndexUnreadable, Unservable):
            return await self.front.answer(request, lookups, command)
        except HgFailed as error:
            return self._unreadable(request, repository, error)
        apis: dict[str, Value] = {}
        if wants_upgrade(request.headers):
            settings = self.runtime.settings
            client = client_of(request, settings.public_url, settings.listen)
            audience = self.runtime.access_rules.audience_of(repository.name)
            apis[API_NAME] = encode_descriptor(descriptor(self.runtime, snapshot, client, audience))
        words = await self.front.capabilities(repository.name, snapshot)
        return _typed(200, CBOR_MEDIA_TYPE, encode_handshake(apis, words))

    def _questions(self, repository: HgRepository) -> Questions:
        """What was asked of a repository lives as long as what is known of it otherwise."""
        questions = self.questions.get(repository.name)
        if questions is None or questions.lookups.repository is not repository:
            questions = self.questions[repository.name] = Questions(Lookups(repository))
            while len(self.questions) > _KEPT:
                self.questions.popitem(last=False)
        self.questions.move_to_end(repository.name)
        return questions

    def _unreadable(
        self, request: web.Request, repository: HgRepository, error: Exception
    ) -> web.Response:
        exchange = request[EXCHANGE]
        exchange.outcome = Outcome.ERROR
        if isinstance(error, Unservable):
            return _typed(200, _V1_ERROR, f"{error}\n".encode())
        _log.error("repository %s: %s", repository.name, " ".join(str(error).split()))
        words = f"hg failed on the server; its log says why (request {exchange.request_id})\n"
        return _typed(200, _V1_ERROR, words.encode())

    # --- commands --------------------------------------------------------------------------------

    async def _command(
        self, request: web.Request, repository: HgRepository, url: CommandUrl
    ) -> web.StreamResponse:
        refusal = _refusal(request, url)
        if refusal is not None:
            return refusal
        exchange = request[EXCHANGE]
        exchange.command = url.command
        answering = Answering(self.shared, self.requests, self._questions(repository), request, url)
        try:
            async with asyncio.timeout(self.runtime.settings.limits.request_time):
                await answering.receive()
        except TimeoutError:
            late = web.HTTPRequestTimeout(text="The request took too long to arrive.\n")
            late.force_close()
            raise late from None
        return await answering.reply()


def _refusal(request: web.Request, url: CommandUrl) -> web.Response | None:
    """What is wrong with a request before its frames are looked at, in this order."""
    if url.permission not in {"ro", "rw"}:
        return answers.text(404, f"There is no permission {url.permission!r}; it is ro or rw.")
    spec = COMMANDS.get(url.command.encode("utf-8", "surrogateescape"))
    if spec is None and url.command != MULTIREQUEST:
        return answers.text(404, f"There is no command {url.command!r}.")
    if request.method != "POST":
        response = answers.text(405, "Commands are sent with POST.")
        response.headers["Allow"] = "POST"
        return response
    # The command's own permission counts, whatever the URL says.
    if spec is not None and spec.permission == "push":
        return answers.text(403, "Pushing by this protocol is not possible.")
    if request.headers.get("Accept") != FRAMING_MEDIA_TYPE:
        return answers.text(406, f"Accept must be {FRAMING_MEDIA_TYPE}.")
    if request.headers.get("Content-Type") != FRAMING_MEDIA_TYPE:
        return answers.text(415, f"Content-Type must be {FRAMING_MEDIA_TYPE}.")
    return None


def _typed(status: int, media_type: str, body: bytes) -> web.Response:
    return web.Response(
        status=status, body=body, headers={**answers.NO_CACHE, "Content-Type": media_type}
    )
