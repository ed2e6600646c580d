# Law of this file: what is passed through reaches the upstream as the client said it, and the
# client as the upstream said it, in pieces that are never stored; what is about one connection, or
# about us, stays here.

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from server.exchange import EXCHANGE
from server.http_faults import why
from server.outcome import Outcome
from server.sending import Sender
from server.upstreams.asking import Asking, Down, Refused, reply_of
from server.upstreams.routes import Remote

# About one connection (RFC 9110 section 7.6.1), about the bytes as they were before our parser
# took their compression off, or nobody's business but ours and the client's.
_NOT_SENT: Final = frozenset(
    {
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "cookie",
        "expect",
        "forwarded",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
    }
)
_NOT_RETURNED: Final = frozenset(
    {
        "alt-svc",
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "set-cookie",
        "strict-transport-security",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# An answer to git-lfs, which asks for 100 objects at once.
_LONGEST_EDITED: Final = 8 << 20
# By these a client says how it wants a fetch answered. A forge may heed others (a method or path in
# a header), and the credential that is shown may be more than the caller's.
_FETCHES: Final = (
    "Accept",
    "Accept-Encoding",
    "Accept-Language",
    "Content-Type",
    "Git-Protocol",
    "User-Agent",
)
# Said to us alone: by whom we were asked, and for where.
_OUR_OWN: Final = ("x-forwarded-", "x-real-ip", "x-offramp-")
_DEFAULTS: Final = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


@dataclass(frozen=True, slots=True)
class Passing:
    """Hands requests on to upstreams, and their answers back.

    Attributes:
        http: a session that does not decompress.
        asking: knows how an upstream's certificate is checked, and who counts.
        stall_time: seconds for which a client may take no byte.
    """

    http: aiohttp.ClientSession
    asking: Asking
    stall_time: float

    async def through(
        self,
        request: web.Request,
        remote: Remote,
        url: str,
        authorization: str | None,
        *,
        private_headers: Iterable[str] = (),
        query: str | None = None,
        body: bytes | None = None,
        edit: Callable[[bytes], bytes] | None = None,
        further: Mapping[str, str] | None = None,
        check: Callable[[aiohttp.ClientResponse], Awaitable[None]] | None = None,
    ) -> web.StreamResponse:
        """Ask the upstream what the client asked us, and stream its answer back.

        Args:
            request: the client's.
            remote: the repository.
            url: where at the upstream, without a query.
            authorization: the header that is shown, or None.
            private_headers: further headers that are not handed on.
            query: in place of the client's. It is given where the question is ours, whoever's
                credential is shown; then only what a fetch needs is taken of the client's headers.
            body: in place of the client's, if that was read already.
            edit: makes of the answer's body, which is then read whole, that which is returned.
            further: headers beside those with which a fetch is asked for, where ``query`` is
                given.
            check: looks at an answer before it is handed back, and may raise what it means.

        Raises:
            Down: there is no answer.
            Refused: ``edit`` is given, and the upstream refuses the credential.
            Exception: what ``check`` raised.
        """
        exchange = request[EXCHANGE]
        exchange.outcome = Outcome.PASSTHROUGH
        if query is None:
            headers = _sent(request, private_headers)
            query = request.raw_path.partition("?")[2]
        else:
            headers = _asked(request)
            headers.update(further or {})
        if authorization is not None:
            headers["Authorization"] = authorization
        if edit is not None:
            headers["Accept-Encoding"] = "identity"
        if body is None and "Content-Encoding" not in request.headers:
            # As long as it says, and not in chunks: not every server takes these.
            headers.extend(_only(request, "Content-Length"))
        upstream = remote.upstream
        try:
            asked = self.http.request(
                request.method,
                # It has been quoted already, and is sent as it is.
                URL(f"{url}?{query}" if query else url, encoded=True),
                headers=headers,
                data=_body(request, body),
                allow_redirects=False,
                skip_auto_headers=_DEFAULTS,
                ssl=self.asking.context(remote),
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    connect=upstream.timeout,  # a free connection, too
                    sock_connect=upstream.timeout,
                    sock_read=upstream.stall_time,
                ),
            )
            with self.asking.counted(remote, "passthrough") as ending:
                answer = await asked
                ending.reply = reply_of(answer.status)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Down(f"the upstream cannot be asked ({why(error)})") from None
        async with answer:
            if check is not None:
                await check(answer)
            if edit is not None:
                if answer.status in {401, 403}:  # a no to us, not to the client
                    raise Refused(answer.status)
                return await _edited(answer, edit)
            return await self._back(request, answer)

    async def _back(
        self, request: web.Request, answer: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        response = web.StreamResponse(
            status=answer.status, reason=answer.reason, headers=_returned(answer)
        )
        sender = Sender(request, response, self.stall_time)
        exchange = request[EXCHANGE]
        try:
            await sender.begin()
            if request.method != "HEAD":
                async for data in _pieces_of(answer):
                    await sender.write(data)
        finally:
            exchange.sent = sender.sent
        await response.write_eof()
        return response


async def _pieces_of(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The body of an upstream's answer.

    Raises:
        ConnectionResetError: it is cut short. Breaking off is the only way to say so.
    """
    try:
        async for data in answer.content.iter_any():
            yield data
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise ConnectionResetError("the upstream broke off") from error


def _returned(answer: aiohttp.ClientResponse) -> CIMultiDict[str]:
    dropped = _NOT_RETURNED | _connection(answer.headers)
    return CIMultiDict(
        (name, value) for name, value in answer.headers.items() if name.lower() not in dropped
    )


def _connection(headers: CIMultiDictProxy[str]) -> set[str]:
    """Headers that are said to be about this connection alone (RFC 9110 section 7.6.1)."""
    lines = headers.getall("Connection", ())
    return {name.strip().lower() for line in lines for name in line.split(",")}


async def _edited(answer: aiohttp.ClientResponse, edit: Callable[[bytes], bytes]) -> web.Response:
    """Read an answer whole, and return another body in its place.

    Raises:
        Down: it is too long, or compressed although nobody asked for that.
    """
    body = bytearray()
    async for data in _pieces_of(answer):
        body += data
        if len(body) > _LONGEST_EDITED:
            raise Down(f"the upstream's answer is longer than {_LONGEST_EDITED >> 20} MiB")
    headers = _returned(answer)
    headers.popall("Content-Length", None)
    if "Content-Encoding" in headers:
        raise Down("the upstream's answer is compressed")
    return web.Response(
        status=answer.status, reason=answer.reason, headers=headers, body=edit(bytes(body))
    )


def _only(request: web.Request, name: str) -> dict[str, str]:
    value = request.headers.get(name)
    return {} if value is None else {name: value}


def _sent(request: web.Request, private_headers: Iterable[str]) -> CIMultiDict[str]:
    dropped = _NOT_SENT | {name.lower() for name in private_headers}
    dropped |= _connection(request.headers)
    return CIMultiDict(
        (name, value)
        for name, value in request.headers.items()
        if name.lower() not in dropped and not name.lower().startswith(_OUR_OWN)
    )


def _asked(request: web.Request) -> CIMultiDict[str]:
    """What of a client's headers can change the answer to a fetch, and nothing else."""
    return CIMultiDict(
        (name, value) for name in _FETCHES if (value := request.headers.get(name)) is not None
    )


def _body(request: web.Request, body: bytes | None) -> bytes | AsyncIterator[bytes] | None:
    if body is not None:
        return body
    return _pieces(request) if request.can_read_body else None


async def _pieces(request: web.Request) -> AsyncIterator[bytes]:
    async for data in request.content.iter_any():
        yield data
