# Law of this file: an answer is whole or it is a failure, whatever a server does; and what is asked
# is what a stock server reads, however long it is.

from __future__ import annotations

import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from repos.hg.peer import Connections, Peer, PeerFailed, PeerRefused
from tests.repos.hg_serving import BUNDLECAPS, VERSIONS, Seed, make_seed, parts, served
from wire.hg.v1.requests import read_arguments

OK = b"HTTP/1.1 200 Script output follows\r\n"
TYPE = b"Content-Type: application/mercurial-%b\r\n"
RESET = struct.pack("ii", 1, 0)


def head(kind: bytes = b"0.1", *more: bytes) -> bytes:
    """The beginning of an answer."""
    return OK + TYPE % kind + b"".join(line + b"\r\n" for line in more) + b"\r\n"


def sized(body: bytes, kind: bytes = b"0.1") -> bytes:
    """An answer that says its length."""
    return head(kind, b"Content-Length: %d" % len(body)) + body


def chunked(*chunks: bytes, kind: bytes = b"0.1", end: bytes = b"0\r\n\r\n") -> bytes:
    """An answer in chunks."""
    said = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head(kind, b"Transfer-Encoding: chunked") + said + end


def page(status: bytes, body: bytes = b"<html>secret</html>") -> bytes:
    """What is for people."""
    fields = b"Content-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(body)
    return b"HTTP/1.1 " + status + b"\r\n" + fields + body


@contextmanager
def answering(
    answer: bytes,
    *,
    silent: bool = False,
    reset: bool = False,
    said: threading.Event | None = None,
) -> Iterator[str]:
    """The URL of a server that says this to one who asks, and hangs up or says nothing more."""
    done = threading.Event()

    def serve() -> None:
        client, _ = listening.accept()
        with client:
            request = b""
            while b"\r\n\r\n" not in request:
                request += client.recv(4096)
            client.sendall(answer)
            if said is not None:
                said.set()
            if silent:
                done.wait()
            if reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/secret/"
        finally:
            done.set()
            thread.join()


def streamed(peer: Peer, command: str = "getbundle") -> bytes:
    """A whole stream."""
    with peer.stream(command) as pieces:
        return b"".join(pieces)


Ask = Callable[[Peer], bytes]


def called(peer: Peer) -> bytes:
    """A whole string."""
    return peer.call("heads")


# --- what comes ----------------------------------------------------------------------------


DATA = b"HG20" + bytes(range(256)) * 2000
ZSTD = zstandard.ZstdCompressor().compress(DATA)

WHOLE: Mapping[str, tuple[bytes, bytes]] = {
    "zlib": (b"0.1", zlib.compress(DATA)),
    "named zlib": (b"0.2", b"\x04zlib" + zlib.compress(DATA)),
    "named zstd": (b"0.2", b"\x04zstd" + ZSTD),
    "named none": (b"0.2", b"\x04none" + DATA),
}


@pytest.mark.parametrize("name", WHOLE)
def test_streams(name: str) -> None:
    """Each framing is read, by its length and in chunks of any size."""
    kind, body = WHOLE[name]
    for answer in (
        sized(body, kind),
        chunked(body, kind=kind),
        chunked(*(body[at : at + 999] for at in range(0, len(body), 999)), kind=kind),
        chunked(*(body[at : at + 1] for at in range(9)), body[9:], kind=kind),
    ):
        with answering(answer) as url:
            assert streamed(Peer(url)) == DATA


