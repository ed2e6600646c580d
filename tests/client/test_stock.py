# Law of this file: a stock server of the protocol is asked all that can be read, and says the same
# as its own command line.

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from client import Call, CallError, NotSpoken, Refused, connect
from tests.hg.versions import V1, V2, environment, hg, output
from wire.hg.cbor import Chunk, Value
from wire.hg.encodings import PREFERENCE, Encoding

V2_ON = (
    "--config",
    "experimental.web.apiserver=true",
    "--config",
    "experimental.web.api.http-v2=true",
)

ANCESTORS = b"changesetdagrange"


@dataclass(frozen=True)
class Stock:
    """A repository that ``hg serve`` serves, and what hg itself says of it."""

    url: str
    path: Path
    nodes: list[bytes]
    heads: list[bytes]
    content: bytes


def serving(program: list[str], path: Path, *options: str) -> Iterator[str]:
    """Run ``hg serve``; its URL, as soon as it listens."""
    command = [*program, "serve", "-a", "127.0.0.1", "-p", "0", "--print-url", *options]
    process = subprocess.Popen(
        command,
        cwd=path,
        env=environment(path.parent),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[-1].rstrip("/")
    finally:
        process.terminate()
        process.communicate()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with two heads on two branches, and a bookmark."""
    path = tmp_path_factory.mktemp("stock") / "repo"
    program = hg(V2)
    output(program, path.parent, "init", str(path))
    output(program, path, "debugbuilddag", "-n", "+2:a+1<a@side+1")
    output(program, path, "bookmark", "-r", "1", "mark")
    return path


@pytest.fixture(scope="module")
def stock(made: Path) -> Iterator[Stock]:
    """That repository, served with version 2 on."""
    program = hg(V2)
    log = output(program, made, "log", "-r", "all()", "-T", "{node} {ifeq(children, '', 'head')}\n")
    lines = [line.decode().split() for line in log.splitlines()]
    nodes = [bytes.fromhex(line[0]) for line in lines]
    heads = [bytes.fromhex(line[0]) for line in lines if line[1:]]
    content = output(program, made, "cat", "-r", "0", "nf0")
    for url in serving(program, made, *V2_ON):
        yield Stock(url, made, nodes, heads, content)


@pytest.mark.parametrize("encoding", PREFERENCE)
async def test_every_read_command(stock: Stock, encoding: Encoding) -> None:
    """All read commands of 5.9.3 are answered, in each encoding, as hg itself answers them."""
    nodes, heads = stock.nodes, stock.heads
    everything: list[Value] = [{b"type": ANCESTORS, b"roots": [], b"heads": [*heads]}]
    async with connect(stock.url, encodings=[encoding, Encoding.IDENTITY]) as repository:
        call = repository.call
        (found,) = await call(b"heads")
        assert isinstance(found, list)
        assert set(found) == set(heads)
        assert await call(b"known", {b"nodes": [nodes[0], bytes(range(20))]}) == [b"10"]
        assert await call(b"lookup", {b"key": b"mark"}) == [nodes[1]]
        (branches,) = await call(b"branchmap")
        assert isinstance(branches, dict)
        assert branches[b"side"] == [nodes[3]]
        assert await call(b"listkeys", {b"namespace": b"bookmarks"}) == [
            {b"mark": nodes[1].hex().encode()}
        ]
        (descriptor,) = await call(b"capabilities")
        assert descriptor == repository.descriptor
        fields = frozenset((b"parents", b"revision"))
        changesets = await call(b"changesetdata", {b"revisions": everything, b"fields": fields})
        assert changesets[0] == {b"totalitems": 4}
        maps = [each for each in changesets[1:] if isinstance(each, dict)]
        assert [each[b"node"] for each in maps] == nodes
        manifest = bytes.fromhex(changesets[2].split(b"\n")[0].decode())  # type: ignore[union-attr]
        wanted: dict[bytes, Value] = {b"nodes": [manifest], b"tree": b"", b"fields": fields}
        manifests = await call(b"manifestdata", wanted)
        assert manifests[0] == {b"totalitems": 1}
        file = bytes.fromhex(manifests[2][4:44].decode())  # type: ignore[index, union-attr]
        found_file = await call(b"filedata", {b"path": b"nf0", b"nodes": [file], b"fields": fields})
        assert found_file[2] == stock.content
        files = await call(b"filesdata", {b"revisions": everything, b"fields": fields})
        assert files[0] == {b"totalpaths": 4, b"totalitems": 4}


async def test_raw_store_files(stock: Stock) -> None:
    """Store files come in pieces, and are the bytes on the server's disk."""
    args: dict[bytes, Value] = {b"files": [b"changelog", b"manifestlog"]}
    async with connect(stock.url) as repository:
        async with repository.stream(b"rawstorefiledata", args) as objects:
            items = [item async for item in objects]
        assert any(isinstance(item, Chunk) for item in items)
        values = await repository.call(b"rawstorefiledata", args)
    contents = {values[at][b"path"]: values[at + 1] for at in range(1, len(values), 2)}  # type: ignore[index, call-overload]
    store = stock.path / ".hg" / "store"
    assert contents == {
        name.encode(): (store / name).read_bytes() for name in ("00changelog.i", "00manifest.i")
    }


async def test_several_commands_and_errors(stock: Stock) -> None:
    """A multirequest of 5.9.3 is answered, and its errors are those of their commands."""
    calls = [
        Call(b"heads"),
        Call(b"lookup", {b"key": b"nobody"}),
        Call(b"listkeys", {b"namespace": b"phases"}),
    ]
    async with connect(stock.url) as repository:
        async with repository.many(calls) as answers:
            found = [each async for each in answers]
        assert [each.index for each in found] == [0, 1, 2]
        assert isinstance(found[1].error, CallError)
        assert "unknown revision 'nobody'" in found[1].error.message
        assert found[2].objects[0]
        with pytest.raises(CallError, match="namespace"):
            await repository.call(b"listkeys")
    async with connect(stock.url, checked=False) as repository:
        with pytest.raises(CallError, match="unsupported argument"):
            await repository.call(b"heads", {b"x": 1})
        with pytest.raises(Refused, match="404"):
            await repository.call(b"nothing")


@pytest.mark.parametrize("version", [V2, *V1])
async def test_servers_without_it(made: Path, version: str) -> None:
    """A stock server that speaks version 1 only is told to be one."""
    for url in serving(hg(version), made):
        with pytest.raises(NotSpoken, match="version 1 only"):
            async with connect(url):
                pass


async def test_command_data_are_taken(stock: Stock) -> None:
    """5.9.3 takes command data, and does nothing with them."""
    async with connect(stock.url) as repository:
        (heads,) = await repository.call(b"heads", data=b"x" * 100_000)
        assert heads
