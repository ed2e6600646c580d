# Law of this file: what stock clients send is read as they mean it, in each of the three places
# that arguments can be in; nothing that anybody sends raises but `BadRequest`, in one line.

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote_from_bytes, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hg.capture_v1 import POSTED, Question, read
from tests.hg.versions import VERSIONS
from wire.hg.v1.requests import (
    COMMANDS,
    MAX_ARGUMENTS,
    MAX_BATCH,
    MAX_FIELDS,
    MAX_PROTOCOL,
    Answer,
    BadRequest,
    BatchCall,
    ClientProtocol,
    client_version,
    escape,
    join_batch,
    posted_length,
    read_arguments,
    read_batch,
    read_command,
    read_nodes,
    read_protocol,
)

NODE = bytes(range(20))

ARGUMENTS = st.dictionaries(
    st.binary(min_size=1, max_size=12).filter(lambda name: name != b"cmd"),
    st.binary(max_size=60),
    max_size=6,
)


def cut(name: str, text: str, size: int) -> list[tuple[str, str]]:
    """A value over numbered headers."""
    places = enumerate(range(0, len(text), size), 1)
    return [(f"{name}-{number}", text[at : at + size]) for number, at in places]


def arguments(question: Question) -> dict[bytes, bytes]:
    """What a captured request asks."""
    return read_arguments(question.query, question.headers, question.body.encode())


def asked(version: str, operation: str, command: str) -> Question:
    """The one request for a command in an operation."""
    return next(
        each for each in read(version) if (each.operation, each.command) == (operation, command)
    )


def refusal(read: Callable[[], object]) -> str:
    """Why something is refused; empty if it is not."""
    try:
        read()
    except BadRequest as wrong:
        return str(wrong)
    return ""


# --- what stock clients send ----------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_stock_requests(version: str):
    """Every request of a stock client has the arguments that its command takes, and no others."""
    for question in read(version):
        name = read_command(question.query)
        assert name == question.command
        spec = COMMANDS[name]
        found = arguments(question)
        assert spec.take(found) == found


@pytest.mark.parametrize("version", VERSIONS)
def test_stock_places(version: str):
    """A clone asks the same by headers as in a body."""
    for command in ("batch", "getbundle"):
        posted = asked(version, POSTED, command)
        by_headers = asked(version, "clone", command)
        assert posted_length(posted.headers) == len(posted.body)
        assert posted_length(by_headers.headers) is None
        assert not by_headers.body
        assert arguments(posted) == arguments(by_headers)


