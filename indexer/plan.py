# Law of this file: what to do about a bundle is decided here and nowhere else, and the decision is
# a value that says why. Nothing here runs a program, reads a store or knows the time.

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Final, Protocol

from indexer.catalog import Bundle


@dataclass(frozen=True, slots=True)
class Kind:
    """One of the bundles that a repository can have.

    Attributes:
        name: for people, and in the ids of its bundles.
        filter: what its packs leave out, or None.
    """

    name: str
    filter: str | None


FULL: Final = Kind("full", None)
BLOBLESS: Final = Kind("blobless", "blob:none")
KINDS: Final = (FULL, BLOBLESS)


@dataclass(frozen=True, slots=True)
class UpToDate:
    """Nothing is to be done."""

    reason: str


@dataclass(frozen=True, slots=True)
class Skip:
    """There is no bundle, and there should be none."""

    reason: str


@dataclass(frozen=True, slots=True)
class Make:
    """A bundle is to be made, in the place of the one that there is."""

    reason: str


@dataclass(frozen=True, slots=True)
class Publish:
    """The bundle is good, but was not read back through every target: publish it again."""

    reason: str
    bundle: Bundle


@dataclass(frozen=True, slots=True)
class Drop:
    """There is a bundle, and there should be none."""

    reason: str


Decision = UpToDate | Skip | Make | Publish | Drop


class Values(Protocol):
    """What the settings say (section ``index``)."""

    @property
    def growth(self) -> float:
        """Make a bundle again when the repository grew by more than this share of its objects."""
        ...

    @property
    def min_objects(self) -> int:
        """Repositories with fewer objects get no bundles."""
        ...

    @property
    def blobless(self) -> bool:
        """Make blobless bundles too."""
        ...

    @property
    def bundle_uri(self) -> bool:
        """Make bundle files too."""
        ...


class Questions(Protocol):
    """What git and the store are asked, and only when the answer matters."""

    def reachable(self, tips: tuple[str, ...]) -> Awaitable[bool]:
        """Tell whether all these objects are reachable from the advertised refs."""
        ...

    def new_objects(
        self, base: tuple[str, ...], filter_spec: str | None, limit: int
    ) -> Awaitable[int]:
        """Count what the advertised refs reach and ``base`` does not, up to ``limit`` + 1."""
        ...

    def stored(self, bundle: Bundle) -> Awaitable[bool]:
        """Tell whether the store has everything that the bundle is made of."""
        ...


async def decide(
    kind: Kind,
    bundle: Bundle | None,
    tips: frozenset[str],
    values: Values,
    *,
    targets: frozenset[str],
    obstacle: str | None,
    questions: Questions,
) -> Decision:
    """Decide about one kind of bundle of one repository.

    Args:
        kind: which.
        bundle: what the catalog has of this kind.
        tips: every advertised object id.
        values: what the settings say.
        targets: fingerprints of the targets through which a bundle should be readable; empty if
            that is not to be looked at.
        obstacle: why no bundle can be made of this repository, or None.
        questions: asked for the rest.
    """
    unwanted = _unwanted(kind, tips, values, obstacle)
    if unwanted is not None:
        return Skip(unwanted) if bundle is None else Drop(unwanted)

    # What holds objects that stock git would no longer send must not be used any more, even if
    # the repository is now too small for another one.
    usable = bundle is not None and await questions.reachable(bundle.tips)
    known = bundle.objects if bundle is not None and usable else 1
    if known < values.min_objects:
        found = await questions.new_objects((), None, values.min_objects - 1)
        if found < values.min_objects:
            small = f"the repository has {found} objects, fewer than {values.min_objects}"
            return Skip(small) if bundle is None else Drop(small)

    if bundle is None:
        return Make("there is none yet")
    if not usable:
        return Make("it holds what no ref reaches any more: a forced push or a deleted ref")
    if not await questions.stored(bundle):
        return Make("the store has lost it")
    if values.bundle_uri and bundle.bundle_file is None:
        return Make("there is no bundle file of it yet")
    allowed = int(values.growth * bundle.objects)
    new = await questions.new_objects(bundle.tips, kind.filter, allowed)
    if new > allowed:
        return Make(f"the repository has grown by more than {allowed} objects")
    readable = [frozenset(fingerprints) for _, fingerprints in bundle.readable_entities()]
    unread = sum(1 for target in targets if not all(target in seen for seen in readable))
    if unread:
        return Publish(f"it was not read back through {unread} of {len(targets)} targets", bundle)
    return UpToDate(f"{new} new objects, remade when there are more than {allowed}")


def _unwanted(kind: Kind, tips: frozenset[str], values: Values, obstacle: str | None) -> str | None:
    """Why there should be no such bundle whatever git says, or None."""
    if kind == BLOBLESS and not values.blobless:
        return "blobless bundles are switched off (index.blobless)"
    if not tips:
        return "the repository is empty"
    return None if obstacle is None else f"no bundle can be made of the repository: {obstacle}"
