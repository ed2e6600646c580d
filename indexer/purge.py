# Law of this file: what is purged is never answered again. The epoch rises before anything is
# looked for, and what is deleted is found again by a second run, wherever the first was ended.
#
# What is in the making goes on: a run of an earlier epoch writes a record of that epoch, which is
# never used; what it publishes is claimed for the repository, and the next purge finds it.
#
# Nothing is said to be gone from a store that did not say so itself: claims of what may be left
# there stay, so that the next purge finds that as well.

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from cache.cache import Cache
from cache.publications import STALE_SECONDS
from indexer.catalog import Catalog, catalog_name, encode, load
from indexer.gc import read_catalogs
from indexer.local import drop_entities, drop_records, survey
from indexer.ownership import claim_name, claimed, claims, read_claim
from indexer.search import Search, Verdict
from repos.git.contained import holds
from repos.git.packs import object_format_of
from repos.git.program import Git
from stores.base import Conflict, Store, StoreUnavailable

# How often a catalog that others change at the same time is read again.
ATTEMPTS: Final = 5

# Seconds that a store beside the main one has for each thing that it is asked: a mount that hangs
# would never answer. So long all that is just being published is waited for, too.
PATIENCE: Final = 60.0

_HEX: Final = frozenset("0123456789abcdef")


class Unfinished(StoreUnavailable):
    """The main store does not answer; the message says what was done before."""


class Mirror(Protocol):
    """A copy of an upstream's repository, which is made anew when it is missing."""

    @property
    def path(self) -> Path:
        """Its git directory."""
        ...

    @property
    def exists(self) -> bool:
        """It has been made."""
        ...

    def remove(self) -> None:
        """Remove it, or raise if somebody works on it; no matter if it is not there."""
        ...


class Index(Protocol):
    """What answers of a Mercurial repository are made from on this machine."""

    @property
    def exists(self) -> bool:
        """It has been made, or a part of it."""
        ...

    def remove(self) -> bool:
        """Remove it, or raise if somebody works on it; tells whether there was one."""
        ...


@dataclass(frozen=True, slots=True)
class Subject:
    """What is to be purged.

    Attributes:
        repository: the name at which it is served.
        identities: what may name it in records: every path where it lies, or lay.
        git_dir: where it lies on this machine; None if it is not here, or is a mirror.
        mirror: where it is mirrored; None if it can be no mirror.
        object_id: an object of git in full, in hex; None for everything of the repository.
        hg_dir: where a Mercurial repository of this name lies on this machine; None if none does.
        index: of that Mercurial repository, or of one that lay there; None if there can be none.

    Raises:
        ValueError: ``object_id`` is no full object id.
    """

    repository: str
    identities: frozenset[str]
    git_dir: Path | None = None
    mirror: Mirror | None = None
    object_id: str | None = None
    hg_dir: Path | None = None
    index: Index | None = None

    def __post_init__(self) -> None:
        if self.object_id is not None:
            object_format_of(self.object_id)
            if not set(self.object_id) <= _HEX:
                raise ValueError(f"{self.object_id!r} is no object id in lower-case hex")


@dataclass(frozen=True, slots=True)
class Removed:
    """An entity that was removed, or would be.

    Attributes:
        digest: SHA-256, hex.
        size: bytes.
        local: it was on this machine's disk.
        stored: it was in a store.
        unread: why it could not be searched, and was therefore taken to hold the object; else "".
    """

    digest: str
    size: int
    local: bool
    stored: bool
    unread: str


