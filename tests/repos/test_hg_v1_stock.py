# Law of this file: what we answer to protocol version 1 is byte for byte what stock `hg serve` of
# the same repositories answers, but for the roots of phases: hg tells hidden ones too.

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import pytest

from repos.hg import v1_answers
from repos.hg.errors import CommandError
from repos.hg.lookup import Lookups
from repos.hg.repository import HgSnapshot
from repos.hg.side_bundle import SideRequest, side_bundle
from tests.hg.session import Session
from tests.hg.versions import VERSIONS, hg
from tests.repos.hg_bundles import parts_of
from tests.repos.hg_kinds import Kinds
from tests.repos.hg_webdir import Webdir, webdir
from wire.hg.texts import NULL

KINDS = ("empty", "linear", "branches", "phases", "obsolete")

CAPABILITIES = {"bookmarks": (), "phases": ("heads",), "changegroup": ("01", "02")}
BUNDLECAPS = "HG20,bundle2=" + quote("HG20\nbookmarks\nchangegroup=01,02\nphases=heads")


@pytest.fixture(params=VERSIONS)
def stock(
    request: pytest.FixtureRequest, kinds: Kinds, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Webdir]:
    """A stock server of all kinds, of each version."""
    paths = {kind: kinds(kind).path.parent for kind in KINDS}
    with webdir(request.param, paths, tmp_path_factory.mktemp("webdir")) as served:
        yield served


def hexes(nodes: tuple[bytes, ...]) -> str:
    """Nodes as an argument."""
    return " ".join(node.hex() for node in nodes)


@pytest.fixture(scope="session")
def stored(kinds: Kinds) -> dict[str, tuple[bytes, ...]]:
    """By kind every changeset, served or not, where there are such that are not."""
    found = {}
    for kind in ("phases", "obsolete"):
        with Session(hg(), kinds(kind).path.parent) as session:
            said = session("--hidden", "log", "--rev", "all()", "--template", "{node}\n")
        found[kind] = tuple(bytes.fromhex(line.decode()) for line in said.split())
    return found


def told(snapshot: HgSnapshot, keys: bytes) -> bytes:
    """Keys that hg gave, sorted and without roots that are hidden."""
    lines = sorted(keys.split(b"\n")) if keys else []
    words = {line: line.partition(b"\t")[0].decode() for line in lines}
    return b"\n".join(
        line
        for line, word in words.items()
        if len(word) != 40 or snapshot.index.rev(bytes.fromhex(word)) is not None
    )


async def test_tiny_answers(
    stock: Webdir, kinds: Kinds, stored: dict[str, tuple[bytes, ...]]
) -> None:
    """Heads, branches, keys and what is known are the bytes of every stock version."""
    for kind in KINDS:
        snapshot = await kinds(kind).snapshot()
        assert v1_answers.heads(snapshot) == stock(kind, "heads")
        assert v1_answers.branchmap(snapshot) == stock(kind, "branchmap")
        nodes = (*stored.get(kind, snapshot.heads), NULL, b"\1" * 20)
        assert v1_answers.known(snapshot, nodes) == stock(kind, "known", nodes=hexes(nodes))
        for namespace in (b"bookmarks", b"namespaces", b"nothing"):
            said = stock(kind, "listkeys", namespace=namespace)
            assert v1_answers.listkeys(snapshot, namespace) == said
        said = told(snapshot, stock(kind, "listkeys", namespace="phases"))
        assert v1_answers.listkeys(snapshot, b"phases") == said
        has_markers = v1_answers.listkeys(snapshot, b"obsolete") is None
        assert (
            has_markers
            == (kind == "obsolete")
            == bool(stock(kind, "listkeys", namespace="obsolete"))
        )


async def test_side_bundles(stock: Webdir, kinds: Kinds) -> None:
    """Bookmarks and phases of all heads, and of each changeset, are the bytes of hg's bundle."""
    for kind in KINDS:
        snapshot = await kinds(kind).snapshot()
        served = tuple(map(snapshot.index.dag.node, snapshot.index.revs))
        some = (*served[1:3], *served[1:2], NULL)
        for heads in (None, snapshot.heads, some, *((node,) for node in served)):
            asked = SideRequest(True, True, (b"bookmarks",), heads, (), CAPABILITIES)
            arguments = {} if heads is None else {"heads": hexes(heads)}
            said = stock(
                kind,
                "getbundle",
                cg="0",
                bookmarks="1",
                phases="1",
                listkeys="bookmarks",
                bundlecaps=BUNDLECAPS,
                **arguments,
            )
            assert side_bundle(snapshot, asked) == said, (kind, heads)


async def test_side_bundles_of_one_part(stock: Webdir, kinds: Kinds) -> None:
    """Only what was asked for is in the bundle, nothing perhaps."""
    for kind in ("empty", "branches", "phases"):
        snapshot = await kinds(kind).snapshot()
        for bookmarks, phases in ((True, False), (False, True), (False, False)):
            asked = SideRequest(bookmarks, phases, (), snapshot.heads, (), CAPABILITIES)
            said = stock(
                kind,
                "getbundle",
                cg="0",
                bookmarks=str(int(bookmarks)),
                phases=str(int(phases)),
                bundlecaps=BUNDLECAPS,
                heads=hexes(snapshot.heads),
            )
            assert side_bundle(snapshot, asked) == said


async def test_side_bundles_with_phases_as_keys(stock: Webdir, kinds: Kinds) -> None:
    """Roots of phases are those that hg tells old clients, whose order it does not define."""
    for kind in KINDS:
        snapshot = await kinds(kind).snapshot()
        asked = SideRequest(False, True, (b"phases",), snapshot.heads, (), CAPABILITIES)
        (roots, keys), *ours = parts_of(side_bundle(snapshot, asked) or b"")
        (said_roots, said_keys), *said = parts_of(
            stock(
                kind,
                "getbundle",
                cg="0",
                phases="1",
                listkeys="phases",
                bundlecaps=BUNDLECAPS,
                heads=hexes(snapshot.heads),
            )
        )
        assert (roots, keys) == (said_roots, told(snapshot, said_keys))
        assert ours == said


async def test_names(stock: Webdir, kinds: Kinds) -> None:
    """Names that there are and names that there are not are answered alike."""
    repository = kinds("branches")
    snapshot = await repository.snapshot()
    lookups = Lookups(repository)
    names = (b"v1", b"stable", b"first", b"nothing", snapshot.heads[0].hex().encode())
    for name in names:
        said = stock("branches", "lookup", key=name)
        assert await looked_up(lookups, snapshot, name) == said


async def test_secret_names(kinds: Kinds) -> None:
    """A bookmark of a secret changeset is answered as if it were not there."""
    repository = kinds("phases")
    answer = await looked_up(Lookups(repository), await repository.snapshot(), b"hidden")
    assert answer == b"0 unknown revision 'hidden'\n"


async def looked_up(lookups: Lookups, snapshot: HgSnapshot, name: bytes) -> bytes:
    """The answer to a lookup."""
    try:
        return v1_answers.lookup(await lookups.lookup(snapshot, name))
    except CommandError as error:
        return v1_answers.lookup(error)
