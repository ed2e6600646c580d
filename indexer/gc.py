# Law of this file: what a catalog names is never deleted, whatever its age. Everything else waits
# until no URL of it can be alive: since it was last put, and since a catalog last named it.
#
# So a server may name what a catalog names without asking how old it is. What it publishes by
# itself (answers that were computed once) lives `keep` from its last `put`, and the server stops
# naming it early enough. Entities are listed before the catalogs are read: what is put and
# catalogued meanwhile is either in a catalog that we read, or is young when we look again.
#
# Stores beside the main one hold copies and no catalogs; there the same is due. What was retired or
# claimed is forgotten only when it is known to be in no store any more.

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from indexer.catalog import PREFIX, Catalog, CatalogError, encode, parse
from indexer.ownership import claimed, read_claim
from stores.base import Conflict, Store, Stored, StoreUnavailable


@dataclass(frozen=True, slots=True)
class GcReport:
    """What a collection did, or would do.

    Attributes:
        deleted: entities that were deleted, from any store.
        freed: bytes of all that was deleted, copies too.
        kept: how many entities remain in the main store, but for what is permanent.
        named: how many of these are named by catalogs.
        forgotten: how many retired entries were dropped from catalogs.
        disowned: how many documents that said whose an entity was were dropped with it.
        unreached: of each store beside the main one that failed, what it said.
    """

    deleted: tuple[str, ...]
    freed: int
    kept: int
    named: int
    forgotten: int
    disowned: int = 0
    unreached: tuple[str, ...] = ()


@dataclass(slots=True)
class _Shelf:
    """One store while it is collected.

    Attributes:
        store: which.
        entities: what it held when it was listed.
        deleted: what was deleted.
    """

    store: Store
    entities: Sequence[Stored]
    deleted: list[Stored] = field(default_factory=list)

    @property
    def there(self) -> frozenset[str]:
        """Digests of what remains."""
        gone = {stored.digest for stored in self.deleted}
        return frozenset(stored.digest for stored in self.entities) - gone

    async def clear(self, is_due: Callable[[Stored], bool], *, dry_run: bool) -> None:
        """Delete what is due."""
        for stored in filter(is_due, self.entities):
            if dry_run:
                self.deleted.append(stored)
                continue
            # Put again since it was listed: then somebody is about to name it.
            fresh = await self.store.stat(stored.digest)
            if fresh is not None and is_due(fresh):
                await self.store.delete(stored.digest)
                self.deleted.append(stored)


async def collect(
    store: Store,
    now: float,
    keep: float,
    *,
    replicas: Sequence[Store] = (),
    permanent: AbstractSet[str] = frozenset(),
    away: Sequence[str] = (),
    dry_run: bool = False,
) -> GcReport:
    """Delete what no catalog names and no client can still be told to fetch.

    Args:
        store: the main one.
        now: seconds since the epoch, by the stores' clocks.
        keep: seconds for which anything is kept, longer than any URL lives.
        replicas: stores of copies; one that fails stops no other, and the report says it.
        permanent: digests of what no catalog names and is never due.
        away: what is said of other stores of copies, which do not answer and are not asked.
        dry_run: change nothing, say what would be done.

    Raises:
        CatalogError: a document among the catalogs is none; nothing was deleted.
        StoreError: the main store failed; what is done so far is done right.
    """
    main = _Shelf(store, [stored async for stored in store.list()])
    shelves, unreached = [main], list(away)
    for replica in replicas:
        try:
            shelves.append(_Shelf(replica, [stored async for stored in replica.list()]))
        except StoreUnavailable as error:
            unreached.append(str(error))
    catalogs = await read_catalogs(store)
    named = frozenset[str]().union(*(catalog.named() for catalog in catalogs.values()))
    undeletable = named | permanent
    retired = _retired(catalogs.values())

    def is_due(stored: Stored) -> bool:
        since = max(stored.modified, retired.get(stored.digest, stored.modified))
        return stored.digest not in undeletable and since < now - keep

    for shelf in shelves:
        try:
            await shelf.clear(is_due, dry_run=dry_run)
        except StoreUnavailable as error:
            if shelf is main:
                raise
            unreached.append(str(error))

    there = frozenset[str]().union(*(shelf.there for shelf in shelves))
    forgotten = 0
    # What a store that does not answer holds is not known.
    for name, catalog in () if unreached else catalogs.items():
        over = frozenset(
            r.digest for r in catalog.retired if r.digest not in there and r.since < now - keep
        )
        if over and (dry_run or await _forget(store, name, over)):
            forgotten += len(over)
    return GcReport(
        deleted=tuple(sorted({stored.digest for shelf in shelves for stored in shelf.deleted})),
        freed=sum(stored.size for shelf in shelves for stored in shelf.deleted),
        kept=len(main.there - permanent),
        named=len(main.there & named),
        forgotten=forgotten,
        disowned=0 if unreached else await _disown(store, there, now - keep, dry_run=dry_run),
        unreached=tuple(unreached),
    )


async def read_catalogs(store: Store) -> dict[str, Catalog]:
    """Every catalog by the name of its document.

    Raises:
        CatalogError: a document among them is none.
        stores.base.StoreUnavailable: the store did not answer.
    """
    catalogs = {}
    names = [name async for name in store.list_documents(PREFIX)]
    for name in names:
        document = await store.read_document(name)
        if document is None:
            continue
        try:
            catalogs[name] = parse(document.body)
        except CatalogError as error:
            raise CatalogError(
                f"{store.name}, {name}: {error}; nothing is deleted while a catalog cannot be"
                " read, for it may name anything"
            ) from error
    return catalogs


def _retired(catalogs: Iterable[Catalog]) -> dict[str, float]:
    """When each retired entity was last named, by any repository."""
    since: dict[str, float] = {}
    for catalog in catalogs:
        for retired in catalog.retired:
            since[retired.digest] = max(retired.since, since.get(retired.digest, retired.since))
    return since


async def _forget(store: Store, name: str, digests: frozenset[str]) -> bool:
    """Drop retired entries from a catalog; not now, if somebody else changes it."""
    document = await store.read_document(name)
    if document is None:
        return False
    try:
        await store.write_document(
            name, encode(parse(document.body).forget(digests)), document.version
        )
    except Conflict:
        return False
    return True


async def _disown(store: Store, there: AbstractSet[str], limit: float, *, dry_run: bool) -> int:
    """Drop the claims of entities that are gone, if nobody has claimed them since ``limit``.

    A claim is written before its entity: a young one may be of what is just being put.
    """
    dropped = 0
    for digest, names in (await claimed(store)).items():
        if digest in there:
            continue
        for name in names:
            _, since = await read_claim(store, name)
            if since < limit:
                dropped += 1
                if not dry_run:
                    await store.delete_document(name)
    return dropped
