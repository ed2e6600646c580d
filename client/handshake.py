# Law of this file: the first request of all (wireprotocol-v2, "HTTP handshake"): what the server
# speaks is known, or it is said in one sentence why not.

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

import aiohttp

from client.address import Address, next_hop, shown
from client.errors import BadAddress, NotSpoken, Refused, TooLarge, Unreachable, told
from client.limits import Limits
from client.link import USER_AGENT, server_timeout
from wire.hg import cbor
from wire.hg.cbor import Scalar, Value
from wire.hg.handshake import API_NAME, ServerApi, parse_handshake
from wire.hg.messages import CBOR_MEDIA_TYPE, FRAMING_MEDIA_TYPE

_HEADERS: Final = {
    "Accept": "application/mercurial-0.1",
    "Accept-Encoding": "identity",
    "User-Agent": USER_AGENT,
    "Vary": "X-HgProto-1,X-HgUpgrade-1",
    "X-HgProto-1": "cbor",
    "X-HgUpgrade-1": API_NAME,
}

_V1: Final = frozenset(("application/mercurial-0.1", "application/mercurial-0.2"))
_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))

# Of the text with which a server refuses; it goes into one message.
_TEXT: Final = 1000


_Handshake: TypeAlias = Mapping[bytes, Mapping[bytes, Mapping[Scalar, Value]]]


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a server answers to the handshake.

    Attributes:
        address: where the repository is after HTTP redirects.
        api: what we go by.
        descriptor: all that it says of this API, for who wants to see it.
    """

    address: Address
    api: ServerApi
    descriptor: Mapping[Scalar, Value]


async def greet(session: aiohttp.ClientSession, address: Address, limits: Limits) -> Greeting:
    """Ask what a server speaks.

    Raises:
        ClientError: nobody answers, or nothing that can be spoken with.
    """
    for _ in range(limits.hops + 1):
        with told(str(address)):
            async with _asked(session, address, limits) as response:
                if response.status not in _REDIRECTS:
                    return await _read(response, address, limits)
                moved = next_hop(response.url, response.headers.get("Location"))
        if moved is None:
            raise Refused(response.status, f"{address}: an HTTP redirect to nowhere")
        elsewhere = address.moved(moved)
        if elsewhere is None:
            there = shown(moved.with_query(None))
            raise BadAddress(
                f"{address} sends us to {there}, another server: if that is right, use its URL"
            )
        address = elsewhere
    raise Unreachable(f"{address}: more than {limits.hops} HTTP redirects, one after another")


@asynccontextmanager
async def _asked(
    session: aiohttp.ClientSession, address: Address, limits: Limits
) -> AsyncGenerator[aiohttp.ClientResponse, None]:
    response = await session.get(
        address.url.with_query(cmd="capabilities"),
        headers=_HEADERS | address.credentials(address.url),
        allow_redirects=False,
        timeout=server_timeout(limits),
    )
    try:
        yield response
    finally:
        response.close()


async def _read(response: aiohttp.ClientResponse, address: Address, limits: Limits) -> Greeting:
    if response.status != 200:
        raise await refusal(response, str(address))
    if response.content_type in _V1:
        raise NotSpoken(
            f"{address} speaks version 1 only: this needs {API_NAME}, which Offramp speaks, and"
            " Mercurial 4.8 to 6.0 with experimental.web.apiserver and"
            " experimental.web.api.http-v2"
        )
    if response.content_type == _REFUSAL:
        raise await refusal(response, str(address))
    if response.content_type != CBOR_MEDIA_TYPE:
        raise NotSpoken(
            f"{address} answers with {response.content_type!r}, not as a server of Mercurial"
            " repositories does: is it the URL that is cloned, and not that of a page?"
        )
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limits.handshake:
            raise TooLarge(f"{address}: a handshake of more than {limits.handshake} bytes")
    return _understood(bytes(body), address)


def _understood(body: bytes, address: Address) -> Greeting:
    api = parse_handshake(body)
    if api is None:
        raise NotSpoken(
            f"{address} knows of newer protocols, and does not speak {API_NAME} here, with frames"
            f" of {FRAMING_MEDIA_TYPE}: it must be enabled on the server"
            " (experimental.web.api.http-v2 in Mercurial)"
        )
    return Greeting(address, api, _descriptor(body))


def _descriptor(body: bytes) -> Mapping[Scalar, Value]:
    """What :func:`parse_handshake` read, with the keys that it passes over."""
    fields = cast("_Handshake", cbor.decode_one(body))
    return fields[b"apis"][API_NAME.encode()]


# What Mercurial's servers refuse in, with status 200: of another one, clients hide the text.
_REFUSAL: Final = "application/hg-error"
_OK: Final = 200

_HINTS: Final = {
    **dict.fromkeys(_REDIRECTS, "commands are not sent after HTTP redirects: ask where it leads"),
    401: "it wants credentials: write them into the URL, as user:password@host",
    403: "these credentials may not do this",
    404: "there is no such repository or command: check the URL",
    405: "is it the URL of a repository?",
    429: "it is asked too often: wait, then try again",
    503: "it is overloaded or down: try again later",
}


async def refusal(response: aiohttp.ClientResponse, where: str) -> Refused:
    """What an answer says that has neither frames nor a descriptor."""
    text = ""
    if response.content_type in {"text/plain", _REFUSAL}:
        head = await response.content.read(_TEXT)
        text = f": {head.decode('utf-8', 'replace').strip()}" if head.strip() else ""
    hint, reason = _HINTS.get(response.status), response.reason or ""
    return Refused(
        response.status,
        (where if response.status == _OK else f"{where}: HTTP {response.status} {reason}".rstrip())
        + (f" ({hint})" if hint else "")
        + text,
    )
