# Law of this file: what we do not answer is asked of the `hg serve` behind us as the client asked
# it, and its answer is handed back as it comes; what is about this connection stays here.

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Final

import aiohttp
from aiohttp import web
from yarl import URL

from repos.hg.backend import Backend, BackendFailed
from repos.hg.repository import HgRepository
from server.exchange import EXCHANGE
from server.git.answers import NO_CACHE
from server.hg.v1 import replies
from server.outcome import Outcome
from server.runtime import Runtime
from server.sending import Sender
from wire.hg.v1.capabilities import Capabilities
from wire.hg.v1.media import HG_ERROR, MERCURIAL_0_1, MERCURIAL_0_2

_log = logging.getLogger("offramp.hg")

# By these a client says what it asks, and how it wants it answered.
_ASKED: Final = ("accept", "content-type", "content-length", "user-agent", "vary")
_OWN: Final = ("x-hgarg", "x-hgproto")

# Seconds in which a program on this machine takes a connection.
_CONNECT: Final = 10.0
_MEDIA_TYPES: Final = frozenset((MERCURIAL_0_1, MERCURIAL_0_2, HG_ERROR))
# By this status hgweb says that it does not know a command, or cannot read its arguments.
_NO_COMMAND: Final = 400

_PIECE: Final = 256 << 10
_LONGEST_WORDS: Final = 64 << 10


class NoBackend(Exception):  # noqa: N818 - what there is
    """There is nobody behind us who could be asked."""


def backend_of(runtime: Runtime) -> Backend:
    """The `hg serve` behind this server.

    Raises:
        NoBackend: no repositories of this machine are served.
    """
    if runtime.hg_backend is None:
        raise NoBackend("no repositories of this machine are served")
    return runtime.hg_backend


async def passed(
    request: web.Request, runtime: Runtime, repository: HgRepository, *, silence: float = 0.0
) -> web.StreamResponse:
    """Ask what the client asked of ``repository``, and hand the answer back.

    ``silence``: seconds for which nothing may be said; 0: `hg.silence`.
    """
    exchange = request[EXCHANGE]
    exchange.outcome = Outcome.PASSTHROUGH
    backend = backend_of(runtime)
    try:
        return await _handed_back(
            request,
            runtime,
            await backend.url(repository.path),
            silence or runtime.settings.hg.silence,
        )
    except web.HTTPException:
        raise
    except (BackendFailed, aiohttp.ClientError, TimeoutError) as error:
        await backend.suspect()
        if exchange.begun:
            raise ConnectionResetError("the program behind this server broke off") from error
        _log.error("request %s: hg serve: %s", exchange.request_id, type(error).__name__)
        return replies.failed(request)


async def _handed_back(
    request: web.Request, runtime: Runtime, url: str, silence: float
) -> web.StreamResponse:
    query = request.raw_path.partition("?")[2]
    async with runtime.http.request(
        request.method,
        URL(f"{url}?{query}", encoded=True),
        headers=_headers(request),
        data=_body(request, runtime.settings.limits.push_body) if request.can_read_body else None,
        allow_redirects=False,
        skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=silence),
    ) as answer:
        if answer.content_type not in _MEDIA_TYPES:
            # A page for people, with words that are none of a client's business.
            await _drained(answer)
            if answer.status == _NO_COMMAND:
                return replies.refused(
                    request, "the repository's server does not know this command"
                )
            _log.warning(
                "request %s: hg serve answered %d, %s",
                request[EXCHANGE].request_id,
                answer.status,
                answer.content_type,
            )
            return replies.failed(request)
        headers = {**NO_CACHE, "Content-Type": answer.headers["Content-Type"]}
        response = web.StreamResponse(status=answer.status, headers=headers)
        response.content_length = answer.content_length
        sender = Sender(request, response, runtime.settings.limits.stall_time)
        try:
            await sender.begin()
            async for piece in answer.content.iter_chunked(_PIECE):
                await sender.write(piece)
        finally:
            request[EXCHANGE].sent = sender.sent
        await response.write_eof()
        return response


async def _drained(answer: aiohttp.ClientResponse) -> None:
    """Read the rest of a short page, so that whoever writes it ends well."""
    async for _ in answer.content.iter_chunked(_PIECE):
        await asyncio.sleep(0)


def _headers(request: web.Request) -> dict[str, str]:
    return {
        name: value
        for name, value in request.headers.items()
        if name.lower() in _ASKED or name.lower().startswith(_OWN)
    }


async def _body(request: web.Request, limit: int) -> AsyncIterator[bytes]:
    received = 0
    async for chunk in request.content.iter_any():
        received += len(chunk)
        if received > limit:
            raise web.HTTPRequestEntityTooLarge(max_size=limit, actual_size=received)
        yield chunk


async def their_capabilities(runtime: Runtime, repository: HgRepository) -> Capabilities | None:
    """What the `hg serve` behind this server says of a repository; None if it does not answer."""
    backend = backend_of(runtime)
    limit = aiohttp.ClientTimeout(total=runtime.settings.hg.silence, sock_connect=_CONNECT)
    try:
        url = f"{await backend.url(repository.path)}?cmd=capabilities"
        async with runtime.http.get(
            URL(url, encoded=True), allow_redirects=False, timeout=limit
        ) as answer:
            if answer.status != 200 or answer.content_type != MERCURIAL_0_1:
                _log.error("repository %s: hg serve answered %d", repository.name, answer.status)
                return None
            return Capabilities.parse(await answer.content.read(_LONGEST_WORDS))
    except (BackendFailed, aiohttp.ClientError, TimeoutError) as error:
        await backend.suspect()
        _log.error("repository %s: hg serve: %s", repository.name, type(error).__name__)
        return None
