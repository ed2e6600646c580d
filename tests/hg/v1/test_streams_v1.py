# Law of this file: the store's own files are sent where all in them is served; elsewhere no word
# says that they were, and clients clone as if they had not asked. What is sent is compressed.

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.conftest import Serve, Served
from tests.hg.asking import serve_hg
from tests.hg.repositories import work
from tests.hg.v1.conftest import NEWEST, REPO, Shelf
from tests.hg.v1.raw import NULL, bundle_arguments, put
from tests.hg.v1.reference import Reference
from tests.hg.v1.test_redirects_v1 import counting
from tests.hg.versions import V2, VERSIONS, hg
from wire.hg.v1.capabilities import Capabilities, decode_bundle2

KINDS: dict[str, dict[str, Any]] = {
    "obsolete": {},
    "phases": {},
    "linear": {"stream_clones": False},
}
EACH = pytest.mark.parametrize("kind", KINDS)

STREAMING = quote("HG20\nbookmarks\nchangegroup=01,02\nphases=heads\nstream=v2")


async def served_kind(serve: Serve, shelf: Shelf, kind: str) -> Served:
    """A server that streams nothing of its repository."""
    data = shelf.data(f"{kind} without streams")
    return await serve_hg(serve, shelf.root(kind), data=data, hg=KINDS[kind])


async def words(served: Served) -> tuple[set[str], set[str]]:
    """What is said of streams: in the capabilities, and of bundles."""
    said = Capabilities.parse((await put(served, "capabilities")).string)
    bundle2 = decode_bundle2((said.value("bundle2") or "").encode())
    return (
        {word for word in said.words if word.startswith("stream")},
        {name for name in bundle2 if name.startswith("stream")},
    )


@EACH
async def test_no_word_of_streams(serve: Serve, shelf: Shelf, kind: str) -> None:
    """Neither in the capabilities nor in `hello`, which says the same."""
    served = await served_kind(serve, shelf, kind)
    assert await words(served) == (set(), set())
    capabilities = (await put(served, "capabilities")).string
    assert (await put(served, "hello")).string == b"capabilities: %b\n" % capabilities


async def test_words_of_streams(serve: Serve, shelf: Shelf) -> None:
    """Where all is served and streams are allowed, both say so."""
    served = await serve_hg(serve, shelf.root("linear"), data=shelf.data("linear"))
    said, of_bundles = await words(served)
    assert {word.partition("=")[0] for word in said} & {"stream", "streamreqs"}
    assert of_bundles == {"stream"}
    capabilities = (await put(served, "capabilities")).string
    assert (await put(served, "hello")).string == b"capabilities: %b\n" % capabilities
    assert (await put(served, "stream_out")).string.startswith(b"0\n")


@EACH
async def test_who_asks_for_a_stream_all_the_same(serve: Serve, shelf: Shelf, kind: str) -> None:
    """It is told that there is none, in each command's words."""
    served = await served_kind(serve, shelf, kind)
    assert (await put(served, "stream_out")).string == b"1\n"
    head = (await put(served, "heads")).string.decode().split()[0]
    caps = f"HG20,bundle2={STREAMING}"
    for heads in (head, NULL):
        asked = bundle_arguments(heads, bundlecaps=caps, cg="0", stream="1")
        assert "clone without --stream" in (await put(served, "getbundle", asked)).error


@pytest.mark.parametrize("version", VERSIONS)
@EACH
async def test_a_clone_that_would_be_a_stream(
    serve: Serve, shelf: Shelf, reference: Reference, tmp_path: Path, *, kind: str, version: str
) -> None:
    """It is the clone of who does not ask for one: whole, and with nothing that is hidden."""
    served = await served_kind(serve, shelf, kind)
    person, url = reference.person(version), f"{served.url}/{REPO}"
    copy, said = await person.clone(url, tmp_path / "clone", "--stream")
    assert copy == await reference.expected(version, shelf.repository(kind))
    assert "files to transfer" not in said


# --- what hg sends by itself ----------------------------------------------------------------------

LINE = "what is said again and again compresses well\n"


async def test_a_repository_without_an_index(
    serve: Serve, shelf: Shelf, reference: Reference, tmp_path: Path
) -> None:
    """A clone of one that hg alone can answer for is compressed on its way."""
    root = shelf.place / "trees"
    root.mkdir()
    with work(hg(V2), root / REPO, "experimental.treemanifest=true") as made:
        made.commit(**{"directory/file": LINE * 20_000})
    served = await serve_hg(serve, root)
    person = reference.person(NEWEST)
    async with counting(served) as relay:
        copy, _ = await person.clone(f"{relay.url}/{REPO}", tmp_path / "clone")
    assert copy == await reference.anew(NEWEST, root / REPO)
    assert served.outcomes("getbundle") == {"passthrough": 1}
    # The bundle has the file as it is.
    assert relay.sent * 2 <= len(LINE) * 20_000
