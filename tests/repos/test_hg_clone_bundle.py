# Law of this file: what is made is taken by stock hg, has all that is offered and nothing else, and
# whatever hg does wrong is told.

from __future__ import annotations

import hashlib
import os
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from repos.hg.bundle_file import GZIP, ZSTD, BundleFile
from repos.hg.bundle_reading import BadBundle, Changesets, StoreFiles
from repos.hg.clone_bundle import STREAM, Made, make_bundles, make_stream_bundle
from repos.hg.offered import NotOffered, offer_of, offered, offered_heads
from repos.hg.program import Hg, HgFailed
from repos.hg.repository import HgRepository
from tests.hg.repositories import linear
from tests.hg.session import Session
from tests.hg.versions import VERSIONS, hg
from tests.repos.hg_kinds import Kinds
from tests.repos.hg_replay import stock

LEVEL = 3


def unwatched() -> None:
    """Nobody wants to end the work."""


def made_of(repository: HgRepository, place: Path, *, publishing: bool = True) -> dict[str, Made]:
    """The bundles of changesets, by kind."""
    every = make_bundles(
        repository.hg,
        repository.path.parent,
        {kind: place / kind for kind in (ZSTD, GZIP)},
        publishing=publishing,
        level=LEVEL,
        told=unwatched,
    )
    return {made.kind: made for made in every}


def streamed(repository: HgRepository, path: Path) -> Made:
    """The bundle of the store's files."""
    return make_stream_bundle(repository.hg, repository.path.parent, path, unwatched)


@pytest.mark.parametrize("version", VERSIONS)
async def test_stock_clients_take_them(newer_kinds: Kinds, version: str, tmp_path: Path) -> None:
    """What they have then is whole, and is the repository."""
    repository = newer_kinds("branches")
    snapshot = await repository.snapshot()
    every = [*made_of(repository, tmp_path).values(), streamed(repository, tmp_path / STREAM)]
    with Session(hg(version, zstd=True), tmp_path) as session:
        for made in every:
            clone = tmp_path / f"of-{made.kind}"
            session("init", clone)
            session("-R", clone, "unbundle", "--quiet", made.path)
            session("-R", clone, "verify", "--quiet")
            nodes = session("-R", clone, "log", "-r", "all()", "-T", "{node}")
            assert bytes.fromhex(nodes.decode()) == made.nodes
            assert made.changesets == snapshot.index.count
            heads = session("-R", clone, "log", "-r", "heads(all())", "-T", "{node} ").split()
            assert offered_heads(made.nodes, snapshot) == tuple(sorted(map(bytes.decode, heads)))


@pytest.mark.parametrize("version", VERSIONS)
def test_each_hg_makes_them(version: str, tmp_path: Path) -> None:
    """Twice the same bytes, as the digest says, under the specification that hg itself gives."""
    program = hg(version)
    path = linear(program, tmp_path / "p")
    found: list[dict[str, Made]] = []
    for place in (tmp_path / "first", tmp_path / "second"):
        place.mkdir()
        paths = {kind: place / kind for kind in (ZSTD, GZIP)}
        used = stock(tmp_path, version)
        every = make_bundles(used, path, paths, publishing=True, level=LEVEL, told=unwatched)
        stream = make_stream_bundle(used, path, place / STREAM, unwatched)
        found.append({made.kind: made for made in (*every, stream)})
    for kind, made in found[0].items():
        content = made.path.read_bytes()
        assert content == found[1][kind].path.read_bytes()
        assert (made.digest, made.size) == (hashlib.sha256(content).hexdigest(), len(content))
        assert made.changesets == 10
        assert made.store_fingerprint is None
    with Session(program, tmp_path) as session:
        spec = session("debugbundle", "--spec", found[0][STREAM].path).decode().strip()
        assert found[0][STREAM].spec == spec
        assert session("debugbundle", "--spec", found[0][GZIP].path) == b"gzip-v2\n"


async def test_only_what_is_public(newer_kinds: Kinds, tmp_path: Path) -> None:
    """Of a repository that does not publish, neither drafts nor secrets leave."""
    repository = newer_kinds("phases")
    snapshot = await repository.snapshot()
    made = made_of(repository, tmp_path, publishing=snapshot.publishing)[GZIP]
    assert offered_heads(made.nodes, snapshot) == tuple(
        node.hex() for node in snapshot.public_heads
    )
    assert made.changesets == sum(offered(snapshot)) == 1


async def test_what_is_hidden_stays(newer_kinds: Kinds, tmp_path: Path) -> None:
    """Obsolete changesets, and the markers that speak of them, are in no bundle."""
    repository = newer_kinds("obsolete")
    snapshot = await repository.snapshot()
    made = made_of(repository, tmp_path)[GZIP]
    assert made.changesets == snapshot.index.count
    with pytest.raises(NotOffered, match="is not offered by the repository"):
        offered_heads(made.nodes, snapshot)  # drafts, which were asked for here
    assert not offer_of(snapshot).streams
    with pytest.raises(HgFailed, match="markers"):
        streamed(repository, tmp_path / STREAM)


