# Law of this file: `/-/blobs/<sha256>` answers those who hold a signed URL that has not ended, and
# tells nobody else whether anything is there. Files go by sendfile; an answer that breaks off ends
# the connection, so that no client takes a part for the whole.

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from aiohttp import web

from redirects.signing import BLOBS_PATH, Expired, Forged, SigningKeys
from server.ranges import Part, Unsatisfiable, Whole, names, parse_range, range_applies
from server.sendfile import Out
from stores.base import Missing, Store, StoreError, StoreUnavailable
from stores.entity import OCTET_STREAM, is_digest

_log = logging.getLogger("offramp.blobs")

BLOB_ROUTE: Final = BLOBS_PATH + "{digest}"

# Seconds after which a client may ask again while the store does not answer.
_RETRY_AFTER: Final = 30


@dataclass(frozen=True, slots=True)
class LocalFile:
    """The entity is this file. It may vanish any time; what was opened stays readable."""

    path: Path


@dataclass(frozen=True, slots=True)
class Stream:
    """The entity is elsewhere.

    Attributes:
        size: its length in bytes.
        open: streams the bytes ``start <= i < end``; errors as :meth:`stores.base.Store.open`.
    """

    size: int
    open: Callable[[int, int], AsyncIterator[bytes]]


Opener = Callable[[str], Awaitable[LocalFile | Stream | None]]
"""Says where the entity of a digest can be read, None if it is gone; may raise StoreError."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def store_opener(store: Store, cached: Callable[[str], Path | None]) -> Opener:
    """Read from the cache's file of a digest (None if it has none), else from the store."""

    async def opener(digest: str) -> LocalFile | Stream | None:
        path = cached(digest) or store.local_path(digest)
        if path is not None:
            return LocalFile(path)
        stored = await store.stat(digest)
        return None if stored is None else Stream(stored.size, partial(store.open, digest))

    return opener


def blob_handler(
    opener: Opener,
    keys: SigningKeys,
    clock: Callable[[], float] = time.time,
    *,
    stall_time: float = 300.0,
) -> Handler:
    """Make the handler of GET and HEAD of :data:`BLOB_ROUTE`.

    Args:
        opener: finds entities.
        keys: believed when they signed a URL.
        clock: seconds since the epoch.
        stall_time: seconds for which a client may take nothing of an answer.
    """

    async def blob(request: web.Request) -> web.StreamResponse:
        digest = request.match_info["digest"]
        if not is_digest(digest):
            return _refuse(404, "Blobs are named by a SHA-256: 64 lower-case hex digits.")
        now = clock()
        try:
            expires = keys.verify(digest, request.query, now)
        except (Forged, Expired) as error:
            return _refuse(403, str(error))
        try:
            found = await _find(opener, digest)
            if found is None:
                return _refuse(404, "This content is gone. Fetch from the repository again.")
            # What a client demands is in the URL, signed, because not every store keeps types.
            media_type = request.query.get("type", OCTET_STREAM)
            asking = _Asked(request, digest, media_type, int(expires - now), stall_time)
            with closing(found):
                return await _answer(asking, found)
        except Missing:
            return _refuse(404, "This content is gone. Fetch from the repository again.")
        except StoreError as error:
            _log.warning("blob %s: %s", digest, error)
            busy = _refuse(503, "The store of this server does not answer. Try again later.")
            busy.headers["Retry-After"] = str(_RETRY_AFTER)
            return busy

    return blob


def _refuse(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=f"{text}\n", headers={"Cache-Control": "no-store"})


# --- where content comes from -----------------------------------------------------------


_Body = Callable[[Out], Awaitable[None]]


