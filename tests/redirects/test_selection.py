# Law of this file: the order of targets is as the settings say, the load is split by the weights,
# and what goes moves nothing but its own.

from __future__ import annotations

import math
from collections import Counter
from functools import cache
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redirects.acceptance import Acceptance, Client
from redirects.audience import PUBLIC
from redirects.decision import Inline, PassedOver, Reason, Redirect
from redirects.negotiation import Verdict, explain, locations, negotiate
from redirects.networks import network_of
from redirects.selection import Selection, Standing
from redirects.targets import HttpTarget, Target
from redirects.window import Window
from stores.entity import Entity

NOW = 1_700_000_100.0
BOTH = Acceptance(frozenset({"http", "https"}))
ENTITY = Entity("ab" * 32, 1 << 20)
NAMES = ("a", "b", "c", "d", "e")
TARGETS: tuple[Target, ...] = tuple(
    HttpTarget(name, f"https://{name}.example.org", Window(900, 21600)) for name in NAMES
)
EVERYWHERE = frozenset(target.fingerprint for target in TARGETS)

# Enough that a share of a tenth is met within 3 % of itself: one standard deviation is 0.9 %.
MANY = 100_000


@cache
def clients() -> tuple[Client, ...]:
    """Many clients, each of a network of its own."""
    return tuple(
        Client("https://git.example.org", None, network_of(IPv4Address(number << 8)))
        for number in range(MANY)
    )


def selection(*standings: Standing, other_regions: bool = True) -> Selection[Target]:
    """As many of the targets as there are standings."""
    named = dict(zip(NAMES, standings, strict=False))
    return Selection(TARGETS[: len(standings)], named, other_regions)


def order(
    chosen: Selection[Target], region: str | None = None, wanted: tuple[str, ...] | None = None
) -> str:
    """Names in order, for a client in ``region``."""
    client = Client("https://git.example.org", region, "192.0.2.0/24")
    found = chosen.order(client, ENTITY.digest, wanted)
    return "".join(candidate.target.name for candidate in found)


# --- what goes before what -----------------------------------------------------------------


def test_without_standings_the_order_is_that_of_the_targets() -> None:
    """As it always was: wherever a client is, the first goes first."""
    assert order(Selection(TARGETS)) == order(Selection(TARGETS), "eu") == "abcde"
    assert order(Selection.of(TARGETS[1], TARGETS[0])) == "ba"


def test_region_goes_before_priority() -> None:
    """Those of the region, those for everywhere, others; in each by priority."""
    chosen = selection(
        Standing(("us",), 1), Standing((), 1), Standing(("eu", "x"), 9), Standing((), 0),
        Standing(("e*",), 8),
    )  # fmt: skip
    assert order(chosen, "eu") == "ecdba"
    assert order(chosen, "us") == "adbec"
    assert order(chosen, None) == "dbaec"
    assert order(chosen, "nowhere") == "dbaec"


def test_the_clients_own_order_decides_alone() -> None:
    """Whatever is nearer; what it does not list comes last."""
    chosen = selection(Standing(("eu",), 1), Standing((), 1), Standing((), 0))
    assert order(chosen, "eu", ("b", "a")) == "bac"
    assert order(chosen, "eu", ("c", "nobody", "c", "b")) == "cba"


def test_other_regions_can_be_forbidden() -> None:
    """Then who has none of its own, and none for everywhere, gets everything inline."""
    chosen = selection(Standing(("us",)), Standing(("eu",)), other_regions=False)
    for region in ("asia", None):
        assert decide(chosen, region) == Inline(
            Reason.NO_TARGET,
            (PassedOver("a", Reason.WRONG_REGION), PassedOver("b", Reason.WRONG_REGION)),
        )
    eu = decide(chosen, "eu")
    assert isinstance(eu, Redirect)
    assert (eu.location.target, eu.passed_over) == ("b", ())


def test_what_has_no_weight_is_never_named() -> None:
    """Not even if nothing else is left, and not to a client that asks for it by name."""
    chosen = selection(Standing(("eu",), weight=0))
    none = Inline(Reason.NO_TARGET, (PassedOver("a", Reason.NO_WEIGHT),))
    assert decide(chosen, "eu") == none
    assert decide(chosen, "eu", Acceptance(BOTH.protocols, ("a",))) == none


