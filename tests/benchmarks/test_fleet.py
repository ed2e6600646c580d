# Law of this file: a short day shows what a long one promises, as far as chance lets it; and a day
# with a broken engine shows that it is broken.

from __future__ import annotations

import asyncio
import json
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks import fleet, fleet_day
from benchmarks.fleet_clock import simulate
from benchmarks.fleet_faults import Manner, Outage, Timeline
from benchmarks.fleet_figures import Result
from benchmarks.fleet_picture import draw
from benchmarks.fleet_tally import Cause, Tally
from benchmarks.fleet_world import STANDINGS, Effort, World
from benchmarks.table import Report
from redirects.health import Rules
from redirects.locality import Locality
from server.health import Health

SHORT = Effort(4_000, 12_000, 3_600.0, machines=1, processes=2)
RULES = Rules()

# Deviations of this many standard deviations are not of chance.
SURE = 4.5


@pytest.fixture(scope="module")
def world() -> World:
    """The world of a short day."""
    return World.draw(SHORT, 6)


@pytest.fixture(scope="module")
def tally(world: World) -> Tally:
    """What happened on it."""
    return fleet_day.live(world, RULES, 30.0, 6)


@pytest.fixture(scope="module")
def result(world: World, tally: Tally) -> Result:
    """Its figures."""
    return Result.of(world, tally, RULES)


# --- the promises ----------------------------------------------------------------------------


def test_the_load_is_split_by_the_weights(result: Result) -> None:
    """Of those targets that are alive; and where none of a continent is, all go to the last one."""
    for share in result.shares:
        assert abs(share.deviation) <= 0.03 + SURE * share.chance, share
    out = [s for s in result.shares if (s.phase, s.continent) == ("us-a and us-b are dead", "us")]
    assert [(s.target, s.share) for s in out] == [("cdn", 1.0)]


def test_what_goes_moves_only_its_own(result: Result) -> None:
    """One of n equals: a share of 1/n, and nobody who was not sent there."""
    for moves, equals in ((result.continent, 3), (result.alike, 8)):
        assert moves.equals == equals
        chance = ((equals - 1) / moves.clients) ** 0.5
        assert moves.by_share == pytest.approx(1, abs=SURE * chance)
        assert moves.needlessly == 0


def test_nobody_is_sent_to_what_is_known_to_be_down(result: Result) -> None:
    """Not once, and after a death nobody is sent there for longer than an interval."""
    assert result.known == 0
    died = {each.target: each for each in result.failures}
    assert died.keys() == {"us-a", "us-b", "eu-b", "ap-a"}
    assert max(each.latest for each in died.values()) <= RULES.interval
    assert died["us-a"].dead > 0
    assert died["us-a"].risen is not None
    assert died["eu-b"].risen is None


def test_who_failed_gets_it(result: Result) -> None:
    """All that fail try again, and get it then."""
    assert sum(each.dead + each.under_way for each in result.failures) == result.rescued
    assert result.failed_again == 0


def test_no_session_moves_to_a_mirror_that_lags(result: Result) -> None:
    """Some move, and of those that would have, some are kept."""
    assert result.sessions["moved"] > 0
    assert result.sessions["mirror_stale"] > 0
    assert result.stale == 0


def test_every_answer_is_counted(world: World, result: Result) -> None:
    """What was asked for was redirected, sent inline, or asked for at the mirror."""
    failed = sum(each.dead + each.under_way for each in result.failures)
    answers = result.redirects + sum(result.inline.values()) + result.sessions["moved"]
    assert answers - failed == len(world.jobs)


