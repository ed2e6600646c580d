# Law of this file: an answer is written to git's wire here, and nowhere else. What fits into memory
# goes out in one piece; content is framed on its way from disk.

from __future__ import annotations

import functools
import gzip
import logging
from contextlib import suppress
from typing import Final

from aiohttp import web

from cache.flights import Reader
from repos.git.program import GitFailed
from repos.git.upload_pack import Refused
from server.answer import Answer, Growing, Stored
from server.exchange import EXCHANGE, Exchange
from server.outcome import Outcome
from server.sending import KEEPALIVE_SECONDS, Sender, Stalled
from wire.git import pktline
from wire.git.bundle_list import BundleList
from wire.git.pack import empty_pack
from wire.git.pktline import ProtocolError
from wire.git.refs import Refs
from wire.git.response import (
    PACKFILE,
    band_error,
    error_packet,
    framed_size,
    packfile_uris_section,
    sideband,
)
from wire.git.v2 import LsRefs

_log = logging.getLogger("offramp.git")

UPLOAD_PACK: Final = "git-upload-pack"
RECEIVE_PACK: Final = "git-receive-pack"

# Answers of this size are compressed, once, and remembered. What is larger would stop the event
# loop for too long; what is smaller fits into a packet or two as it is.
_WORTH_IT: Final = 4 << 10
_REMEMBERED: Final = 2 << 20

# As stock git's http-backend: no cache in between may answer in our place.
NO_CACHE: Final = {
    "Expires": "Fri, 01 Jan 1980 00:00:00 GMT",
    "Pragma": "no-cache",
    "Cache-Control": "no-cache, max-age=0, must-revalidate",
}


def plain(service: str, kind: str, body: bytes) -> web.Response:
    """A whole answer of ``git-upload-pack`` or ``git-receive-pack``.

    ``kind`` is ``advertisement`` or ``result``.
    """
    return web.Response(
        body=body, headers={**NO_CACHE, "Content-Type": f"application/x-{service}-{kind}"}
    )


def listing(refs: bytes, accepts: str) -> web.Response:
    """The answer to ``ls-refs``, compressed where that is worth it and the client takes it.

    With thousands of refs this is the largest thing that a redirected clone gets from us.
    """
    response = plain("git-upload-pack", "result", refs)
    if _WORTH_IT <= len(refs) <= _REMEMBERED and "gzip" in accepts:
        response.body = _compressed(refs)
        response.headers["Content-Encoding"] = "gzip"
    return response


@functools.lru_cache(maxsize=32)
def _compressed(body: bytes) -> bytes:
    return gzip.compress(body, 6, mtime=0)


def explain(error: Exception, request_id: str) -> str:
    """What a client is told of an error; this machine's paths are not its business."""
    match error:
        case Refused() | ProtocolError():
            return str(error)
        case GitFailed():
            return f"git failed on the server; its log says why (request {request_id})"
        case _:
            return f"the server could not answer; its log says why (request {request_id})"


@functools.lru_cache(maxsize=8)
def _nothing(object_format: str) -> bytes:
    return PACKFILE + sideband(empty_pack(object_format)) + pktline.FLUSH


@functools.lru_cache(maxsize=1024)
def _uris(locations: tuple[tuple[str, str], ...]) -> bytes:
    return packfile_uris_section(locations)


def wanted_refs_section(wanted: tuple[tuple[bytes, str], ...]) -> bytes:
    """The section that tells what the refs wanted by name are."""
    if not wanted:
        return b""
    lines = (pktline.text(oid.encode() + b" " + name) for name, oid in wanted)
    return pktline.text(b"wanted-refs") + b"".join(lines) + pktline.DELIM


async def begun(answer: Answer) -> None:
    """Wait until there is something to send, or clients should be told that something will come.

    What goes wrong before the first byte can still be answered in another way.

    Raises:
        Exception: what the run raised that is the answer.
    """
    if isinstance(answer.inline, Growing):
        async with answer.inline.flight.reader() as reader:
            with suppress(TimeoutError):
                await reader.extent(0, timeout=KEEPALIVE_SECONDS)


