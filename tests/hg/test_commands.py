# Law of this file: names, heads and keys are those of stock hg; what may be elsewhere is there byte
# for byte; and what is wrong with a command is its status.

from __future__ import annotations

import pytest

from tests.conftest import Served
from tests.hg.asking import (
    SELF,
    call,
    dag,
    elsewhere,
    explicit,
    handshake,
    objects,
)
from tests.hg.conftest import Sources
from tests.hg.session import Session
from tests.hg.stock_log import Stock
from tests.hg.versions import V2, hg
from wire.hg import cbor
from wire.hg.cbor import Value
from wire.hg.messages import STATUS_OK, Failed

NULL = bytes(20)
KIND = "merges"


# --- names and heads ----------------------------------------------------------------------------


async def test_heads_and_branches(served: Served, branched: Stock) -> None:
    """Heads are those of hg, branches have theirs, closed ones too."""
    (heads,) = await objects(served, "branches", "heads")
    assert isinstance(heads, list)
    assert heads == branched.nodes("reverse(head() and heads(all()))")
    (public,) = await objects(served, "branches", "heads", publiconly=True)
    assert public == [NULL]  # it publishes, and yet all that it has are drafts
    (branches,) = await objects(served, "branches", "branchmap")
    expected: dict[bytes, set[bytes]] = {}
    for line in branched.log("head()", "{node} {branch}"):
        node, name = line.split()
        expected.setdefault(name.encode(), set()).add(bytes.fromhex(node))
    assert isinstance(branches, dict)
    assert {name: set(nodes) for name, nodes in branches.items() if isinstance(nodes, list)} == (
        expected
    )


async def test_heads_of_what_is_public(served: Served, sources: Sources) -> None:
    """``publiconly`` leaves drafts out."""
    with Session(hg(V2), sources.path("phases")) as session:
        (public,) = Stock(session).nodes("public()")
    assert await objects(served, "phases", "heads", publiconly=True) == [[public]]
    (heads,) = await objects(served, "phases", "heads")
    assert isinstance(heads, list)
    assert len(heads) == 2


async def test_known_keeps_the_order_of_its_question(served: Served, stock: Stock) -> None:
    """A digit for each node, in the order in which they were named."""
    one, two, other = stock.node("1"), stock.node("2"), b"\x02" * 20
    nodes: list[Value] = [other, two, one, other, two, NULL]
    assert await objects(served, KIND, "known", nodes=nodes) == [b"011011"]
    assert await objects(served, KIND, "known", nodes=nodes[::-1]) == [b"110110"]
    assert await objects(served, KIND, "known") == [b""]


@pytest.mark.parametrize(
    "key", ["0", "-1", "tip", "v1", "mine", "stable", "first", "@", "default", "finished", "null"]
)
async def test_lookup_of_every_kind_of_name(served: Served, branched: Stock, key: str) -> None:
    """Numbers, tags, branches and bookmarks mean what they mean to hg."""
    assert await objects(served, "branches", "lookup", key=key.encode()) == [branched.node(key)]


async def test_lookup_of_nodes_and_prefixes(served: Served, branched: Stock) -> None:
    """A node is itself, so is a prefix of only one; one of none, or of several, is an error."""
    node = branched.node("2")
    for length in (40, 12, 8):
        key = node.hex()[:length].encode()
        assert await objects(served, "branches", "lookup", key=key) == [node]
    for key in (b"f" * 40, b"no-such", b"", b"x" * 5000, b"\xff\xfe", b"100000"):
        told = await call(served, "branches", "lookup", key=key)
        assert isinstance(told.status, Failed), key


async def test_listkeys(served: Served, branched: Stock) -> None:
    """Each namespace has what hg has in it, and one that there is not has nothing."""

    async def keys(namespace: bytes, kind: str = "branches") -> Value:
        (found,) = await objects(served, kind, "listkeys", namespace=namespace)
        assert not isinstance(found, cbor.Chunk)
        return found

    marks = [line.rsplit(" ", 1) for line in branched.log("bookmark()", "{bookmarks} {node}")]
    assert await keys(b"bookmarks") == {name.encode(): node.encode() for name, node in marks}
    phases = await keys(b"phases")
    assert isinstance(phases, dict)
    assert phases[b"publishing"] == b"True"
    drafts = await keys(b"phases", "phases")
    assert isinstance(drafts, dict)
    assert b"publishing" not in drafts
    assert set(drafts.values()) == {b"1"}
    spaces = await keys(b"namespaces")
    assert isinstance(spaces, dict)
    assert {b"bookmarks", b"namespaces", b"phases"} <= set(spaces)
    assert await keys(b"nothing") == {}


