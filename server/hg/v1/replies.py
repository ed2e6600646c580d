# Law of this file: what a client of version 1 gets is one of a few things: a string, a stream, a
# place where the stream is, or a sentence for people. Sentences have status 200, for clients show
# the text of no other.

from __future__ import annotations

import logging
from typing import Final

from aiohttp import web

from redirects.acceptance import Location
from server.answer import Growing, Inlined, Stored
from server.exchange import EXCHANGE
from server.git.answers import NO_CACHE
from server.hg.v1.running import Superseded
from server.outcome import Outcome
from server.sending import Sender
from wire.hg.v1.media import HG_ERROR, MERCURIAL_0_1, Framing, compressor

_log = logging.getLogger("offramp.hg")

# Bytes of a message that are told to a client.
_LONGEST_WORDS: Final = 4096


def string(body: bytes) -> web.Response:
    """A string, such as the answer to ``heads``."""
    return _typed(MERCURIAL_0_1, body)


def stream(body: bytes, framing: Framing) -> web.Response:
    """A short stream, compressed here."""
    engine = compressor(framing.engine)
    packed = engine.compress(body) + engine.flush()
    return _typed(framing.media_type, framing.prefix + packed)


def sentence(words: str | bytes) -> web.Response:
    """The protocol's own error: clients show it after ``remote error:``."""
    body = words.encode("utf-8", "replace") if isinstance(words, str) else words
    return _typed(HG_ERROR, body[:_LONGEST_WORDS].rstrip(b"\n") + b"\n")


def refused(request: web.Request, words: str | bytes) -> web.Response:
    """An error that is the client's, counted as one."""
    request[EXCHANGE].outcome = Outcome.ERROR
    return sentence(words)


def failed(request: web.Request) -> web.Response:
    """An error of ours; the log says more."""
    exchange = request[EXCHANGE]
    exchange.outcome = Outcome.ERROR
    return sentence(
        f"the server could not answer; its log says why (request {exchange.request_id})"
    )


def elsewhere(request: web.Request, location: Location, size: int) -> web.Response:
    """The whole answer, ``size`` bytes, is at a location."""
    request[EXCHANGE].redirected += size
    return web.Response(status=302, headers={**NO_CACHE, "Location": location.url})


async def send(
    request: web.Request, inlined: Inlined, media_type: str, stall_time: float, before: bytes = b""
) -> web.StreamResponse:
    """Send an entity as the body of an answer, behind the bytes ``before``.

    Raises:
        Exception: what the run raised that writes it, before anything was sent. Later, the
            connection is broken off.
    """
    response = web.StreamResponse(headers={**NO_CACHE, "Content-Type": media_type})
    sender = Sender(request, response, stall_time)
    exchange = request[EXCHANGE]
    try:
        match inlined:
            case Stored(entity=opened):
                with opened as entity:
                    response.content_length = len(before) + entity.size
                    await sender.begin()
                    if before:
                        await sender.write(before)
                    await sender.raw_file(entity.fd, entity.size)
            case Growing(flight=flight):
                async with flight.reader() as reader:
                    # Until there is a byte, an error can still be told in the protocol's words.
                    await reader.extent(0)
                    await sender.begin()
                    if before:
                        await sender.write(before)
                    try:
                        await sender.raw_growing(reader)
                    except Superseded as moved:
                        _log.info("request %s: not kept: %s", exchange.request_id, moved)
    finally:
        exchange.sent = sender.sent
    await response.write_eof()
    return response


def _typed(media_type: str, body: bytes) -> web.Response:
    return web.Response(body=body, headers={**NO_CACHE, "Content-Type": media_type})
