# Law of this file: what is passed through reaches the upstream as the client said it, and the
# client as the upstream said it, in pieces that are never stored; what is about one connection, or
# about us, stays here.

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Final

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from server.exchange import EXCHANGE
from server.outcome import Outcome
from server.sending import Sender
from server.upstreams.asking import Asking, Down, reply_of
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
_OUR_OWN: Final = ("x-forwarded-", "x-real-ip")
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
        body: bytes | None = None,
    ) -> web.StreamResponse:
        """Ask the upstream what the client asked us, and stream its answer back.

        Args:
            request: the client's.
            remote: the repository.
            url: where at the upstream, without a query; the client's is added.
            authorization: the header that is shown, or None.
            private_headers: further headers that are not handed on.
            body: in place of the client's, if that was read already.

        Raises:
            Down: there is no answer.
        """
        exchange = request[EXCHANGE]
        exchange.outcome = Outcome.PASSTHROUGH
        headers = _sent(request, private_headers)
        if authorization is not None:
            headers["Authorization"] = authorization
        if body is None and "Content-Encoding" not in request.headers:
            # As long as it says, and not in chunks: not every server takes these.
            headers.extend(_only(request, "Content-Length"))
        upstream = remote.upstream
        query = request.raw_path.partition("?")[2]
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
                    total=None, sock_connect=upstream.timeout, sock_read=upstream.stall_time
                ),
            )
            with self.asking.counted(remote, "passthrough") as ending:
                answer = await asked
                ending.reply = reply_of(answer.status)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Down(f"the upstream cannot be asked ({type(error).__name__})") from None
        async with answer:
            return await self._back(request, answer)

    async def _back(
        self, request: web.Request, answer: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        headers = CIMultiDict(
            (name, value)
            for name, value in answer.headers.items()
            if name.lower() not in _NOT_RETURNED
        )
        response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=headers)
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


def _only(request: web.Request, name: str) -> dict[str, str]:
    value = request.headers.get(name)
    return {} if value is None else {name: value}


def _sent(request: web.Request, private_headers: Iterable[str]) -> CIMultiDict[str]:
    dropped = _NOT_SENT | {name.lower() for name in private_headers}
    dropped |= {name.strip().lower() for name in request.headers.get("Connection", "").split(",")}
    return CIMultiDict(
        (name, value)
        for name, value in request.headers.items()
        if name.lower() not in dropped and not name.lower().startswith(_OUR_OWN)
    )


def _body(request: web.Request, body: bytes | None) -> bytes | AsyncIterator[bytes] | None:
    if body is not None:
        return body
    return _pieces(request) if request.can_read_body else None


async def _pieces(request: web.Request) -> AsyncIterator[bytes]:
    async for data in request.content.iter_any():
        yield data