@dataclass(frozen=True, slots=True)
class Kept:
    """An entity that holds what is purged, and stays, because other repositories have it too.

    Attributes:
        digest: SHA-256, hex.
        repositories: their names.
    """

    digest: str
    repositories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PurgeReport:
    """What a purge did, or would do.

    Attributes:
        repository: the name at which it is served.
        object_id: see :class:`Subject`.
        known: somebody knows the repository: it is here, or something was published of it. If
            not, nothing was done.
        epoch: the repository's epoch from now on.
        bundles: ids of those that its catalog names no more.
        records: how many of this machine were removed: all, for none can be used any more.
        removed: entities.
        kept: entities.
        mirror: the mirror was removed.
        index: the index of a Mercurial repository was removed.
        remains: the repository itself still has what was purged, and will be asked for it.
        unreached: of each store beside the main one from which something was not, or may not have
            been removed: what it said. Purge again when it answers. Likewise of content that was
            being published for so long that it was not waited for.
    """

    repository: str
    object_id: str | None
    known: bool
    epoch: int = 0
    bundles: tuple[str, ...] = ()
    records: int = 0
    removed: tuple[Removed, ...] = ()
    kept: tuple[Kept, ...] = ()
    mirror: bool = False
    index: bool = False
    remains: bool = False
    unreached: tuple[str, ...] = ()


Placed = Callable[[str], frozenset[str]]
"""Names of the stores that the content of a repository, by its served name, is for."""

_NO_REPLICAS: Final[Mapping[str, Store]] = {}


@dataclass(slots=True)
class _Copies:
    """The stores beside the main one, as far as they answer; who did not is not asked again.

    Attributes:
        replicas: by name.
        placed: see :data:`Placed`.
        unreached: what those said that do not answer, by name.
    """

    replicas: Mapping[str, Store]
    placed: Placed
    unreached: dict[str, str] = field(default_factory=dict)

    async def hold(self, digest: str) -> bool:
        """Whether one that answers has an entity."""

        async def look(store: Store) -> bool:
            return await store.stat(digest) is not None

        return await self._ask(self.replicas.keys(), look)

    async def delete(self, digest: str, keepers: Sequence[str]) -> bool:
        """Delete an entity from each, but from those that it is in for another repository.

        Args:
            digest: which.
            keepers: names of the other repositories that have it, too.

        Returns:
            Whether one of those that answered had it.
        """

        async def delete(store: Store) -> bool:
            found = await store.stat(digest) is not None
            await store.delete(digest)
            return found

        needed = frozenset[str]().union(*map(self.placed, keepers))
        return await self._ask(self.replicas.keys() - needed, delete)

    async def _ask(self, names: Iterable[str], ask: Callable[[Store], Awaitable[bool]]) -> bool:
        """Whether one of those that still answer says yes; all are asked side by side."""

        async def one(name: str) -> bool:
            store = self.replicas[name]
            try:
                async with asyncio.timeout(PATIENCE):
                    return await ask(store)
            except TimeoutError:
                self.unreached[name] = f"{store.name} has not answered within {PATIENCE:.0f} s"
            except StoreUnavailable as error:
                self.unreached[name] = str(error)
            return False

        return any(await asyncio.gather(*map(one, set(names) - self.unreached.keys())))


async def purge(
    subject: Subject,
    store: Store,
    cache: Cache,
    git: Git,
    work: Path,
    *,
    now: float,
    replicas: Mapping[str, Store] = _NO_REPLICAS,
    placed: Placed | None = None,
    dry_run: bool = False,
    settle: float = STALE_SECONDS,
) -> PurgeReport:
    """Take a repository's content, or all that holds one object, out of cache, store and catalog.

    Args:
        subject: what.
        store: the main one, where content and catalogs are.
        cache: of this machine; others forget theirs when they read the catalog.
        git: how programs are run.
        work: a directory for copies of what is searched.
        now: seconds since the epoch.
        replicas: stores of copies, by name; one that fails stops no other, and the report says it.
        placed: see :data:`Placed`; None: for every store.
        dry_run: change nothing, say what would be done.
        settle: seconds for which another process of this machine may still believe that content
            can be read at a target; so long it stays in the store.

    Raises:
        indexer.catalog.CatalogError: a catalog cannot be read; it may name anything.
        stores.base.Conflict: others changed the catalog each time that it was to be written.
        Unfinished: the main store does not answer.
        stores.base.StoreError: it failed otherwise.
        CacheUnavailable: the disk refused.
        GitFailed: git refuses the repository.
        MirrorBusy: somebody works on the mirror.
        IndexBusy: somebody works on the index.

        After each of them a second run does what is left.
    """
    await asyncio.to_thread(work.mkdir, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="purge-", dir=work.absolute()) as scratch:
        search = Search(store, cache, git, Path(scratch), subject.object_id, _objects(subject))
        everywhere = frozenset(replicas)
        copies = _Copies(replicas, placed or (lambda _: everywhere))
        run = _Purge(subject, store, cache, git, search, now, dry_run, settle, copies)
        try:
            return await run.run()
        except StoreUnavailable as error:
            done = "; ".join(run.done.values()) or "nothing"
            raise Unfinished(f"{error}; done before: {done}") from error


