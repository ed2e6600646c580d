# Law of this file: what a repository serves is what stock hg says it does. hg is asked once, and
# its answer kept for as long as the files it was made from have not changed.

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from repos.hg.database import IndexBroken, IndexUnreadable
from repos.hg.errors import Unservable
from repos.hg.index import HgIndex
from repos.hg.keeper import Keeper, Kept
from repos.hg.program import Hg, HgFailed
from repos.hg.state import requirements_of
from repos.stamps import Stamp, stamp
from wire.hg.cbor import encode
from wire.hg.texts import TextError, unhex

# Requests that come within this time share one look at the files. Nobody can have been told of a
# change, and have asked us for it, in less.
LOOK_SECONDS: Final = 0.001

# An index that cannot be made is not tried again sooner than after this.
BROKEN_SECONDS: Final = 30.0
# Nor is one that cannot be read or written just now, as when the disk is full. Soon it can be.
UNREADABLE_SECONDS: Final = 1.0

# Words of version 1's capabilities by which hg says that it would stream its store.
_STREAMS: Final = (b"stream", b"stream-preferred", b"streamreqs")

T = TypeVar("T")

_Failure = HgFailed | Unservable | IndexBroken | IndexUnreadable


@dataclass(frozen=True, slots=True)
class HgSnapshot:
    """What a repository serves at one moment.

    Attributes:
        epoch: changes whenever something that was answered may not be answered any more; growth
            alone does not change it.
        digest: of everything here; equal digests give equal answers to everything.
        moving: of phases and bookmarks alone, on which answers depend beside the epoch.
        heads: served heads, newest first; the null node alone if there are no changesets.
        public_heads: heads of what is public in truth, whatever a publishing repository says.
        bookmarks: name -> node.
        phases: as ``listkeys`` gives them: draft roots in hex, and ``publishing``.
        branches: name -> heads, as ``branchmap`` gives them.
        namespaces: as ``listkeys`` gives them.
        capabilities: the words of protocol version 1, as hg says them to SSH clients.
        requirements: what a client of the store's files must understand.
        stream_allowed: the store has nothing that is not served, nor told to be a draft, and hg
            would stream it.
        stream_unsettled: only this forbids a stream: when the store was counted, it had not as many
            changesets as are served. Somebody may just have been committing, and a snapshot that is
            taken anew allows it; or the store has some that are hidden, and none ever does.
        store_served: the store has nothing that is not served.
        publishing: clients are told that everything is public.
        drafts: for each changeset of the index, 1 if it is a draft; empty if none is.
        hg_dir: the repository's ``.hg``.
        index: the index.
    """

    epoch: str
    digest: str
    moving: str
    heads: tuple[bytes, ...]
    public_heads: tuple[bytes, ...]
    bookmarks: Mapping[bytes, bytes]
    phases: Mapping[bytes, bytes]
    branches: Mapping[bytes, tuple[bytes, ...]]
    namespaces: Mapping[bytes, bytes]
    capabilities: frozenset[bytes]
    requirements: frozenset[bytes]
    stream_allowed: bool
    stream_unsettled: bool
    store_served: bool
    publishing: bool
    drafts: bytes = field(repr=False)
    hg_dir: Path
    index: HgIndex = field(repr=False)

    def is_public(self, rev: int) -> bool:
        """Whether a client is told that this changeset is public."""
        return self.publishing or not self.drafts or not self.drafts[rev]


