# Law of this file: whatever a request says, it is answered in the protocol's own words or with
# the status that HTTP has for it: never with an error of ours, and never at a cost without bound.

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Serve, Served
from tests.server.asking import (
    HEADERS,
    REQUEST,
    ask,
    command,
    converse,
    error,
    head,
    make_repository,
    pack,
    post,
    run_git,
    stock,
    want,
)
from wire.git import pktline

NOWHERE = "ab" * 20
UPLOAD_PACK = "/p.git/git-upload-pack"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory with one small repository, ``p.git``."""
    root = tmp_path / "root"
    root.mkdir()
    make_repository(root / "p.git", {"file": b"content\n"})
    return root


def tip(root: Path) -> str:
    """The commit of the repository."""
    return run_git("rev-parse", "HEAD", cwd=root / "p.git")


# --- the protocol ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"zzzz",
        b"0003",
        b"ffff",
        b"fff1" + b"x" * 65517,
        b"0014command=fetch",
        b"0012command=fetch\n",
        b"0004",
        b"00010000",
        command(b"sudo"),
        command(b"fetch") + b"0000",
        pktline.text(b"command=fetch") + pktline.text(b"command=ls-refs") + b"0000",
        pktline.text(b"agent=git/2") + b"0000",
        # the delimiter is missing, so that arguments stand among the capabilities
        pktline.text(b"command=fetch") + pktline.text(b"want " + b"a" * 40) + b"0000",
        pktline.text(b"command=ls-refs") + b"0001" + pktline.text(b"ref-prefix \0") + b"0000",
        pktline.text(b"command=ls-refs") + b"00010001" + b"0000",
        pktline.text(b"command=ls-refs") + b"0002",
        command(b"fetch", b"want xyz"),
        command(b"fetch", b"want " + b"A" * 40),
        command(b"fetch", b"have " + b"\xff" * 40),
        command(b"fetch", b"have " + b"0" * 64),
        command(b"fetch", b"deepen -1"),
        command(b"fetch", b"deepen 99999999999"),
        command(b"fetch", b"deepen-since yesterday"),
        command(b"fetch", b"filter "),
        command(b"fetch", b"filter \xff\xfe"),
        command(b"fetch", b"filter blob:none", b"filter tree:0"),
        command(b"fetch", b"packfile-uris http", b"packfile-uris https"),
        command(b"fetch", b"sudo"),
        command(b"bundle-uri", b"please"),
        command(b"ls-refs", object_format=b"md5"),
    ],
)
async def test_a_malformed_request_is_refused_in_the_protocol(
    serve: Serve, root: Path, body: bytes
) -> None:
    """What is no request is answered by one error packet, and no program is run for it."""
    served = await serve(root)
    reply = await post(served, "p.git", body)
    assert reply.status == 200
    assert error(reply.body)
    assert served.executions() == 0


async def test_another_object_format_is_refused(serve: Serve, root: Path) -> None:
    """A client of sha256 is told that the repository is not, in stock git's words."""
    served = await serve(root)
    reply = await post(served, "p.git", command(b"ls-refs", object_format=b"sha256"))
    assert error(reply.body) == "mismatched object format: server sha1; client sha256"


@pytest.mark.parametrize("accepts", [(), (b"packfile-uris http",)])
async def test_an_object_that_is_not_there(
    serve: Serve, root: Path, accepts: tuple[bytes, ...]
) -> None:
    """Who wants what does not exist is told so by stock git's own bytes."""
    served = await serve(root)
    body = command(b"fetch", *accepts, b"want " + NOWHERE.encode(), b"done")
    plain = command(b"fetch", b"want " + NOWHERE.encode(), b"done")
    expected = stock(root / "p.git", plain)
    assert error(expected) == f"upload-pack: not our ref {NOWHERE}"
    for _ in range(2):  # nothing of it is remembered
        assert error((await post(served, "p.git", body)).body) == error(expected)
    assert served.outcomes() == {"error": 2}
    assert not list(served.settings.data.glob("records/*/*"))


async def test_a_ref_that_is_not_there(serve: Serve, root: Path) -> None:
    """A ref wanted by name that does not exist is refused as stock git refuses it."""
    run_git("config", "uploadpack.allowRefInWant", "true", cwd=root / "p.git")
    served = await serve(root)
    body = command(b"fetch", b"want-ref refs/heads/nowhere", b"done")
    assert error((await post(served, "p.git", body)).body) == error(stock(root / "p.git", body))


async def test_what_was_not_advertised_is_refused(serve: Serve, root: Path) -> None:
    """Refs by name and filters are refused where they were not offered."""
    run_git("config", "uploadpack.allowFilter", "false", cwd=root / "p.git")
    served = await serve(root)
    for argument in (b"want-ref refs/heads/main", b"filter blob:none"):
        body = command(b"fetch", b"want " + tip(root).encode(), argument, b"done")
        assert "not advertised" in error((await post(served, "p.git", body)).body)


