# Law of this file: requests are written by hand here, byte by byte, as no well-behaved client
# would; and stock git is asked the same, to compare.

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from server.admission import Busy
from tests.conftest import Served
from wire.git import pktline
from wire.git.response import FetchResponseParser, PackData

REQUEST = "application/x-git-upload-pack-request"
HEADERS = {"Content-Type": REQUEST, "Git-Protocol": "version=2"}


def run_git(*args: str | Path, cwd: Path | None = None, stdin: bytes = b"") -> str:
    """Run stock git and wait; it must end well."""
    done = subprocess.run(
        ["git", *map(str, args)], cwd=cwd, input=stdin, capture_output=True, check=True
    )
    return done.stdout.decode().strip()


def make_repository(path: Path, files: dict[str, bytes], *, object_format: str = "sha1") -> str:
    """A bare repository with one commit of ``files``; returns that commit."""
    work = path.with_name(f"{path.name}.work")
    run_git("init", "-q", f"--object-format={object_format}", work)
    for name, content in files.items():
        (work / name).write_bytes(content)
    run_git("add", ".", cwd=work)
    run_git("commit", "-q", "--allow-empty", "-m", "made", cwd=work)
    run_git("clone", "-q", "--bare", work, path)
    (path / "description").touch()
    subprocess.run(["rm", "-r", str(work)], check=True)
    return run_git("rev-parse", "HEAD", cwd=path)


def stock(path: Path, body: bytes, protocol: str = "version=2") -> bytes:
    """What stock upload-pack answers, whatever its exit code."""
    return subprocess.run(
        ["git", "upload-pack", "--stateless-rpc", "--strict", str(path)],
        env={**os.environ, "GIT_PROTOCOL": protocol},
        input=body,
        capture_output=True,
        check=False,
    ).stdout


def command(name: bytes, *arguments: bytes, object_format: bytes = b"sha1") -> bytes:
    """A v2 request."""
    return (
        pktline.text(b"command=" + name)
        + pktline.text(b"object-format=" + object_format)
        + pktline.DELIM
        + b"".join(map(pktline.text, arguments))
        + pktline.FLUSH
    )


def want(*oids: str) -> bytes:
    """A v2 clone of these objects."""
    wants = [b"want " + oid.encode() for oid in oids]
    return command(b"fetch", b"ofs-delta", b"no-progress", *wants, b"done")


def error(body: bytes) -> str:
    """The message of a body that is an error packet."""
    first = pktline.parse(body)[0]
    assert isinstance(first, bytes), body[:200]
    assert first.startswith(b"ERR "), body[:200]
    return first.removeprefix(b"ERR ").decode().strip()


def pack(body: bytes) -> bytes:
    """The pack of a v2 answer, however it was framed."""
    parser = FetchResponseParser()
    events = parser.feed(body)
    parser.close()
    return b"".join(event.data for event in events if isinstance(event, PackData))


@dataclass(frozen=True)
class Reply:
    """One answer, as it came.

    Attributes:
        status: its code; 0, the server hung up without a word.
        headers: by lower-case name.
        body: with its chunks joined.
        whole: it came to its end.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool


@asynccontextmanager
async def connected(
    served: Served,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to the server."""
    parts = urlsplit(served.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def head(method: str, target: str, headers: dict[str, str] | None = None) -> bytes:
    """The head of a request on a connection that is to be closed afterwards."""
    fields = {"Host": "localhost", "Connection": "close", **(headers or {})}
    lines = (f"{name}: {value}" for name, value in fields.items() if value)
    return "\r\n".join((f"{method} {target} HTTP/1.1", *lines, "", "")).encode(
        "utf-8", "surrogateescape"
    )


async def converse(served: Served, *said: bytes, end: bool = False) -> Reply:
    """Say bytes, and read what comes until the server hangs up; ``end``: hang up first."""
    async with connected(served) as (reader, writer):
        for piece in said:
            writer.write(piece)
        if end:
            writer.write_eof()
        return await read_reply(reader)


async def read_reply(reader: asyncio.StreamReader) -> Reply:
    """Read one answer to its end, or to where the server breaks off."""
    try:
        top = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except (asyncio.IncompleteReadError, ConnectionError):
        return Reply(0, {}, b"", whole=False)
    first, *lines = top.strip().split("\r\n")
    status = int(first.split(" ")[1])
    fields = dict(line.split(": ", 1) for line in lines)
    headers = {name.lower(): value for name, value in fields.items()}
    body = bytearray()
    try:
        if headers.get("transfer-encoding") == "chunked":
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readexactly(2)
        elif "content-length" in headers:
            body += await reader.readexactly(int(headers["content-length"]))
        else:
            while data := await reader.read(65536):
                body += data
    except (asyncio.IncompleteReadError, ConnectionError, ValueError):
        return Reply(status, headers, bytes(body), whole=False)
    return Reply(status, headers, bytes(body), whole=True)


async def ask(
    served: Served,
    method: str,
    target: str,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
) -> Reply:
    """One request with a body of a known length."""
    length = {"Content-Length": str(len(body))} if body or method == "POST" else {}
    return await converse(served, head(method, target, {**length, **(headers or {})}), body)


async def post(
    served: Served, name: str, body: bytes, headers: dict[str, str] | None = None
) -> Reply:
    """One fetch request of protocol v2."""
    return await ask(
        served, "POST", f"/{name}/git-upload-pack", body, {**HEADERS, **(headers or {})}
    )


class Lines(io.StringIO):
    """A log that can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._written = asyncio.Event()

    def write(self, text: str) -> int:
        """Keep, and wake who waits."""
        self._written.set()
        return super().write(text)

    async def until(self, count: int) -> list[str]:
        """The lines, once there are ``count``."""
        while len(lines := self.getvalue().splitlines()) < count:
            self._written.clear()
            await self._written.wait()
        return lines


def listen_to_access(served: Served) -> Lines:
    """Put a log of ours in the place of the server's access log."""
    lines = Lines()
    served.runtime.access.stream.close()
    served.runtime.access.stream = lines
    return lines


@asynccontextmanager
async def occupied(served: Served) -> AsyncIterator[None]:
    """Every thread for runs is taken, and every place in the queue; all are free again after it."""
    runs, release = served.runtime.runs, threading.Event()
    limits = served.settings.limits
    taken: list[asyncio.Future[bool]] = []
    try:
        while len(taken) < limits.programs + limits.queue:
            try:
                run = runs.submit(release.wait)
            except Busy:  # one of before has answered, and not quite ended
                await asyncio.sleep(0)
            else:
                taken.append(asyncio.wrap_future(run))
        yield
    finally:
        release.set()
        # Each gives its place back before it is known here that it ended.
        await asyncio.gather(*taken)
