# Law of this file: nothing is advertised that cannot be read. A target counts for an entity only
# after the entity was written to its store and read back, whole and in part, through that target;
# and only for as long as no URL that is given out could outlive the content. The main store has
# what any other has; of those, one that fails or is slow keeps no other from being used.

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import aiohttp

from indexer.ownership import claim
from redirects.targets import Target
from server.placing import Stores
from server.readback import NotReadable, read_back
from server.refusals import Told, nobody
from server.settings_stores import MAIN
from server.traces import span
from server.turns import PARALLEL, RETRY_AFTER, PublishRefused, Turns, nobody_away
from stores.base import StoreUnavailable
from stores.entity import Entity

_log = logging.getLogger("offramp.publish")

# Runs that have not put their entity into the main store yet. Each keeps two files open, of which a
# process may often have 1024 in all; whoever would be one more is sent his content inline.
RUNS: Final = 64


# Before a fingerprint, in a note that says the opposite of others. It counts until the entity has
# come back, or for a year: nobody names by then what was lost, and notes are to end.
_LOST: Final = "-"
_EVER: Final = 365 * 86400.0

# After the fingerprint of a target that reads the main store, before the era of the note.
_OF: Final = "@"

# What may come after a fingerprint in a note.
_AFTER: Final = re.compile(f"[ {_OF}]")

_Named = tuple[str, str | None, frozenset[str]]
"""Digest and demanded type, which an entity is to those who read it back, and stores it is for."""

Enough = Callable[[], bool]
"""Whether whoever publishes need not wait for what is still being written and read back."""

Hold = Callable[[], object | None]
"""Keeps a file from being removed for as long as what it returns is kept; None: it is gone."""


def _never() -> bool:
    return False


def _stays() -> object:
    return True


def _first() -> str:
    """The era of a main store that was never another one."""
    return ""


def _ignored(target: Target, entity: Entity) -> None:
    del target, entity


@dataclass(slots=True)
class _Run:
    """What one run that publishes an entity has done so far.

    Attributes:
        held: what must not be let go of before it has ended.
        task: does it; set by who starts it.
        stored: set when the main store has the entity.
        readable: fingerprints of the targets through which it can be read by now.
        step: ends with the next change of these, and is then another one.
    """

    held: object
    task: asyncio.Task[None] = field(init=False)
    stored: asyncio.Event = field(default_factory=asyncio.Event)
    readable: set[str] = field(default_factory=set)
    step: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def came(self, fingerprints: Iterable[str]) -> None:
        """More targets count; whoever waits looks whether that is enough."""
        self.readable.update(fingerprints)
        before, self.step = self.step, asyncio.get_running_loop().create_future()
        before.set_result(None)


class Publications(Protocol):
    """Remembers what was read back through which target; shared by the processes of a machine."""

    def readable(self, digest: str, now: float) -> frozenset[str]:
        """Notes of the targets that count for ``digest`` at ``now``."""
        ...

    def record(
        self,
        digest: str,
        targets: Iterable[str],
        now: float,
        lease: float,
        *,
        instead_of: Iterable[str] = (),
    ) -> None:
        """Let targets (a note of each) count from ``now`` for ``lease`` seconds."""
        ...

    def lock(self, digest: str) -> AbstractAsyncContextManager[object]:
        """Held by one publisher of ``digest`` at a time, across processes."""
        ...


