# Law of this file: what we do not answer is asked of the `hg serve` behind us as the client asked
# it, and its answer is handed back as it comes; what is about this connection stays here.

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlencode

import aiohttp
from aiohttp import web
from yarl import URL

from repos.hg.backend import Backend, BackendFailed
from repos.hg.peer import PeerRefused
from repos.hg.repository import HgRepository
from server.exchange import EXCHANGE
from server.git.answers import NO_CACHE
from server.hg.v1 import replies
from server.hg.v1.asked import PASSED, Asked, headers_of, writes
from server.outcome import Outcome
from server.runtime import Runtime
from server.sending import Sender
from wire.hg.v1.capabilities import Capabilities
from wire.hg.v1.media import HG_ERROR, MERCURIAL_0_1, MERCURIAL_0_2, BadAnswer

_log = logging.getLogger("offramp.hg")

# Seconds in which a program on this machine takes a connection.
_CONNECT: Final = 10.0

# Bytes of a line of arguments; hgweb takes lines of 64 KiB, and 100 of them.
_LINE: Final = 8000
_PUSHED: Final = frozenset(("content-length",))
_MEDIA_TYPES: Final = frozenset((MERCURIAL_0_1, MERCURIAL_0_2, HG_ERROR))
# By this status hgweb says that it does not know a command, or cannot read its arguments.
_NO_COMMAND: Final = 400

# By these, that the repository's own configuration forbids it.
_REFUSALS: Final = {
    401: "the repository's own configuration does not allow this (its section [web])",
    403: "the repository's own configuration does not allow this (its section [web])",
    405: "this is not to be asked in this way",
}

_PIECE: Final = 256 << 10
_LONGEST_WORDS: Final = 64 << 10


class NoBackend(Exception):  # noqa: N818 - what there is
    """There is nobody behind us who could be asked."""


@dataclass(frozen=True, slots=True)
class Behind:
    """The `hg serve` behind this server, for one request.

    Attributes:
        runtime: of the server.
        request: of the client.
        repository: that it is for.
        asked: what it asks.
    """

    runtime: Runtime
    request: web.Request
    repository: HgRepository
    asked: Asked

    @property
    def backend(self) -> Backend:
        """The program: of two, one takes pushes, and is asked for nothing but those.

        Raises:
            NoBackend: no repositories of this machine are served.
        """
        runtime = self.runtime
        found = runtime.hg_pushing if self.writes else runtime.hg_backend
        if found is None:
            raise NoBackend("no repositories of this machine are served")
        return found

    @property
    def writes(self) -> bool:
        """It changes the repository, or may."""
        return writes(self.request, self.asked)

    async def answer(self, silence: float | None = None) -> web.StreamResponse:
        """Ask what the client asked, and hand the answer back.

        Args:
            silence: seconds for which nothing may be said; by default `hg.silence`.
        """
        exchange = self.request[EXCHANGE]
        exchange.outcome = Outcome.PASSTHROUGH
        backend = self.backend
        limit = self.runtime.settings.hg.silence if silence is None else silence
        try:
            return await self._handed_back(await backend.url(self.repository.path), limit)
        except web.HTTPException:
            raise
        except (BackendFailed, aiohttp.ClientError, TimeoutError) as error:
            await backend.suspect()
            if exchange.begun:
                raise ConnectionResetError("the program behind this server broke off") from error
            words = str(error) if isinstance(error, BackendFailed) else type(error).__name__
            _log.error("request %s: hg serve: %s", exchange.request_id, words)
            return replies.failed(self.request)

    async def capabilities(self) -> Capabilities | None:
        """What it says of the repository; None if it does not answer.

        Raises:
            PeerRefused: it says no.
        """
        backend, name = self.backend, self.repository.name
        limit = aiohttp.ClientTimeout(total=self.runtime.settings.hg.silence, sock_connect=_CONNECT)
        try:
            url = f"{await backend.url(self.repository.path)}?cmd=capabilities"
            async with self.runtime.http.get(
                URL(url, encoded=True), allow_redirects=False, timeout=limit
            ) as answer:
                if answer.status in _REFUSALS:
                    raise PeerRefused(_REFUSALS[answer.status], answer.status)
                if answer.status != 200 or answer.content_type != MERCURIAL_0_1:
                    _log.error("repository %s: hg serve answered %d", name, answer.status)
                    return None
                return Capabilities.parse(await answer.content.read(_LONGEST_WORDS))
        except (BackendFailed, BadAnswer, aiohttp.ClientError, TimeoutError) as error:
            await backend.suspect()
            _log.error("repository %s: hg serve: %s", name, type(error).__name__)
            return None

    async def _handed_back(self, url: str, silence: float) -> web.StreamResponse:
        request, limits = self.request, self.runtime.settings.limits
        command, arguments = self.asked.command, self.asked.arguments
        body: bytes | AsyncIterator[bytes]
        if self.writes:
            headers = headers_of(request, arguments, _LINE, _PUSHED | PASSED)
            if "Content-Encoding" in request.headers:
                headers.pop("Content-Length", None)
            body = _pieces(request, limits.push_body) if request.can_read_body else b""
        else:
            said = urlencode(sorted(arguments.items())).encode("ascii")
            headers = headers_of(request, {}, _LINE, PASSED - {"content-type"})
            headers |= {"Content-Type": MERCURIAL_0_1, "X-HgArgs-Post": str(len(said))}
            body = said
        async with self.runtime.http.request(
            request.method if self.writes else "POST",
            URL(f"{url}?cmd={quote(command)}", encoded=True),
            headers=headers,
            data=body,
            allow_redirects=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=silence),
        ) as answer:
            if answer.content_type not in _MEDIA_TYPES:
                return await self._page(answer)
            told = {**NO_CACHE, "Content-Type": answer.headers["Content-Type"]}
            response = web.StreamResponse(status=answer.status, headers=told)
            response.content_length = answer.content_length
            sender = Sender(request, response, limits.stall_time)
            try:
                await sender.begin()
                async for piece in answer.content.iter_chunked(_PIECE):
                    await sender.write(piece)
            finally:
                request[EXCHANGE].sent = sender.sent
            await response.write_eof()
            return response

    async def _page(self, answer: aiohttp.ClientResponse) -> web.Response:
        """A page for people: its words are none of a client's business."""
        await _drained(answer)
        if answer.status == _NO_COMMAND:
            return replies.refused(self.request, f"unknown command {self.asked.command!r}")
        if answer.status in _REFUSALS:
            return replies.refused(self.request, _REFUSALS[answer.status])
        _log.warning(
            "request %s: hg serve answered %d, %s",
            self.request[EXCHANGE].request_id,
            answer.status,
            answer.content_type,
        )
        return replies.failed(self.request)


async def _drained(answer: aiohttp.ClientResponse) -> None:
    """Read the rest of a short page, so that whoever writes it ends well."""
    async for _ in answer.content.iter_chunked(_PIECE):
        await asyncio.sleep(0)


async def _pieces(request: web.Request, limit: int) -> AsyncIterator[bytes]:
    received = 0
    async for chunk in request.content.iter_any():
        received += len(chunk)
        if received > limit:
            raise web.HTTPRequestEntityTooLarge(max_size=limit, actual_size=received)
        yield chunk
