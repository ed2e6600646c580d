# Law of this file: this is the way of every command, whatever wire it came on. Who reads it reads
# the whole product: plan, key, look up, execute once, locate. Authorisation came before.

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import partial
from typing import Final

from cache.cache import Cache
from cache.entities import OpenEntity
from cache.epochs import in_epoch, key_in_epoch
from cache.flights import CacheUnavailable, Flight, Run
from cache.records import Part, Record
from indexer.catalog import Bundle
from redirects.acceptance import Acceptance, Client
from redirects.control import EVERYBODY, Control
from redirects.decision import Decision, Inline, Reason, Redirect
from redirects.negotiation import negotiate, unwilling
from redirects.selection import Selection
from redirects.targets import Target
from server.answer import (
    Answer,
    Command,
    Covering,
    Execution,
    Growing,
    Inlined,
    Redirected,
    Stored,
)
from server.catalogs import Catalogs
from server.condition import Way
from server.decisions import Decisions
from server.health import Health
from server.metrics import Metrics
from server.outcome import Outcome
from server.publish import Publisher
from server.settings import RedirectSettings
from server.traces import span, within
from stores.base import Store, StoreError
from stores.entity import Entity

_log = logging.getLogger("offramp.pipeline")

# Bundles are chosen so many times for one command, if those that were have nowhere to be named when
# the rest is there. What then comes and goes is not waited for once more.
_CHOICES: Final = 2

Ready = Callable[[Answer], Awaitable[None]]
"""Waits until an answer can be sent; raises what keeps it from that."""


async def at_once(answer: Answer) -> None:
    """An answer that can be sent as it is, or that tells of no bundle."""
    del answer