def snapshot_of(kept: Kept, hg_dir: Path) -> HgSnapshot:
    """The snapshot that is made of what hg said."""
    told, index = kept.state.told, kept.index
    phases = dict(_served_phases(index, told.keys[b"phases"]))
    bookmarks = {name: unhex(node) for name, node in told.keys[b"bookmarks"].items()}
    requirements = requirements_of(hg_dir)
    streams = any(word.partition(b"=")[0] in _STREAMS for word in told.capabilities)
    drafts = _drafts(index, phases)
    publishing = phases.get(b"publishing") == b"True"
    # Who gets changesets by a stream takes them for public: stock clients ask for no phases then.
    all_public = publishing or not any(map(int.__and__, drafts, index.served))
    settled = kept.state.stored == index.count
    stream_allowed = streams and all_public and settled
    # A store that cannot be counted cannot be counted later either.
    unsettled = streams and all_public and not settled and kept.state.stored is not None
    public = index.served
    if drafts:
        public = bytes(served and not draft for served, draft in zip(public, drafts, strict=True))
    public_heads = tuple(map(index.dag.node, index.dag.heads(public))) or (bytes(20),)
    moving = hashlib.sha256(encode([dict(phases), bookmarks])).hexdigest()
    everything = encode(
        [
            kept.state.epoch.encode(),
            moving.encode(),
            list(told.heads),
            [[name, list(heads)] for name, heads in told.branches.items()],
            {name: dict(keys) for name, keys in told.keys.items()},
            sorted(requirements),
            sorted(told.capabilities),
            stream_allowed,
            settled,
            _beside(hg_dir, told.keys[b"namespaces"]),
        ]
    )
    return HgSnapshot(
        epoch=kept.state.epoch,
        digest=hashlib.sha256(everything).hexdigest(),
        moving=moving,
        heads=told.heads,
        public_heads=public_heads,
        bookmarks=bookmarks,
        phases=phases,
        branches=told.branches,
        namespaces=told.keys[b"namespaces"],
        capabilities=told.capabilities,
        requirements=requirements,
        stream_allowed=stream_allowed,
        stream_unsettled=unsettled,
        store_served=settled,
        publishing=publishing,
        drafts=drafts,
        hg_dir=hg_dir,
        index=index,
    )


def _served_phases(index: HgIndex, phases: Mapping[bytes, bytes]) -> Iterator[tuple[bytes, bytes]]:
    """The phases as ``listkeys`` gives them, without the roots that are hidden: hg tells those."""
    for key, value in phases.items():
        try:
            served = index.rev(unhex(key)) is not None
        except TextError:
            served = True  # `publishing`
        if served:
            yield key, value


def _drafts(index: HgIndex, phases: Mapping[bytes, bytes]) -> bytes:
    roots = []
    for key in phases:
        try:
            rev = index.rev(unhex(key))
        except TextError:
            continue  # `publishing`
        if rev is not None and rev >= 0:
            roots.append(rev)
    return bytes(index.dag.descendants(roots)) if roots else b""


def _beside(hg_dir: Path, namespaces: Mapping[bytes, bytes]) -> bytes:
    """What answers depend on and no changeset says: local tags, and markers if they are given."""
    try:
        tags = (hg_dir / "localtags").read_bytes()
    except OSError:
        tags = b""
    markers = stamp(str(hg_dir / "store" / "obsstore")) if b"obsolete" in namespaces else None
    return b"%r %b" % (markers, tags)


def index_directory(data: Path, hg_dir: Path) -> Path:
    """Where, in the directory that has all indexes, that of the repository at ``hg_dir`` lies."""
    return data / hashlib.sha256(os.fsencode(hg_dir)).hexdigest()