class _File:
    """An open file, sent by the kernel."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size = os.fstat(file.fileno()).st_size

    def close(self) -> None:
        """Let go of it."""
        self.file.close()

    async def begin(self, start: int, end: int) -> _Body:
        """Nothing can go wrong any more: the file is open."""
        return lambda out: out.file(self.file, start, end)


class _Stream:
    """Chunks from a store; the first is taken before the answer begins, so it can still fail."""

    def __init__(self, stream: Stream) -> None:
        self.size = stream.size
        self._stream = stream

    def close(self) -> None:
        """Nothing is held."""

    async def begin(self, start: int, end: int) -> _Body:
        """Take the first chunk.

        Raises:
            StoreError: there is none.
        """
        chunks = self._stream.open(start, end)
        first = await anext(chunks, b"")
        return lambda out: out.chunks(chunks, end - start, first)


async def _find(opener: Opener, digest: str) -> _File | _Stream | None:
    """Open an entity; a file that is evicted as we look is looked for once more, elsewhere."""
    for _ in range(2):
        match await opener(digest):
            case None:
                return None
            case Stream() as stream:
                return _Stream(stream)
            case LocalFile(path):
                with suppress(FileNotFoundError):
                    return _File(_open(path))
    return None


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreUnavailable(f"cannot read {path}: {error.strerror}") from error


# --- the answer -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request that shows a signature of ours.

    Attributes:
        request: what it says otherwise.
        digest: of the content.
        media_type: to be told as Content-Type.
        left: seconds that the URL has.
        stall_time: seconds for which the client may take nothing.
    """

    request: web.Request
    digest: str
    media_type: str
    left: int
    stall_time: float


async def _answer(asking: _Asked, found: _File | _Stream) -> web.StreamResponse:
    """Answer with all or a part of what was found, or with why not.

    aiohttp's own FileResponse makes its ETag of the file's time, answers If-Range by dates alone,
    and sends a neighbour ``<name>.gz`` where there is one.
    """
    request = asking.request
    etag = f'"{asking.digest}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        # Caches keep a URL with its query as one name (RFC 9111 section 2), so a shared one
        # answers only those who show it the whole signed URL, as we would, and may as well spare
        # us the work; `private` would protect nothing more. But it must forget when we would
        # refuse: hence the age is what the URL has left, and nothing is served stale.
        "Cache-Control": f"public, max-age={asking.left}, must-revalidate, immutable",
        # What is stored was pushed by somebody; no browser is to run it as a page of ours.
        "X-Content-Type-Options": "nosniff",
    }
    if "If-Match" in request.headers and not _named(request, "If-Match", etag):
        return _refuse(412, "This content has another ETag; it never changes.")
    if _named(request, "If-None-Match", etag):
        return web.Response(status=304, headers=headers)
    asked: Whole | Part | Unsatisfiable = Whole()
    if request.method == "GET" and range_applies(request.headers.get("If-Range"), etag):
        asked = parse_range(_only(request, "Range"), found.size)
    if isinstance(asked, Unsatisfiable):
        beyond = _refuse(416, f"The content has {found.size} bytes; the range begins after them.")
        beyond.headers["Content-Range"] = f"bytes */{found.size}"
        return beyond
    start, end = (asked.start, asked.end) if isinstance(asked, Part) else (0, found.size)
    response = web.StreamResponse(status=206 if isinstance(asked, Part) else 200, headers=headers)
    response.content_type = asking.media_type
    response.content_length = end - start
    if isinstance(asked, Part):
        response.headers["Content-Range"] = f"bytes {start}-{end - 1}/{found.size}"
    bodiless = request.method == "HEAD" or start == end
    body = _no_body if bodiless else await found.begin(start, end)
    await _send(Out(request, response, asking.stall_time), body)
    return response


def _named(request: web.Request, header: str, etag: str) -> bool:
    """Whether a conditional header, on however many lines, names our tag."""
    lines = request.headers.getall(header, ())
    return bool(lines) and names(",".join(lines), etag, weak=header == "If-None-Match")


def _only(request: web.Request, header: str) -> str | None:
    """A header that has one line; None without it, or where there are several."""
    lines = request.headers.getall(header, ())
    return lines[0] if len(lines) == 1 else None


async def _send(out: Out, body: _Body) -> None:
    """Send head and body, or end the connection: Content-Length has promised what is missing."""
    try:
        await out.response.prepare(out.request)
        await body(out)
        await out.response.write_eof()
    except ConnectionError:
        _abort(out)  # the client has gone; nobody is left to be told
    except TimeoutError:
        _log.info("%s: the client took nothing for %.0f s", out.request.path, out.stall_time)
        _abort(out)
    except (EOFError, OSError, StoreError) as error:
        _log.warning("%s was not sent to its end: %s", out.request.path, error)
        _abort(out)


async def _no_body(_: Out) -> None:
    """All is said by the head."""


def _abort(out: Out) -> None:
    if out.request.transport is not None:
        out.request.transport.abort()
