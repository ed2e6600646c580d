# Law of this file: whatever a repository is like and however its content comes, a clone of stock
# 5.9.3 by protocol v2 is the clone that stock `hg serve` gives.

from __future__ import annotations

import random
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.conftest import Serve
from tests.hg.asking import serve_hg
from tests.hg.cloning import Client, clone, talk
from tests.hg.conftest import Sources
from tests.hg.repositories import KINDS, SERVED_BY_STOCK_V2, work
from tests.hg.stock import SERVER_V2, client_encodings, serving
from tests.hg.versions import V1, V2, hg

INLINE = {"enabled": False}
ENCODINGS = ("identity", "zlib", "zstd-8mb")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_clone_that_is_redirected(
    serve: Serve, sources: Sources, client: Client, tmp_path: Path, kind: str
) -> None:
    """All content comes from locations; a stream clone, or what passes for one, is right too."""
    sources.path(kind)
    served = await serve_hg(serve, sources.root)
    assert await clone(served, client, kind, tmp_path / "plain") == sources.expected(kind)
    streamed = await clone(served, client, kind, tmp_path / "stream", "--stream")
    assert streamed == sources.expected(kind)
    # What is not all public cannot be copied: a plain clone is what such a client asks for then.
    streams = kind not in {"phases", "obsolete"}
    assert served.outcomes("rawstorefiledata") == ({"miss": 1} if streams else {})
    assert served.outcomes("manifestdata").get("redirect", 0) == (not streams)
    # Also heads are elsewhere: what came inline are two handshakes, frames and statuses.
    assert served.content()["inline"] < 7000
    assert served.content()["redirected"] > 0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_clone_that_comes_inline(
    serve: Serve, sources: Sources, client: Client, tmp_path: Path, kind: str
) -> None:
    """The same from the answers themselves in each encoding, and the second is not made anew."""
    sources.path(kind)
    served = await serve_hg(serve, sources.root, redirect=INLINE)
    for encoding in ENCODINGS:
        options = client_encodings(encoding)
        cloned = await client.clone(f"{served.url}/{kind}", tmp_path / encoding, *options)
        assert cloned == sources.expected(kind)
    assert served.content()["redirected"] == 0
    assert served.outcomes("changesetdata") == {"miss": 1, "hit": 2}


@pytest.mark.parametrize("kind", ["branches", "phases", "obsolete", "renames"])
async def test_the_oldest_hg_reads_repositories_as_well(
    serve: Serve, sources: Sources, client: Client, tmp_path: Path, kind: str
) -> None:
    """The server's own hg may be of the version that its clients have."""
    sources.path(kind)
    served = await serve_hg(serve, sources.root, version=V2)
    assert await client.clone(f"{served.url}/{kind}", tmp_path / "c") == sources.expected(kind)


@pytest.mark.parametrize("kind", ["branches", "merges", "phases"])
async def test_repositories_that_the_newest_hg_made(
    serve: Serve, sources: Sources, client: Client, tmp_path: Path, kind: str
) -> None:
    """What only newer versions write of a repository does not stand in a client's way."""
    (tmp_path / "root").mkdir()
    KINDS[kind](hg(V1[-1]), tmp_path / "root" / "repo")
    served = await serve_hg(serve, tmp_path / "root")
    for options in ((), ("--stream",)):
        to = tmp_path / f"clone{len(options)}"
        cloned = await client.clone(f"{served.url}/repo", to, *options)
        assert cloned == sources.expected(kind)