async def test_haves_that_nobody_knows_change_nothing(serve: Serve, root: Path) -> None:
    """Made-up haves are left out: the pack is that of a clone."""
    served = await serve(root)
    clone = await post(served, "p.git", want(tip(root)))
    haves = (b"have %040x" % number for number in range(1, 100))
    arguments = (b"ofs-delta", b"no-progress", b"want " + tip(root).encode(), *haves, b"done")
    reply = await post(served, "p.git", command(b"fetch", *arguments))
    assert pack(reply.body) == pack(clone.body)


# --- bodies ------------------------------------------------------------------------------


async def test_a_body_over_the_limit(serve: Serve, root: Path) -> None:
    """A body over limits.request_body is 413: of a known length, in chunks or compressed."""
    served = await serve(root, limits={"request_body": 10_000})
    big = b"0" * 10_001
    chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(big), big)
    chunked = {**HEADERS, "Transfer-Encoding": "chunked"}
    assert (await post(served, "p.git", big)).status == 413
    assert (await converse(served, head("POST", UPLOAD_PACK, chunked), chunk)).status == 413
    small = gzip.compress(big)
    reply = await post(served, "p.git", small, {"Content-Encoding": "gzip"})
    assert reply.status == 413
    assert (await post(served, "p.git", want(tip(root)))).status == 200


async def test_bodies_may_be_compressed_and_chunked(serve: Serve, root: Path) -> None:
    """gzip, deflate and chunks are undone before a request is read."""
    served = await serve(root)
    body = want(tip(root))
    plain = await post(served, "p.git", body)
    assert b"PACK" in plain.body
    for encoding, packed in (("gzip", gzip.compress(body)), ("deflate", zlib.compress(body))):
        reply = await post(served, "p.git", packed, {"Content-Encoding": encoding})
        assert pack(reply.body) == pack(plain.body)
        pieces = [b"1\r\n%c\r\n" % byte for byte in packed]
        chunked = {**HEADERS, "Content-Encoding": encoding, "Transfer-Encoding": "chunked"}
        start = head("POST", UPLOAD_PACK, chunked)
        reply = await converse(served, start, *pieces, b"0\r\n\r\n")
        assert pack(reply.body) == pack(plain.body)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda packed: b"no gzip at all" + packed,
        lambda packed: packed[:-8] + b"\0" * 8,
        lambda packed: packed[:12] + b"\xff" * 8 + packed[20:],
    ],
    ids=["no gzip", "wrong checksum", "spoiled"],
)
async def test_a_broken_gzip_body_is_400(
    serve: Serve, root: Path, caplog: pytest.LogCaptureFixture, spoil
) -> None:
    """A body that cannot be decompressed is the client's fault, and no traceback of ours."""
    served = await serve(root)
    body = spoil(gzip.compress(want(tip(root))))
    reply = await post(served, "p.git", body, {"Content-Encoding": "gzip"})
    assert reply.status == 400
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(
    "chunks", [b"zz\r\n", b"-5\r\nhello\r\n", b"4\r\nhello\r\n", b"ffffffffffffffffffff\r\n"]
)
async def test_broken_chunks_are_400(
    serve: Serve, root: Path, caplog: pytest.LogCaptureFixture, chunks: bytes
) -> None:
    """Chunks that are none end the connection with 400, and no traceback of ours."""
    served = await serve(root)
    chunked = {**HEADERS, "Transfer-Encoding": "chunked"}
    start = head("POST", UPLOAD_PACK, chunked)
    reply = await converse(served, start, chunks, b"0\r\n\r\n", end=True)
    assert reply.status in {0, 400}
    assert not [record for record in caplog.records if record.exc_info]


@pytest.fixture
def process(root: Path, tmp_path: Path) -> Iterator[tuple[int, int]]:
    """A server in a process of its own; its process id and port."""
    command = "from cli.main import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", command, "serve", str(root), "--listen", "127.0.0.1:0"],
        env={**os.environ, "OFFRAMP_DATA": str(tmp_path / "data")},
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        port = re.search(r":(\d+)/", running.stdout.readline())
        assert port is not None
        yield running.pid, int(port[1])
        # Asked to stop, it would wait for the rest of a body that it refused.
        running.kill()