@pytest.mark.parametrize("version", VERSIONS)
def test_stock_client(version: str):
    """A stock client's version is known, and what it takes, once the handshake is over."""
    major, minor, _ = version.split(".")
    for question in read(version):
        headers = dict(question.headers)
        assert client_version(headers["user-agent"]) == (int(major), int(minor))
        protocol = read_protocol(question.headers)
        if question.command == "capabilities":
            assert protocol == ClientProtocol()
        else:
            engines = ("zstd", "zlib", "none", "bzip2")
            assert protocol == ClientProtocol(frozenset({"0.1", "0.2"}), engines, partial_pull=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_stock_discovery(version: str):
    """Discovery is a batch of heads and known."""
    fresh, again = (
        read_batch(arguments(asked(version, operation, "batch"))[b"cmds"])
        for operation in ("clone", "pull of nothing")
    )
    assert fresh == (BatchCall("heads", {}), BatchCall("known", {b"nodes": b""}))
    assert len(read_nodes(again[1].arguments[b"nodes"])) == 5
    lookup = arguments(asked(version, "id of a bookmark", "lookup"))
    assert lookup == {b"key": b"first"}


@pytest.mark.parametrize("version", VERSIONS)
def test_stock_answers(version: str):
    """Stock servers send streams as 0.2 to clients that take it, and strings as 0.1."""
    for question in read(version):
        stream = COMMANDS[question.command].answer is Answer.STREAM
        assert question.media_type == f"application/mercurial-0.{2 if stream else 1}"


# --- arguments ------------------------------------------------------------------------------


@given(ARGUMENTS, st.integers(1, 50))
def test_three_places(found: dict[bytes, bytes], size: int):
    """Arguments come out as they went in, from the query string, the headers and the body."""
    text = urlencode(found)
    assert read_arguments(f"cmd=known&{text}", (), b"") == found
    assert read_arguments("cmd=known", cut("x-hgarg", text, size), b"") == found
    posted = [("X-HgArgs-Post", str(len(text)))]
    assert read_arguments("cmd=known", posted, text.encode() + b"payload=1") == found


@given(st.text(), st.lists(st.tuples(st.text(), st.text())), st.binary())
def test_any_request(query: str, headers: list[tuple[str, str]], body: bytes):
    """Any request is read or refused."""
    for name in ("X-HgArg-1", "X-HgArgs-Post", "X-HgProto-1", f"X-HgArg-{query}"):
        told = [*headers, (name, query)]
        reasons = (
            refusal(lambda: read_command(query)),
            refusal(lambda told=told: read_protocol(told)),
            refusal(lambda told=told: read_arguments("", told, body)),
            refusal(lambda told=told: read_arguments(query, told, body)),
        )
        assert all(reason.isascii() and reason.isprintable() for reason in reasons)


def test_precedence():
    """A body wins over headers, which win over the query string; of two in a place, the first."""
    query, headers, body = "cmd=x&a=query&b=query&b=2", [("X-HgArg-1", "a=header&a=2")], b"a=body"
    assert read_arguments(query, (), b"") == {b"a": b"query", b"b": b"query"}
    assert read_arguments(query, headers, b"") == {b"a": b"header", b"b": b"query"}
    posted = [*headers, ("X-HgArgs-Post", "6")]
    assert read_arguments(query, posted, body) == {b"a": b"body", b"b": b"query"}
    assert read_arguments(query, [*headers, ("X-HgArgs-Post", "0")], body)[b"a"] == b"header"


def test_gap():
    """Headers end where a number is missing."""
    headers = [("X-HgArg-3", "lost=1"), ("X-HgArg-2", "=1&b=2"), ("X-HgArg-1", "a")]
    assert read_arguments("", headers, b"") == {b"a": b"1", b"b": b"2lost=1"}
    assert read_arguments("", [*headers[1:], ("X-HgArg-4", "&c=3")], b"") == {
        b"a": b"1",
        b"b": b"2",
    }
    assert read_arguments("", headers[:2], b"") == {}


def test_command():
    """The last command of a query string counts, and a request need not have one."""
    assert read_command("cmd=heads&cmd=known") == "known"
    assert read_command("style=raw") is None
    assert read_command("cmd") == ""
    assert read_command("cmd=%C3%A4") == r"\xc3\xa4"


@pytest.mark.parametrize(
    ("header", "word"),
    [
        (("X-HgArg-0", "a=1"), "X-HgArg-0"),
        (("X-HgArg-01", "a=1"), "X-HgArg-01"),
        (("X-HgArg-", "a=1"), "number"),
        (("X-HgArg-one", "a=1"), "X-HgArg-one"),
        (("X-HgArg-\N{ARABIC-INDIC DIGIT ONE}", "a=1"), "u0661"),
        (("X-HgArg-99999999999", "a=1"), "number"),
        (("X-HgArg-1", "a=%"), "%"),
        (("X-HgArg-1", "a=%4"), "%4"),
        (("X-HgArg-1", "a=%zz"), "%zz"),
        (("X-HgArg-1", "a=\xe4"), "ASCII"),
        (("X-HgArg-1", "a=\udce4"), "ASCII"),
        (("X-HgArg-1", "&".join(["a=1"] * (MAX_FIELDS + 1))), str(MAX_FIELDS)),
        (("X-HgArg-1", "a" * (MAX_ARGUMENTS + 1)), str(MAX_ARGUMENTS)),
        (("X-HgArgs-Post", "many"), "many"),
        (("X-HgArgs-Post", "-5"), "-5"),
        (("X-HgArgs-Post", "3\x1f"), "number"),
        (("X-HgArgs-Post", ""), "number"),
        (("X-HgArgs-Post", "4"), "has 3"),
        (("X-HgArgs-Post", str(MAX_ARGUMENTS + 1)), str(MAX_ARGUMENTS)),
    ],
)
def test_malformed(header: tuple[str, str], word: str):
    """What is malformed is refused, and the message says what it is."""
    with pytest.raises(BadRequest, match=r".+") as refused:
        read_arguments("cmd=known", [header], b"a=1")
    assert word in str(refused.value)


def test_twice():
    """A header that comes twice is refused: nobody knows which is meant."""
    for name, other in (("X-HgArg-1", "x-hgarg-1"), ("X-HgArgs-Post", "x-hgargs-post")):
        with pytest.raises(BadRequest):
            read_arguments("", [(name, "1"), (other, "1")], b"a=1")


def test_take():
    """A command sees what it takes, and is refused without what it needs."""
    known, lookup = COMMANDS["known"], COMMANDS["lookup"]
    both = {b"nodes": b"", b"key": b"tip"}
    assert known.take(both) == both
    assert lookup.take(both) == {b"key": b"tip"}
    assert COMMANDS["heads"].take(both) == {}
    with pytest.raises(BadRequest, match="lookup needs the argument key"):
        lookup.take({b"nodes": b""})


def test_permissions():
    """Nothing writes but what needs the permission to."""
    writing = {name for name, spec in COMMANDS.items() if spec.permission == "push"}
    assert writing == {"pushkey", "unbundle"}


# --- the client -----------------------------------------------------------------------------


def test_protocol():
    """What hgweb reads of X-HgProto, in any cut, and what it takes for granted without it."""
    said = "0.1 0.2 0.3 comp=zlib,none later=1"
    expected = ClientProtocol(frozenset({"0.1", "0.2"}), ("zlib", "none"), partial_pull=False)
    assert read_protocol(cut("X-HgProto", said, 7)) == expected
    assert read_protocol([("X-HgProto-1", "partial-pull comp=")]) == ClientProtocol(
        frozenset({"0.1"}), ("",), partial_pull=True
    )
    assert read_protocol([("X-HgProto-2", "0.2")]) == ClientProtocol()
    with pytest.raises(BadRequest, match=str(MAX_PROTOCOL)):
        read_protocol([("X-HgProto-1", "x" * (MAX_PROTOCOL + 1))])


@pytest.mark.parametrize(
    ("agent", "version"),
    [
        ("mercurial/proto-1.0 (Mercurial 7.2.4)", (7, 2)),
        ("mercurial/proto-1.0 (Mercurial 6.10)", (6, 10)),
        ("mercurial/proto-1.0 (Mercurial 7.2.4+2-abc)", (7, 2)),
        ("mercurial/proto-1.0 (Mercurial 7.2+hg12.0123abc)", (7, 2)),
        ("mercurial/proto-1.0 (Mercurial 7.2rc0)", (7, 2)),
        ("mercurial/proto-1.0 (Mercurial 7)", None),
        ("mercurial/proto-1.0 (Mercurial unknown)", None),
        ("mercurial/proto-1.0 (Mercurial 7.2.4) via proxy", None),
        ("mercurial/proto-1.0 (Mercurial 7.2.4", None),
        ("mercurial/proto-1.0", None),
        ("git-lfs/2.3.4 (Mercurial 7.2.4)", None),
        ("", None),
    ],
)
def test_version(agent: str, version: tuple[int, int] | None):
    """Only who says a version of Mercurial in its own way has one."""
    assert client_version(agent) == version


# --- batches and nodes ----------------------------------------------------------------------


@given(
    st.lists(
        st.builds(
            BatchCall,
            st.sampled_from(sorted(COMMANDS)),
            st.dictionaries(st.binary(max_size=8), st.binary(max_size=20), max_size=4),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_batch_round_trip(calls: list[BatchCall]):
    """Any commands with any arguments come out of a batch as they went in."""
    cmds = b";".join(
        call.name.encode()
        + b" "
        + b",".join(escape(name) + b"=" + escape(value) for name, value in call.arguments.items())
        for call in calls
    )
    assert read_batch(cmds) == tuple(calls)


@given(st.binary() | st.text("heads ;:,=cose%").map(str.encode))
def test_any_batch(cmds: bytes):
    """Any batch is read or refused."""
    assert refusal(lambda: read_batch(cmds)).isprintable()


def test_golden_escapes():
    """The four letters that a batch is written with, each way."""
    assert escape(b":;,=c") == b":c:s:o:ec"
    assert read_batch(b"lookup key=:c:s:o:ec,") == (BatchCall("lookup", {b"key": b":;,=c"}),)
    assert join_batch([b"00=1\n", b"", b"a;b"]) == b"00:e1\n;;a:sb"


@pytest.mark.parametrize(
    "cmds",
    [
        b"",
        b"heads",
        b"heads ;",
        b"known nodes",
        b"known a=b=c",
        b"lookup key=:x",
        b"k\xe4 ",
        b"a a=:",
    ],
)
def test_bad_batches(cmds: bytes):
    """What hgweb would stumble over is refused."""
    with pytest.raises(BadRequest, match="in a batch"):
        read_batch(cmds)


def test_long_batches():
    """Ten thousand commands are read, one more is not."""
    many = b";".join([b"heads "] * MAX_BATCH)
    assert len(read_batch(many)) == MAX_BATCH
    with pytest.raises(BadRequest, match=str(MAX_BATCH)):
        read_batch(many + b";heads ")


@given(st.lists(st.binary(min_size=20, max_size=20)))
def test_nodes_round_trip(nodes: list[bytes]):
    """Nodes come out in their order, from hex in either case."""
    text = " ".join(node.hex() for node in nodes)
    assert read_nodes(text.encode()) == read_nodes(text.upper().encode()) == tuple(nodes)


@given(st.binary(max_size=90) | st.text("0a \t", max_size=90).map(str.encode))
def test_any_nodes(value: bytes):
    """Any value is nodes or refused."""
    reason = refusal(lambda: read_nodes(value))
    assert reason.isprintable()
    assert reason or all(len(node) == len(NODE) for node in read_nodes(value))


@pytest.mark.parametrize(
    "value", [b" ", b"00", NODE.hex().encode() + b" ", b"g" * 40, b"0" * 39 + b" ", b"0" * 41]
)
def test_no_nodes(value: bytes):
    """The message names what is no node."""
    with pytest.raises(BadRequest, match="is no node: 40 hexadecimal digits are expected"):
        read_nodes(value)


def test_ten_thousand_heads():
    """The limits leave room for a repository with ten thousand heads, on both sides."""
    nodes = b" ".join(number.to_bytes(20).hex().encode() for number in range(10_000))
    text = f"common={quote_from_bytes(nodes)}&heads={quote_from_bytes(nodes)}"
    found = read_arguments("cmd=getbundle", cut("X-HgArg", text, 1000), b"")
    assert len(read_nodes(found[b"heads"])) == len(read_nodes(found[b"common"])) == 10_000