class _Unpublished(Enum):
    """There is no location for an entity; would there be one if it were published?"""

    WORTH_IT = auto()
    USELESS = auto()


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Answers commands from bundles, records and runs."""

    cache: Cache
    store: Store
    selection: Selection[Target]
    publisher: Publisher
    catalogs: Catalogs
    health: Health
    metrics: Metrics
    decisions: Decisions
    settings: RedirectSettings
    control: Control = EVERYBODY

    async def respond(self, command: Command, ready: Ready = at_once) -> tuple[Answer, Outcome]:
        """Answer a command whose caller is authorised.

        What is newer than a bundle may take long: to get its turn, to be computed, to be published.
        So it is said where the bundle is when all that is there, and if it is nowhere any more, the
        command is answered in another way. To be sent at once, before anything else is waited for.

        Args:
            command: what is asked.
            ready: what there is to wait for before the first byte is sent.

        Raises:
            CacheUnavailable: the cache cannot be written; answer without it.
            Exception: what the execution raised, or ``ready``.
        """
        for _ in range(_CHOICES):
            bundles = await self.catalogs.bundles(command.repository)
            found = await self._by_bundle(command, bundles, ready)
            if found is not None:
                return found
        found = await self._by_bundle(command, (), ready)
        assert found is not None  # noqa: S101 - where there is no bundle, none is named
        return found

    async def _by_bundle(
        self, command: Command, bundles: Sequence[Bundle], ready: Ready
    ) -> tuple[Answer, Outcome] | None:
        """Answer by one of ``bundles``, if one covers the command, and what is newer.

        Returns:
            None: the bundle can be named nowhere any more. What was decided of the rest is counted.
        """

        def locate(entity: Entity, readable: frozenset[str]) -> Decision:
            return self.locate(command, entity, readable)

        # Of the same look at the catalog: a purge in between is one after this request.
        epoch = self.catalogs.epoch(command.repository)
        with span("plan"):
            plan = await command.plan(bundles, locate)
        if plan.shadowed is not None:
            self._made(command, plan.shadowed)
        answer, outcome = Answer(plan.head), Outcome.REDIRECT
        if plan.rest is not None:
            rest = replace(plan.rest, key=key_in_epoch(plan.rest.key, epoch))
            answer, outcome = await self._rest(command, rest, in_epoch(command.identity, epoch))
            await ready(answer)
        if plan.covered is None:
            return answer, outcome
        named = self._named(command, plan.covered)
        if named is None:
            _dropped(answer)
            return None
        whole = Answer(answer.head, (named, *answer.redirected), answer.inline)
        return whole, Outcome.REDIRECT

    def _named(self, command: Command, covered: Covering) -> Redirected | None:
        """Say where a bundle is, by what is known now; None: nowhere any more."""
        decision = self.locate(command, covered.part.entity, covered.readable)
        if not isinstance(decision, Redirect):
            _log.info(
                "repository %s: a bundle that was to be named has nowhere to be had any more",
                command.repository,
            )
            return None
        self._made(command, decision)
        return Redirected(covered.part, decision.location)

    async def derived(self, repository: str, identity: str, key: str, run: Run) -> Inlined:
        """What is made of an answer once, for those to whom it is sent inline.

        It is recorded and evicted as answers are, and gone with them when the repository is purged.

        Args:
            repository: served name.
            identity: what names the repository in keys.
            key: of the record.
            run: makes it.

        Raises:
            CacheUnavailable: the cache cannot be written.
        """
        epoch = self.catalogs.epoch(repository)
        key = key_in_epoch(key, epoch)
        record = self.cache.records.load(key)
        if record is not None:
            part = record.parts[0].entity
            opened = self.cache.entities.open(part.digest, part.size)
            if opened is not None:
                return Stored(opened)
            self.cache.records.delete(key)
        flight = await self.cache.flights.board(key, in_epoch(identity, epoch), run)
        if flight.leader:
            _watch(flight)
        return Growing(flight)

    def locate(self, command: Command, entity: Entity, readable: frozenset[str]) -> Decision:
        """Decide whether this client is sent elsewhere for an entity, and where."""
        return negotiate(
            command.acceptance,
            entity,
            self.selection,
            command.client,
            time.time(),
            readable=self.publisher.still(entity, readable),
            down=self.health.down(),
            min_size=self.settings.min_size,
            enabled=self.settings.enabled,
            held_back=self.control.held_back(command.client, command.repository),
            shadow=self.control.shadow,
            audience=command.audience,
        )

    def refusal(self, acceptance: Acceptance, client: Client, repository: str) -> Reason | None:
        """Why a client gets all of a repository inline, whatever it is; None: it may be redirected.

        ``repository`` is the served name.
        """
        return unwilling(
            acceptance,
            enabled=self.settings.enabled,
            held_back=self.control.held_back(client, repository),
        )

    async def _rest(
        self, command: Command, execution: Execution, named: str
    ) -> tuple[Answer, Outcome]:
        """Answer from a record, or run: once per key, everyone else follows the same run.

        ``named`` is what names the repository in records now.
        """
        with span("lookup") as look:
            known = await self._known(command, execution, named)
            look.set("found", known is not None)
        if known is not None:
            return known, Outcome.REDIRECT if known.redirected else Outcome.HIT
        run = within(
            "execute",
            execution.run,
            repository=command.repository,
            dialect=command.dialect,
            command=command.name,
        )
        flight = await self.cache.flights.board(execution.key, named, run)
        if flight.leader:
            self.metrics.executed(command.repository, command.dialect, command.name)
            _watch(flight)
        outcome: Way = Outcome.MISS if flight.leader else Outcome.FOLLOW
        began = time.perf_counter()
        try:
            with span("wait", outcome=outcome.value):
                if not execution.inline:
                    redirected = await self._from_flight(command, flight)
                    if redirected is not None:
                        return redirected, outcome
                return await _growing(flight), outcome
        finally:
            self.metrics.condition.waited(outcome, time.perf_counter() - began)

    async def _known(self, command: Command, execution: Execution, named: str) -> Answer | None:
        """Answer from a record, or from a bundle that is the answer; None: it has to be run."""
        record = self.cache.records.load(execution.key)
        if record is not None and not await execution.valid():
            # Not only passed over: a flight of this key would find it again.
            self.cache.records.delete(record.key)
            record = None
        if record is not None:
            answer = await self._from_record(command, record, inline=execution.inline)
            if answer is not None:
                return answer
            self.cache.records.delete(record.key)
        elif execution.same_as is not None:
            head, part = execution.same_as
            record = Record(execution.key, named, head, (part,), time.time())
            return await self._from_record(command, record, inline=execution.inline)
        return None

    async def _from_flight(self, command: Command, flight: Flight) -> Answer | None:
        """Answer by a location, if this client may be told of one; None: feed it inline."""
        reason = self.refusal(command.acceptance, command.client, command.repository)
        if reason is not None:
            self._made(command, Inline(reason))
            return None

        async def locate() -> Answer | None:
            record = await flight.finished()
            return await self._located(command, record, computed=flight.leader)

        return await self._in_time(command, locate)

    async def _in_time(
        self, command: Command, locate: Callable[[], Awaitable[Answer | None]]
    ) -> Answer | None:
        """Wait, bounded, for a location. Where decisions are only counted, nobody waits."""

        async def bounded() -> Answer | None:
            try:
                async with asyncio.timeout(self.settings.max_wait):
                    return await locate()
            except TimeoutError:
                self._made(command, Inline(Reason.NOT_IN_TIME))
                return None

        if self.control.shadow:
            _aside(bounded())
            return None
        return await bounded()

    async def _from_record(
        self, command: Command, record: Record, *, inline: bool
    ) -> Answer | None:
        """Answer from a record; None if its entity can neither be named nor read any more.

        ``inline``: it is to be sent.
        """
        if not record.parts:
            return Answer(record.head)
        if not inline:
            decided, decision = self._decided(command, record)
            located = decided if isinstance(decided, Answer) else None
            if decided is _Unpublished.WORTH_IT:
                located = await self._in_time(command, partial(self._located, command, record))
            else:
                self._made(command, decision)
            if located is not None:
                return located
        opened = await self.open(record.parts[0].entity)
        return None if opened is None else Answer(record.head, inline=Stored(opened))

    async def _located(
        self, command: Command, record: Record, *, computed: bool = False
    ) -> Answer | None:
        """Answer a record by a location, publishing its entity if that was not done yet.

        ``computed``: just now, by us.
        """
        if not record.parts:
            return Answer(record.head)
        decided, decision = self._decided(command, record)
        if decided is _Unpublished.WORTH_IT:
            await self._publish(command, record)
            decided, decision = self._decided(command, record)
        elif computed and isinstance(decided, Answer):
            # Another repository had the same content published; now it is this one's too.
            if await self._claim(command, record.parts[0]):
                decided, decision = self._decided(command, record)
            else:
                decided, decision = _Unpublished.USELESS, Inline(Reason.NOT_PUBLISHED)
        self._made(command, decision)
        return decided if isinstance(decided, Answer) else None

    def _decided(self, command: Command, record: Record) -> tuple[Answer | _Unpublished, Decision]:
        """Answer a record with an entity by what is known now, and how; asks nobody."""
        part = record.parts[0]
        decision = self.locate(command, part.entity, self._readable(part.entity))
        if isinstance(decision, Redirect):
            return Answer(record.head, (Redirected(part, decision.location),)), decision
        unpublished = any(p.reason is Reason.NOT_PUBLISHED for p in decision.passed_over)
        if unpublished and decision.shadowed is None:
            return _Unpublished.WORTH_IT, decision
        return _Unpublished.USELESS, decision

    def _made(self, command: Command, decision: Decision) -> None:
        """Take note of a decision that is carried out."""
        self.decisions.made(command.repository, command.client, decision)

    def _readable(self, entity: Entity) -> frozenset[str]:
        """Fingerprints of the targets through which an entity was read back as what it is."""
        readable = self.publisher.readable(entity)
        # A bundle's pack has been read back by the indexer, a record's by us. No catalog says
        # what type was told of what it lists.
        if entity.demanded_type is None:
            readable |= self.catalogs.readable(entity.digest)
        return readable

    async def _claim(self, command: Command, part: Part) -> bool:
        """Say in the store whose the entity is; False if the store does not answer."""
        try:
            await self.publisher.claim(command.repository, part.entity)
        except StoreError as error:
            _log.warning("not published, so sent inline: %s", error)
            return False
        return True

    async def _publish(self, command: Command, record: Record) -> None:
        """Put an entity into the stores until it can be named to this client, if they will."""
        entity = record.parts[0].entity

        def enough() -> bool:
            decided, _ = self._decided(command, record)
            return decided is not _Unpublished.WORTH_IT

        try:
            path = self.cache.entities.path(entity.digest)
            # Or it may be evicted under the upload.
            hold = partial(self.cache.entities.hold, entity)
            with span("publish", repository=command.repository, bytes=entity.size):
                await self.publisher.claim(command.repository, entity)
                await self.publisher.publish(
                    entity, path, command.repository, enough=enough, hold=hold
                )
        except (StoreError, CacheUnavailable) as error:
            _log.warning("not published, so sent inline: %s", error)

    async def open(self, entity: Entity) -> OpenEntity | None:
        """The entity as a file of this machine, fetched from the store if need be.

        Returns:
            None if it cannot be read any more.
        """
        opened = self.cache.entities.open(entity.digest, entity.size)
        if opened is not None:
            return opened
        try:
            await self.cache.entities.fill(entity, self.store.open(entity.digest))
        except (StoreError, CacheUnavailable, OSError) as error:
            _log.warning("entity %s cannot be read from the store: %s", entity.digest, error)
            return None
        return self.cache.entities.open(entity.digest, entity.size)


def _dropped(answer: Answer) -> None:
    """Let go of an answer that is not given."""
    if isinstance(answer.inline, Stored):
        answer.inline.entity.close()


async def _growing(flight: Flight) -> Answer:
    head = await flight.head()
    return Answer(head, inline=Growing(flight))


def _watch(flight: Flight) -> None:
    """The run goes on when all who wait for it have gone; its failure is theirs to report."""

    async def look() -> None:
        try:
            await flight.finished()
        except Exception as error:  # noqa: BLE001 - whatever it was, it reached the followers
            _log.info("run %s failed: %s", flight.key[:12], error)

    _aside(look())


def _aside(work: Coroutine[object, object, object]) -> None:
    """Do what no answer waits for; whatever fails of it is told to those who wait."""
    task = asyncio.create_task(work)
    _watching.add(task)
    task.add_done_callback(_done)


def _done(task: asyncio.Task[object]) -> None:
    _watching.discard(task)
    if not task.cancelled():
        task.exception()


_watching: set[asyncio.Task[object]] = set()