class Publisher:
    """Writes entities to stores, reads them back through every target, and records which came.

    Attributes:
        missed: told of what a client was not sent to a target for, because it was lost there.

    Args:
        stores: where entities go.
        targets: ways for clients to read them.
        publications: remembers; see :class:`Publications`.
        session: makes the requests of reading back; its owner closes it.
        keep: seconds that a store keeps an entity after the last ``put`` of it.
        max_url_life: seconds that a URL given out lives at most.
        is_away: whether others have found that a store, by its name, does not answer.
        era: of the main store, now; what was read back through it in another one does not count.
            See :class:`server.main_seal.Known`.
        told: hears what became of reading back, and of copying to stores beside the main one.
        retry_after: see :data:`server.turns.RETRY_AFTER`.
        parallel: see :data:`server.turns.PARALLEL`.
        clock: seconds since the epoch.
        monotonic: seconds since whenever.

    Raises:
        ValueError: URLs would outlive content.
    """

    def __init__(
        self,
        stores: Stores,
        targets: Sequence[Target],
        publications: Publications,
        *,
        session: aiohttp.ClientSession,
        keep: float,
        max_url_life: float,
        is_away: Callable[[str], bool] = nobody_away,
        era: Callable[[], str] = _first,
        told: Told = nobody,
        retry_after: float = RETRY_AFTER,
        parallel: int = PARALLEL,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        # Windows round up to whole seconds, so a URL may live a little longer than was set.
        longest = max([max_url_life, *(target.max_lifetime for target in targets)])
        if keep <= longest:
            raise ValueError(
                f"content is kept for {keep:.0f} s and URLs live up to {longest:.0f} s;"
                " raise retention.keep, or lower redirect.lifetime or redirect.window"
            )
        self.missed: Callable[[Target, Entity], None] = _ignored
        self._stores = stores
        self._targets = tuple(targets)
        self._publications = publications
        self._session = session
        self._lease = keep - longest
        self._turns = Turns(stores.named(), is_away, retry_after, parallel, monotonic)
        self._told = told
        self._clock = clock
        self._era = era
        main = (target for target in self._targets if stores.read_by(target) == MAIN)
        self._of_main = frozenset(target.fingerprint for target in main)
        self._running: dict[_Named, _Run] = {}

    def readable(self, entity: Entity) -> frozenset[str]:
        """Fingerprints of the targets through which ``entity`` may be named now."""
        return self._readable(entity, self._clock())

    def still(self, entity: Entity, readable: Iterable[str]) -> frozenset[str]:
        """Those of the targets (fingerprints) at which a client may be told of it now.

        Of the others, where it is lost, :attr:`missed` is told.
        """
        readable = frozenset(readable)
        named = self.unless_lost(entity, readable)
        if named != readable:
            for target in self._targets:
                if target.fingerprint in readable - named:
                    self.missed(target, entity)
        return named

    def unless_lost(self, entity: Entity, readable: Iterable[str]) -> frozenset[str]:
        """Those of the targets (fingerprints) of which it was not seen since that it is lost."""
        notes = self._publications.readable(entity.digest, self._clock())
        lost = frozenset(n.removeprefix(_LOST) for n in notes if n.startswith(_LOST))
        return frozenset(readable) - lost

    async def lost(self, target: Target, entity: Entity) -> bool:
        """From now on ``entity`` is not named at ``target``, until it has come back through it.

        Returns:
            Whether that is news.

        Raises:
            cache.errors.CacheUnavailable: the disk refused.
        """
        async with self._publications.lock(entity.digest):
            now, fingerprint = self._clock(), target.fingerprint
            notes = self._publications.readable(entity.digest, now)
            gone = (note for note in notes if _AFTER.split(note, 1)[0] == fingerprint)
            self._publications.record(
                entity.digest, (_LOST + fingerprint,), now, _EVER, instead_of=gone
            )
            return _LOST + fingerprint not in notes

    async def found(self, target: Target, entity: Entity) -> None:
        """``entity`` has come back through ``target``: that it was lost there counts no more.

        Raises:
            cache.errors.CacheUnavailable: the disk refused.
        """
        note = _LOST + target.fingerprint
        if note not in self._publications.readable(entity.digest, self._clock()):
            return
        async with self._publications.lock(entity.digest):
            self._publications.record(
                entity.digest, (), self._clock(), self._lease, instead_of=(note,)
            )
        _log.info("named to clients again: entity %s, target %s", entity.digest, target.name)

    async def publish(
        self,
        entity: Entity,
        path: Path,
        repository: str,
        *,
        enough: Enough = _never,
        hold: Hold = _stays,
    ) -> frozenset[str]:
        """Make ``entity``, the file at ``path``, readable through as many targets as will.

        Calls for one entity share one run, which goes on when a caller is cancelled. What is
        readable already, with half of its time left, costs a question to each store: callers may
        ask often, and so keep alive what they need. A target that does not give the content back
        is left out and logged, and so are those of a store that does not take it; the next call
        tries them again. Without the main store nothing is readable anew.

        Args:
            entity: what.
            path: its content.
            repository: served name; its placement says to which stores the content goes.
            enough: asked each time that more targets count; True: return, the run goes on.
            hold: called by a run when it begins, and what it returns kept until the run has ended.

        Returns:
            Fingerprints of the targets that it can be read through; none if the file is gone.

        Raises:
            PublishRefused: the main store did not answer a moment ago, or has too much to do.
            StoreUnavailable: it does not answer.
            stores.base.Corrupt: the file is not ``entity``.
        """
        stores = self._stores.of(repository)
        named = (entity.digest, entity.demanded_type, stores)
        run = self._running.get(named)
        if run is None:
            self._refuse_one_more()
            held = hold()
            if held is None:
                return frozenset()
            run = self._running[named] = _Run(held)
            run.task = asyncio.create_task(self._publish(entity, path, stores, run))
            run.task.add_done_callback(partial(self._ended, named))
        while not run.task.done():
            await asyncio.wait({run.task, run.step}, return_when=asyncio.FIRST_COMPLETED)
            if not run.task.done() and enough():
                return frozenset(run.readable)
        run.task.result()
        return frozenset(run.readable)

    async def claim(self, repository: str, entity: Entity) -> None:
        """Say in the store that ``entity`` is what the server computed for ``repository``.

        To be called before :meth:`publish`, so that a purge finds all that was ever published.

        Raises:
            PublishRefused, StoreUnavailable: as :meth:`publish`.
        """
        self._refuse_one_more()
        claiming = claim(self._stores.main, repository, entity.digest, self._clock())
        await self._turns.ask(MAIN, claiming)

    def _readable(self, entity: Entity, now: float) -> frozenset[str]:
        """Fingerprints of the targets of which :func:`_note` was noted for ``entity``."""
        every = self._publications.readable(entity.digest, now)
        notes = frozenset(self._of_now(note for note in every if not note.startswith(_LOST)))
        typed = entity.demanded_type
        if typed is not None:
            suffix = f" {typed}"
            return frozenset(n.removesuffix(suffix) for n in notes if n.endswith(suffix))
        if any(" " in note for note in notes):
            return frozenset(note for note in notes if " " not in note)
        return notes

    def _of_now(self, notes: Iterable[str]) -> Iterator[str]:
        """Those of ``notes`` that are not of another era, without its name."""
        era = self._era()
        for note in notes:
            if not era and _OF not in note:  # as almost always
                yield note
                continue
            of, blank, typed = note.partition(" ")
            fingerprint, _, noted = of.partition(_OF)
            if noted == (era if fingerprint in self._of_main else ""):
                yield f"{fingerprint}{blank}{typed}"

    async def read_back(self, target: Target, entity: Entity) -> None:
        """Read ``entity`` back through ``target``, whole and in part, as clients would.

        Raises:
            server.readback.NotReadable: it does not come back as it is; the message says why.
        """
        store = self._stores.store_of(target)
        await read_back(self._session, store, target, entity, self._clock())

    async def read_back_stored(self, target: Target, entity: Entity) -> None:
        """As :meth:`read_back`, and see that the store has it: a cache may, after it was lost.

        Raises:
            server.readback.NotReadable: it does not come back, or only out of a cache.
        """
        await self.read_back(target, entity)
        store = self._stores.store_of(target)
        # What a store that does not answer has is not known.
        with suppress(StoreUnavailable):
            if await store.stat(entity.digest) is None:
                raise NotReadable(
                    f"entity {entity.digest}, target {target.name}: it comes out of a cache, and"
                    f" {store.name} does not have it"
                )

    async def close(self) -> None:
        """End what is being published; what was not recorded is not readable."""
        running = [run.task for run in self._running.values()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _refuse_one_more(self) -> None:
        self._turns.refuse_while_down(MAIN)
        writing = sum(not run.stored.is_set() for run in self._running.values())
        if writing >= RUNS:
            raise PublishRefused(
                f"{self._stores.main.name} is being written {writing} entities, which are enough"
            )

    def _ended(self, named: _Named, task: asyncio.Task[None]) -> None:
        del self._running[named]
        if not task.cancelled():
            task.exception()  # its callers may all have gone; nobody else is to be told

    async def _publish(self, entity: Entity, path: Path, stores: frozenset[str], run: _Run) -> None:
        async with self._publications.lock(entity.digest):
            # Another process may have done it while we waited for the lock.
            half_time = self._clock() + self._lease / 2
            fresh = self._readable(entity, half_time)
            reads: dict[str, list[Target]] = {}
            for target in self._targets:
                if self._stores.read_by(target) in stores:
                    reads.setdefault(self._stores.read_by(target), []).append(target)
            missing = {
                name: lacking
                for name, targets in reads.items()
                if not self._turns.is_down(name)
                and (lacking := [t for t in targets if t.fingerprint not in fresh])
            }
            if not missing:
                # Whoever asks may have found that a store has lost it.
                lost = await self._lost(entity, {MAIN, *reads})
                missing = {name: reads.get(name, []) for name in lost}
                reads = {name: targets for name, targets in reads.items() if name not in lost}
            run.readable.update(
                target.fingerprint
                for name, targets in reads.items()
                for target in targets
                if target.fingerprint in fresh and not self._turns.is_down(name)
            )
            if missing:
                await self._spread(entity, path, missing, run)

    async def _spread(
        self, entity: Entity, path: Path, missing: Mapping[str, Sequence[Target]], run: _Run
    ) -> None:
        """Write an entity to the main store, and to those of the targets that lack it."""
        copies = [
            asyncio.create_task(self._copy(name, entity, path, targets, run))
            for name, targets in missing.items()
            if name != MAIN
        ]
        try:
            async with self._turns.turn(MAIN):
                # The lease begins before the store's own count of the entity's age can.
                began, era = self._clock(), self._era()
                self._turns.refuse_while_down(MAIN)
                await self._turns.put(MAIN, entity, path)
                run.stored.set()
                await self._count(entity, missing.get(MAIN, ()), began, run, era)
        except BaseException:
            # What the main store does not have is nowhere else.
            for copy in copies:
                copy.cancel()
            await asyncio.gather(*copies, return_exceptions=True)
            raise
        await asyncio.gather(*copies)

    async def _copy(
        self, name: str, entity: Entity, path: Path, targets: Sequence[Target], run: _Run
    ) -> None:
        """Write an entity to a store beside the main one; if that fails, its targets lack it.

        Where too many wait for that already, it is left to the next call.
        """
        if self._turns.is_crowded(name):
            _log.info("entity %s is not copied now: too many are, to %s", entity.digest, name)
            return
        async with self._turns.turn(name):
            began = self._clock()
            if self._turns.is_down(name):
                return
            try:
                await self._turns.put(name, entity, path)
            except StoreUnavailable as error:
                self._told("store", name, str(error))
                return
            self._told("store", name, "")
            await run.stored.wait()
            await self._count(entity, targets, began, run)

    async def _count(
        self, entity: Entity, targets: Sequence[Target], began: float, run: _Run, era: str = ""
    ) -> None:
        """Read an entity back through targets, and record through which it came.

        ``era``: of the store, when the entity was put there.
        """
        came = await asyncio.gather(*(self._comes_back(target, entity) for target in targets))
        readable = frozenset[str]().union(*came)
        if readable:
            notes = {_note(entity, fingerprint, era) for fingerprint in readable}
            lost = {_LOST + fingerprint for fingerprint in readable}
            self._publications.record(entity.digest, notes, began, self._lease, instead_of=lost)
        run.came(readable)

    async def _lost(self, entity: Entity, names: Iterable[str]) -> frozenset[str]:
        """Names of the stores that answer, and do not have an entity."""
        names = [name for name in names if name == MAIN or not self._turns.is_down(name)]
        stored = await asyncio.gather(*(self._is_stored(name, entity) for name in names))
        return frozenset(name for name, found in zip(names, stored, strict=True) if found is False)

    async def _is_stored(self, name: str, entity: Entity) -> bool | None:
        """Whether a store has an entity; None if it does not answer, and is not the main one."""
        try:
            return await self._turns.holds(name, entity)
        except StoreUnavailable:
            if name == MAIN:
                raise
            return None

    async def _comes_back(self, target: Target, entity: Entity) -> frozenset[str]:
        """The target's fingerprint if the entity comes back through it, else nothing."""
        with span("read_back", target=target.name) as reading:
            try:
                await self.read_back(target, entity)
            except NotReadable as error:
                _log.warning("not named to clients: %s", error)
                why = str(error).removeprefix(f"entity {entity.digest}, ")
                self._told("target", target.name, why.removeprefix(f"target {target.name}: "))
                reading.set("came", False)
                return frozenset()
            self._told("target", target.name, "")
            reading.set("came", True)
        return frozenset((target.fingerprint,))


def _note(entity: Entity, fingerprint: str, era: str) -> str:
    """How it is noted that ``entity`` came back: the same bytes under another type are not it.

    A fingerprint has no blank; alone it says that the bytes came, whatever type was told. ``era``:
    of the store; empty for all but the main one.
    """
    typed = entity.demanded_type
    of = f"{fingerprint}{_OF}{era}" if era else fingerprint
    return of if typed is None else f"{of} {typed}"
