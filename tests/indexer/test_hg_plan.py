# Law of this file: what is to be done about a clone bundle follows from what is offered, stored and
# set, and each decision says why.

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import pytest

from indexer.catalog import CloneBundle
from indexer.hg_plan import KINDS, Decision, Publish, decide
from indexer.plan import Drop, Make, Skip, UpToDate
from repos.hg.offered import Offer
from stores.entity import Entity

HEAD = "ab" * 20


@dataclass(frozen=True)
class Values:
    """The settings' own defaults."""

    bundles: tuple[Literal["zstd-v2", "gzip-v2", "stream-v2"], ...] = KINDS
    bundle_growth: float = 0.05
    bundle_level: int = 10
    min_changesets: int = 1
    stream_clones: bool = True


def bundle(kind: str = "zstd-v2") -> CloneBundle:
    """Of a hundred changesets."""
    entity = Entity("1" * 64, 1000)
    return CloneBundle(f"{kind}-1", kind, kind, entity, (HEAD,), 100, 1.7e9, ("t-1", "t-2"))


OFFER = Offer(100, lambda nodes: set(nodes) <= {HEAD}, streams=True)


async def decided(
    have: CloneBundle | None,
    *,
    kind: str = "zstd-v2",
    offer: Offer = OFFER,
    values: Values = Values(),
    targets: frozenset[str] = frozenset(),
    lost: bool = False,
) -> Decision:
    """What is to be done."""

    async def stored(asked: CloneBundle) -> bool:
        assert asked == have
        return not lost

    return await decide(kind, have, offer, values, targets=targets, stored=stored)


async def test_the_first_one() -> None:
    """Where there is none, one is made; of a store that is not streamed there is no stream."""
    assert await decided(None) == Make("there is none yet")
    assert await decided(None, kind="stream-v2") == Make("there is none yet")
    closed = replace(OFFER, streams=False)
    assert isinstance(await decided(None, offer=closed), Make)
    found = await decided(None, kind="stream-v2", offer=closed)
    assert isinstance(found, Skip)
    assert "secret, hidden or obsolete" in found.reason


@pytest.mark.parametrize(
    ("kind", "offer", "values", "why"),
    [
        ("zstd-v2", OFFER, Values(bundles=("gzip-v2",)), "hg.bundles"),
        ("stream-v2", OFFER, Values(stream_clones=False), "hg.stream_clones"),
        ("zstd-v2", replace(OFFER, changesets=0), Values(), "no public changeset"),
        ("gzip-v2", OFFER, Values(min_changesets=101), "has 100 changesets, fewer than 101"),
        (
            "gzip-v2",
            replace(OFFER, changesets=1),
            Values(min_changesets=2),
            "has 1 changeset, fewer than 2",
        ),
    ],
)
async def test_one_that_nobody_wants(kind: str, offer: Offer, values: Values, why: str) -> None:
    """It is not made, and one that is there goes."""
    for have, decision in ((None, Skip), (bundle(kind), Drop)):
        found = await decided(have, kind=kind, offer=offer, values=values)
        assert isinstance(found, decision)
        assert why in found.reason


async def test_growth() -> None:
    """It is made again when there is more than the share that is allowed, and not before."""
    for changesets, behind in ((100, "0 changesets"), (101, "1 changeset"), (105, "5 changesets")):
        found = await decided(bundle(), offer=replace(OFFER, changesets=changesets))
        assert found == UpToDate(f"{behind} behind, remade when there are more than 5")
    found = await decided(bundle(), offer=replace(OFFER, changesets=106))
    assert found == Make("the repository has grown by 6 changesets, more than 5")


async def test_what_is_not_offered_any_more() -> None:
    """Then the bundle is useless at once; a stream that cannot be made again goes."""
    gone = replace(OFFER, holds=lambda _: False)
    assert isinstance(await decided(bundle(), offer=gone), Make)
    assert isinstance(await decided(bundle("stream-v2"), kind="stream-v2", offer=gone), Make)
    closed = replace(gone, streams=False)
    assert isinstance(await decided(bundle("stream-v2"), kind="stream-v2", offer=closed), Drop)


async def test_what_the_store_has_lost() -> None:
    """It is made again, or named no more."""
    assert await decided(bundle(), lost=True) == Make("the store has lost it")
    closed = replace(OFFER, streams=False)
    found = await decided(bundle("stream-v2"), kind="stream-v2", offer=closed, lost=True)
    assert found == Drop("the store has lost it")


async def test_a_stream_of_earlier() -> None:
    """It stays, though a draft forbids to make another, as long as all in it is offered."""
    offer = replace(OFFER, changesets=200, streams=False)
    found = await decided(bundle("stream-v2"), kind="stream-v2", offer=offer)
    assert isinstance(found, UpToDate)
    assert found.reason.startswith("100 changesets behind, and cannot be made again now")


async def test_a_target_that_did_not_read_it() -> None:
    """It is published again, whatever target is new."""
    targets = frozenset({"t-1", "t-3"})
    assert await decided(bundle(), targets=targets) == Publish(
        "it was not read back through 1 of 2 targets", bundle()
    )
    assert isinstance(await decided(bundle(), targets=frozenset({"t-1"})), UpToDate)
