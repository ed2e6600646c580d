# Law of this file: changesets are named and told as stock hg names and tells them.

from __future__ import annotations

import pytest

from tests.conftest import Served
from tests.hg.asking import (
    Record,
    dag,
    depth,
    explicit,
    objects,
    records,
)
from tests.hg.conftest import Sources
from tests.hg.session import Session
from tests.hg.stock_log import Stock
from tests.hg.versions import V2, hg
from wire.hg.cbor import Value

NULL = bytes(20)
KIND = "merges"


# --- which changesets ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("specifiers", "expected"),
    [
        (lambda n: [explicit(n(1), n(3))], "1+3"),
        (lambda n: [explicit(n(3)), explicit(n(1)), explicit(n(3))], "1+3"),
        (lambda n: [depth(1, n(5))], "5"),
        (lambda n: [depth(2, n(5))], "5+parents(5)"),
        (lambda n: [depth(3, n(3))], "::3"),
        (lambda n: [depth(100, n(5))], "::5"),
        (lambda n: [dag([], [n(5)])], "::5"),
        (lambda n: [dag([n(1)], [n(5)])], "only(5, 1)"),
        (lambda n: [dag([n(1), b"\x01" * 20], [n(3), n(4)])], "only(3+4, 1)"),
        (lambda n: [dag([n(5)], [n(1)])], "none()"),
        (lambda n: [dag([], [])], "none()"),
        (lambda n: [explicit(n(0)), dag([n(3)], [n(5)]), depth(1, n(1))], "0+1+only(5, 3)"),
    ],
)
async def test_revision_specifiers(
    served: Served, stock: Stock, specifiers: object, expected: str
) -> None:
    """Each kind, and their union, names the changesets that a revset of hg names."""
    assert callable(specifiers)
    revisions = specifiers(lambda rev: stock.node(str(rev)))
    items = await objects(served, KIND, "changesetdata", revisions=revisions)
    found = [record.node for record in records(items)]
    assert items[0] == {b"totalitems": len(found)}
    assert sorted(found) == sorted(stock.nodes(expected))
    assert len(found) == len(set(found))


async def test_parents_come_before_children(served: Served, stock: Stock) -> None:
    """Changesets come in an order in which a client can add them."""
    revisions: Value = [dag([], [stock.node("tip")])]
    items = await objects(
        served, KIND, "changesetdata", revisions=revisions, fields=frozenset({b"parents"})
    )
    seen = {NULL}
    for record in records(items):
        assert set(record.fields[b"parents"]) <= seen
        seen.add(record.node)
    assert len(seen) == len(stock.log("all()")) + 1


async def test_fields_of_changesets(served: Served, branched: Stock) -> None:
    """Each field says what hg says, and what is not asked for is not there."""
    revisions: Value = [dag([], branched.nodes("heads(all())"))]

    async def asked(*fields: bytes) -> list[Record]:
        return records(
            await objects(
                served, "branches", "changesetdata", revisions=revisions, fields=frozenset(fields)
            )
        )

    assert all(set(each.fields) == {b"node"} for each in await asked())
    full = await asked(b"bookmarks", b"parents", b"phase", b"revision")
    lines = [line.split() for line in branched.log("all()", "{node} {p1node} {p2node}")]
    said = {bytes.fromhex(node): rest for node, *rest in lines}
    marks = dict(line.split() for line in branched.log("bookmark()", "{node} {bookmarks}"))
    for each in full:
        p1, p2 = said.pop(each.node)
        assert each.fields[b"parents"] == [bytes.fromhex(p1), bytes.fromhex(p2)]
        # All are drafts, which a repository that publishes does not tell.
        assert each.fields[b"phase"] == b"public"
        mark = marks.pop(each.node.hex(), None)
        assert each.fields.get(b"bookmarks") == (None if mark is None else [mark.encode()])
        text = each.following[b"revision"]
        assert text == branched.raw("debugdata", "-c", each.node.hex())
    assert not said
    assert not marks


async def test_phases(served: Served, sources: Sources) -> None:
    """A repository that does not publish says of each changeset whether it is a draft."""
    with Session(hg(V2), sources.path("phases")) as session:
        lines = Stock(session).log("not secret()", "{node} {phase}")
        heads = Stock(session).nodes("heads(not secret())")
    items = await objects(
        served,
        "phases",
        "changesetdata",
        revisions=[dag([], heads)],
        fields=frozenset({b"phase"}),
    )
    found = {f"{each.node.hex()} {each.fields[b'phase'].decode()}" for each in records(items)}
    assert found == set(lines)


async def test_bookmarks_outside_of_what_is_asked(served: Served, branched: Stock) -> None:
    """Bookmarked changesets that were not asked for follow, by their names alone."""
    root = branched.node("0")
    items = await objects(
        served,
        "branches",
        "changesetdata",
        revisions=[explicit(root)],
        fields=frozenset({b"bookmarks"}),
    )
    assert items[0] == {b"totalitems": 1}
    found = {record.node.hex(): record.fields[b"bookmarks"] for record in records(items)}
    expected = dict(line.split() for line in branched.log("bookmark()", "{node} {bookmarks}"))
    assert found == {node: [mark.encode()] for node, mark in expected.items()}
