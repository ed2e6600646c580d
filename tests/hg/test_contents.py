# Law of this file: manifests, files and the store itself, asked by hand, are what stock hg has.

from __future__ import annotations

import re
import struct
from hashlib import sha1
from pathlib import Path

import pytest

from tests.conftest import Serve, Served
from tests.hg.asking import (
    Record,
    dag,
    exchange,
    explicit,
    objects,
    records,
    request,
    serve_hg,
)
from tests.hg.conftest import Sources
from tests.hg.repositories import work
from tests.hg.stock_log import Stock
from tests.hg.versions import V2, hg
from wire.hg import cbor, delta
from wire.hg.cbor import Value

NULL = bytes(20)
KIND = "merges"
LINES = re.compile(rb"([^\0\n]+\0[0-9a-f]{40}[xlt]?\n)*")
EVERYTHING = frozenset({b"parents", b"revision", b"linknode"})


# --- manifests and files ------------------------------------------------------------------------


def rebuilt(found: list[Record], known: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """The texts of revisions, each checked by its node; ``known`` are those that a client has."""
    texts = dict(known)
    for each in found:
        if b"revision" in each.following:
            texts[each.node] = each.following[b"revision"]
        else:
            base = texts[each.fields[b"deltabasenode"]]
            texts[each.node] = delta.apply(base, each.following[b"delta"])
        p1, p2 = each.fields[b"parents"]
        assert sha1(min(p1, p2) + max(p1, p2) + texts[each.node]).digest() == each.node  # noqa: S324
    return texts


@pytest.mark.parametrize("haveparents", [True, False])
async def test_manifests(served: Served, stock: Stock, *, haveparents: bool) -> None:
    """Texts and deltas make the manifests that hg has, on bases that the client has."""
    lines = [line.split() for line in stock.log("all()", "{rev} {manifest % '{node}'}")]
    nodes = [bytes.fromhex(node) for _, node in lines]
    known: dict[bytes, bytes] = {}
    if haveparents:
        known[nodes[0]] = stock.raw("debugdata", "-m", nodes[0].hex())
        nodes = nodes[1:]
    items = await objects(
        served,
        KIND,
        "manifestdata",
        nodes=[*nodes],
        tree=b"",
        fields=frozenset({b"parents", b"revision"}),
        haveparents=haveparents,
    )
    found = records(items)
    assert items[0] == {b"totalitems": len(set(nodes))} == {b"totalitems": len(found)}
    texts = rebuilt(found, known)
    assert set(nodes) <= set(texts)
    for node in nodes:
        assert texts[node] == stock.raw("debugdata", "-m", node.hex())


async def test_deltas_of_manifests_are_of_whole_lines(serve: Serve, tmp_path: Path) -> None:
    """Stock clients read what a delta inserts as lines of a manifest, so each must be one."""
    with work(hg(V2), tmp_path / "root" / "repo") as made:
        for number in range(12):
            made.write(f"file {number}", "\n")
        # After so many changes of one short text, hg stores one against an older one.
        for number in range(30):
            made.commit(**{"file 4": f"{number}\n", "file 5": f"{number}\n"})
        log = made.hg("log", "-T", "{manifest % '{node}'}\n").decode().split()
    served = await serve_hg(serve, tmp_path / "root")
    fields = frozenset({b"parents", b"revision"})
    requests = [
        request(
            "manifestdata", nodes=[bytes.fromhex(node)], tree=b"", fields=fields, haveparents=True
        )
        for node in log
    ]
    deltas = 0
    for told in (await exchange(served, "repo", *requests)).answers:
        (record,) = records(told.objects)
        if b"delta" in record.following:
            deltas += 1
            for inserted in insertions(record.following[b"delta"]):
                assert LINES.fullmatch(inserted), inserted
    assert deltas > 20


def insertions(patch: bytes) -> list[bytes]:
    """What the hunks of a delta insert."""
    found = []
    at = 0
    while at < len(patch):
        _start, _end, size = struct.unpack_from(">III", patch, at)
        at += 12 + size
        found.append(patch[at - size : at])
    return found


@pytest.mark.parametrize("haveparents", [True, False])
async def test_one_file(served: Served, stock: Stock, *, haveparents: bool) -> None:
    """The revisions of a file are those of hg, with the changesets that brought them."""
    log = [line.split() for line in stock.raw("debugindex", "left").decode().splitlines()[1:]]
    nodes = stock.nodes("filelog('left')")
    files = [
        bytes.fromhex(line.split()[0])
        for node in nodes
        for line in stock.raw("manifest", "--debug", "-r", node.hex()).decode().splitlines()
        if line.endswith(" left")
    ]
    assert len(files) == len(log) > 1
    arguments: dict[str, Value] = {"path": b"left", "nodes": [*files], "haveparents": haveparents}
    items = await objects(served, KIND, "filedata", fields=EVERYTHING, **arguments)
    found = records(items)
    assert {record.node for record in found} == set(files)
    assert [record.fields[b"linknode"] for record in found] == nodes
    texts = rebuilt(found, {})
    for number, record in enumerate(found):
        assert texts[record.node] == stock.raw("debugdata", "left", str(number))
    bare = records(await objects(served, KIND, "filedata", **arguments))
    assert all(set(record.fields) == {b"node"} and not record.following for record in bare)


def by_path(items: list[cbor.Item]) -> dict[bytes, list[Record]]:
    """The records of an answer to ``filesdata``; its counts must be right."""
    found: dict[bytes, list[Record]] = {}
    path = b""
    for record in records(items):
        if b"path" in record.fields:
            path = record.fields[b"path"]
            assert path not in found
            found[path] = []
            left = record.fields[b"totalitems"]
        else:
            left -= 1
            found[path].append(record)
        assert left >= 0
    total = sum(map(len, found.values()))
    assert items[0] == {b"totalpaths": len(found), b"totalitems": total}
    assert list(found) == sorted(found)
    return found


async def files(served: Served, revisions: list[Value], **more: Value) -> dict[bytes, list[Record]]:
    """The files of some changesets."""
    return by_path(
        await objects(served, KIND, "filesdata", revisions=revisions, fields=EVERYTHING, **more)
    )


async def test_files_that_changesets_brought(served: Served, stock: Stock) -> None:
    """With its parents at hand, a client gets what each changeset introduced, and that alone."""
    tip: list[Value] = [dag([stock.node("1")], [stock.node("tip")])]
    found = await files(served, tip, haveparents=True)
    expected: dict[bytes, set[str]] = {}
    for line in stock.log("only(tip, 1)", "{node} {join(files, ' ')}"):
        node, *names = line.split()
        for name in names:
            expected.setdefault(name.encode(), set()).add(node)
    linked = {
        path: {record.fields[b"linknode"].hex() for record in each} for path, each in found.items()
    }
    assert linked == expected


async def test_files_of_a_snapshot(served: Served, stock: Stock) -> None:
    """Without its parents, a client gets every file of each changeset, whole."""
    tip = stock.node("tip")
    found = await files(served, [explicit(tip)])
    lines = stock.raw("manifest", "--debug").decode().splitlines()
    names = {line[47:]: line[:40] for line in lines}
    assert {path.decode(): each[0].node.hex() for path, each in found.items()} == names
    for path, (record,) in found.items():
        texts = rebuilt([record], {})
        text = texts[record.node]
        if text.startswith(b"\x01\n"):
            text = text.partition(b"\x01\n")[2].partition(b"\x01\n")[2]
        assert text == stock.raw("cat", "-r", "tip", path.decode())


@pytest.mark.parametrize(
    ("pathfilter", "revset"),
    [
        ({b"include": [b"path:docs"]}, "docs/**"),
        ({b"include": [b"path:README"]}, "README"),
        ({b"include": [b"rootfilesin:docs"]}, "docs/*"),
        ({b"include": [b"rootfilesin:"]}, "*"),
        ({b"include": [b"path:docs", b"path:tool"]}, "docs/** tool"),
        ({b"exclude": [b"path:docs", b"path:README"]}, "left link right third tool"),
        ({b"include": [b"path:docs"], b"exclude": [b"path:docs/COPY"]}, ""),
        ({b"include": [b"path:doc"]}, ""),
        ({b"include": [b"path:nothing"]}, ""),
    ],
)
async def test_path_filters(served: Served, stock: Stock, pathfilter: Value, revset: str) -> None:
    """Files are told that match an inclusion and no exclusion."""
    found = await files(served, [explicit(stock.node("tip"))], pathfilter=pathfilter)
    patterns = [f"glob:{pattern}" for pattern in revset.split()]
    said = stock.raw("files", "-r", "tip", *patterns) if patterns else b""
    assert list(found) == said.splitlines()


async def test_the_store_as_it_is(served: Served, stock: Stock, sources: Sources) -> None:
    """Raw files are those of the store, byte for byte."""
    items = await objects(served, KIND, "rawstorefiledata", files=[b"changelog", b"manifestlog"])
    store = sources.path(KIND) / ".hg" / "store"
    found: dict[str, bytes] = {}
    name = ""
    for item in items[1:]:
        if isinstance(item, dict):
            path = item[b"path"]
            assert isinstance(path, bytes)
            assert item[b"location"] == b"store"
            name = path.decode()
            found[name] = b""
        else:
            assert isinstance(item, cbor.Chunk)
            found[name] += item.data
    expected = {
        path.name: path.read_bytes()
        for path in store.iterdir()
        if path.name.startswith(("00changelog.", "00manifest.")) and path.suffix in {".i", ".d"}
    }
    assert found == expected
    total = sum(map(len, expected.values()))
    assert items[0] == {b"filecount": len(expected), b"totalsize": total}
