# Law of this file: whatever stands on the command line is sent as it is meant, and whatever a
# server answers is shown without harm to a terminal; a mistake is one line and no traceback.

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from cli import call
from cli.call_arguments import needs_heads, read_revisions, read_value, split_argument
from cli.call_shown import Shown, as_cbor, as_json, as_text, shown
from cli.errors import UserError
from cli.main import offramp
from tests.client.scripted import (
    NODE,
    Files,
    Question,
    Scripted,
    Talk,
    answer,
    file_server,
    moved,
    says,
    scripted_server,
    sequence,
)
from wire.hg import cbor
from wire.hg.cbor import Chunk, Item, Scalar, Value
from wire.hg.encodings import Encoding
from wire.hg.frames import FrameType
from wire.hg.handshake import AdvertisedTarget
from wire.hg.messages import Failed, Progress, Text, encode_progress, encode_texts
from wire.hg.server import ServerReactor

HEX = NODE.hex()


@pytest.fixture
async def server() -> AsyncIterator[Scripted]:
    """A server of the frame protocol."""
    async with scripted_server() as found:
        yield found


@pytest.fixture
async def files() -> AsyncIterator[Files]:
    """A target."""
    async with file_server() as found:
        yield found


async def run(*args: str) -> Result:
    """Run ``offramp call``, while the servers of the test go on."""
    return await asyncio.to_thread(CliRunner().invoke, offramp, ["call", *args])


# --- whole calls ----------------------------------------------------------------------------


async def test_an_answer(server: Scripted) -> None:
    """Each object of an answer is shown on lines of its own."""
    server.replies[b"branchmap"] = answer({b"default": [NODE]}, b"text\n", None)
    result = await run(server.url, "branchmap")
    assert result.exit_code == 0
    assert result.stdout == f'{{default: [{HEX}]}}\n"text\\n"\nnull\n'
    assert not result.stderr


async def test_json(server: Scripted) -> None:
    """--json has a line for each object, with all of it."""
    text = b"x" * 1000
    pieces = cbor.INDEFINITE_BYTES + sequence(b"ab", b"\0") + cbor.BREAK
    server.replies[b"branchmap"] = answer({b"default": [NODE]}, frozenset((b"a",)), text) + pieces
    result = await run(server.url, "branchmap", "--json")
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {"default": [{"hex": HEX}]},
        {"set": ["a"]},
        "x" * 1000,
        {"piece": "ab", "first": True, "last": False},
        {"piece": {"hex": "00"}, "first": False, "last": False},
        {"piece": "", "first": False, "last": True},
    ]


async def test_raw(server: Scripted) -> None:
    """--raw is the CBOR sequence of the objects."""
    objects = sequence({b"a": [NODE, 1, None]}) + b"\x5f\x42ab\x41c\xff" + sequence(frozenset((1,)))
    server.replies[b"branchmap"] = answer() + objects
    result = await run(server.url, "branchmap", "--raw")
    assert result.stdout_bytes == objects


async def test_arguments(server: Scripted) -> None:
    """Arguments become what the server says that they are."""
    server.replies[b"heads"] = answer([NODE])
    server.replies[b"changesetdata"] = server.replies[b"listkeys"] = answer()
    result = await run(server.url, "changesetdata", f"revisions={HEX}..", "fields=parents,phase")
    assert result.exit_code == 0, result.output
    await run(server.url, "heads", "publiconly=true")
    await run(server.url, "listkeys", "namespace=a=b")
    dag = {b"type": b"changesetdagrange", b"roots": [NODE], b"heads": [NODE]}
    assert [(each.request.name, each.request.args) for each in server.questions] == [
        (b"heads", {}),
        (b"changesetdata", {b"revisions": [dag], b"fields": frozenset((b"parents", b"phase"))}),
        (b"heads", {b"publiconly": True}),
        (b"listkeys", {b"namespace": b"a=b"}),
    ]


async def test_options_reach_the_server(server: Scripted, tmp_path: Path) -> None:
    """Encodings, command data and unlisted commands are sent as they are asked for."""
    server.replies[b"heads"] = server.replies[b"odd"] = answer()
    data = tmp_path / "data"
    data.write_bytes(b"\0data")
    await run(server.url, "heads", "--encoding", "zlib", "--encoding", "identity", "--data", data)  # type: ignore[arg-type]
    assert server.settings == (b"zlib", b"identity")
    assert server.questions[0].data == b"\0data"
    result = await run(server.url, "odd", "a=[1]", "b=x", "--unchecked")
    assert result.exit_code == 0, result.output
    assert server.questions[1].request.args == {b"a": [1], b"b": b"x"}


