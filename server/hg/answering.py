# Law of this file: one exchange, from the bytes of its body to the answers of all its commands.
# What breaks the protocol is told in an error frame; what only concerns one command is its status.

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from cache.entities import OpenEntity
from cache.flights import CacheUnavailable, RunFailed
from redirects.acceptance import ACCEPTS_NOTHING
from repos.hg.database import IndexBroken
from repos.hg.errors import CommandError, Unservable
from repos.hg.errors import Moved as Elsewhere
from repos.hg.repository import HgRepository, HgSnapshot
from server.answer import Answer, Inlined
from server.exchange import EXCHANGE, client_of
from server.hg.command import DIALECT, Answerer, HgCommand, Write, acceptance_of
from server.hg.compressed import Compressor
from server.hg.content import Piped
from server.hg.describe import descriptor, offered
from server.hg.interest import Interest, Key
from server.hg.questions import Bulk, Questions, Small, is_bulk, may_ask_hg
from server.hg.reply import Asked, Content, Reply, Response, Whole
from server.hg.requests import Meaning, Requests, Understood
from server.hg.routes import CommandUrl
from server.outcome import Outcome
from server.runtime import Runtime
from wire.hg.cbor import Value
from wire.hg.commands import BadArguments
from wire.hg.encodings import Encoding
from wire.hg.errors import ProtocolViolation
from wire.hg.handshake import encode_descriptor
from wire.hg.messages import (
    CBOR_MEDIA_TYPE,
    STATUS_OK,
    Failed,
    Location,
    Moved,
    Offer,
    Text,
    encode_error,
    encode_status,
)
from wire.hg.server import CommandReceived, Limits, ServerReactor

_log = logging.getLogger("offramp.hg")

MULTIREQUEST: Final = "multirequest"

_STOCK_AGENT: Final = "mercurial/proto-1.0"

