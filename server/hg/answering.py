# Law of this file: one exchange, from the bytes of its body to the answers of all its commands.
# What breaks the protocol is told in an error frame; what only concerns one command is its status.

from __future__ import annotations

import asyncio
import functools
import logging
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from repos.hg.repository import HgSnapshot
from server.exchange import EXCHANGE
from server.hg.command import DIALECT
from server.hg.questions import Questions, is_bulk, may_ask_hg
from server.hg.reply import Asked, Reply, Response
from server.hg.requests import Meaning, Requests, Understood
from server.hg.responding import Responder, Shared, failed, retrieved
from server.hg.routes import CommandUrl
from server.outcome import Outcome
from wire.hg.commands import BadArguments
from wire.hg.errors import ProtocolViolation
from wire.hg.messages import Failed, Text, encode_error
from wire.hg.server import CommandReceived, Limits, ServerReactor

_log = logging.getLogger("offramp.hg")

MULTIREQUEST: Final = "multirequest"

# Names that one exchange may have looked up.
_NAMES: Final = 64
_TOO_MANY: Final = Failed(b"more than %s names in one request; ask for nodes", (b"%d" % _NAMES,))

# Seconds after which somebody who waits for a repository's state is told so.
_PATIENCE: Final = 1.0
_READING: Final = Text(b"the server is reading what is new in the repository\n")

# How an exchange of several commands is counted: as the one of theirs that stands first here.
_TELLING: Final = (
    Outcome.ERROR,
    Outcome.REDIRECT,
    Outcome.MISS,
    Outcome.FOLLOW,
    Outcome.PASSTHROUGH,
    Outcome.HIT,
)


@dataclass(slots=True)
class Answering:
    """One exchange of one client.

    Attributes:
        shared: with other exchanges.
        requests: what requests meant before.
        questions: to the repository that is asked.
        request: the HTTP request.
        url: what its URL says.
    """

    shared: Shared
    requests: Requests
    questions: Questions
    request: web.Request
    url: CommandUrl
    _responder: Responder = field(init=False)
    _reactor: ServerReactor = field(init=False)
    _received: list[CommandReceived] = field(default_factory=list)
    _violation: ProtocolViolation | None = None
    _outcomes: set[Outcome] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._responder = Responder(self.shared, self.questions, self.request)
        largest = self.shared.runtime.settings.limits.request_body
        self._reactor = ServerReactor(Limits(request=largest, data=largest, held=2 * largest))

    async def receive(self) -> None:
        """Take in the request's body, up to where it breaks the protocol.

        Raises:
            web.HTTPRequestEntityTooLarge: it is longer than a request may be.
        """
        largest = self.shared.runtime.settings.limits.request_body
        size = 0
        try:
            async for chunk in self.request.content.iter_any():
                size += len(chunk)
                if size > largest:
                    raise web.HTTPRequestEntityTooLarge(max_size=largest, actual_size=size)
                # Data that come with a command are read, within their limit, and left: no command
                # of the protocol has a use for them.
                self._received += self._reactor.receive(chunk)
                await asyncio.sleep(0)  # what came at once is read in turns with others
            self._reactor.end()
        except ProtocolViolation as violation:
            self._violation = violation

    async def reply(self) -> web.StreamResponse:
        """Answer what was received."""
        reply = Reply(
            self._reactor,
            self.request,
            self.shared.runtime.settings.limits.stall_time,
            self._responder.compressed,
            self.shared.runtime.settings.hg.streams,
        )
        exchange = self.request[EXCHANGE]
        asked: dict[int, Asked] = {}
        if self._violation is None:
            meanings = await self.requests.understand([each.payload for each in self._received])
            understood = _few_names([self._understood(meaning) for meaning in meanings])
            if any(
                isinstance(each, Understood) and each.spec.permission == "push"
                for each in understood
            ):
                return web.Response(status=403, text="Pushing by this protocol is not possible.\n")
            snapshot = asyncio.ensure_future(self._responder.repository.snapshot())
            snapshot.add_done_callback(retrieved)
            for received, each in zip(self._received, understood, strict=True):
                what = self.url.command
                if isinstance(each, Understood):
                    what = each.spec.name.decode("ascii")
                produce = functools.partial(
                    self._produce, reply, received.request_id, each, snapshot
                )
                bulk = isinstance(each, Understood) and is_bulk(each.spec)
                asked[received.request_id] = Asked(what, bulk, produce)
        else:
            self._refuse(reply, self._violation)
        try:
            with self._responder.holds:
                return await reply.send(asked)
        finally:
            exchange.outcome = next((o for o in _TELLING if o in self._outcomes), Outcome.ERROR)

    # --- what was asked ------------------------------------------------------------------

    def _understood(self, understood: Meaning) -> Understood | Failed:
        """What a request asks at this URL, or what is wrong with it."""
        match understood:
            case ProtocolViolation():
                return Failed(b"%s", (str(understood).encode(),))
            case BadArguments(message=message, words=words):
                return Failed(message, words)
        if self.url.command == MULTIREQUEST:
            return understood
        if len(self._received) > 1:
            return Failed(b"this URL takes one command; send several to %s", (b"multirequest",))
        if understood.spec.name != self.url.command.encode():
            words = (understood.spec.name, self.url.command.encode())
            return Failed(b"command %s in the frame, and %s in the URL", words)
        return understood

    def _refuse(self, reply: Reply, violation: ProtocolViolation) -> None:
        exchange = self.request[EXCHANGE]
        _log.info("request %s breaks the protocol: %s", exchange.request_id, violation)
        first = self._received[0].request_id if self._received else 1
        payload = encode_error("protocol", b"%s", (str(violation).encode(),))
        told = (violation.request_id or first, *(each.request_id for each in self._received))
        for request_id in dict.fromkeys(told):
            reply.refuse(request_id, payload)

    async def _produce(
        self,
        reply: Reply,
        request_id: int,
        asked: Understood | Failed,
        snapshot: asyncio.Future[HgSnapshot],
    ) -> Response:
        """What answers one request."""
        if isinstance(asked, Failed):
            response, outcome = failed(asked)
        else:
            done, _ = await asyncio.wait({snapshot}, timeout=_PATIENCE)
            if not done:
                reply.tell(request_id, _READING)
            response, outcome = await self._responder.respond(asked, snapshot)
            if self.url.command == MULTIREQUEST:
                self.shared.runtime.metrics.response(
                    self._responder.repository.name,
                    DIALECT,
                    asked.spec.name.decode("ascii"),
                    outcome,
                )
        self._outcomes.add(outcome)
        return response


def _few_names(understood: list[Understood | Failed]) -> list[Understood | Failed]:
    """The same without names beyond those that anybody looks up: each may be a process."""
    found: list[Understood | Failed] = []
    names = 0
    for each in understood:
        names += isinstance(each, Understood) and may_ask_hg(each)
        found.append(_TOO_MANY if names > _NAMES else each)
    return found