async def test_the_wire(server: Scripted, files: Files) -> None:
    """--wire tells frames, texts, progress and redirects, and no secrets."""
    files.content = sequence(1)
    server.advertise(AdvertisedTarget("cdn", "http", (files.url,)))

    def script(reactor: ServerReactor, questions: Sequence[Question]) -> Iterator[bytes]:
        talk = Talk(reactor, Encoding.ZLIB)
        for kind, payload in (
            (FrameType.TEXT_OUTPUT, encode_texts([Text(b"he\x1b[2Jllo")])),
            (FrameType.PROGRESS, encode_progress(Progress(b"files", 1, 2, b"kB", b"x"))),
        ):
            yield reactor.notice(talk.stream, 1, kind, payload)
        location = moved(f"{files.url}/x?signature=s3cret", files.content)
        yield talk.say(1, answer(status=location), end=True)

    server.script = script
    url = server.url.replace("//", "//ann:hunter2@")
    result = await run(url, "heads", "--wire", "--encoding", "zlib")
    assert result.stdout == "1\n"
    digest = moved("", files.content).location.hashes[0][1].hex()
    lines = result.stderr.splitlines()
    assert [line.rpartition(", ")[0] for line in lines[:2]] == [
        "> request 1, stream 1 begin, sender-settings end",
        "> request 1, stream 1, command-request new",
    ]
    assert lines[2].startswith("< request 1, stream 2 begin, ")
    assert len(server.asked[1].body) == sum(8 + int(line.split()[-2]) for line in lines[:2])
    assert "he\\x1b[2Jllo" in lines
    assert "heads progress: files 1 of 2 kB x" in lines
    assert any(line.startswith("< request 1, stream 2 encoded, command-res") for line in lines)
    assert lines[-1].startswith(
        f"heads is at {files.url}/x?... (target cdn, 1 bytes, sha256 {digest}"
    )
    assert "s3cret" not in result.output
    assert "hunter2" not in result.output


async def test_a_target_that_fails(server: Scripted, files: Files) -> None:
    """A target that fails is told, and the answer is shown all the same."""
    server.advertise(AdvertisedTarget("cdn", "http", (files.url,)))
    files.deeds = [says(404)]
    server.replies[b"heads"] = lambda question: (
        moved(files.url, b"x") if question.request.offer.targets else answer(1)  # type: ignore[union-attr]
    )
    result = await run(server.url, "heads")
    assert (result.exit_code, result.stdout) == (0, "1\n")
    assert result.stderr == (
        "target cdn failed: HTTP 404 Not Found; asking for heads again without it\n"
    )
    result = await run(server.url, "heads", "--no-redirects")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "1\n", "")


async def test_targets_by_name(server: Scripted) -> None:
    """--target offers the targets that are named, which must be there and usable."""
    server.replies[b"heads"] = answer(1)
    names = ("near", "far", "old")
    server.advertise(
        *(AdvertisedTarget(name, "https", ("https://h/",)) for name in names[:2]),
        AdvertisedTarget("old", "ssh", ()),
    )
    result = await run(server.url, "heads", "--target", "far")
    assert result.exit_code == 0
    assert server.commands == [(b"heads", (b"far",))]
    for args, words in (
        (("--target", "nowhere"), "no target 'nowhere'; there are far, near, old"),
        (("--target", "old"), "'old' cannot be used: its protocol is 'ssh'"),
        (("--target", "far", "--no-redirects"), "exclude each other"),
    ):
        result = await run(server.url, "heads", *args)
        assert result.exit_code == 2
        assert words in result.stderr
    server.advertise()
    result = await run(server.url, "heads", "--target", "far")
    assert "it has none" in result.stderr


async def test_listing(server: Scripted) -> None:
    """Without a command, the server's commands and targets are listed."""
    result = await run(server.url)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{server.url}\n")
    assert "heads             pull   [publiconly=BOOL]\n" in result.stdout
    assert "pushkey           push   key=BYTES namespace=BYTES" in result.stdout
    assert "[fields=SET(linknode,parents,revision)]" in result.stdout
    assert "no targets of redirects" in result.stdout
    server.advertise(
        AdvertisedTarget("cdn", "https", ("https://cdn/?secret",), True, ("1.0",)),
        encodings=(b"zlib",),
    )
    result = await run(server.url)
    assert "requests may be encoded with zlib" in result.stdout
    line = next(line for line in result.stdout.splitlines() if line.startswith("cdn"))
    assert line.split()[1:3] == ["https", "https://cdn/?..."]
    assert line.endswith("TLS 1.0; SNI; cannot be used: of TLS it speaks 1.0 only")
    result = await run(server.url, "--json")
    assert json.loads(result.stdout)["redirect"]["targets"][0]["name"] == "cdn"
    result = await run(server.url, "--raw")
    assert isinstance(cbor.decode_one(result.stdout_bytes), dict)