def peak(pid: int) -> int:
    """The most memory that a process has had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) << 10


async def test_a_gzip_bomb_costs_no_memory(process: tuple[int, int], root: Path) -> None:
    """2 MiB that would become 2 GiB are refused with 413 by the time the limit is reached."""
    pid, port = process
    compressor = zlib.compressobj(9, wbits=31)
    zeros = bytes(1 << 20)
    first = compressor.compress(zeros) + compressor.flush(zlib.Z_FULL_FLUSH)
    again = compressor.compress(zeros) + compressor.flush(zlib.Z_FULL_FLUSH)
    bomb = first + again * 2047
    served = Served(f"http://127.0.0.1:{port}", None, None)  # type: ignore[arg-type]
    assert (await post(served, "p.git", want(tip(root)))).status == 200
    before = peak(pid)
    reply = await post(served, "p.git", bomb, {"Content-Encoding": "gzip"})
    assert reply.status == 413
    # Some times the limit of 16 MiB (pieces, the joined body, its growth), whatever the bomb.
    assert peak(pid) - before < 160 << 20


# --- HTTP --------------------------------------------------------------------------------


async def test_methods(serve: Serve, root: Path) -> None:
    """A method that does not go with a path is 405 and says which do."""
    served = await serve(root)
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS"):
        reply = await ask(served, method, UPLOAD_PACK)
        assert (reply.status, reply.headers["allow"]) == (405, "POST")
    for method in ("POST", "PUT", "DELETE"):
        reply = await ask(served, method, "/p.git/info/refs?service=git-upload-pack")
        assert reply.status == 405
        assert set(reply.headers["allow"].split(",")) == {"GET", "HEAD"}
    for path in ("/-/livez", "/-/readyz", "/-/metrics"):
        assert (await ask(served, "POST", path)).status in {404, 405}


async def test_head(serve: Serve, root: Path) -> None:
    """HEAD is answered as GET, without the body."""
    served = await serve(root)
    target = "/p.git/info/refs?service=git-upload-pack"
    for path in (target, "/-/livez", "/nowhere"):
        got = await ask(served, "GET", path)
        said = await converse(served, head("HEAD", path))
        assert said.status == got.status
        assert said.headers["content-length"] == got.headers["content-length"]
        assert said.body == b""


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-git-receive-pack", "/"])
async def test_another_content_type_is_415(serve: Serve, root: Path, content_type: str) -> None:
    """A body that does not say that it is a fetch request is not read as one."""
    served = await serve(root)
    headers = {"Content-Type": content_type}
    assert (await post(served, "p.git", want(tip(root)), headers)).status == 415


async def test_a_content_type_with_parameters_is_read(serve: Serve, root: Path) -> None:
    """Parameters of the content type do not matter."""
    served = await serve(root)
    headers = {"Content-Type": f"{REQUEST}; charset=utf-8"}
    assert (await post(served, "p.git", want(tip(root)), headers)).status == 200


async def test_unknown_services(serve: Serve, root: Path) -> None:
    """No service, an unknown one, and one named twice are refused; dumb HTTP is not spoken."""
    served = await serve(root)
    for query in ("", "?service=", "?service=git-upload-archive", "?service=../git-upload-pack"):
        assert (await ask(served, "GET", f"/p.git/info/refs{query}")).status == 403
    for path in ("/p.git/HEAD", "/p.git/config", "/p.git/objects/info/packs", "/p.git", "/", "*"):
        assert (await ask(served, "GET", path)).status in {400, 404}


async def test_http_1_0(serve: Serve, root: Path) -> None:
    """A client of HTTP/1.0, which knows neither chunks nor Host, gets the same pack."""
    served = await serve(root)
    body = want(tip(root))
    expected = await post(served, "p.git", body)
    for _ in range(2):
        lines = (f"{name}: {value}\r\n" for name, value in HEADERS.items())
        top = f"POST {UPLOAD_PACK} HTTP/1.0\r\n{''.join(lines)}Content-Length: {len(body)}\r\n\r\n"
        reply = await converse(served, top.encode(), body)
        assert reply.status == 200
        assert "transfer-encoding" not in reply.headers
        assert pack(reply.body) == pack(expected.body)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    body=st.one_of(
        st.binary(max_size=200),
        st.lists(st.binary(max_size=30), max_size=8).map(
            lambda lines: b"".join(map(pktline.encode, lines)) + b"0000"
        ),
        st.lists(
            st.sampled_from(
                [
                    pktline.text(b"command=fetch"),
                    pktline.text(b"command=ls-refs"),
                    pktline.text(b"want " + NOWHERE.encode()),
                    pktline.text(b"done"),
                    b"0000",
                    b"0001",
                    b"0002",
                    b"00",
                ]
            ),
            max_size=8,
        ).map(b"".join),
    ),
    protocol=st.one_of(
        st.sampled_from([b"version=2", b"version=1", b"version=0", b""]), st.binary(max_size=40)
    ),
)
async def test_random_bytes(
    serve: Serve, root: Path, caplog: pytest.LogCaptureFixture, body: bytes, protocol: bytes
) -> None:
    """Random bytes as body and as Git-Protocol are never an error of ours, nor a traceback."""
    if not hasattr(serve, "running"):
        serve.running = await serve(root)  # type: ignore[attr-defined] # one for all examples
    served = serve.running  # type: ignore[attr-defined]
    header = protocol.replace(b"\r", b"").replace(b"\n", b"")
    start = (
        f"POST {UPLOAD_PACK} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"
        f"Content-Type: {REQUEST}\r\nContent-Length: {len(body)}\r\nGit-Protocol: "
    )
    reply = await converse(served, start.encode() + header + b"\r\n\r\n", body)
    assert reply.status in {200, 400}
    assert reply.whole
    assert not [record for record in caplog.records if record.exc_info]
    assert not re.search(rb"Traceback|\.py\b", reply.body)
