# Law of this file: a fetch is what stock `git upload-pack` answers. A run that did not end well, or
# whose answer is not whole, raises; its caller records nothing.

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Final, Protocol

from repos.git.program import STDERR_KEPT, Git, GitFailed, Running, environment, kill_group
from repos.git.repository import V2, GitRepository, Snapshot
from wire.git.pack import PackChecker
from wire.git.pktline import FLUSH, ProtocolError
from wire.git.response import End, FetchResponseParser, Head, PackData, RemoteError

_READ: Final = 256 << 10

# What a pipe takes at once (pipe(7)), whether or not somebody reads.
_PIPE: Final = 64 << 10


class Sink(Protocol):
    """Where a run puts its answer: the head once, then the entity in pieces."""

    def head(self, head: bytes, has_pack: bool) -> None:
        """What precedes the pack, and whether one follows; called once, before any ``write``."""
        ...

    def write(self, data: bytes) -> None:
        """The next piece of the entity."""
        ...


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a run that ended well has put into its sink.

    Attributes:
        has_pack: there was an entity; else the head was the whole answer.
        checksum: the pack's own trailing checksum in hex; empty without one.
    """

    has_pack: bool
    checksum: str


class Refused(Exception):  # noqa: N818 - git's own answer to the client
    """git answered the client with an error, in its own words."""


def fetch_v2(repository: GitRepository, snapshot: Snapshot, request: bytes, sink: Sink) -> Fetched:
    """Run one protocol v2 fetch; blocks.

    Args:
        repository: of which.
        snapshot: with whose configuration.
        request: the whole request body, see :func:`wire.git.v2.encode_fetch`.
        sink: gets the sections before the pack as raw pkt-lines, then the bare pack.

    Raises:
        Refused: git answered with an error (``not our ref``).
        GitFailed: it ended badly without a word to the client.
        wire.git.pktline.ProtocolError: its answer is cut short or is no pack.
    """
    parser = FetchResponseParser()
    checker = PackChecker(snapshot.object_format)
    has_pack = False
    try:
        with _start(repository, snapshot, V2) as running:
            _ask(running, request)
            while data := running.stdout.read1(_READ):  # type: ignore[attr-defined]
                for event in parser.feed(data):
                    match event:
                        case Head(raw, pack_follows):
                            has_pack = pack_follows
                            sink.head(raw, has_pack)
                        case PackData(piece):
                            checker.feed(piece)
                            sink.write(piece)
                        case End() | _:
                            pass
    except RemoteError as error:
        raise Refused(str(error)) from error
    parser.close()
    return Fetched(has_pack, checker.finish().checksum if has_pack else "")


def fetch_v0(
    repository: GitRepository,
    snapshot: Snapshot,
    request: bytes,
    sink: Sink,
    protocol: str,
    *,
    flushed: bool,
) -> Fetched:
    """Run one ``git-upload-pack`` request of protocol v0 or v1; blocks.

    The whole answer is the entity: its parts cannot be told from outside and are not redirected.

    Args:
        repository: of which.
        snapshot: with whose configuration.
        request: the whole request body.
        sink: gets an empty head and then the raw answer.
        protocol: the value of ``GIT_PROTOCOL``, empty for v0.
        flushed: the answer is a pack on a side band, so a flush ends it.

    Raises:
        Refused: git answered with an error.
        wire.git.pktline.ProtocolError: the answer is cut short.
        GitFailed: it ended badly without a word to the client.
    """
    environ = {"GIT_PROTOCOL": protocol} if protocol else {}
    first = last = b""
    try:
        with _start(repository, snapshot, environ) as running:
            _ask(running, request)
            sink.head(b"", has_pack=True)
            while data := running.stdout.read1(_READ):  # type: ignore[attr-defined]
                first = first or data
                last = (last + data)[-len(FLUSH) :]
                if not _refuses(first):  # what is in the sink may be on its way to a client
                    sink.write(data)
    except GitFailed:
        if not _refuses(first):
            raise
    if _refuses(first):
        raise Refused(first[8 : int(first[:4], 16)].decode(errors="replace").strip())
    if flushed and last != FLUSH:
        raise ProtocolError("git's answer is cut short")
    return Fetched(has_pack=True, checksum="")


def advertise_v0(repository: GitRepository, snapshot: Snapshot, protocol: str) -> bytes:
    """The ref advertisement of protocol v0 or v1, without the ``# service`` preface; blocks.

    Raises:
        GitFailed: git refuses the repository.
    """
    return repository.git.run(
        "upload-pack",
        "--stateless-rpc",
        "--advertise-refs",
        "--strict",
        str(repository.path),
        config=snapshot.config,
        env={"GIT_PROTOCOL": protocol} if protocol else {},
    )


def _refuses(answer: bytes) -> bool:
    """The answer begins with an ``ERR`` packet."""
    return answer[4:8] == b"ERR "


def _start(
    repository: GitRepository, snapshot: Snapshot, env: Mapping[str, str]
) -> AbstractContextManager[Running]:
    return repository.git.start(
        "upload-pack",
        "--stateless-rpc",
        "--strict",
        str(repository.path),
        config=snapshot.config,
        env=env,
    )


def _ask(running: Running, request: bytes) -> None:
    """Write the whole request, while its answer is read.

    In protocol v0 upload-pack answers haves while it reads them, and waits for us to read.
    """
    if len(request) <= _PIPE:
        running.feed(request)
    else:
        threading.Thread(target=running.feed, args=(request,), daemon=True).start()


async def stream(
    git: Git,
    args: Sequence[str],
    body: AsyncIterator[bytes],
    *,
    config: Sequence[tuple[str, str]] = (),
    protocol: str = "",
) -> AsyncIterator[bytes]:
    """Run a git program on a request body and yield its answer as it comes, storing nothing.

    For what must not or cannot go through the cache. Leaving the iterator early kills the program.

    Raises:
        GitFailed: it exited non-zero; whatever it said to the client was yielded before.
    """
    settings = [word for name, value in config for word in ("-c", f"{name}={value}")]
    try:
        process = await asyncio.create_subprocess_exec(
            git.executable,
            *settings,
            *args,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd="/",
            env=environment(git.environ, {"GIT_PROTOCOL": protocol} if protocol else {}),
            start_new_session=True,
        )
    except OSError as error:
        raise GitFailed(args[0], 127, str(error)) from error
    assert process.stdin and process.stdout and process.stderr  # noqa: S101, PT018 - our pipes
    feeding = asyncio.create_task(_feed(process.stdin, body))
    complaints = asyncio.create_task(_tail(process.stderr))
    try:
        async with asyncio.timeout(git.time_limit):
            while data := await process.stdout.read(_READ):
                yield data
            await feeding
            status = await process.wait()
    except TimeoutError:
        raise GitFailed(args[0], -9, f"ran longer than {git.time_limit:.0f} s") from None
    finally:
        feeding.cancel()
        if process.returncode is None:
            kill_group(process.pid)
            await process.wait()
        stderr = (await complaints).decode(errors="replace")
    if status != 0:
        raise GitFailed(args[0], status, stderr)


async def _tail(pipe: asyncio.StreamReader) -> bytes:
    """Read to the end, keep the last of it."""
    kept = b""
    while data := await pipe.read(4096):
        kept = (kept + data)[-STDERR_KEPT:]
    return kept


async def _feed(pipe: asyncio.StreamWriter, body: AsyncIterator[bytes]) -> None:
    try:
        async for data in body:
            with suppress(BrokenPipeError, ConnectionResetError):  # its exit code says why
                pipe.write(data)
                await pipe.drain()
    finally:
        pipe.close()
