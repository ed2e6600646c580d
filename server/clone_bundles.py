# Law of this file: how far clone bundles are behind, and whether clients are told of them, is what
# the index on this machine says, as it is: hg is not asked.

from __future__ import annotations

from collections.abc import Iterator, Sequence

from indexer.catalog import Catalog, CloneBundle
from repos.hg.database import IndexBroken, IndexUnreadable
from repos.hg.discovery import locate
from repos.hg.keeper import Keeper
from repos.hg.offered import Offer, offer_of
from repos.hg.program import Hg
from repos.hg.repository import index_directory, snapshot_of
from server.repositories import HG_INDEXES
from server.settings import Settings


def each(
    settings: Settings, catalogs: Sequence[Catalog]
) -> Iterator[tuple[Catalog, CloneBundle, int | None, bool | None]]:
    """Each bundle, how many changesets that are offered it lacks, and whether all in it is offered.

    Both as of when hg was last asked, by whatever process; None if nobody knows.
    """
    for catalog in catalogs:
        if not catalog.clone_bundles:
            continue
        offer = _offer(settings, catalog.repository)
        for bundle in catalog.clone_bundles:
            if offer is None:
                yield catalog, bundle, None, None
            else:
                behind = max(offer.changesets - bundle.changesets, 0)
                yield catalog, bundle, behind, offer.holds(bundle.heads)


def _offer(settings: Settings, repository: str) -> Offer | None:
    """What the repository offered when it was last looked at."""
    root = settings.local_root
    found = None if root is None else locate(root, repository, settings.data)
    if found is None:
        return None
    directory = index_directory(settings.data.absolute() / HG_INDEXES, found.path)
    try:
        kept = Keeper(Hg(), found.path, directory).last()
        return None if kept is None else offer_of(snapshot_of(kept, found.path))
    except (IndexBroken, IndexUnreadable, OSError):
        return None
