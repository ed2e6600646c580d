# Law of this file: what a catalog names is never deleted, whatever its age. Everything else waits
# until no URL of it can be alive: since it was last put, and since a catalog last named it.
#
# So a server may name what a catalog names without asking how old it is. What it publishes by
# itself (answers that were computed once) lives `keep` from its last `put`, and the server stops
# naming it early enough. Entities are listed before the catalogs are read: what is put and
# catalogued meanwhile is either in a catalog that we read, or is young when we look again.

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from indexer.catalog import PREFIX, Catalog, CatalogError, encode, parse
from indexer.ownership import claimed, read_claim
from stores.base import Conflict, Store, Stored


@dataclass(frozen=True, slots=True)
class GcReport:
    """What a collection did, or would do.

    Attributes:
        deleted: entities that were deleted.
        freed: their bytes.
        kept: how many entities remain.
        named: how many of these are named by catalogs.
        forgotten: how many retired entries were dropped from catalogs.
        disowned: how many documents that said whose an entity was were dropped with it.
    """

    deleted: tuple[str, ...]
    freed: int
    kept: int
    named: int
    forgotten: int
    disowned: int = 0


async def collect(store: Store, now: float, keep: float, *, dry_run: bool = False) -> GcReport:
    """Delete what no catalog names and no client can still be told to fetch.

    Args:
        store: which.
        now: seconds since the epoch, by the store's clock.
        keep: seconds for which anything is kept, longer than any URL lives.
        dry_run: change nothing, say what would be done.

    Raises:
        CatalogError: a document among the catalogs is none; nothing was deleted.
        StoreError: the store failed; what is done so far is done right.
    """
    entities = [stored async for stored in store.list()]
    catalogs = await read_catalogs(store)
    named = frozenset[str]().union(*(catalog.named() for catalog in catalogs.values()))
    retired = _retired(catalogs.values())

    def is_due(stored: Stored) -> bool:
        since = max(stored.modified, retired.get(stored.digest, stored.modified))
        return stored.digest not in named and since < now - keep

    deleted = []
    for stored in filter(is_due, entities):
        if dry_run:
            deleted.append(stored)
            continue
        # Put again since it was listed: then somebody is about to name it.
        fresh = await store.stat(stored.digest)
        if fresh is not None and is_due(fresh):
            await store.delete(stored.digest)
            deleted.append(stored)

    gone = {stored.digest for stored in deleted}
    there = {stored.digest for stored in entities} - gone
    forgotten = 0
    for name, catalog in catalogs.items():
        over = frozenset(
            r.digest for r in catalog.retired if r.digest not in there and r.since < now - keep
        )
        if over and (dry_run or await _forget(store, name, over)):
            forgotten += len(over)
    return GcReport(
        deleted=tuple(sorted(gone)),
        freed=sum(stored.size for stored in deleted),
        kept=len(there),
        named=len(there & named),
        forgotten=forgotten,
        disowned=await _disown(store, there, now - keep, dry_run=dry_run),
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
