# Law of this file: a fetch is answered in the same way whoever owns the repository: from a bundle,
# a record or a run; and by git alone where the cache cannot be written.

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

from aiohttp import web

from cache.flights import CacheUnavailable
from redirects.acceptance import SENT_IN_VAIN
from redirects.audience import Audience
from repos.git.repository import GitRepository, Snapshot
from server.answer import Answer, Growing
from server.exchange import EXCHANGE
from server.git import answers
from server.git.fetch import FetchCommand, Overtaken, always
from server.git.legacy import LegacyFetchCommand
from server.git.requests import acceptance_of, asker, word_of
from server.git.streaming import upload_pack_alone
from server.outcome import Outcome
from server.runtime import Runtime
from wire.git import pktline, v0, v2
from wire.git.pktline import ProtocolError

_log = logging.getLogger("offramp.git")

AGENT: Final = "offramp/0.1"


def _check_advertised(snapshot: Snapshot, fetch: v2.Fetch) -> None:
    features = snapshot.capabilities.fetch_features
    for feature, used in (("filter", fetch.filter), ("ref-in-want", fetch.want_refs)):
        if used and feature not in features:
            raise ProtocolError(f"the client asks for '{feature}', which was not advertised")


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for one caller's reading of a repository.

    Attributes:
        audience: for whom its content is.
        reached: those of a caller's haves that it may know to be here; None: all that are.
        unchanged: asked after a run, in its thread, whether its answer may be given.
    """

    audience: Audience
    reached: Callable[[Sequence[str]], Awaitable[Collection[str]]] | None = None
    unchanged: Callable[[], bool] = always


async def _held(answer: Answer, terms: Terms) -> None:
    """Where an answer may turn out not to be given, wait for that: not a byte of it is sent before.

    Raises:
        Exception: what the run raised.
    """
    if terms.unchanged is not always and isinstance(answer.inline, Growing):
        await answer.inline.flight.finished()


@dataclass(frozen=True, slots=True)
class UploadPack:
    """Answers fetches of repositories on this machine, whose caller is authorised."""

    runtime: Runtime

    async def fetch(
        self,
        request: web.Request,
        repository: GitRepository,
        snapshot: Snapshot,
        fetch: v2.Fetch,
        *,
        terms: Terms,
    ) -> web.StreamResponse:
        """Answer a v2 ``fetch``.

        Raises:
            ProtocolError, repos.git.upload_pack.Refused, GitFailed: it cannot be answered.
            Overtaken: it may not be given, by ``terms``.
        """
        if not fetch.wants and not fetch.want_refs:
            # As upload-pack: who wants nothing is told nothing.
            request[EXCHANGE].outcome = Outcome.HIT
            return answers.plain(answers.UPLOAD_PACK, "result", b"")
        if fetch.filter or fetch.want_refs:
            _check_advertised(snapshot, fetch)
        runtime = self.runtime
        exchange = request[EXCHANGE]
        client = asker(runtime, request, fetch.session.server_options)
        acceptance = acceptance_of(fetch.packfile_uris)
        redirecting = runtime.pipeline.refusal(acceptance, client, repository.name) is None
        common = await self._common(repository, snapshot, fetch.haves, terms)
        if fetch.haves and not common and not fetch.done:
            # Nothing in common yet, as git says it; the client goes on telling what it has.
            exchange.outcome = Outcome.HIT
            nak = pktline.text(b"acknowledgments") + pktline.text(b"NAK") + pktline.FLUSH
            return answers.plain(answers.UPLOAD_PACK, "result", nak)
        if common != fetch.haves:
            fetch = replace(fetch, haves=common)
        identity = repository.identity
        question = runtime.questions_asked.question(
            fetch, snapshot, identity, redirecting=redirecting
        )
        if redirecting and runtime.repeats.asked_again(request, question.known_by):
            # The question stays the one whose answer stands alone: it may have been computed, and
            # is never thin where others are sent to it.
            acceptance = SENT_IN_VAIN

        def observe(seconds: float, cpu: float) -> None:
            runtime.metrics.execution(repository.name, "git-v2", "fetch", seconds, cpu)

        async def ready(answer: Answer) -> None:
            await _held(answer, terms)
            await answers.begun(answer)

        command = FetchCommand(
            git=repository,
            snapshot=snapshot,
            question=question,
            client=client,
            acceptance=acceptance,
            coverage=runtime.coverage,
            observe=observe,
            audience=terms.audience,
            unchanged=terms.unchanged,
        )
        try:
            answer, exchange.outcome = await runtime.pipeline.respond(command, ready)
            if answer.redirected:
                sent = ((item.location, item.part.entity) for item in answer.redirected)
                runtime.repeats.sent(request, question.known_by, sent)
            named = ((ref, snapshot.refs.oid(ref)) for ref in fetch.want_refs)
            return await answers.send_fetch(
                request,
                answer,
                snapshot.object_format,
                tuple((ref, oid) for ref, oid in named if oid is not None),
                runtime.settings.limits.stall_time,
            )
        except CacheUnavailable as error:
            if exchange.begun:
                raise
            if terms.unchanged is not always:
                raise Overtaken from error  # without it, nothing can be held back
            _log.error("answering without the cache: %s", error)
            whole = v2.encode_fetch(replace(fetch, packfile_uris=()), AGENT)
            return await upload_pack_alone(
                runtime, request, repository, snapshot, body=whole, protocol=word_of(2)
            )

    async def _common(
        self, repository: GitRepository, snapshot: Snapshot, haves: Sequence[str], terms: Terms
    ) -> tuple[str, ...]:
        """Those of the client's haves that the repository has too."""
        if not haves:
            return ()
        if terms.reached is not None:
            reached = await terms.reached(haves)
            return tuple(oid for oid in haves if oid in reached)
        others = [oid for oid in haves if oid not in snapshot.refs.tips]
        existing = await repository.presence.existing(others)
        return tuple(oid for oid in haves if oid in existing or oid in snapshot.refs.tips)

    async def legacy(
        self,
        request: web.Request,
        repository: GitRepository,
        snapshot: Snapshot,
        fetch: v0.V0Fetch,
        *,
        protocol: int,
        terms: Terms,
    ) -> web.StreamResponse:
        """Answer a fetch of protocol v0 or v1.

        Raises:
            ProtocolError, repos.git.upload_pack.Refused, GitFailed: it cannot be answered.
            Overtaken: it may not be given, by ``terms``.
        """
        runtime = self.runtime
        exchange = request[EXCHANGE]
        word = word_of(protocol)

        def observe(seconds: float, cpu: float) -> None:
            runtime.metrics.execution(repository.name, "git-v0", "fetch", seconds, cpu)

        command = LegacyFetchCommand(
            git=repository,
            snapshot=snapshot,
            fetch=fetch,
            protocol=word,
            client=asker(runtime, request),
            observe=observe,
            audience=terms.audience,
            unchanged=terms.unchanged,
        )
        try:
            answer, exchange.outcome = await runtime.pipeline.respond(command)
            await _held(answer, terms)
            return await answers.send_raw(request, answer, runtime.settings.limits.stall_time)
        except CacheUnavailable as error:
            if exchange.begun:
                raise
            if terms.unchanged is not always:
                raise Overtaken from error  # without it, nothing can be held back
            _log.error("answering without the cache: %s", error)
            return await upload_pack_alone(
                runtime, request, repository, snapshot, body=fetch.canonical, protocol=word
            )