@dataclass(slots=True)
class HgRepository:
    """One Mercurial repository that is served.

    Attributes:
        name: the path at which it is served.
        path: its ``.hg`` directory.
        hg: how programs are run.
        executor: threads for what is answered from the index.
        data: the directory that has the indexes of all repositories.
        building: threads in which indexes are made, for minutes if they are large, and in which
            other processes that make them are waited for; by default the others.
        refreshing: threads in which those that are there are brought up to date; likewise.
        asking: threads in which hg is waited for that looks up a name; by default the others.
    """

    name: str
    path: Path
    hg: Hg
    executor: Executor
    data: Path
    building: Executor | None = None
    refreshing: Executor | None = None
    asking: Executor | None = None
    _keeper: Keeper = field(init=False)
    _seen: tuple[Stamp, ...] = ()
    _snapshot: HgSnapshot | None = None
    _refreshing: asyncio.Task[HgSnapshot] | None = None
    _failure: tuple[int, _Failure] | None = None
    _refused: tuple[tuple[Stamp, ...], float, _Failure] | None = None
    _broken: HgIndex | None = None
    _begun: int = 0
    _answered: int = 0
    _looked: float = 0.0

    def __post_init__(self) -> None:
        self._keeper = Keeper(self.hg, self.path, index_directory(self.data, self.path))

    @property
    def identity(self) -> str:
        """What names this repository in keys: where it lies."""
        return str(self.path)

    @property
    def index_directory(self) -> Path:
        """Where its index lies."""
        return self._keeper.directory

    async def in_thread(self, question: Callable[[], T]) -> T:
        """Put a blocking question to the index."""
        return await asyncio.get_running_loop().run_in_executor(self.executor, question)

    async def ask(self, question: Callable[[], T]) -> T:
        """Put a blocking question to hg."""
        executor = self.asking or self.executor
        return await asyncio.get_running_loop().run_in_executor(executor, question)

    async def _build(self, work: Callable[[], T]) -> T:
        executor = (self.building if self._snapshot is None else self.refreshing) or self.executor
        return await asyncio.get_running_loop().run_in_executor(executor, work)

    async def snapshot(self) -> HgSnapshot:
        """What the repository serves now; hg is asked only if it changed.

        Who comes while hg is being asked waits for the next answer, which all who came meanwhile
        share: this one may have been read before the change that they know of.

        Raises:
            HgFailed: hg refuses the repository (its message says why).
            Unservable: the protocol cannot say what is in it.
            IndexBroken: no index can be made that holds what it says.
            IndexUnreadable: the index, or the repository, cannot be read or written now.
        """
        now = time.monotonic()
        if self._snapshot is not None and now < self._looked + LOOK_SECONDS:
            return self._snapshot
        arrived = self._begun
        while True:
            stamps = self._keeper.stamps()
            if self._refused is not None and self._refused[0] == stamps and now < self._refused[1]:
                # It costs too much to be tried at each request. Each one that it is raised for
                # would add to its traceback.
                raise self._refused[2].with_traceback(None)
            fresh = stamps == self._seen or self._answered > arrived
            if self._snapshot is not None and fresh:
                self._looked = now
                return self._snapshot
            if self._failure is not None and self._failure[0] > arrived:
                raise self._failure[1].with_traceback(None)
            if self._refreshing is None:
                self._begun += 1
                self._refreshing = asyncio.create_task(self._refresh(stamps))
                return await asyncio.shield(self._refreshing)
            await asyncio.wait({self._refreshing})

    def at_hand(self) -> HgSnapshot | None:
        """The last snapshot, if no file has changed since; None: :meth:`snapshot` finds out."""
        known, now = self._snapshot, time.monotonic()
        if known is None or now < self._looked + LOOK_SECONDS:
            return known
        if self._keeper.stamps() != self._seen:
            return None
        self._looked = now
        return known

    async def renewed(self, old: HgSnapshot, *, broken: bool = False) -> HgSnapshot:
        """A snapshot to take the place of one that the repository has left behind.

        Args:
            old: what was answered from, and raised ``Moved`` or ``IndexBroken``.
            broken: the latter: its index is not to be used any more.

        Raises:
            HgFailed: as :meth:`snapshot`, with the others.
        """
        if self._snapshot is old:
            self._seen, self._snapshot = (), None
            if broken:
                self._broken = old.index
        return await self.snapshot()

    async def _refresh(self, stamps: tuple[Stamp, ...]) -> HgSnapshot:
        broken = self._broken
        try:
            kept, snapshot = await self._build(partial(self._take, broken))
        except (HgFailed, Unservable, IndexBroken, IndexUnreadable) as failure:
            self._failure = (self._begun, failure)
            pause = _pause(failure)
            if pause:
                self._refused = (stamps, time.monotonic() + pause, failure)
            raise
        finally:
            self._refreshing = None
        if self._broken is broken:
            self._broken = None
        self._snapshot = snapshot
        self._answered = self._begun
        self._seen = kept.state.stamps
        return snapshot

    def _take(self, broken: HgIndex | None) -> tuple[Kept, HgSnapshot]:
        try:
            kept = self._keeper.refresh(broken)
            return kept, snapshot_of(kept, self.path)
        except OSError as error:
            raise IndexUnreadable(str(error)) from error


def _pause(failure: _Failure) -> float:
    """For how many seconds a repository that failed so is not tried again while it is the same."""
    match failure:
        case Unservable():
            return math.inf
        case IndexBroken():
            return BROKEN_SECONDS
        case IndexUnreadable():
            return UNREADABLE_SECONDS
        case HgFailed():
            return 0.0