async def test_capabilities_are_those_of_the_handshake(served: Served, sources: Sources) -> None:
    """The command tells what the handshake told."""
    told = await handshake(served, "branches")
    (said,) = await objects(served, "branches", "capabilities")
    assert isinstance(said, dict)
    assert told == said
    commands = said[b"commands"]
    assert isinstance(commands, dict)
    assert b"pushkey" not in commands
    assert b"rawstorefiledata" in commands


# --- inline and elsewhere -----------------------------------------------------------------------


async def test_the_same_bytes_inline_and_elsewhere(served: Served, stock: Stock) -> None:
    """What a location has is what the answer has after its status, for every command."""
    tip, first = stock.node("tip"), stock.node("0")
    manifest = bytes.fromhex(stock.log("tip", "{manifest % '{node}'}")[0])
    line = next(
        line for line in stock.raw("manifest", "--debug").decode().splitlines() if "left" in line
    )
    everything: Value = frozenset({b"parents", b"revision"})
    asked: dict[str, dict[str, Value]] = {
        "branchmap": {},
        "capabilities": {},
        "changesetdata": {"revisions": [dag([], [tip])], "fields": everything},
        "filedata": {
            "path": b"left",
            "nodes": [bytes.fromhex(line.split()[0])],
            "fields": everything,
        },
        "filesdata": {"revisions": [dag([first], [tip])], "fields": everything},
        "heads": {},
        "known": {"nodes": [tip]},
        "listkeys": {"namespace": b"phases"},
        "lookup": {"key": b"tip"},
        "manifestdata": {"nodes": [manifest], "tree": b"", "fields": everything},
        "rawstorefiledata": {"files": [b"changelog", b"manifestlog"]},
    }
    for name, args in asked.items():
        inline = await call(served, KIND, name, **args)
        assert inline.data == STATUS_OK + await elsewhere(served, KIND, name, **args), name


# --- what is wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("heads", {"odd": 1}, "unsupported argument to command: odd"),
        ("lookup", {}, "missing required arguments: key"),
        ("manifestdata", {"nodes": []}, "missing required arguments: tree"),
        ("known", {"nodes": b"x"}, "argument nodes must be of type list"),
        ("known", {"nodes": [b"x"]}, "nodes must be a list of nodes, which have 20 bytes"),
        ("heads", {"publiconly": 1}, "argument publiconly must be of type bool"),
        ("changesetdata", {"revisions": [1]}, "a revision specifier must be a map"),
        ("changesetdata", {"revisions": [{}]}, "type key not present in revision specifier"),
        (
            "changesetdata",
            {"revisions": [{b"type": b"x"}]},
            "unknown revision specifier type: x",
        ),
        (
            "changesetdata",
            {"revisions": [{b"type": b"changesetexplicit"}]},
            "nodes key not present in changesetexplicit revision specifier",
        ),
        (
            "changesetdata",
            {"revisions": [], "fields": frozenset({b"x"})},
            "argument fields has no value x",
        ),
        ("changesetdata", {"revisions": [explicit(b"\x01" * 20)]}, "01" * 20),
        ("filesdata", {"revisions": [dag([], [b"\x01" * 20])]}, "01" * 20),
        (
            "filesdata",
            {"revisions": [], "pathfilter": {b"include": [b"glob:*"]}},
            "glob:*",
        ),
        ("manifestdata", {"nodes": [b"\x01" * 20], "tree": b""}, "01" * 20),
        ("manifestdata", {"nodes": [], "tree": b"docs/"}, "docs/"),
        ("filedata", {"path": b"nothing", "nodes": [b"\x01" * 20]}, "nothing"),
        ("filedata", {"path": b"left", "nodes": [b"\x01" * 20]}, "01" * 20),
        ("rawstorefiledata", {"files": [b"secrets"]}, "secrets"),
    ],
)
async def test_errors_are_statuses(
    served: Served, stock: Stock, name: str, args: dict[str, Value], message: str
) -> None:
    """What is wrong with a command is its status, and says what, whatever the client accepts."""
    told = await call(served, KIND, name, **args)
    assert message in told.failure
    assert (await call(served, KIND, name, SELF, **args)).data == told.data
