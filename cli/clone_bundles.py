# Law of this file: what is shown of clone bundles comes from the catalogs, and how far they are
# behind, and whether clients are told of them, from the index on this machine, as it is: hg is not
# asked.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from indexer.catalog import Catalog, CloneBundle
    from server.settings import Settings

_HEADER: Final = ("repository", "kind", "size", "changesets", "behind", "age", "targets", "id")
_RIGHT: Final = frozenset({2, 3, 4, 5})

_WITHHELD: Final = "withheld"
"""In place of targets: it holds what is not offered any more, and no client is told of it."""


def drawn(
    settings: Settings, catalogs: Sequence[Catalog], names: Mapping[str, str], now: float
) -> str:
    """A table of them; empty if there are none.

    Args:
        settings: where repositories and their indexes are.
        catalogs: of all repositories that are to be shown.
        names: of targets, by fingerprint.
        now: seconds since the epoch.
    """
    from cli.tables import age, size, table
    from server.clone_bundles import each

    rows = [
        (
            catalog.repository,
            bundle.kind,
            size(bundle.entity.size),
            str(bundle.changesets),
            "-" if behind is None else str(behind),
            age(now - bundle.created),
            _WITHHELD if offered is False else ",".join(_readable(bundle, names)) or "none",
            bundle.id,
        )
        for catalog, bundle, behind, offered in each(settings, catalogs)
    ]
    return table(_HEADER, rows, _RIGHT) if rows else ""


def values(
    settings: Settings, catalogs: Sequence[Catalog], names: Mapping[str, str], now: float
) -> list[dict[str, object]]:
    """The same for programs; see :func:`drawn`."""
    from server.clone_bundles import each

    return [
        {
            "repository": catalog.repository,
            "id": bundle.id,
            "kind": bundle.kind,
            "spec": bundle.spec,
            "size": bundle.entity.size,
            "changesets": bundle.changesets,
            "behind": behind,
            "offered": offered,
            "heads": len(bundle.heads),
            "created": bundle.created,
            "age": now - bundle.created,
            "targets": _readable(bundle, names),
            "file": bundle.entity.digest,
        }
        for catalog, bundle, behind, offered in each(settings, catalogs)
    ]


def _readable(bundle: CloneBundle, names: Mapping[str, str]) -> list[str]:
    """Names of the targets; those that are no longer configured are left out."""
    return [name for fingerprint, name in names.items() if fingerprint in bundle.readable]