def test_a_broken_engine_is_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that forget what they know of targets break the promises."""
    monkeypatch.setattr(Health, "down", lambda _self: frozenset())
    broken = Result.of(world, fleet_day.live(world, RULES, 30.0, 6), RULES)
    missed = {goal.name for goal in broken.goals() if not goal.reached}
    assert {
        "fleet: redirects to a target known to be down",
        "fleet: last redirect after a death, by interval",
        "fleet: clients that failed twice",
    } <= missed


# --- the world and its clock -------------------------------------------------------------------


def test_the_same_seed_is_the_same_day(world: World) -> None:
    """Networks, clients and downloads; another seed is another day."""
    again, other = World.draw(SHORT, 6), World.draw(SHORT, 7)
    assert (again.callers, again.jobs) == (world.callers, world.jobs)
    assert other.jobs != world.jobs


def test_clients_are_where_their_addresses_are(world: World) -> None:
    """Each in one of six regions, which servers find by its network."""
    locality = Locality(world.table)
    assert all(locality.find(c.address).region == c.region for c in world.callers)
    assert len({caller.region for caller in world.callers}) == 6


def test_outages_are_found() -> None:
    """One that there is, one that begins before an end, and none."""
    first, second = (
        Outage("a", start, end, Manner.REFUSES) for start, end in ((10.0, 20.0), (30.0, 40.0))
    )
    timeline = Timeline([second, first])
    assert [timeline.at(now) for now in (9.9, 10.0, 19.9, 20.0, 35.0)] == [
        None, first, first, None, second,
    ]  # fmt: skip
    assert timeline.within(5.0, 50.0) == first
    assert timeline.within(10.0, 30.0) == second
    assert timeline.within(10.0, 29.9) is None
    assert Timeline([]).within(0.0, 9.0) is None


def test_phases_do_not_overlap(world: World) -> None:
    """Nothing is compared with weights while something settles."""
    phases = world.calendar.phases
    for one, other in pairwise(phases):
        assert one.end <= other.start
        assert world.calendar.phase(other.start - 1) is (one if one.end == other.start else None)
    assert world.calendar.phase(phases[3].start) is phases[3]


def test_waiting_takes_no_time() -> None:
    """What sleeps wakes in order, at its time by the clock, and the clock never goes back."""
    seen: list[tuple[float, str]] = []

    async def main() -> None:
        clock = asyncio.get_running_loop().time

        async def sleep(seconds: float, name: str) -> None:
            await asyncio.sleep(seconds)
            seen.append((clock(), name))

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5e5):
                await asyncio.gather(sleep(86_400, "b"), sleep(0.25, "a"), sleep(1e6, "c"))
        seen.append((clock(), "end"))

    simulate(main)
    assert seen == [(0.25, "a"), (86_400.0, "b"), (5e5, "end")]


def test_waiting_for_nothing_is_told() -> None:
    """A simulation that cannot go on says so, and does not hang."""

    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="will not come"):
        simulate(main)


# --- what is shown ---------------------------------------------------------------------------


def test_the_picture_is_of_the_day(tally: Tally) -> None:
    """Each target that was named, what happened, for light and dark; the same each time."""
    picture = draw(tally)
    assert picture == draw(tally)
    root = ET.fromstring(picture)  # noqa: S314 - our own
    words = {"".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {*STANDINGS, *(what for *_, what in tally.calendar.events)} <= words
    assert "prefers-color-scheme:dark" in picture
    areas = [each.get("class") for each in root.iter("{http://www.w3.org/2000/svg}path")]
    assert areas == [*STANDINGS, "moved", "stayed", "dead", "under"]
    tally.failed[0, "us-a", Cause.NAMED_DEAD] += 1
    assert picture != draw(tally)
    tally.failed[0, "us-a", Cause.NAMED_DEAD] -= 1


def test_it_prints_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As JSON on demand, with all that there is."""
    monkeypatch.setattr(fleet, "QUICK", Effort(300, 600, 600.0, machines=1, processes=1))
    assert fleet.main(["--quick", "--json", "--svg", str(tmp_path / "day.svg")]) == 0
    assert json.loads(capsys.readouterr().out)["interval"] == RULES.interval
    assert (tmp_path / "day.svg").read_text().startswith("<svg")
    assert fleet.main(["--quick", "--interval", "5"]) == 0
    assert "Load by weight" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        fleet.main(["--interval", "0"])
    assert "greater than" in capsys.readouterr().err
    report = Report()
    fleet.measure(report, lambda _: None, quick=True)
    assert len(report.goals) == 11
