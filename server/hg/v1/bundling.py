# Law of this file: a bundle is answered from the index if nothing is in it but names, else from a
# record, by a place, or by one run for all who ask the same; and if all that fails, by hg itself.

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import TimeoutError as NoAnswer
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from aiohttp import web

from cache.entities import OpenEntity
from cache.errors import CacheUnavailable, RunFailed
from indexer.catalog import CloneBundle
from redirects.acceptance import ACCEPTS_NOTHING, SENT_IN_VAIN, Acceptance
from repos.hg.backend import Backend, BackendFailed
from repos.hg.peer import Peer, PeerFailed, PeerRefused
from repos.hg.repository import HgSnapshot
from repos.hg.side_bundle import SideRequest, side_bundle
from server.answer import Stored
from server.exchange import EXCHANGE, client_of
from server.hg.v1 import replies
from server.hg.v1.asked import Asked
from server.hg.v1.getbundle import (
    DIALECT,
    GETBUNDLE,
    GetBundleCommand,
    Offered,
    abilities,
    acceptance_of,
    is_narrow,
    known_by,
    question_of,
)
from server.hg.v1.passing import Behind
from server.hg.v1.running import Streaming, Superseded
from server.hg.v1.words import ENGINES, streams
from server.outcome import Outcome
from server.runtime import Runtime
from stores.entity import Entity
from wire.hg.v1.getbundle import GetBundle
from wire.hg.v1.manifest import inline_length
from wire.hg.v1.media import Framing, choose

_log = logging.getLogger("offramp.hg")