# Times that a repository is read again that changes while it is answered from.
_TRIES: Final = 3

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
        runtime: the server's.
        requests: what requests meant before.
        interest: who waits for which answers.
        compressor: compresses what is sent inline.
        questions: to the repository that is asked.
        request: the HTTP request.
        url: what its URL says.
    """

    runtime: Runtime
    requests: Requests
    interest: Interest
    compressor: Compressor
    questions: Questions
    request: web.Request
    url: CommandUrl
    _reactor: ServerReactor = field(init=False)
    _received: list[CommandReceived] = field(default_factory=list)
    _violation: ProtocolViolation | None = None
    _outcomes: set[Outcome] = field(default_factory=set)
    _holds: ExitStack = field(default_factory=ExitStack)

    @property
    def repository(self) -> HgRepository:
        """Which is asked."""
        return self.questions.lookups.repository

    def __post_init__(self) -> None:
        largest = self.runtime.settings.limits.request_body
        self._reactor = ServerReactor(Limits(request=largest, data=largest, held=2 * largest))

    async def receive(self) -> None:
        """Take in the request's body, up to where it breaks the protocol.

        Raises:
            web.HTTPRequestEntityTooLarge: it is longer than a request may be.
        """
        largest = self.runtime.settings.limits.request_body
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
            self.runtime.settings.limits.stall_time,
            self._compressed,
            self.runtime.settings.hg.streams,
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
            snapshot = asyncio.ensure_future(self.repository.snapshot())
            snapshot.add_done_callback(_retrieved)
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
            with self._holds:
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

    # --- answers -------------------------------------------------------------------------

    async def _produce(
        self,
        reply: Reply,
        request_id: int,
        asked: Understood | Failed,
        snapshot: asyncio.Future[HgSnapshot],
    ) -> Response:
        """What answers one request; errors of ours are told as its status."""
        if isinstance(asked, Failed):
            return self._failed(asked)
        name = asked.spec.name.decode("ascii")
        try:
            done, _ = await asyncio.wait({snapshot}, timeout=_PATIENCE)
            if not done:
                reply.tell(request_id, _READING)
            response, outcome = await self._with(asked, await asyncio.shield(snapshot))
        except CommandError as error:
            return self._failed(Failed(error.message, error.words), name)
        except BadArguments as bad:
            return self._failed(Failed(bad.message, bad.words), name)
        except Unservable as error:
            return self._failed(Failed(b"%s", (str(error).encode(),)), name)
        except (ConnectionError, web.HTTPException):
            raise
        except Exception:  # noqa: BLE001 - it is logged, and the client is told
            request = self.request[EXCHANGE].request_id
            _log.exception("request %s: %s failed", request, name)
            words = b"the server could not answer; its log says why (request %s)"
            return self._failed(Failed(words, (request.encode("ascii", "replace"),)), name)
        self._count(name, outcome)
        return response

    def _failed(self, failed: Failed, name: str | None = None) -> Whole:
        self._count(name, Outcome.ERROR)
        return Whole(encode_status(failed))

    def _count(self, name: str | None, outcome: Outcome) -> None:
        self._outcomes.add(outcome)
        if self.url.command == MULTIREQUEST and name is not None:
            self.runtime.metrics.response(self.repository.name, DIALECT, name, outcome)

    async def _with(self, asked: Understood, snapshot: HgSnapshot) -> tuple[Response, Outcome]:
        """Answer from a snapshot, or from a new one if the repository has moved on meanwhile."""
        for _ in range(_TRIES):
            try:
                return await self._respond(asked, snapshot)
            except (IndexBroken, Elsewhere) as error:
                _log.warning("repository %s is read again: %s", self.repository.name, error)
                broken = isinstance(error, IndexBroken)
                snapshot = await self.repository.renewed(snapshot, broken=broken)
        try:
            return await self._respond(asked, snapshot)
        except Elsewhere:
            raise CommandError(
                b"the repository changes faster than it is read; try again"
            ) from None

    async def _respond(self, asked: Understood, snapshot: HgSnapshot) -> tuple[Response, Outcome]:
        settings = self.runtime.settings.redirect
        if asked.spec.name not in offered(self.runtime, snapshot):
            if snapshot.stream_unsettled and self.runtime.settings.hg.stream_clones:
                raise Elsewhere("changesets came while it was read")
            raise CommandError(b"command %s is not offered here", (asked.spec.name,))
        put = await self.questions.question(snapshot, asked, self._descriptor)
        acceptance = acceptance_of(asked.offer) if settings.enabled else ACCEPTS_NOTHING
        match put:
            case Small(objects):
                if not acceptance.protocols or len(objects) < settings.min_size:
                    return Whole(STATUS_OK + objects), Outcome.HIT
                key: tuple[bytes, ...] = (hashlib.sha256(objects).digest(),)
                answer: Answerer = functools.partial(_write, objects)
            case Bulk(key, bulk):
                place: Key = (self.repository.identity, asked.spec.name, *key)
                self._holds.enter_context(self.interest.held(place))
                answer = self._watched(snapshot, place, bulk)
        name = asked.spec.name.decode("ascii")
        command = HgCommand(
            repository=self.repository.name,
            identity=self.repository.identity,
            name=name,
            question=key,
            answer=answer,
            acceptance=acceptance,
            client=client_of(
                self.request, self.runtime.settings.public_url, self.runtime.settings.listen
            ),
            audience=self.runtime.access_rules.audience,
            observe=functools.partial(
                self.runtime.metrics.execution, self.repository.name, DIALECT, name
            ),
        )
        piped = Piped(answer, self.runtime.runs)
        try:
            found, outcome = await self.runtime.pipeline.respond(command)
        except CacheUnavailable as error:
            _log.error("answering without the cache: %s", error)
            return Content(STATUS_OK, piped), Outcome.PASSTHROUGH
        return self._response(found, asked.offer, piped), outcome

    def _watched(self, snapshot: HgSnapshot, key: Key, answer: Answerer) -> Answerer:
        """The same for as long as somebody waits for it, and no longer than a run may take.

        An index that breaks in mid-answer is not asked again: this answer is lost with it, and the
        next one is not.
        """
        loop = asyncio.get_running_loop()
        interest, limit = self.interest, self.runtime.settings.limits.program_time

        def watched(write: Write) -> None:
            interest.check(key, begun=False)
            until = time.monotonic() + limit

            def checked(data: bytes) -> None:
                interest.check(key, begun=True)
                if time.monotonic() > until:
                    raise RunFailed(f"the answer takes longer than limits.program_time ({limit} s)")
                write(data)

            try:
                answer(checked)
            except (IndexBroken, Elsewhere) as error:
                broken = isinstance(error, IndexBroken)
                loop.call_soon_threadsafe(self._renew, snapshot, broken)
                raise

        return watched

    def _renew(self, snapshot: HgSnapshot, broken: bool) -> None:
        task = asyncio.ensure_future(self.repository.renewed(snapshot, broken=broken))
        _renewing.add(task)
        task.add_done_callback(_renewing.discard)
        task.add_done_callback(_retrieved)

    def _response(self, answer: Answer, offer: Offer | None, instead: Piped) -> Response:
        if answer.inline is not None:
            return Content(answer.head, answer.inline, instead)
        if not answer.redirected:
            return Whole(answer.head)
        moved = answer.redirected[0]
        entity = moved.part.entity
        self.request[EXCHANGE].redirected += entity.size
        hashes = offer.hashes if offer is not None and not self._warns else ()
        known = (("sha256", entity.digest), ("sha1", moved.part.checksum))
        location = Location(
            moved.location.url,
            CBOR_MEDIA_TYPE,
            entity.size,
            tuple(
                (name, bytes.fromhex(digest)) for name, digest in known if name.encode() in hashes
            ),
        )
        return Whole(encode_status(Moved(location)))

    @property
    def _warns(self) -> bool:
        """The client lists hashes, checks none, and warns its user of each location that has some.

        So does Mercurial, which says who it is in this way since 4.6.
        """
        return self.request.headers.get("User-Agent", "").startswith(_STOCK_AGENT)

    def _descriptor(self, snapshot: HgSnapshot) -> Value:
        settings = self.runtime.settings
        client = client_of(self.request, settings.public_url, settings.listen)
        audience = self.runtime.access_rules.audience
        return encode_descriptor(descriptor(self.runtime, snapshot, client, audience))

    async def _compressed(self, entity: OpenEntity, encoding: Encoding) -> Inlined | None:
        repository = self.repository
        place = (repository.identity, entity.digest, encoding)
        self._holds.enter_context(self.interest.held(place))
        check = functools.partial(self.interest.check, place)
        return await self.compressor.compressed(
            repository.name, repository.identity, entity, encoding, check
        )


def _few_names(understood: list[Understood | Failed]) -> list[Understood | Failed]:
    """The same without names beyond those that anybody looks up: each may be a process."""
    found: list[Understood | Failed] = []
    names = 0
    for each in understood:
        names += isinstance(each, Understood) and may_ask_hg(each)
        found.append(_TOO_MANY if names > _NAMES else each)
    return found


# Held until they are done; nobody waits for them.
_renewing: set[asyncio.Future[HgSnapshot]] = set()


def _write(objects: bytes, write: Write) -> None:
    write(objects)


def _retrieved(task: asyncio.Future[HgSnapshot]) -> None:
    """Whoever waited has been told; nobody may have waited."""
    if not task.cancelled():
        task.exception()