@dataclass(frozen=True, slots=True)
class _Others:
    """By digest, the other repositories whose catalogs name it, and documents that claim it."""

    catalogs: Mapping[str, set[str]]
    claims: Mapping[str, tuple[str, ...]]


def _objects(subject: Subject) -> Path | None:
    """Where the bases of thin packs are."""
    if subject.git_dir is not None:
        return subject.git_dir / "objects"
    if subject.mirror is not None and subject.mirror.exists:
        return subject.mirror.path / "objects"
    return None


def _ids(catalog: Catalog) -> tuple[str, ...]:
    return (*(b.id for b in catalog.bundles), *(b.id for b in catalog.clone_bundles))


@dataclass(slots=True)
class _Purge:
    subject: Subject
    store: Store
    cache: Cache
    git: Git
    search: Search
    now: float
    dry_run: bool
    settle: float
    copies: _Copies
    epoch: int = 0
    bundles: dict[str, None] = field(default_factory=dict)
    candidates: set[str] = field(default_factory=set)
    done: dict[str, str] = field(default_factory=dict)
    busy: set[str] = field(default_factory=set)

    async def run(self) -> PurgeReport:
        subject = self.subject
        if not await self._is_known():
            return PurgeReport(subject.repository, subject.object_id, known=False)
        await self._raise_epoch()
        mirror = await self._remove_mirror()
        index = await self._remove_index()
        found = await asyncio.to_thread(survey, self.cache, subject.identities, self.epoch)
        local = frozenset(await asyncio.to_thread(lambda: tuple(self.cache.entities.digests())))
        self.candidates |= found.entities.keys()
        self.candidates |= await claims(self.store, subject.repository)
        others = await self._others()
        # What nobody names any more was perhaps this repository's.
        self.candidates |= local - found.others - others.catalogs.keys() - others.claims.keys()
        verdicts = {d: await self.search.verdict(d) for d in sorted(self.candidates)}
        doomed = {d: v for d, v in verdicts.items() if v.holds}
        names = {digest: await self._names(others, digest) for digest in doomed}
        kept = tuple(Kept(digest, names[digest]) for digest in doomed if names[digest])
        going = {digest: found for digest, found in doomed.items() if not names[digest]}
        if self.dry_run:
            copied = {digest for digest in doomed if await self.copies.hold(digest)}
        else:
            await asyncio.to_thread(drop_records, self.cache, found.keys)
            self.done["records"] = f"{len(found.keys)} records of this machine removed"
            copied = await self._delete(going, {each.digest: each.repositories for each in kept})
            for digest in () if self.copies.unreached or self.busy else doomed:
                await self.store.delete_document(claim_name(subject.repository, digest))
        removed = tuple(
            Removed(
                digest,
                verdict.size,
                verdict.local,
                verdict.stored or digest in copied,
                verdict.unread,
            )
            for digest, verdict in going.items()
            if verdict.local or verdict.stored or digest in copied
        )
        return PurgeReport(
            subject.repository,
            subject.object_id,
            known=True,
            epoch=self.epoch,
            bundles=tuple(self.bundles),
            records=len(found.keys),
            removed=removed,
            kept=kept,
            mirror=mirror,
            index=index,
            remains=(subject.hg_dir is not None and subject.object_id is None)
            or (subject.git_dir is not None and await self._is_in(subject.git_dir)),
            unreached=(*self.copies.unreached.values(), *self._published()),
        )

    def _published(self) -> Iterator[str]:
        """What is to be said of content that was being published when it was to go."""
        if self.busy:
            yield (
                f"{len(self.busy)} entities were still being published by a process of this machine"
                f" after {PATIENCE:.0f} s, such as {min(self.busy)}; a store may get them yet"
            )

    async def _is_known(self) -> bool:
        subject = self.subject
        if subject.git_dir is not None or subject.hg_dir is not None:
            return True
        if any(each is not None and each.exists for each in (subject.mirror, subject.index)):
            return True
        if await load(self.store, subject.repository) is not None:
            return True
        if await claims(self.store, subject.repository):
            return True
        epoch = self.cache.epochs.of(subject.repository) + 1
        found = await asyncio.to_thread(survey, self.cache, subject.identities, epoch)
        return bool(found.keys)

    async def _raise_epoch(self) -> None:
        """Let no earlier record be used again, and no bundle be named that holds what is purged.

        On this machine at once, elsewhere when the catalog is read.
        """
        name = self.subject.repository
        epoch = max(self.epoch, self.cache.epochs.of(name)) + 1
        for _ in range(ATTEMPTS):
            loaded = await load(self.store, name)
            catalog, version = loaded or (Catalog(name, self._object_format()), None)
            self.epoch = epoch = max(epoch, catalog.epoch + 1)
            if not self.dry_run:
                await asyncio.to_thread(self.cache.epochs.raise_to, name, epoch)
                self.done["epoch"] = f"this machine answers from nothing before epoch {epoch}"
            doomed = await self._doomed(catalog)
            changed = catalog.purged(doomed, epoch, self.now)
            if not self.dry_run:
                try:
                    await self.store.write_document(catalog_name(name), encode(changed), version)
                except Conflict:
                    continue
                self.done["catalog"] = "its catalog names no bundle with it"
            self.bundles |= dict.fromkeys(
                each for each in _ids(catalog) if each not in _ids(changed)
            )
            return
        raise Conflict(
            f"{self.store.name}: the catalog of {name} was changed by others {ATTEMPTS} times"
            " while it was being written; run the same command again"
        )

    def _object_format(self) -> str:
        """Of a catalog that is not there yet; the indexer corrects what cannot be known here."""
        object_id = self.subject.object_id
        return "sha1" if object_id is None else object_format_of(object_id)

    async def _doomed(self, catalog: Catalog) -> frozenset[str]:
        """Digests of the bundles' entities that hold what is purged."""
        self.candidates |= {retired.digest for retired in catalog.retired}
        doomed: set[str] = set()
        for bundle in catalog.bundles:
            # A bundle file is the pack behind a header: one search for both.
            verdict = await self.search.verdict(bundle.pack.entity.digest)
            if verdict.holds:
                for entity in bundle.entities():
                    await self.search.verdict(entity.digest, same=verdict)
                    doomed.add(entity.digest)
        if self.subject.object_id is None:  # what Mercurial has holds no object of git
            doomed |= {clone.entity.digest for clone in catalog.clone_bundles}
        self.candidates |= doomed
        return frozenset(doomed)

    async def _is_in(self, git_dir: Path) -> bool:
        object_id = self.subject.object_id
        if object_id is None:
            return True
        return await asyncio.to_thread(holds, self.git, git_dir, object_id)

    async def _remove_mirror(self) -> bool:
        """Remove the mirror, if it has what is purged."""
        mirror = self.subject.mirror
        if mirror is None:
            return False
        # One that is not there may be being made: then removing it says so.
        existed = mirror.exists
        if existed and not await self._is_in(mirror.path):
            return False
        if not self.dry_run:
            await asyncio.to_thread(mirror.remove)
            self.done["mirror"] = "its mirror removed"
            if existed:  # nothing that was made from it since the epoch began is used either
                await self._raise_epoch()
        return existed

    async def _remove_index(self) -> bool:
        """Remove the index of a Mercurial repository, if all of it is to go.

        What is answered from it is what hg serves now, so what was recorded since the epoch began
        is as good as what would be recorded now.
        """
        index = self.subject.index
        if index is None or self.subject.object_id is not None:
            return False
        if self.dry_run:
            return index.exists
        removed = await asyncio.to_thread(index.remove)
        self.done["index"] = "its index removed"
        return removed

    async def _others(self) -> _Others:
        """What the store says of the content of other repositories."""
        name = self.subject.repository
        catalogs: dict[str, set[str]] = {}
        for catalog in (await read_catalogs(self.store)).values():
            if catalog.repository != name:
                for digest in catalog.named():
                    catalogs.setdefault(digest, set()).add(catalog.repository)
        documents = {
            digest: tuple(d for d in documents if d != claim_name(name, digest))
            for digest, documents in (await claimed(self.store)).items()
        }
        return _Others(catalogs, {d: others for d, others in documents.items() if others})

    async def _names(self, others: _Others, digest: str) -> tuple[str, ...]:
        """The other repositories that have an entity."""
        names = set(others.catalogs.get(digest, ()))
        for document in others.claims.get(digest, ()):
            names.add((await read_claim(self.store, document))[0])
        return tuple(sorted(names))

    async def _delete(
        self, going: Mapping[str, Verdict], kept: Mapping[str, Sequence[str]]
    ) -> set[str]:
        """Delete from this machine's disk, and then from the stores.

        The main one comes first: no other that hangs keeps content in it.

        Args:
            going: what nobody else has.
            kept: names of the other repositories that have it, by digest; it goes from the stores
                that it is in for none of them.

        Returns:
            Digests of those of ``going`` that a store beside the main one had.
        """
        publications = self.cache.publications
        copies = {**dict.fromkeys(going, ()), **kept} if self.copies.replicas else {}
        leaving = going.keys() | copies.keys()
        were_readable = [d for d in leaving if publications.readable(d, self.now)]
        for digest in leaving:
            publications.forget(digest)
        await asyncio.to_thread(drop_entities, self.cache, going.keys())
        self.done["local"] = f"{len(going)} entities removed from this machine's disk"
        if were_readable:
            await asyncio.sleep(self.settle)
        for number, digest in enumerate(going, 1):
            # Whoever is publishing it may be at it for long, in another store.
            await self.store.delete(digest)
            self.done["main"] = f"{number} of them from {self.store.name}"
        deadline = asyncio.get_running_loop().time() + PATIENCE
        for digest in going:
            # And not while it is being published; what was published meanwhile is forgotten too.
            async with self._nobody_publishing(digest, deadline):
                publications.forget(digest)
                await asyncio.to_thread(partial(self.cache.entities.take_back, digest))
                await self.store.delete(digest)
        copied = set()
        for digest, keepers in copies.items():
            async with self._nobody_publishing(digest, deadline):
                publications.forget(digest)
                if await self.copies.delete(digest, keepers):
                    copied.add(digest)
        return copied & going.keys()

    @asynccontextmanager
    async def _nobody_publishing(self, digest: str, deadline: float) -> AsyncIterator[None]:
        """A block during which nobody on this machine publishes an entity; that is waited for.

        Whoever is still at it then, such as a copy to a store that hangs, is not waited for. What
        he does after the block is for the next purge to find, and is told.

        Args:
            digest: which.
            deadline: until when, on the event loop's clock; afterwards there is one try for each.
        """
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout_at(deadline):
                    await stack.enter_async_context(self.cache.publications.lock(digest))
            except TimeoutError:
                self.busy.add(digest)
            yield