async def test_errors(server: Scripted) -> None:
    """What goes wrong is one line; the exit code tells whether the server was asked."""
    server.replies[b"lookup"] = Failed(b"unknown\n  revision %s", (b"x",))
    for args, code, words in (
        (("lookup", "key=x"), 1, "lookup: the server says: unknown revision x"),
        (("lokup",), 2, "did you mean 'lookup'?"),
        (("lookup", "keys=x"), 2, "did you mean 'key'?"),
        (("lookup", "x"), 2, "write ARG=VALUE"),
        (("lookup", "key=1", "key=2"), 2, "key is given twice"),
        (("heads", "publiconly=maybe"), 2, "'maybe' is no bool"),
    ):
        result = await run(server.url, *args)
        assert result.exit_code == code
        assert words in result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert result.stderr.startswith("offramp: ")
        assert not result.stdout
    for url, code, words in (
        ("ftp://ann:hunter2@h/", 2, "must begin with http"),
        (f"{server.url}/nothing", 1, "HTTP 404"),
    ):
        result = await run(url, "heads")
        assert result.exit_code == code
        assert words in result.stderr
        assert "hunter2" not in result.stderr


async def test_a_disk_that_is_full(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine reports is one line, too."""

    def full(path: Path) -> bytes:
        raise OSError(28, "No space left on device", "/data/x")

    monkeypatch.setattr(Path, "read_bytes", full)
    result = await run(server.url, "heads", "--data", __file__)
    assert result.exit_code == 1
    assert result.stderr == "offramp: /data/x: No space left on device\n"


async def test_output_that_nobody_reads(server: Scripted) -> None:
    """Who closes our output early gets no traceback."""
    server.replies[b"heads"] = answer(*[bytes(60_000)] * 50)
    program = "from cli.main import main; main()"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, "call", server.url, "heads", "--raw"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    await process.stdout.read(10)
    process.stdout._transport.close()  # type: ignore[attr-defined]
    said = await process.stderr.read()
    assert await process.wait() == 1
    assert b"Traceback" not in said


def test_help_is_fast() -> None:
    """The command's own help loads none of the libraries that it needs."""
    program = "import sys, cli.call; print({'aiohttp', 'zstandard'}.intersection(sys.modules))"
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert output.strip() == "set()"


def test_encodings_are_those_of_the_protocol() -> None:
    """The encodings that can be chosen are all that there are."""
    assert tuple(Encoding) == call._ENCODINGS


# --- arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (b"bytes", "a b", b"a b"),
        (b"bytes", "ä", "ä".encode()),
        (b"bytes", HEX, HEX.encode()),
        (b"bytes", "hex:00ff", b"\x00\xff"),
        (b"bytes", "text:hex:00", b"hex:00"),
        (b"bytes", "[1]", b"[1]"),
        (b"bytes", "", b""),
        (b"bytes", "\udcff", b"\xff"),
        (b"int", "-12", -12),
        (b"bool", "No", False),
        (b"bool", "1", True),
        (b"list", "", []),
        (b"list", f"{HEX},x", [NODE, b"x"]),
        (b"list", f"text:{HEX}", [HEX.encode()]),
        (b"list", f'["{HEX}", 1, [null, true]]', [NODE, 1, [None, True]]),
        (b"set", "a,b", frozenset((b"a", b"b"))),
        (b"set", '["a", 1]', frozenset((b"a", 1))),
        (b"dict", '{"include": ["path:a"]}', {b"include": [b"path:a"]}),
        (None, "12", 12),
        (None, "x", b"x"),
        (None, '{"a": {}}', {b"a": {}}),
    ],
)
def test_values(kind: bytes | None, text: str, value: Value) -> None:
    """What is written becomes a value of the argument's type."""
    found = read_value(b"x", kind, text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (b"int", "1.5"),
        (b"bool", "maybe"),
        (b"list", "[1.5]"),
        (b"list", "[1"),
        (b"list", "[" * 100_000),
        (b"set", "[[1]]"),
        (b"dict", "[1]"),
        (b"dict", "a"),
        (b"bytes", "hex:0"),
    ],
)
def test_values_that_are_none(kind: bytes, text: str) -> None:
    """What is no value of the type is refused, with the argument's name."""
    with pytest.raises(UserError, match=r"^nodes: "):
        read_value(b"nodes", kind, text)