@pytest.mark.parametrize("weight", [-1.0, math.inf, math.nan])
def test_weights_are_numbers(weight: float) -> None:
    """Nothing is a share of infinity."""
    with pytest.raises(ValueError, match="weight"):
        Standing(weight=weight)


standings = st.builds(
    Standing,
    st.lists(st.sampled_from(["eu", "us", "*"]), max_size=2).map(tuple),
    st.integers(-2, 2),
    st.sampled_from([0.0, 0.5, 1.0, 7.0]),
)


@given(
    st.lists(standings, min_size=5, max_size=5),
    st.sampled_from([None, "eu", "us", "x"]),
    st.booleans(),
    st.none() | st.lists(st.sampled_from(NAMES), max_size=5).map(tuple),
)
def test_every_target_comes_once(
    given_: list[Standing], region: str | None, other: bool, wanted: tuple[str, ...] | None
) -> None:
    """Whatever the settings: none is lost, and those that are barred come last."""
    chosen = selection(*given_, other_regions=other)
    assert sorted(order(chosen, region, wanted)) == list(NAMES)
    client = Client("https://git.example.org", region)
    barred = [candidate.bar is not None for candidate in chosen.order(client, ENTITY.digest)]
    assert barred == sorted(barred)


# --- the lot ---------------------------------------------------------------------------------


def shares(chosen: Selection[Target]) -> Counter[str]:
    """How many of the clients are sent to each target."""
    return Counter(next(chosen.order(c, ENTITY.digest)).target.name for c in clients())


def test_the_load_is_split_by_the_weights() -> None:
    """Within 3 % of what each weight says, over many clients."""
    weights = (1.0, 2.0, 3.0, 4.0)
    found = shares(selection(*(Standing(weight=weight) for weight in weights)))
    for name, weight in zip(NAMES, weights, strict=False):
        assert found[name] == pytest.approx(MANY * weight / sum(weights), rel=0.03)


def test_contents_are_spread_as_well() -> None:
    """One network asks for many things: these are split by the weights, too."""
    chosen = selection(Standing(weight=1), Standing(weight=3))
    client = clients()[7]
    digests = (
        f"{number * 0x9E3779B97F4A7C15 % (1 << 64):016x}" + "0" * 48 for number in range(20000)
    )
    found = Counter(next(chosen.order(client, digest)).target.name for digest in digests)
    assert found["b"] == pytest.approx(15000, rel=0.03)


def test_what_goes_moves_only_its_own() -> None:
    """Whoever was not sent to it stays where it was; the others spread as the weights say."""
    equals = [Standing(weight=weight) for weight in (1.0, 2.0, 3.0, 4.0)]
    with_all, without = selection(*equals), selection(*equals[:3])
    moved: Counter[str] = Counter()
    for client in clients()[:50_000]:
        first, second = list(with_all.order(client, ENTITY.digest))[:2]
        now = next(without.order(client, ENTITY.digest)).target.name
        if first.target.name == "d":
            moved[now] += 1
            assert now == second.target.name
        else:
            assert now == first.target.name
    assert sum(moved.values()) == pytest.approx(20_000, rel=0.03)
    assert moved["c"] == pytest.approx(10_000, rel=0.05)


def test_the_lot_is_the_same_everywhere() -> None:
    """Another process, another machine, another day: written down, so that it cannot change."""
    chosen = selection(*(Standing() for _ in NAMES))
    assert [
        "".join(candidate.target.name for candidate in chosen.order(client, digest))
        for client in clients()[:3]
        for digest in (ENTITY.digest, "cd" * 32, "")
    ] == ["cbead", "dbaec", "adcbe", "baecd", "daebc", "bcade", "caebd", "decba", "dbeac"]


# --- what is said of it ----------------------------------------------------------------------


def decide(
    chosen: Selection[Target],
    region: str | None,
    acceptance: Acceptance = BOTH,
    readable: frozenset[str] = EVERYWHERE,
    down: frozenset[str] = frozenset(),
) -> Inline | Redirect:
    """Negotiate for a client in ``region``."""
    client = Client("https://git.example.org", region, "192.0.2.0/24")
    return negotiate(
        acceptance,
        ENTITY,
        chosen,
        client,
        NOW,
        readable=readable,
        down=down,
        min_size=0,
        enabled=True,
    )


