# Law of this file: what a request of git says is read here, bounded in size and time, before
# anything is asked on its behalf.

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterable
from typing import Final

from aiohttp import web

from redirects.acceptance import Acceptance, Client
from server.exchange import client_of
from server.runtime import Runtime
from wire.git import v2

# Bodies are remembered with what they mean, because a fleet sends the same one again: many small
# ones, and few of those that name each branch of a large repository. What they mean takes up to
# four times as much as they.
_SMALL_BODY: Final = 2 << 10
_LARGE_BODY: Final = 64 << 10


def protocol_of(request: web.Request) -> int:
    """The highest protocol version that a client asks for; 0, 1 or 2."""
    return _version(request.headers.get("Git-Protocol", ""))


@functools.lru_cache(maxsize=64)
def _version(git_protocol: str) -> int:
    words = git_protocol.split(":")
    versions = [w.removeprefix("version=") for w in words if w.startswith("version=")]
    return max((int(version) for version in versions if version in {"1", "2"}), default=0)


def word_of(protocol: int) -> str:
    """What a program is told in ``GIT_PROTOCOL``."""
    return f"version={protocol}" if protocol else ""


@functools.lru_cache(maxsize=64)
def acceptance_of(protocols: tuple[str, ...]) -> Acceptance:
    """Which locations a client accepts, by its ``packfile-uris``."""
    return Acceptance(frozenset(protocols))


def asker(runtime: Runtime, request: web.Request, options: Iterable[str] = ()) -> Client:
    """Who asks, from where, and where it reaches this server; ``options`` are server options."""
    settings = runtime.settings
    return client_of(request, settings.public_url, settings.listen, options)


async def body_of(request: web.Request, seconds: float) -> bytes:
    """The request's body, decompressed; bounded in size by the application."""
    if request.content.is_eof():  # it came with the head; a timer would cost more than it
        return await request.read()
    try:
        async with asyncio.timeout(seconds):
            return await request.read()
    except TimeoutError:
        late = web.HTTPRequestTimeout(text="The request took too long to arrive.\n")
        late.force_close()
        raise late from None


@functools.lru_cache(maxsize=512)
def _parse_small(body: bytes) -> v2.Request | None:
    return v2.parse_request(body)


@functools.lru_cache(maxsize=32)
def _parse_large(body: bytes) -> v2.Request | None:
    return v2.parse_request(body)


async def parsed(body: bytes) -> v2.Request | None:
    """Read a v2 request; one with a hundred thousand haves takes long enough to need a thread.

    Raises:
        wire.git.pktline.ProtocolError: it is none.
    """
    if len(body) <= _SMALL_BODY:
        return _parse_small(body)
    if len(body) <= _LARGE_BODY:
        return _parse_large(body)
    return await asyncio.to_thread(v2.parse_request, body)
