# Law of this file: the graph answers from its arrays what the plain definition says.

from __future__ import annotations

from array import array
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repos.hg import nodes
from repos.hg.nodes import Dag, Revs, revs_of
from wire.hg.texts import NULL


@st.composite
def graphs(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Parents of each of some changesets, parents first."""
    size = draw(st.integers(0, 14))
    return [
        (draw(st.integers(-1, rev - 1)), draw(st.one_of(st.just(-1), st.integers(-1, rev - 1))))
        for rev in range(size)
    ]


def dag_of(graph: list[tuple[int, int]]) -> Dag:
    """The graph, with nodes that begin alike now and then."""
    rows = [
        (bytes((rev % 3,)) * 5 + bytes((rev + 1,)) * 15, p1, p2)
        for rev, (p1, p2) in enumerate(graph)
    ]
    middle = len(rows) // 2
    return Dag.empty().grown(rows[:middle]).grown(rows[middle:])


def ancestors(graph: list[tuple[int, int]], heads: set[int]) -> set[int]:
    """By the definition."""
    found: set[int] = set()
    todo = {head for head in heads if head >= 0}
    while todo:
        rev = todo.pop()
        found.add(rev)
        todo |= {parent for parent in graph[rev] if parent >= 0} - found
    return found


@given(graphs(), st.data())
def test_ancestors(graph: list[tuple[int, int]], data: st.DataObject) -> None:
    """Ancestors, descendants, heads and what others lack are as defined."""
    dag = dag_of(graph)
    some = st.sets(st.integers(-1, len(graph) - 1), max_size=4)
    heads, roots = data.draw(some), data.draw(some)
    mine = ancestors(graph, heads)
    assert set(revs_of(dag.ancestors(heads - {-1}))) == mine
    missing = list(dag.missing(roots, heads))
    assert missing == sorted(mine - ancestors(graph, roots), reverse=True)
    below = {rev for rev in range(len(graph)) if ancestors(graph, {rev}) & (roots - {-1})}
    assert set(revs_of(dag.descendants(roots - {-1}))) == below
    flags = dag.ancestors(heads - {-1})
    parents = {parent for rev in mine for parent in graph[rev]}
    assert dag.heads(flags) == sorted(mine - parents, reverse=True)


@given(graphs(), st.data())
def test_generations(graph: list[tuple[int, int]], data: st.DataObject) -> None:
    """Depth counts generations, each changeset at its nearest."""
    dag = dag_of(graph)
    starts = data.draw(st.sets(st.integers(-1, len(graph) - 1), max_size=3))
    depth = data.draw(st.integers(1, 6))
    found, front = set[int](), starts - {-1}
    for _ in range(depth):
        found |= front
        front = {parent for rev in front for parent in graph[rev] if parent >= 0}
    assert dag.generations(starts, depth) == found


@given(graphs())
def test_nodes(graph: list[tuple[int, int]]) -> None:
    """Each node leads to its number and back, and each prefix to all that it begins."""
    dag = dag_of(graph)
    for rev in range(len(graph)):
        node = dag.node(rev)
        assert dag.rev(node) == rev
        for digits in (1, 9, 10, 11, 12, 40):
            prefix = node.hex()[:digits].encode()
            begun = [dag.node(each).hex().encode().startswith(prefix) for each in range(len(dag))]
            expected = {each for each, begins in enumerate(begun) if begins}
            assert set(dag.beginning_with(prefix)) == expected
    assert (dag.rev(NULL), dag.node(-1)) == (-1, NULL)
    assert dag.rev(b"\xff" * 20) is None
    assert dag.rev(b"short") is None


@given(st.sets(st.integers(0, 60)))
def test_runs(numbers: set[int]) -> None:
    """A set is its uninterrupted stretches, each as long as it can be."""
    revs = Revs(array("i", sorted(numbers)))
    runs = list(revs.runs())
    assert [rev for first, last in runs for rev in range(first, last + 1)] == sorted(numbers)
    assert all(last + 1 < first for (_, last), (first, _) in pairwise(runs))
    assert {rev for rev in range(-1, 62) if rev in revs} == numbers
    assert "1" not in revs


def test_fingerprints() -> None:
    """A set's digest depends on its nodes alone, not on how they are numbered."""
    dag = dag_of([(-1, -1), (0, -1), (1, -1)])
    some = Revs(array("i", [0, 2]))
    assert dag.fingerprint(some) != dag.fingerprint(Revs(array("i", [0, 1])))
    fewer = Dag.empty().grown([(dag.node(0), -1, -1), (dag.node(2), 0, -1)])
    assert fewer.fingerprint(Revs(array("i", [0, 1]))) == dag.fingerprint(some)


def test_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """More changesets than can be numbered are refused, and said."""
    monkeypatch.setattr(nodes, "MAX_CHANGESETS", 2)
    with pytest.raises(ValueError, match="3 changesets; at most 2"):
        dag_of([(-1, -1)] * 3)
