# Law of this file: the decision is looked at without git, a store or a clock.

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.records import Part
from indexer.catalog import Bundle
from indexer.plan import BLOBLESS, FULL, Decision, Drop, Make, Publish, Skip, UpToDate, decide
from stores.entity import Entity

A, B = "a" * 40, "b" * 40

BUNDLE = Bundle(
    id="full-1",
    filter=None,
    pack=Part(Entity("a" * 64, 1000), "c" * 40),
    bundle_file=Entity("b" * 64, 1100),
    objects=100,
    tips=(A,),
    peeled={},
    created=1.0,
    creation_token=1,
    readable=("t-1", "t-2"),
    bundle_readable=("t-1", "t-2"),
)


@dataclass(frozen=True)
class Values:
    growth: float = 0.05
    min_objects: int = 1
    blobless: bool = True
    bundle_uri: bool = True


@dataclass
class Answers:
    """Answers as a test wants them; remembers what was asked."""

    is_reachable: bool = True
    new: int = 0
    total: int = 100
    is_stored: bool = True
    asked: list[str] = field(default_factory=list)

    async def reachable(self, tips: tuple[str, ...]) -> bool:
        """As set."""
        self.asked.append("reachable")
        return self.is_reachable

    async def new_objects(self, base: tuple[str, ...], filter_spec: str | None, limit: int) -> int:
        """As set, up to the limit and one."""
        self.asked.append(f"new_objects {filter_spec}")
        return min(self.new if base else self.total, limit + 1)

    async def stored(self, bundle: Bundle) -> bool:
        """As set."""
        self.asked.append("stored")
        return self.is_stored


async def plan(
    bundle: Bundle | None = BUNDLE,
    answers: Answers | None = None,
    *,
    tips: frozenset[str] = frozenset({A, B}),
    values: Values | None = None,
    targets: frozenset[str] = frozenset(),
    obstacle: str | None = None,
) -> Decision:
    """Decide about a full bundle."""
    return await decide(
        FULL,
        bundle,
        tips,
        values or Values(),
        targets=targets,
        obstacle=obstacle,
        questions=answers or Answers(),
    )


async def test_the_first_bundle_is_made() -> None:
    """Without a bundle one is made, and nobody needs to be asked."""
    answers = Answers()
    assert isinstance(await plan(None, answers), Make)
    assert answers.asked == []


async def test_a_fresh_bundle_is_left_alone() -> None:
    """Few new objects are answered by a small pack beside the bundle."""
    assert isinstance(await plan(answers=Answers(new=5)), UpToDate)


async def test_growth_makes_another() -> None:
    """More new objects than the share that the settings allow."""
    assert isinstance(await plan(answers=Answers(new=6)), Make)
    assert isinstance(await plan(answers=Answers(new=1), values=Values(growth=0.0)), Make)
    assert isinstance(await plan(answers=Answers(new=0), values=Values(growth=0.0)), UpToDate)


async def test_what_stock_git_would_not_send_is_replaced() -> None:
    """A tip that no ref reaches any more makes another bundle, however little is new."""
    decision = await plan(answers=Answers(is_reachable=False))
    assert isinstance(decision, Make)
    assert "no ref reaches" in decision.reason


async def test_what_the_store_lost_is_made_again() -> None:
    """A catalog that names what is not there is mended."""
    assert isinstance(await plan(answers=Answers(is_stored=False)), Make)


async def test_a_missing_bundle_file_is_made() -> None:
    """Bundle files that were switched on later come with the next run, and not else."""
    bundle = replace(BUNDLE, bundle_file=None, bundle_readable=())
    assert isinstance(await plan(bundle), Make)
    assert isinstance(await plan(bundle, values=Values(bundle_uri=False)), UpToDate)


@pytest.mark.parametrize("bundle", [None, BUNDLE])
@pytest.mark.parametrize(
    ("tips", "obstacle"), [(frozenset[str](), None), (frozenset({A}), "it is shallow")]
)
async def test_no_bundle_where_there_should_be_none(
    bundle: Bundle | None, tips: frozenset[str], obstacle: str | None
) -> None:
    """Of an empty or cut repository none is made, and one that there was is dropped."""
    answers = Answers()
    decision = await plan(bundle, answers, tips=tips, obstacle=obstacle)
    assert isinstance(decision, Skip if bundle is None else Drop)
    assert answers.asked == []


async def test_blobless_bundles_can_be_switched_off() -> None:
    """Then there are none, and the one that there was is dropped."""
    off = Values(blobless=False)
    blobless = replace(BUNDLE, filter="blob:none")
    for bundle, expected in ((None, Skip), (blobless, Drop)):
        decision = await decide(
            BLOBLESS,
            bundle,
            frozenset({A}),
            off,
            targets=frozenset(),
            obstacle=None,
            questions=Answers(),
        )
        assert isinstance(decision, expected)


async def test_small_repositories_get_none() -> None:
    """Below `min_objects` nothing is made, from there on it is."""
    values = Values(min_objects=50)
    assert isinstance(await plan(None, Answers(total=49), values=values), Skip)
    assert isinstance(await plan(None, Answers(total=50), values=values), Make)


async def test_a_repository_that_shrank_loses_its_bundle() -> None:
    """Too small for another one, and the old one may not be used."""
    values = Values(min_objects=50)
    shrunk = Answers(is_reachable=False, total=10)
    assert isinstance(await plan(BUNDLE, shrunk, values=values), Drop)


async def test_a_bundle_that_is_large_enough_is_proof() -> None:
    """The objects of a large repository are not counted again to see that it is not small."""
    answers = Answers()
    await plan(BUNDLE, answers, values=Values(min_objects=100))
    assert answers.asked == ["reachable", "stored", "new_objects None"]


async def test_a_blobless_bundle_grows_by_what_it_would_hold() -> None:
    """Blobs do not make a blobless bundle old."""
    answers = Answers()
    await decide(
        BLOBLESS,
        replace(BUNDLE, filter="blob:none"),
        frozenset({A}),
        Values(),
        targets=frozenset(),
        obstacle=None,
        questions=answers,
    )
    assert answers.asked[-1] == "new_objects blob:none"


async def test_a_new_target_is_published_to() -> None:
    """What was not read back through a target that is in use is published again."""
    both = frozenset({"t-1", "t-2"})
    assert isinstance(await plan(targets=both), UpToDate)
    assert isinstance(await plan(targets=both | {"t-3"}), Publish)
    half = replace(BUNDLE, bundle_readable=("t-1",))
    assert isinstance(await plan(half, targets=both), Publish)


@given(
    st.none() | st.just(BUNDLE),
    st.builds(
        Answers,
        st.booleans(),
        st.integers(0, 200),
        st.integers(0, 200),
        st.booleans(),
    ),
    st.builds(Values, st.floats(0, 2), st.integers(1, 300), st.booleans(), st.booleans()),
)
async def test_an_unreachable_bundle_never_stays(
    bundle: Bundle | None, answers: Answers, values: Values
) -> None:
    """Whatever else is true, it is replaced or dropped; what is not there is never dropped."""
    decision = await plan(bundle, answers, values=values)
    if bundle is None:
        assert isinstance(decision, Make | Skip)
    elif not answers.is_reachable:
        assert isinstance(decision, Make | Drop)
