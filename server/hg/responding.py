# Law of this file: one command of one exchange becomes a response: from what the server knows, by
# the pipeline, or as an error that only concerns this command. What it waits for is held until the
# exchange ends.

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
from cache.flights import CacheUnavailable
from redirects.acceptance import Client
from repos.hg.database import IndexBroken
from repos.hg.errors import CommandError, Unservable
from repos.hg.errors import Moved as Elsewhere
from repos.hg.repository import HgRepository, HgSnapshot
from server.admission import Busy, Excess
from server.answer import Answer, Inlined
from server.exchange import EXCHANGE, client_of
from server.hg.command import DIALECT, Answerer, HgCommand, Write, acceptance_of
from server.hg.compressed import Compressor
from server.hg.content import Piped
from server.hg.describe import descriptor, offered
from server.hg.interest import Interest, Key, TooLong
from server.hg.questions import Bulk, Questions, Small
from server.hg.reply import Content, Response, Whole
from server.hg.requests import Understood
from server.outcome import Outcome
from server.runtime import Runtime
from wire.hg.cbor import Value
from wire.hg.commands import BadArguments
from wire.hg.encodings import Encoding
from wire.hg.handshake import encode_descriptor
from wire.hg.messages import (
    CBOR_MEDIA_TYPE,
    STATUS_OK,
    Failed,
    Location,
    Moved,
    Offer,
    encode_status,
)

_log = logging.getLogger("offramp.hg")

_STOCK_AGENT: Final = "mercurial/proto-1.0"

# Times that a repository is read again that changes while it is answered from.
_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class Shared:
    """What the exchanges of a server process share.

    Attributes:
        runtime: the server's.
        interest: who waits for which answers.
        compressor: compresses what is sent inline.
    """

    runtime: Runtime
    interest: Interest
    compressor: Compressor


@dataclass(slots=True)
class Responder:
    """Finds the responses to the commands of one exchange.

    Attributes:
        shared: with other exchanges.
        questions: to the repository that is asked.
        request: the HTTP request.
        holds: what this exchange waits for; to be closed with it.
    """

    shared: Shared
    questions: Questions
    request: web.Request
    holds: ExitStack = field(default_factory=ExitStack)

    @property
    def repository(self) -> HgRepository:
        """Which is asked."""
        return self.questions.lookups.repository

    @property
    def _client(self) -> Client:
        settings = self.shared.runtime.settings
        return client_of(self.request, settings.public_url, settings.listen)

    async def respond(
        self, asked: Understood, snapshot: asyncio.Future[HgSnapshot]
    ) -> tuple[Response, Outcome]:
        """What answers one command; errors of ours are told as its status."""
        name = asked.spec.name.decode("ascii")
        try:
            return await self._with(asked, await asyncio.shield(snapshot))
        except CommandError as error:
            return failed(Failed(error.message, error.words))
        except BadArguments as bad:
            return failed(Failed(bad.message, bad.words))
        except Unservable as error:
            return failed(Failed(b"%s", (str(error).encode(),)))
        except Busy as busy:
            self.shared.runtime.metrics.refused(Excess.QUEUE)
            return failed(Failed(b"%s", (str(busy).encode(),)))
        except (ConnectionError, web.HTTPException):
            raise
        except Exception:  # noqa: BLE001 - it is logged, and the client is told
            request = self.request[EXCHANGE].request_id
            _log.exception("request %s: %s failed", request, name)
            words = b"the server could not answer; its log says why (request %s)"
            return failed(Failed(words, (request.encode("ascii", "replace"),)))

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
        settings = self.shared.runtime.settings.redirect
        if asked.spec.name not in offered(self.shared.runtime, snapshot):
            if snapshot.stream_unsettled and self.shared.runtime.settings.hg.stream_clones:
                raise Elsewhere("changesets came while it was read")
            raise CommandError(b"command %s is not offered here", (asked.spec.name,))
        put = await self.questions.question(snapshot, asked, self._descriptor)
        acceptance = acceptance_of(asked.offer)
        match put:
            case Small(objects):
                refusal = self.shared.runtime.pipeline.refusal(
                    acceptance, self._client, self.repository.name
                )
                if refusal is not None or len(objects) < settings.min_size:
                    return Whole(STATUS_OK + objects), Outcome.HIT
                key: tuple[bytes, ...] = (hashlib.sha256(objects).digest(),)
                answer: Answerer = functools.partial(_write, objects)
            case Bulk(key, bulk):
                place: Key = (self.repository.identity, asked.spec.name, *key)
                self.holds.enter_context(self.shared.interest.held(place))
                answer = self._watched(snapshot, place, bulk)
        name = asked.spec.name.decode("ascii")
        command = HgCommand(
            repository=self.repository.name,
            identity=self.repository.identity,
            name=name,
            question=key,
            answer=answer,
            acceptance=acceptance,
            client=self._client,
            audience=self.shared.runtime.access_rules.audience_of(self.repository.name),
            observe=functools.partial(
                self.shared.runtime.metrics.execution, self.repository.name, DIALECT, name
            ),
        )
        piped = Piped(answer, self.shared.runtime.runs)
        try:
            found, outcome = await self.shared.runtime.pipeline.respond(command)
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
        interest, limit = self.shared.interest, self.shared.runtime.settings.limits.program_time

        def watched(write: Write) -> None:
            interest.check(key, begun=False)
            until = time.monotonic() + limit

            def checked(data: bytes) -> None:
                interest.check(key, begun=True)
                if time.monotonic() > until:
                    raise TooLong(f"the answer takes longer than limits.program_time ({limit} s)")
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
        task.add_done_callback(retrieved)

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
        runtime = self.shared.runtime
        audience = runtime.access_rules.audience_of(self.repository.name)
        return encode_descriptor(descriptor(runtime, snapshot, self._client, audience))

    async def compressed(self, entity: OpenEntity, encoding: Encoding) -> Inlined | None:
        """See :data:`server.hg.reply.Compressed`."""
        repository = self.repository
        place = (repository.identity, entity.digest, encoding)
        self.holds.enter_context(self.shared.interest.held(place))
        check = functools.partial(self.shared.interest.check, place)
        return await self.shared.compressor.compressed(
            repository.name, repository.identity, entity, encoding, check
        )


def failed(why: Failed) -> tuple[Response, Outcome]:
    """A command that could not be answered."""
    return Whole(encode_status(why)), Outcome.ERROR


# Held until they are done; nobody waits for them.
_renewing: set[asyncio.Future[HgSnapshot]] = set()


def _write(objects: bytes, write: Write) -> None:
    write(objects)


def retrieved(task: asyncio.Future[HgSnapshot]) -> None:
    """Whoever waited has been told; nobody may have waited."""
    if not task.cancelled():
        task.exception()
