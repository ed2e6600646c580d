# Law of this file: what a program says is sent on as it comes, and a program that failed before its
# first word is answered for in the protocol's own way.

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence

from aiohttp import web

from repos.git.program import GitFailed
from repos.git.repository import GitRepository, Snapshot
from repos.git.upload_pack import stream
from server.exchange import EXCHANGE
from server.git import answers
from server.outcome import Outcome
from server.runtime import Runtime
from server.sending import Sender

_log = logging.getLogger("offramp.git")


async def streamed(
    runtime: Runtime,
    request: web.Request,
    repository: GitRepository,
    args: Sequence[str],
    body: AsyncIterator[bytes],
    *,
    service: str,
    protocol: str,
    config: Sequence[tuple[str, str]] = (),
) -> web.StreamResponse:
    """Run a git program for this client alone, and send what it says."""
    response = web.StreamResponse(
        headers={**answers.NO_CACHE, "Content-Type": f"application/x-{service}-result"}
    )
    sender = Sender(request, response, runtime.settings.limits.stall_time)
    exchange = request[EXCHANGE]
    async with runtime.streams:
        pieces = stream(repository.git, args, body, config=config, protocol=protocol)
        try:
            async for piece in pieces:
                if not exchange.begun:
                    await sender.begin()
                await sender.write(piece)
        except GitFailed as failure:
            exchange.outcome = Outcome.ERROR
            _log.error("request %s, %s: %s", exchange.request_id, repository.name, failure)
            if not exchange.begun:
                return answers.refusal(service, "result", failure, exchange)
        finally:
            exchange.sent = sender.sent
            await pieces.aclose()  # type: ignore[attr-defined]
    if not exchange.begun:
        await sender.begin()
    await response.write_eof()
    return response


async def upload_pack_alone(
    runtime: Runtime,
    request: web.Request,
    repository: GitRepository,
    snapshot: Snapshot,
    *,
    body: bytes,
    protocol: str,
) -> web.StreamResponse:
    """Have git answer this client alone, as stock git's http-backend does."""

    async def once() -> AsyncIterator[bytes]:
        yield body

    request[EXCHANGE].outcome = Outcome.PASSTHROUGH
    return await streamed(
        runtime,
        request,
        repository,
        ("upload-pack", "--stateless-rpc", "--strict", str(repository.path)),
        once(),
        service=answers.UPLOAD_PACK,
        protocol=protocol,
        config=snapshot.config,
    )