@pytest.mark.parametrize(
    ("text", "specifier"),
    [
        (f"{HEX},{HEX}", {b"type": b"changesetexplicit", b"nodes": [NODE, NODE]}),
        (f"{HEX}~3", {b"type": b"changesetexplicitdepth", b"nodes": [NODE], b"depth": 3}),
        (f"..{HEX}", {b"type": b"changesetdagrange", b"roots": [], b"heads": [NODE]}),
        (f"{HEX}..{HEX}", {b"type": b"changesetdagrange", b"roots": [NODE], b"heads": [NODE]}),
        ("..", {b"type": b"changesetdagrange", b"roots": [], b"heads": [b"all"]}),
        ('[{"type": "x"}]', {b"type": b"x"}),
    ],
)
def test_revisions(text: str, specifier: Value) -> None:
    """Specifiers of revisions have shorthands."""
    assert read_revisions(text, [b"all"]) == [specifier]
    assert needs_heads(text) is (text == "..")


@pytest.mark.parametrize("text", ["tip", f"{HEX[1:]}", f"{HEX}~x", f"{HEX}:{HEX}", "[.."])
def test_revisions_that_are_none(text: str) -> None:
    """A name is no node, and it is told how to find it."""
    with pytest.raises(UserError, match=r"^revisions: "):
        read_revisions(text)


def test_arguments_have_names() -> None:
    """An argument is split at its first ``=``."""
    assert split_argument("a=b=c") == (b"a", "b=c")
    with pytest.raises(UserError, match="write ARG=VALUE"):
        split_argument("=b")


# --- what is shown --------------------------------------------------------------------------


scalars: st.SearchStrategy[Scalar] = (
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=50)
)
values: st.SearchStrategy[Value] = st.recursive(
    cast("st.SearchStrategy[Value]", scalars),
    lambda inner: (
        st.lists(inner, max_size=9)
        | st.dictionaries(st.binary(max_size=9) | st.integers(0, 9), inner, max_size=9)
        | st.frozensets(scalars, max_size=9)
    ),
    max_leaves=20,
)


@settings(max_examples=40)
@given(values)
def test_whatever_comes_can_be_shown(value: Value) -> None:
    """Every object has lines that a terminal can be sent, JSON, and its bytes."""
    assert shown(value).replace("\n", "").isprintable()
    assert isinstance(json.loads(as_json(value)), str | int | list | dict | bool | None)
    assert "\n" not in as_json(value)
    assert as_cbor(value) == cbor.encode(value)


def test_long_values() -> None:
    """What is long for a line is put on several, and what is very long is cut, with its size."""
    nodes: list[Value] = [bytes((number,)) * 20 for number in range(1, 4)]
    assert shown({b"a b": nodes, b"\xff": 1}) == (
        '{\n  "a b": [\n'
        + "".join(f"    {cast('bytes', node).hex()},\n" for node in nodes)
        + "  ],\n  ff: 1,\n}"
    )
    assert shown(b"\xff" * 33) == f"{'ff' * 32}... (33 bytes)"
    assert shown(b"x" * 301) == f'"{"x" * 300}"... (301 bytes)'
    assert shown(frozenset((b"b", b"a"))) == '{"a", "b"}'
    assert shown(frozenset(cast("list[bytes]", nodes))).startswith(f"{{\n  {'01' * 20},\n")


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        ([b"ab", b"c"], '"abc"'),
        ([], '""'),
        ([b"\xc3", b"\xa4"], '"ä"'),
        ([b"\xff" * 40], f"{'ff' * 32}... (40 bytes)"),
        ([b"x" * 290, b"y" * 100], f'"{"x" * 290}{"y" * 10}"... (390 bytes)'),
        (["ä".encode() * 150, b"y\xc3", b"\xa4" + b"z" * 90], f'"{"ä" * 150}y"... (393 bytes)'),
    ],
)
def test_strings_in_pieces(pieces: list[bytes], lines: str) -> None:
    """A byte string in pieces is shown once, as if it had come at once."""
    found = Shown()
    items: list[Item] = [Chunk(each, first=not at, last=False) for at, each in enumerate(pieces)]
    items.append(Chunk(b"", first=not pieces, last=True))
    told = [found.lines(item) for item in items]
    assert told[:-1] == [None] * len(pieces)
    assert (told[-1] or "").startswith(lines)


def test_text() -> None:
    """Text is what a terminal can be sent, with line ends and tabs."""
    assert as_text(b"a\tb\n") == "a\tb\n"
    assert as_text(b"") == ""
    for wrong in (b"\xff", b"\x1b[2J", b"\0", "\u202e".encode(), b"a\rb"):
        assert as_text(wrong) is None
