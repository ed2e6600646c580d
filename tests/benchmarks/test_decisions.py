# Law of this file: what is measured is what is said: networks, targets and regions as told.

from __future__ import annotations

from benchmarks.decisions import PREFIXES, TARGETS, World, measure
from benchmarks.table import Report
from redirects.locality import Locality


def test_the_world_is_as_it_is_told() -> None:
    """So many networks and targets, each client in one of the networks, and each year the same."""
    world = World.make(200)
    assert world.table.size == PREFIXES
    assert len(world.targets) == TARGETS
    locality = Locality(world.table)
    assert all(locality.find(address).region for address in world.addresses)
    assert World.make(200).addresses == world.addresses
    groups = world.selection(equal=False)._ranked("region-3")
    assert [len(group.candidates) for group in groups] == [3, 2, 15]
    (everyone,) = world.selection(equal=True)._ranked("region-3")
    assert len(everyone.candidates) == TARGETS


def test_it_measures() -> None:
    """Three goals and what explains them."""
    report = Report()
    measure(report, lambda _: None, clients=100)
    assert len(report.figures) == 3
    assert len(report.goals) == 3
    assert all(goal.value > 0 for goal in report.goals)
