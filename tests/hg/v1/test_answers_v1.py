# Law of this file: over HTTP, too, what we answer is byte for byte what the `hg serve` behind us
# would have answered, and what we say that we can is that, and ours.

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from server.hg.v1.words import HEADER
from tests.conftest import Serve, Served
from tests.hg.asking import serve_hg
from tests.hg.session import Session
from tests.hg.v1.conftest import Shelf, publish
from tests.hg.v1.raw import BUNDLE2, NULL, bundle_arguments, put
from tests.hg.v1.reference import Reference
from tests.hg.versions import V2, hg

# About HTTP, which is ours.
OURS = {
    f"httpheader={HEADER}",
    "httpmediatype=0.1rx,0.1tx,0.2tx",
    "compression=zstd,zlib,none",
}
EACH = pytest.mark.parametrize("kind", ["empty", "branches", "phases", "obsolete"])

BUNDLES = {"clonebundles", "clonebundles_manifest"}


def nodes(repository: Path) -> list[str]:
    """Every changeset, served or not, those that are served first."""
    with Session(hg(V2), repository) as session:
        served = session("log", "--rev", "not secret()", "-T", "{node}\n").decode().split()
        every = session("log", "--hidden", "--rev", "all()", "-T", "{node}\n").decode().split()
    return [*served, *(node for node in every if node not in served)]


def questions(known: list[str]) -> list[tuple[str, dict[str, str]]]:
    """Small ones. What a hidden node is, stock hg tells who looks it up; we do not."""
    names = ("tip", "stable", "v1", "@", "hidden", "0", NULL, *known[:2])
    joined = " ".join([*known, NULL, "f" * 40])
    return [
        ("heads", {}),
        ("branchmap", {}),
        ("known", {"nodes": joined}),
        ("known", {"nodes": ""}),
        *(("lookup", {"key": name}) for name in names),
        *(
            ("listkeys", {"namespace": name})
            for name in ("bookmarks", "namespaces", "obsolete", "none")
        ),
        ("batch", {"cmds": f"heads ;known nodes={joined}"}),
        ("batch", {"cmds": "lookup key=tip;branchmap ;listkeys namespace=bookmarks"}),
        ("batch", {"cmds": "listkeys namespace=obsolete;heads "}),
        ("branches", {"nodes": " ".join(known)}),
        ("between", {"pairs": f"{known[0] if known else NULL}-{NULL}"}),
    ]


async def alike(
    served: Served, reference: Reference, repository: Path, command: str, arguments: dict[str, str]
) -> bytes:
    """What both answer; they must answer the same, or both refuse."""
    stock, name = reference.answers(), reference.name(repository)
    try:
        expected = await asyncio.to_thread(stock, name, command, **arguments)
    except (AssertionError, AttributeError):  # also one without a media type
        assert (await put(served, command, arguments)).error
        return b""
    said = await put(served, command, arguments)
    found = said.stream if command == "getbundle" else said.string
    assert found == expected, (command, arguments)
    return found


@EACH
async def test_small_answers(serve: Serve, shelf: Shelf, reference: Reference, kind: str) -> None:
    """Each alone and in batches."""
    served = await serve_hg(serve, shelf.root(kind), data=shelf.data(kind))
    repository = shelf.repository(kind)
    for command, arguments in questions(nodes(repository)):
        await alike(served, reference, repository, command, arguments)


@EACH
async def test_bundles(serve: Serve, shelf: Shelf, reference: Reference, kind: str) -> None:
    """Of all that is served, and of what is new since a changeset, or names alone."""
    served = await serve_hg(serve, shelf.root(kind), data=shelf.data(kind))
    repository = shelf.repository(kind)
    heads = (await put(served, "heads")).string.decode().strip()
    for common in (NULL, *nodes(repository)[:3], heads):
        for cg in "01":
            arguments = bundle_arguments(heads, common, cg=cg)
            assert await alike(served, reference, repository, "getbundle", arguments)
    with_markers = f"HG20,bundle2={BUNDLE2}%0Aobsmarkers%3DV0%2CV1"
    arguments = bundle_arguments(heads, bundlecaps=with_markers, obsmarkers="1")
    assert await alike(served, reference, repository, "getbundle", arguments)


@EACH
async def test_capabilities(
    serve: Serve, shelf: Shelf, reference: Reference, tmp_path: Path, kind: str
) -> None:
    """They are those of hg, but for words about HTTP, and clone bundles if there are any."""
    served = await serve_hg(serve, shelf.root(kind))
    stock, name = reference.answers(), reference.name(shelf.repository(kind))
    theirs = set((await asyncio.to_thread(stock, name, "capabilities")).decode().split(" "))
    http = {
        word for word in theirs if word.partition("=")[0] in {o.partition("=")[0] for o in OURS}
    }
    expected = theirs - http | OURS
    if kind in {"obsolete", "phases"}:  # what is hidden or secret in a store is not sent with it
        expected = {word.replace("%0Astream%3Dv2", "") for word in expected}
        expected = {word for word in expected if not word.startswith("streamreqs=")}
    assert set((await put(served, "capabilities")).string.decode().split(" ")) == expected
    await publish(served)
    found = set((await put(served, "capabilities")).string.decode().split(" "))
    assert found == (expected if kind == "empty" else expected | BUNDLES)