@pytest.mark.parametrize("name", WHOLE)
def test_streams_that_are_cut(name: str) -> None:
    """An answer that ends early is a failure, wherever it does."""
    kind, body = WHOLE[name]
    broken = "broke off"
    for answer in (
        sized(body, kind)[:-1],
        chunked(body, kind=kind)[:-9],
        chunked(body, kind=kind, end=b""),
        chunked(kind=kind, end=b""),
        chunked(body, kind=kind, end=b"zz\r\n"),
    ):
        with answering(answer) as url, pytest.raises(PeerFailed, match=broken):
            streamed(Peer(url))
    if name != "named none":  # which does not say itself where it ends
        for answer in (chunked(body[:-1], kind=kind), sized(body[: len(body) // 2], kind)):
            with answering(answer) as url, pytest.raises(PeerFailed, match="cannot be read"):
                streamed(Peer(url))
        more = chunked(body, b"Internal Server Error", kind=kind)
        with answering(more) as url, pytest.raises(PeerFailed, match="after the end of a"):
            streamed(Peer(url))
    with answering(chunked(kind=b"0.2")) as url, pytest.raises(PeerFailed, match="cannot be read"):
        streamed(Peer(url))


def read_into(got: list[bytes], pieces: Iterator[bytes]) -> None:
    """Keep what comes, whatever comes then."""
    for piece in pieces:
        got.append(piece)  # noqa: PERF402 - extend would keep nothing of what comes before an error


def test_what_was_read_before_a_cut() -> None:
    """It was handed on as it came; the failure comes where there is no more."""
    answer = chunked(b"\x04none" + bytes(200_000), kind=b"0.2", end=b"1000\r\nhalf")
    got: list[bytes] = []
    with answering(answer) as url, Peer(url).stream("getbundle") as pieces:
        with pytest.raises(PeerFailed):
            read_into(got, pieces)
        assert len(b"".join(got)) > 150_000


def test_strings() -> None:
    """They are as they are, and whole; so is a stream that is sent as it is."""
    with answering(sized(b"a\n")) as url:
        assert called(Peer(url)) == b"a\n"
    with answering(chunked(b"a", b"\n")) as url:
        assert called(Peer(url)) == b"a\n"
    with answering(sized(b"")) as url:
        assert called(Peer(url)) == b""
    with answering(chunked(b"0\n", b"raw")) as url:
        assert streamed(Peer(url), "stream_out") == b"0\nraw"
    for answer in (sized(b"a\n")[:-1], chunked(b"a\n", end=b"")):
        with answering(answer) as url, pytest.raises(PeerFailed, match="broke off"):
            called(Peer(url))
    long = chunked(b"12345", b"678")
    with answering(long) as url, pytest.raises(PeerFailed, match="more than 7 bytes"):
        Peer(url).call("heads", limit=7)


REFUSED: Mapping[str, tuple[bytes, int, str]] = {
    "error": (
        OK + b"Content-Type: application/hg-error\r\nContent-Length: 5\r\n\r\nno:\xff\n",
        200,
        "no:\N{REPLACEMENT CHARACTER}",
    ),
    "unauthorized": (page(b"401 push not authorized"), 401, "push not authorized"),
    "forbidden": (page(b"403 "), 403, "forbidden"),
    "not found": (page(b"404 Not Found"), 404, "Not Found"),
}


@pytest.mark.parametrize("ask", [called, streamed])
@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str, ask: Ask) -> None:
    """What a server says to its users is theirs to read; a stream's is known before it begins."""
    answer, status, text = REFUSED[name]
    with answering(answer) as url, pytest.raises(PeerRefused) as refused:
        ask(Peer(url))
    assert (refused.value.status, refused.value.text) == (status, text)


FAILED: Mapping[str, tuple[bytes, str]] = {
    "nothing": (b"", "no answer: RemoteDisconnected"),
    "no HTTP": (b"SSH-2.0-x\r\n", "no answer: BadStatusLine"),
    "half a head": (OK + b"Content-", "status|no Mercurial server|no answer"),
    "a page": (page(b"200 OK"), "answered with 'text/html', as no Mercurial"),
    "an error": (page(b"500 Internal Server Error"), "status 500 [(]Internal Server Error"),
    "bad request": (page(b"400 Bad"), "status 400"),
    "a redirect": (page(b"301 Moved"), "elsewhere [(]status 301"),
    "no type": (OK + b"Content-Length: 0\r\n\r\n", "answered with ''"),
    "no length": (head() + b"a\n", "how long its answer is"),
    "another protocol": (sized(b"", b"exp-framing-0006"), "mercurial-exp-framing-0006'"),
    "headers": (OK + b"A: b\r\n" * 101 + b"\r\n", "no answer: HTTPException: got more than 100"),
}


@pytest.mark.parametrize("ask", [called, streamed])
@pytest.mark.parametrize("name", FAILED)
def test_failures(name: str, ask: Ask) -> None:
    """What is no answer of the protocol is a failure, in words for our log: where, what, why."""
    answer, says = FAILED[name]
    with answering(answer) as url, pytest.raises(PeerFailed, match=says) as failed:
        ask(Peer(url))
    said = str(failed.value)
    assert said.startswith(url.split("/")[2] + " (")
    assert "secret" not in said


def test_no_stream_in_place_of_a_string() -> None:
    """Each command answers in its own way."""
    stream = sized(b"\x04nonea\n", b"0.2")
    with answering(stream) as url, pytest.raises(PeerFailed, match="in place of a string"):
        called(Peer(url))


def test_silence() -> None:
    """A server that says nothing, or nothing more, is not waited for."""
    says = r"nothing was said for 0\.1 s"
    for answer in (b"", OK, chunked(b"half", end=b"")):
        with answering(answer, silent=True) as url, pytest.raises(PeerFailed, match=says):
            called(Peer(url, silence=0.1))


def test_no_server() -> None:
    """A connection that is refused, or reset, is a failure."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(PeerFailed, match="no connection: ConnectionRefusedError"):
        called(Peer(f"http://user:secret@127.0.0.1:{port}/secret", "some/where"))
    says = "no answer: (ConnectionReset|RemoteDisconnected)"
    with answering(b"", reset=True) as url, pytest.raises(PeerFailed, match=says):
        called(Peer(url))


def test_no_secret_is_shown() -> None:
    """Neither how it asks nor where is in what Python shows of it."""
    peer = Peer("http://x/secret", "name", authorization="Bearer secret")
    assert "secret" not in repr(peer)
    assert "name" in repr(peer)


def test_leaving_early() -> None:
    """Who has enough hangs up."""
    endless = chunked(b"\x04none" + bytes(100_000), kind=b"0.2", end=b"")
    with answering(endless, silent=True) as url, Peer(url).stream("getbundle") as pieces:
        assert next(pieces)


# --- what is ended -------------------------------------------------------------------------


HANGS = {
    "before the answer": (b"", "no answer"),
    "in its head": (OK, "as no Mercurial server does"),
    "in a string": (sized(b"half")[:-1], "broke off"),
    "in a chunk": (chunked(b"half", end=b"10\r\nha"), "broke off"),
    "in an error": (sized(b"refused\n").replace(b"mercurial-0.1", b"hg-error")[:-1], "broke off"),
}


@pytest.mark.parametrize("name", HANGS)
def test_ended(name: str) -> None:
    """Who waits for a server is set free by an end of all connections, and has a failure."""
    answer, says = HANGS[name]
    connections, said = Connections(), threading.Event()
    with answering(answer, silent=True, said=said) as url, ThreadPoolExecutor(1) as threads:
        asking = threads.submit(called, Peer(url, silence=3600.0, connections=connections))
        said.wait()
        connections.close()
        with pytest.raises(PeerFailed, match=says):
            asking.result()
        with pytest.raises(PeerFailed, match="this server stops"):
            called(Peer(url, connections=connections))


def test_ended_while_it_is_read() -> None:
    """What came can be read; then it is a failure, as of any answer that is cut."""
    connections = Connections()
    endless = chunked(b"\x04none" + bytes(100_000), kind=b"0.2", end=b"")
    with answering(endless, silent=True) as url:
        peer = Peer(url, silence=3600.0, connections=connections)
        with peer.stream("getbundle") as pieces:
            assert next(pieces)
            connections.close()
            with pytest.raises(PeerFailed, match="broke off"):
                list(pieces)


def test_what_is_over_is_not_ended() -> None:
    """Connections that were closed are forgotten, and those of others are theirs."""
    connections = Connections()
    with answering(sized(b"a")) as url:
        assert called(Peer(url, connections=connections)) == b"a"
    assert not connections._open
    connections.close()
    with answering(sized(b"a")) as url:
        assert called(Peer(url)) == b"a"


# --- what is asked -------------------------------------------------------------------------


def requested(peer: Peer, arguments: Mapping[bytes, bytes]) -> tuple[str, dict[str, str], bytes]:
    """What is sent, and what a server reads of it."""
    method, headers, body = peer._request("getbundle", arguments)
    assert read_arguments("", tuple(headers.items()), body or b"") == arguments
    return method, headers, body or b""


@given(
    st.dictionaries(st.binary(min_size=1).filter(lambda name: name != b"cmd"), st.binary()),
    st.integers(min_value=0, max_value=2000),
    st.integers(min_value=0, max_value=4000),
)
def test_arguments(arguments: dict[bytes, bytes], length: int, nodes: int) -> None:
    """Any arguments are read as they were meant, in headers that are as short as was asked for."""
    length = max(length, 100)
    peer = Peer("http://x", header_length=length)
    method, headers, body = requested(peer, {**arguments, b"heads": b"0" * 5 * nodes})
    lines = {name: value for name, value in headers.items() if name.startswith("X-HgArg-")}
    assert all(len(f"{name}: {value}\r\n") <= length for name, value in lines.items())
    assert len(lines) < 100
    assert (method == "POST") == bool(body) == (not lines and bool(body))


@pytest.mark.parametrize(("over", "posted"), [(0, True), (99, True), (100, False), (None, False)])
def test_where_arguments_go(over: int | None, posted: bool) -> None:
    """Up to a length they go in headers, in any case if there is none."""
    peer = Peer("http://x", header_length=50, post_over=over)
    method, headers, body = requested(peer, {b"heads": b"0" * 94})
    assert (method, bool(body), "X-HgArg-1" in headers) == (
        ("POST", True, False) if posted else ("GET", False, True)
    )


def test_as_many_headers_as_it_takes() -> None:
    """Without a bound, what a server would not take in a body is not sent in one."""
    peer = Peer("http://x", post_over=None)
    method, headers, _ = requested(peer, {b"heads": b"0" * 200_000})
    assert method == "GET"
    assert sum(name.startswith("X-HgArg-") for name in headers) > 190


def test_engines() -> None:
    """A server is told of those that it may compress with, in their order."""
    for engines, said in ((("none",), "none"), (("zlib", "none"), "zlib,none")):
        _, headers, _ = Peer("http://x", engines=engines)._request("getbundle", {})
        assert headers["X-HgProto-1"] == f"0.1 0.2 comp={said}"


def test_headers() -> None:
    """Who we are, what we take, and for whom; a server is asked what it can before that."""
    peer = Peer("http://x", authorization="Bearer x", user_agent="y")
    _, headers, _ = peer._request("heads", {})
    assert headers == {
        "Accept": "application/mercurial-0.1",
        "Accept-Encoding": "identity",
        "Authorization": "Bearer x",
        "User-Agent": "y",
        "X-HgProto-1": "0.1 0.2 comp=zstd,zlib,none",
    }
    assert "X-HgProto-1" not in peer._request("capabilities", {})[1]


# --- stock servers -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Seed:
    """A small repository."""
    return make_seed(tmp_path_factory.mktemp("seed"))


@pytest.fixture(scope="module", params=VERSIONS)
def stock_peer(
    request: pytest.FixtureRequest, seed: Seed, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Peer]:
    """A repository that a stock hg serves."""
    place = tmp_path_factory.mktemp("serving")
    with served(place, seed.sow(place / "repository"), version=request.param) as (url,):
        base, _, path = url.rpartition("/")
        yield Peer(base, path)


def test_stock_strings(stock_peer: Peer, seed: Seed) -> None:
    """Stock servers answer us, with arguments and without."""
    assert b"getbundle" in stock_peer.call("capabilities")
    assert stock_peer.call("heads") == seed.tip + b"\n"
    assert stock_peer.call("lookup", {b"key": b"tip"}) == b"1 " + seed.tip + b"\n"
    assert stock_peer.call("batch", {b"cmds": b"heads ;known nodes=" + seed.tip}).endswith(b";1")


@pytest.mark.parametrize("count", [0, 1, 190, 1_000, 10_000])
def test_stock_many_nodes(stock_peer: Peer, seed: Seed, count: int) -> None:
    """As many nodes as are meant arrive, in headers or not."""
    nodes = [b"%040x" % number for number in range(1, count + 1)]
    known = stock_peer.call("known", {b"nodes": b" ".join([*nodes, seed.tip])})
    assert known == b"0" * count + b"1"


def test_stock_bundle(stock_peer: Peer, seed: Seed) -> None:
    """A bundle against 1,000 nodes is whole, and not compressed."""
    common = b" ".join(b"%040x" % number for number in range(1000))
    arguments = {b"bundlecaps": BUNDLECAPS, b"heads": seed.tip, b"common": common, b"cg": b"1"}
    assert b"changegroup" in parts(streamed_with(stock_peer, arguments))


def test_stock_engines(stock_peer: Peer, seed: Seed) -> None:
    """A server that compresses does it as it was told to, and the bundle is the same."""
    arguments = {b"bundlecaps": BUNDLECAPS, b"heads": seed.tip, b"common": b"0" * 40, b"cg": b"1"}
    found = {
        streamed_with(replace(stock_peer, engines=engines), arguments)
        for engines in (("none",), ("zlib", "none"))
    }
    assert len(found) == 1


def test_stock_refusals(stock_peer: Peer) -> None:
    """What stock servers do when they cannot answer is a failure or a refusal."""
    with pytest.raises(PeerFailed, match="status 500"):
        streamed_with(stock_peer, {b"heads": b"1" * 40, b"common": b"0" * 40})
    with pytest.raises(PeerFailed, match="status 400"):
        stock_peer.call("nosuchcommand")
    with pytest.raises(PeerRefused) as refused:
        Peer(stock_peer.base_url, "nowhere").call("heads")
    assert refused.value.status == 404


def streamed_with(peer: Peer, arguments: Mapping[bytes, bytes]) -> bytes:
    """A whole bundle."""
    with peer.stream("getbundle", arguments) as pieces:
        return b"".join(pieces)