async def test_an_offer(newer_kinds: Kinds, tmp_path: Path) -> None:
    """It is what clients are told is public; a store with markers is not streamed."""
    snapshot = await newer_kinds("linear").snapshot()
    offer = offer_of(snapshot)
    heads = [node.hex() for node in snapshot.heads]
    assert (offer.changesets, offer.streams, offer.holds(heads)) == (10, True, True)
    assert not offer.holds([*heads, "ab" * 20])
    marked = replace(snapshot, hg_dir=tmp_path)
    assert offer_of(marked).streams
    (tmp_path / "store").mkdir()
    (tmp_path / "store/obsstore").write_bytes(b"\1")
    assert not offer_of(marked).streams
    phases = await newer_kinds("phases").snapshot()
    assert not offer_of(phases).holds([node.hex() for node in phases.heads])


async def test_what_is_not_offered_is_found(newer_kinds: Kinds) -> None:
    """One changeset that nobody serves refuses a bundle, and so does one without ancestors."""
    snapshot = await newer_kinds("linear").snapshot()
    dag = snapshot.index.dag
    assert offered_heads(dag.packed, snapshot) == (dag.node(9).hex(),)
    with pytest.raises(NotOffered, match="ab" * 20):
        offered_heads(dag.packed + b"\xab" * 20, snapshot)
    with pytest.raises(BadBundle, match="without their ancestors"):
        offered_heads(dag.packed[20:], snapshot)


async def test_an_hg_that_refuses(newer_kinds: Kinds, tmp_path: Path) -> None:
    """What it says is told."""
    repository = newer_kinds("empty")
    with pytest.raises(HgFailed, match="hg bundle exited with"):
        made_of(repository, tmp_path)
    with pytest.raises(HgFailed):
        streamed(repository, tmp_path / STREAM)


def scripted(tmp_path: Path, body: str) -> Hg:
    """A program in the place of hg, whose last argument is where a bundle goes."""
    program = tmp_path / "hg"
    program.write_text(f"#!{sys.executable}\nimport os, sys, time\nout = sys.argv[-1]\n{body}\n")
    program.chmod(0o755)
    return Hg(executable=str(program))


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"", "cut off"),
        (b"abort: nothing here", "does not begin a bundle"),
        (b"HG20" + bytes(4), "cut off"),
        (b"HG20" + bytes(8), "without changesets|no part of type stream2"),
        (b"HG20\0\0\0\1x" + bytes(4), "without changesets|no part of type stream2"),
        (b"HG20" + bytes(4) + b"\0\0\0\x0b\4OBSM" + bytes(6) + bytes(8), "a part b'obsm'"),
        (b"HG20" + bytes(4) + b"\0\0\0\x0e\7STREAM2" + bytes(6), "version|not say what it is|part"),
    ],
)
def test_an_hg_that_gives_something_else(tmp_path: Path, said: bytes, why: str) -> None:
    """It is refused, and it is said what came."""
    program = scripted(tmp_path, f"open(out, 'wb').write({said!r})")
    with pytest.raises(BadBundle, match=why):
        make_bundles(
            program, tmp_path, {GZIP: tmp_path / "b"}, publishing=True, level=1, told=unwatched
        )
    with pytest.raises(BadBundle, match=why):
        make_stream_bundle(program, tmp_path, tmp_path / "b", unwatched)


def test_whoever_stops_waiting_ends_hg(tmp_path: Path) -> None:
    """Also while it is silent."""
    note = tmp_path / "pid"
    program = scripted(
        tmp_path, f"open({str(note)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)"
    )

    def told() -> None:
        if note.exists() and note.read_text():
            raise InterruptedError

    with pytest.raises(InterruptedError):
        make_stream_bundle(program, tmp_path, tmp_path / "b", told)
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def read(reading: Changesets | StoreFiles, content: bytes) -> None:
    """Read a bundle that comes at once."""
    reading.take(content)
    reading.end()


def test_bundles_that_are_damaged(newer_kinds: Kinds, tmp_path: Path) -> None:
    """Cut anywhere, a bundle is not whole."""
    repository = newer_kinds("branches")
    none = tmp_path / "none"
    repository.hg.run(
        "bundle", "-q", "-t", "none-v2", "--all", str(none), repository=repository.path.parent
    )
    stream = streamed(repository, tmp_path / STREAM).path
    chance = random.Random(7)
    for reader, path in ((Changesets, none), (StoreFiles, stream)):
        content = path.read_bytes()
        for cut in (
            0,
            3,
            8,
            len(content) - 1,
            *(chance.randrange(len(content)) for _ in range(20)),
        ):
            with pytest.raises(BadBundle):
                read(reader(), content[:cut])


def test_memory_that_clients_need(tmp_path: Path) -> None:
    """It is told of levels with large windows, and no other."""
    for level, needed in ((19, None), (20, 32 << 20)):
        with BundleFile(ZSTD, tmp_path / "b", level) as file:
            file.write(b"content")
            written = file.finish()
        assert written.required_ram == needed
        content = (tmp_path / "b").read_bytes()
        header, body = content[:22], content[22:]
        assert header == b"HG20\0\0\0\x0eCompression=ZS"
        assert zstandard.ZstdDecompressor().decompressobj().decompress(body) == b"content"
    with pytest.raises(ValueError, match="bzip2-v2"):
        BundleFile("bzip2-v2", tmp_path / "c", 1)