async def send_fetch(
    request: web.Request,
    answer: Answer,
    object_format: str,
    wanted: tuple[tuple[bytes, str], ...],
    stall_time: float,
) -> web.StreamResponse:
    """Write the answer to a v2 fetch, which was waited for by :func:`begun`.

    An error after the first byte is told on band 3, as git does.
    """
    exchange = request[EXCHANGE]
    if not answer.head.endswith(PACKFILE):
        return plain("git-upload-pack", "result", answer.head + pktline.FLUSH)
    locations = tuple((item.part.checksum, item.location.url) for item in answer.redirected)
    exchange.redirected = sum(item.part.entity.size for item in answer.redirected)
    sections = answer.head.removesuffix(PACKFILE) + wanted_refs_section(wanted) + _uris(locations)
    if answer.inline is None:
        return plain("git-upload-pack", "result", sections + _nothing(object_format))
    response = web.StreamResponse(
        headers={**NO_CACHE, "Content-Type": "application/x-git-upload-pack-result"}
    )
    sender = Sender(request, response, stall_time)
    if isinstance(answer.inline, Stored):
        with answer.inline.entity as entity:
            exchange.sent = entity.size
            response.content_length = (
                len(sections) + len(PACKFILE) + framed_size(entity.size) + len(pktline.FLUSH)
            )
            await sender.begin()
            await sender.write(sections + PACKFILE)
            await sender.framed_file(entity.fd, entity.size)
            await sender.write(pktline.FLUSH)
    else:
        async with answer.inline.flight.reader() as reader:
            await sender.begin()
            await sender.write(sections + PACKFILE)
            await _along(sender, reader, exchange)
    await response.write_eof()
    return response


async def _along(sender: Sender, reader: Reader, exchange: Exchange) -> None:
    before = sender.sent
    try:
        await sender.framed_growing(reader)
    except (ConnectionError, Stalled):
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, the client is told on its band
        _log.warning("request %s failed in mid-answer: %s", exchange.request_id, error)
        exchange.outcome = Outcome.ERROR
        await sender.write(band_error(explain(error, exchange.request_id)))
    else:
        await sender.write(pktline.FLUSH)
    finally:
        exchange.sent = sender.sent - before


async def send_raw(request: web.Request, answer: Answer, stall_time: float) -> web.StreamResponse:
    """Write an answer of protocol v0 or v1, whose entity is the whole of it."""
    exchange = request[EXCHANGE]
    response = web.StreamResponse(
        headers={**NO_CACHE, "Content-Type": "application/x-git-upload-pack-result"}
    )
    sender = Sender(request, response, stall_time)
    match answer.inline:
        case Stored(entity=opened):
            with opened as entity:
                response.content_length = entity.size
                await sender.begin()
                await sender.raw_file(entity.fd, entity.size)
        case Growing(flight=flight):
            # Nothing is sent before the run has ended well or said something: an error can then
            # still be told by git's own status.
            async with flight.reader() as reader:
                await reader.extent(0)
                await sender.begin()
                await sender.raw_growing(reader)
        case None:
            await sender.begin()
    exchange.sent = sender.sent
    await response.write_eof()
    return response


def text(status: int, message: str) -> web.Response:
    """An answer for people; stock git prints a text/plain body after ``remote:``."""
    return web.Response(status=status, text=f"{message}\n", headers=NO_CACHE)


def bundle_file(bundles: BundleList) -> web.Response:
    """A list of bundles as a file, for ``git clone --bundle-uri=``."""
    return web.Response(body=bundles.to_config(), content_type="text/plain", headers=NO_CACHE)


def refs(request: web.Request, known: Refs, asked: LsRefs) -> web.Response:
    """The answer to ``ls-refs``."""
    answer = known.answer(
        peel=asked.peel, symrefs=asked.symrefs, unborn=asked.unborn, prefixes=asked.prefixes
    )
    return listing(answer, request.headers.get("Accept-Encoding", ""))


def check_format(server: str, client: str) -> None:
    """See that a client names objects as the repository does.

    Raises:
        ProtocolError: it does not.
    """
    if client != server:
        raise ProtocolError(f"mismatched object format: server {server}; client {client}")


def failed(
    error: ProtocolError | Refused | GitFailed, repository: str, exchange: Exchange
) -> web.Response:
    """The answer to a request for a pack that cannot be answered.

    Raises:
        ConnectionResetError: an answer is under way already.
    """
    if exchange.begun:
        # In these protocols only a broken connection says that an answer is not whole.
        raise ConnectionResetError(str(error)) from error
    exchange.outcome = Outcome.ERROR
    if isinstance(error, GitFailed):
        _log.error("request %s, %s: %s", exchange.request_id, repository, error)
    return refusal(UPLOAD_PACK, "result", error, exchange)


def refusal(service: str, kind: str, error: Exception, exchange: Exchange) -> web.Response:
    """The protocol's own error, in place of an answer."""
    return plain(service, kind, error_packet(explain(error, exchange.request_id)))