# Seconds that a run waits for the event loop, which starts a program or looks at a repository.
_LOOP: Final = 120.0
# How often it looks whether the loop is still there.
_LOOK: Final = 0.5

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Bundling:
    """Answers `getbundle`, and sends clone bundles in the protocol."""

    runtime: Runtime
    offered: Offered = field(default_factory=Offered)

    async def getbundle(
        self, asked: Asked, snapshot: HgSnapshot, behind: Behind
    ) -> web.StreamResponse:
        """Answer `getbundle` for a repository that has an index.

        Raises:
            BadRequest: its arguments are malformed.
        """
        request, repository = behind.request, behind.repository
        wanted = _resolved(GetBundle.read(asked.arguments), snapshot)
        if isinstance(wanted, str):
            return replies.refused(request, wanted)
        framing = choose(asked.protocol, ENGINES, uncompressed=wanted.stream)
        side = _side(wanted, snapshot)
        if side is not None:
            return replies.stream(side, framing)
        settings = self.runtime.settings
        if wanted.stream and not streams(snapshot, settings.hg):
            return replies.refused(request, "streaming is not allowed here; clone without --stream")
        if not wanted.bundle2:
            # Nothing in a bare changegroup of version 01 says that the server failed in its middle.
            return await behind.answer()
        question = _question(wanted, snapshot)
        begun_with = await self._begun_with(repository.name)
        command = GetBundleCommand(
            repository=repository.name,
            identity=repository.identity,
            question=question,
            framing=framing,
            compute=self._run(behind, wanted, question, framing),
            acceptance=self._acceptance(wanted, framing, asked, begun_with),
            client=client_of(request, settings.public_url, settings.listen),
            audience=self.runtime.access_rules.audience_of(repository.name),
            observe=functools.partial(
                self.runtime.metrics.execution, repository.name, DIALECT, GETBUNDLE
            ),
            known_by=known_by(wanted, repository.identity, begun_with),
        )
        return await self.respond(request, command, behind.answer)

    def _acceptance(
        self,
        wanted: GetBundle,
        framing: Framing,
        asked: Asked,
        begun_with: frozenset[frozenset[str]],
    ) -> Acceptance:
        settings = self.runtime.settings
        if settings.access.auth == "proxy":
            # Who was let in by a proxy shows a password, though not to us.
            return ACCEPTS_NOTHING
        return acceptance_of(wanted, framing, asked, settings.hg, begun_with)

    async def _begun_with(self, name: str) -> frozenset[frozenset[str]]:
        """The heads of clone bundles that clients may have begun with.

        Another process, or this one before it was started again, told some of them.
        """
        now = await self.runtime.catalogs.clone_bundles(name)
        return frozenset(self.offered.get(name)) | {frozenset(bundle.heads) for bundle in now}

    async def respond(
        self,
        request: web.Request,
        command: GetBundleCommand,
        instead: Callable[[], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        """Answer by the pipeline; ``instead`` asks whoever is behind us, without the cache."""
        exchange = request[EXCHANGE]
        repeats = self.runtime.repeats
        if command.acceptance.protocols and repeats.asked_again(request, command.known_by):
            command = replace(command, acceptance=SENT_IN_VAIN)
        try:
            answer, exchange.outcome = await self.runtime.pipeline.respond(command)
            if answer.redirected:
                moved = answer.redirected[0]
                named = ((moved.location, moved.part.entity),)
                repeats.sent(request, command.known_by, named)
                return replies.elsewhere(request, moved.location, moved.part.entity.size)
            assert answer.inline is not None  # noqa: S101 - an answer has a body
            stall = self.runtime.settings.limits.stall_time
            return await replies.send(request, answer.inline, answer.head.decode(), stall)
        except PeerRefused as no:
            if exchange.begun:
                raise ConnectionResetError(str(no)) from no
            if no.status == 200:
                return replies.refused(request, no.text)
            # It may be said to another caller's credential, whose run this was.
            return await instead()
        except (CacheUnavailable, Superseded) as error:
            if exchange.begun:
                raise ConnectionResetError(str(error)) from error
            _log.warning("request %s: answering without the cache: %s", exchange.request_id, error)
            return await instead()
        except (PeerFailed, RunFailed) as error:
            if exchange.begun:
                raise ConnectionResetError(str(error)) from error
            _log.error("request %s: %s", exchange.request_id, error)
            return replies.failed(request)

    async def at_hand(self, bundles: Sequence[CloneBundle]) -> frozenset[str]:
        """Ids of those whose content this server has, or has fetched from the store in time.

        Of what is not here, the first in the settings' order is fetched: it is what clients take.
        """
        kinds = self.runtime.settings.hg.bundles
        wanted = sorted((b for b in bundles if b.kind in kinds), key=lambda b: kinds.index(b.kind))
        found = {bundle.id for bundle in wanted if self._is_here(bundle.entity)}
        if wanted and wanted[0].id not in found and not self.runtime.health.is_store_down:
            fetching = asyncio.ensure_future(self.runtime.pipeline.open(wanted[0].entity))
            fetching.add_done_callback(_closed)
            done, _ = await asyncio.wait(
                {fetching}, timeout=self.runtime.settings.redirect.max_wait
            )
            if done and self._is_here(wanted[0].entity):
                found.add(wanted[0].id)
        return frozenset(found)

    def _is_here(self, entity: Entity) -> bool:
        opened = self.runtime.cache.entities.open(entity.digest, entity.size)
        if opened is not None:
            opened.close()
            return True
        return self.runtime.store.local_path(entity.digest) is not None

    async def send_inline(
        self, request: web.Request, entity: Entity, framing: Framing
    ) -> web.StreamResponse:
        """Send a clone bundle: its length, and its bytes."""
        opened = await self.runtime.pipeline.open(entity)
        if opened is None:
            return replies.failed(request)
        before = framing.prefix + inline_length(entity.size)
        stall = self.runtime.settings.limits.stall_time
        request[EXCHANGE].outcome = Outcome.HIT
        return await replies.send(request, Stored(opened), framing.media_type, stall, before)

    # --- runs ------------------------------------------------------------------------------------

    def _run(
        self,
        behind: Behind,
        wanted: GetBundle,
        question: tuple[bytes, ...],
        framing: Framing,
    ) -> Streaming:
        loop = asyncio.get_running_loop()
        backend, repository = behind.backend, behind.repository
        silence = self.runtime.settings.hg.silence

        def open_peer() -> Peer:
            try:
                base = in_loop(loop, backend.url(repository.path))
            except (BackendFailed, NoAnswer, RuntimeError) as error:
                raise PeerFailed(f"hg serve: {error}") from error
            return Peer(
                base,
                silence=silence,
                engines=("none",),
                connections=self.runtime.hg_connections,
            )

        def unchanged() -> bool:
            async def look() -> bool:
                return _question(wanted, await repository.snapshot()) == question

            try:
                return in_loop(loop, look())
            except Exception:  # noqa: BLE001 - whatever it is, nobody knows that it is unchanged
                return False

        return Streaming(
            open_peer,
            GETBUNDLE,
            dict(wanted.canonical()),
            framing,
            wanted.bundle2,
            unchanged,
            functools.partial(_suspect, backend, loop),
        )


def in_loop(loop: asyncio.AbstractEventLoop, question: Coroutine[object, object, _T]) -> _T:
    """What the event loop answers to a thread, which does not outlive it for that.

    Raises:
        TimeoutError: it does not, or ends.
        RuntimeError: it has ended.
        Exception: what the question raises.
    """
    try:
        answer = asyncio.run_coroutine_threadsafe(question, loop)
    except RuntimeError:
        question.close()
        raise
    until = time.monotonic() + _LOOP
    while True:
        try:
            return answer.result(_LOOK)
        except NoAnswer:
            if answer.done() or loop.is_closed() or time.monotonic() > until:
                answer.cancel()
                raise


def _closed(fetching: asyncio.Future[OpenEntity | None]) -> None:
    """Who waits looks for the file itself, or has gone."""
    if not fetching.cancelled() and fetching.exception() is None:
        opened = fetching.result()
        if opened is not None:
            opened.close()


def _suspect(backend: Backend, loop: asyncio.AbstractEventLoop) -> None:
    try:
        in_loop(loop, backend.suspect())
    except (BackendFailed, NoAnswer, RuntimeError) as error:
        _log.warning("hg serve: %s", error)


def _resolved(asked: GetBundle, snapshot: HgSnapshot) -> GetBundle | str:
    """The same with its heads, and without common nodes that the repository has not; else, why not.

    Which changesets are the answer is then decided, whatever comes into the repository.
    """
    heads = snapshot.heads if asked.heads is None else asked.heads
    for node, there in zip(heads, snapshot.index.known(heads), strict=True):
        if not there:
            return f"unknown revision '{node.hex()}'"
    common = asked.common or ()
    known = zip(common, snapshot.index.known(common), strict=True)
    return replace(asked, heads=heads, common=tuple(node for node, there in known if there))


def _question(wanted: GetBundle, snapshot: HgSnapshot) -> tuple[bytes, ...]:
    return question_of(
        wanted,
        state=snapshot.epoch.encode(),
        moving=snapshot.moving.encode(),
        everything=snapshot.digest.encode(),
    )


def _side(wanted: GetBundle, snapshot: HgSnapshot) -> bytes | None:
    """The answer that has no changesets in it; None where it has, or is for hg to make."""
    if wanted.cg or wanted.stream or not wanted.bundle2 or is_narrow(wanted):
        return None
    return side_bundle(
        snapshot,
        SideRequest(
            bookmarks=wanted.bookmarks,
            phases=wanted.phases,
            listkeys=wanted.listkeys,
            heads=wanted.heads,
            common=wanted.common,
            obsmarkers=wanted.obsmarkers,
            capabilities=abilities(wanted),
        ),
    )