async def test_a_clone_of_part_of_a_repository(
    serve: Serve, sources: Sources, client: Client, tmp_path: Path
) -> None:
    """Revisions, branches and bookmarks name what stock `hg serve` gives for them."""
    source = sources.path("branches")
    served = await serve_hg(serve, sources.root)
    ours = f"{served.url}/branches"
    choices = (("--rev", "first"), ("--rev", "v2"), ("--branch", "stable"), ("--updaterev", "v1"))
    with serving(hg(V2), source) as stock:
        for number, choice in enumerate(choices):
            expected = await client.clone(stock, tmp_path / f"stock{number}", *choice)
            assert await client.clone(ours, tmp_path / f"clone{number}", *choice) == expected
    nothing = await talk(tmp_path, "clone", "--rev", "no-such", ours, "none")
    assert (nothing.returncode, b"Traceback" in nothing.stderr) == (255, False)
    assert b"no-such" in nothing.stderr


async def test_no_client_is_warned_of_hashes(
    serve: Serve, sources: Sources, tmp_path: Path
) -> None:
    """A client that cannot check hashes gets none, since it would warn its user of each."""
    sources.path("linear")
    served = await serve_hg(serve, sources.root)
    done = await talk(tmp_path, "clone", "--verbose", f"{served.url}/linear", "clone")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(f"(following redirect to {served.url}/-/blobs/".encode()) == 5
    assert b"hash" not in done.stdout


async def test_content_of_several_megabytes(serve: Serve, client: Client, tmp_path: Path) -> None:
    """An answer of more than eight megabytes, the size of windows, is whole in each encoding."""
    with work(hg(V2), tmp_path / "root" / "repo") as made:
        for number in range(9):
            made.write(f"{number}.bin", random.Random(number).randbytes(1 << 20))
        made.commit()
    served = await serve_hg(serve, tmp_path / "root", redirect=INLINE)
    for encoding in ENCODINGS:
        options = (*client_encodings(encoding), "--noupdate")
        cloned = await client.clone(f"{served.url}/repo", tmp_path / encoding, *options)
        assert len(cloned.changesets) == 1
    assert served.content()["inline"] > 3 * 9 << 20


async def test_repositories_that_are_not_there(
    serve: Serve, sources: Sources, tmp_path: Path
) -> None:
    """A client of a repository that does not exist ends in an error and no traceback."""
    served = await serve_hg(serve, sources.root)
    done = await talk(tmp_path, "clone", f"{served.url}/nothing", "clone")
    assert done.returncode == 255
    assert b"404" in done.stderr
    assert b"Traceback" not in done.stderr


async def test_stock_serves_all_but_renames(sources: Sources, tmp_path: Path) -> None:
    """Which kinds the server of 5.9.3 cannot give by its own protocol v2 is still so."""
    assert set(KINDS) - SERVED_BY_STOCK_V2 == {"renames"}
    with serving(hg(V2), sources.path("renames"), *SERVER_V2) as url:
        done = await talk(tmp_path, "clone", url, "clone")
    assert done.returncode == 255
    assert b"No such manifest entry" in done.stderr


async def test_a_repository_grows_between_clones(
    serve: Serve, sources: Sources, client: Client, tmp_path: Path
) -> None:
    """Each clone has what the repository has at its time, from the first changeset on."""
    source = sources.copy("empty", tmp_path / "root")
    served = await serve_hg(serve, tmp_path / "root")
    url = f"{served.url}/repo"
    assert not (await client.clone(url, tmp_path / "clone0")).changesets
    for number in range(1, 3):
        with work(hg(V2), source) as made:
            made.commit(f"number {number}", file=f"{number}\n")
        cloned = await client.clone(url, tmp_path / f"clone{number}")
        assert len(cloned.changesets) == number


async def test_repositories_in_directories(
    serve: Serve, sources: Sources, client: Client, tmp_path: Path
) -> None:
    """Repositories lie below directories of any name, also one called as the API is."""
    names = ("api/with space", "api/inner", "group/api")
    for name in names:
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        sources.copy("linear", tmp_path / "root", name)
    served = await serve_hg(serve, tmp_path / "root")
    for number, name in enumerate(names):
        url = f"{served.url}/{quote(name)}"
        assert await client.clone(url, tmp_path / str(number)) == sources.expected("linear")