def explained(
    chosen: Selection[Target],
    acceptance: Acceptance = BOTH,
    *,
    readable: frozenset[str] = EVERYWHERE,
    down: frozenset[str] = frozenset(),
    enabled: bool = True,
) -> tuple[Inline | Redirect, dict[str, Reason | None]]:
    """Explain for a client in Europe; verdicts by name, in order."""
    client = Client("https://git.example.org", "eu", "192.0.2.0/24")
    decision, verdicts = explain(
        acceptance,
        ENTITY,
        chosen,
        client,
        NOW,
        readable=readable,
        down=down,
        min_size=0,
        enabled=enabled,
    )
    return decision, {verdict.target: verdict.reason for verdict in verdicts}


def test_every_target_has_a_verdict() -> None:
    """Those before the one that is named, and those behind it."""
    chosen = selection(
        Standing(("us",)), Standing((), 1), Standing(("eu",), 1), Standing(("eu",), 2),
        Standing(("eu",), 0),
    )  # fmt: skip
    down = frozenset({TARGETS[4].fingerprint})
    decision, verdicts = explained(chosen, down=down)
    assert isinstance(decision, Redirect)
    assert decision.location.target == "c"
    assert list(verdicts.items()) == [
        ("e", Reason.DOWN),
        ("c", None),
        ("d", Reason.LOWER_PRIORITY),
        ("b", Reason.NEARER_TARGET),
        ("a", Reason.NEARER_TARGET),
    ]


def test_equals_are_passed_over_by_weight() -> None:
    """Who draws the greater lot is told so, unless it could not be named anyway."""
    chosen = selection(*(Standing() for _ in NAMES))
    _, verdicts = explained(chosen, readable=EVERYWHERE - {TARGETS[0].fingerprint})
    assert verdicts.pop("a") is Reason.NOT_PUBLISHED
    assert sorted(map(str, verdicts.values())) == ["None", *["Reason.BY_WEIGHT"] * 3]


def test_the_clients_order_is_a_reason() -> None:
    """Those behind it in the client's list, and those that are not in it."""
    _, verdicts = explained(
        selection(Standing(), Standing(), Standing()), Acceptance(BOTH.protocols, ("b", "a"))
    )
    assert verdicts == {
        "b": None,
        "a": Reason.CLIENTS_ORDER,
        "c": Reason.TARGET_NOT_ACCEPTED,
    }


def test_what_goes_inline_anyway_is_explained_too() -> None:
    """The decision says why; the verdicts say what targets would have done."""
    decision, verdicts = explained(selection(Standing(("eu",)), Standing()), enabled=False)
    assert decision == Inline(Reason.DISABLED)
    assert verdicts == {"a": None, "b": Reason.NEARER_TARGET}


@given(
    st.lists(standings, min_size=5, max_size=5),
    st.sampled_from([None, "eu", "us"]),
    st.frozensets(st.sampled_from(sorted(EVERYWHERE))),
    st.frozensets(st.sampled_from(sorted(EVERYWHERE))),
    st.booleans(),
)
def test_an_explanation_is_the_decision(
    given_: list[Standing],
    region: str | None,
    readable: frozenset[str],
    down: frozenset[str],
    other: bool,
) -> None:
    """What is explained is what is decided, and what clients of manifests get first."""
    chosen = selection(*given_, other_regions=other)
    client = Client("https://git.example.org", region, "192.0.2.0/24")
    decision, verdicts = explain(
        BOTH, ENTITY, chosen, client, NOW, readable=readable, down=down, min_size=0, enabled=True
    )
    assert decision == decide(chosen, region, readable=readable, down=down)
    assert len(verdicts) == len(NAMES)
    listed = list(
        locations(BOTH, ENTITY, chosen, client, NOW, readable=readable, down=down, audience=PUBLIC)
    )
    if isinstance(decision, Redirect):
        assert [v for v in verdicts if v.reason is None] == [
            Verdict(decision.location.target, None)
        ]
        assert listed[0] == decision.location
    else:
        assert listed == []
