# Law of this file: what to do about a clone bundle is decided here and nowhere else, and the
# decision is a value that says why. Nothing here runs a program, reads a store or knows the time.

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from indexer.catalog import CloneBundle
from indexer.plan import Drop, Make, Skip, UpToDate
from repos.hg.bundle_file import GZIP, ZSTD
from repos.hg.clone_bundle import STREAM
from repos.hg.offered import Offer

KINDS: Final = (ZSTD, GZIP, STREAM)
CHANGESETS: Final = (ZSTD, GZIP)
"""Those that one run of hg makes together."""


@dataclass(frozen=True, slots=True)
class Publish:
    """The bundle is good, but was not read back through every target: publish it again."""

    reason: str
    bundle: CloneBundle


Decision = UpToDate | Skip | Make | Publish | Drop


class Values(Protocol):
    """What the settings say (section ``hg``)."""

    @property
    def bundles(self) -> Sequence[Literal["zstd-v2", "gzip-v2", "stream-v2"]]:
        """The kinds that are wanted."""
        ...

    @property
    def bundle_growth(self) -> float:
        """Make a bundle again when the repository grew by more than this share of changesets."""
        ...

    @property
    def bundle_level(self) -> int:
        """Of zstd."""
        ...

    @property
    def min_changesets(self) -> int:
        """Repositories with fewer get no bundles."""
        ...

    @property
    def stream_clones(self) -> bool:
        """The store's own files may be given away."""
        ...


async def decide(
    kind: str,
    bundle: CloneBundle | None,
    offer: Offer,
    values: Values,
    *,
    targets: frozenset[str],
    stored: Callable[[CloneBundle], Awaitable[bool]],
) -> Decision:
    """Decide about one kind of clone bundle of one repository.

    Args:
        kind: which.
        bundle: what the catalog has of this kind.
        offer: what is offered.
        values: what the settings say.
        targets: fingerprints of the targets through which a bundle should be readable; empty if
            that is not to be looked at.
        stored: whether the store has a bundle's entity.
    """
    unwanted = _unwanted(kind, offer, values)
    if unwanted is not None:
        return Skip(unwanted) if bundle is None else Drop(unwanted)
    obstacle = kind == STREAM and not offer.streams
    if bundle is None:
        return Skip(_NO_STREAM) if obstacle else Make("there is none yet")
    if not offer.holds(bundle.heads):
        gone = "it holds what is not offered any more: stripped, hidden, secret or not published"
        return Drop(gone) if obstacle else Make(gone)
    if not await stored(bundle):
        lost = "the store has lost it"
        return Drop(lost) if obstacle else Make(lost)
    behind = offer.changesets - bundle.changesets
    allowed = int(values.bundle_growth * bundle.changesets)
    if behind > allowed and not obstacle:
        return Make(f"the repository has grown by {behind} changesets, more than {allowed}")
    unread = sum(1 for target in targets if target not in bundle.readable)
    if unread:
        return Publish(f"it was not read back through {unread} of {len(targets)} targets", bundle)
    if obstacle:
        return UpToDate(f"{_changesets(behind)} behind, and cannot be made again now: {_NO_STREAM}")
    return UpToDate(f"{_changesets(behind)} behind, remade when there are more than {allowed}")


_NO_STREAM: Final = (
    "the store has secret, hidden or obsolete changesets, or drafts that are not published, or hg"
    " would not stream it"
)


def _changesets(count: int) -> str:
    return "1 changeset" if count == 1 else f"{count} changesets"


def _unwanted(kind: str, offer: Offer, values: Values) -> str | None:
    """Why there should be no such bundle whatever it holds, or None."""
    if kind not in values.bundles:
        return "this kind is switched off (hg.bundles)"
    if kind == STREAM and not values.stream_clones:
        return "streams are switched off (hg.stream_clones)"
    if not offer.changesets:
        return "the repository has no public changeset"
    if offer.changesets < values.min_changesets:
        few = _changesets(offer.changesets)
        return f"the repository has {few}, fewer than {values.min_changesets}"
    return None
