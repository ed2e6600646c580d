# Law of this file: which path goes to whom, and that every request ends with one line in the log
# and one count in the figures, whatever happened.

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from server.access.policies import Allowed, Hidden
from server.access.rules import answer
from server.blobs import BLOB_ROUTE, Handler, blob_handler, store_opener
from server.exchange import EXCHANGE, REQUEST_ID, Exchange, client_of
from server.git import answers
from server.git.answers import NO_CACHE
from server.git.bundles import bundle_list
from server.git.http import GitHttp
from server.hg.http import HgHttp
from server.hg.routes import route
from server.logs import Access, request_id
from server.outcome import Outcome
from server.runtime import Runtime
from server.sending import Stalled
from server.status.routes import StatusRoutes
from stores.base import StoreError

_log = logging.getLogger("offramp.app")

# Longer than a client pauses between the requests of one fetch, and than most proxies wait.
KEEPALIVE_SECONDS: Final = 75.0

BLOBLESS: Final = "blob:none"


def make_app(runtime: Runtime) -> web.Application:
    """The application of one server process; ``runtime`` is closed by whoever opened it."""
    git, hg = GitHttp.of(runtime), HgHttp.of(runtime)
    shell = _Shell(runtime, git, hg)
    app = web.Application(
        client_max_size=runtime.settings.limits.request_body, middlewares=[shell.around]
    )
    entities = runtime.cache.entities
    opener = store_opener(
        runtime.store,
        lambda digest: path if (path := entities.path(digest)).exists() else None,
    )
    blobs = blob_handler(opener, runtime.keys, stall_time=runtime.settings.limits.stall_time)
    app.router.add_get("/-/livez", shell.livez)
    app.router.add_get("/-/readyz", shell.readyz)
    app.router.add_get("/-/metrics", shell.metrics)
    for path, handler in StatusRoutes(runtime.status, runtime.access_rules).listed():
        app.router.add_get(path, handler)
    app.router.add_get(BLOB_ROUTE, blobs)
    app.router.add_get("/-/bundles/{repository:.+}", shell.bundles)
    app.router.add_route("*", "/{path:.*}", shell.repository)
    return app


def make_runner(runtime: Runtime, *, stop_seconds: float) -> web.AppRunner:
    """The application, ready to be put on sockets.

    ``stop_seconds``: how long requests that run may go on when it is told to stop.
    """
    return web.AppRunner(
        make_app(runtime),
        access_log=None,
        logger=_http_log,
        shutdown_timeout=stop_seconds,
        keepalive_timeout=KEEPALIVE_SECONDS,
    )


def _reset(transport: asyncio.Transport) -> None:
    """Break a connection off so that the client sees it break.

    What the kernel still has would be sent, and then an end as if all were well: Mercurial waits
    for ever for the rest of an answer that ends so.
    """
    connection = transport.get_extra_info("socket")
    if connection is not None:
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class _Patient(web.SockSite):
    """Ends a connection on which no request came in time; aiohttp would wait for ever."""

    def __init__(
        self, runner: web.AppRunner, bound: socket.socket, patience: float, backlog: int
    ) -> None:
        super().__init__(runner, bound, backlog=backlog)
        self._patience = patience

    async def start(self) -> None:
        await web.BaseSite.start(self)
        loop = asyncio.get_running_loop()
        serve = self._runner.server
        assert serve is not None  # noqa: S101 - the runner was set up

        def connected() -> web.RequestHandler:
            handler = serve()
            _silent.add(handler)
            loop.call_later(self._patience, _end_if_silent, handler)
            return handler

        self._server = await loop.create_server(connected, sock=self._sock, backlog=self._backlog)


# Connections on which no request has come yet; each for as long as we are patient with it.
_silent: set[web.RequestHandler] = set()


def _end_if_silent(handler: web.RequestHandler) -> None:
    if handler in _silent:
        _silent.discard(handler)
        handler.force_close()


async def listen(
    runner: web.AppRunner, bound: socket.socket, patience: float, backlog: int
) -> None:
    """Answer requests that come through ``bound``.

    A connection on which no request's head came within ``patience`` seconds is ended; on one that
    had a request, aiohttp's own keep-alive time does that.
    """
    await _Patient(runner, bound, patience, backlog).start()


def _is_ours(record: logging.LogRecord) -> bool:
    """A request that is no HTTP gets a 400, and clients go away; neither is an error of ours."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | web.RequestPayloadError | ConnectionError)


_http_log = logging.getLogger("offramp.http")
_http_log.addFilter(_is_ours)


@dataclass(frozen=True, slots=True)
class _Shell:
    """What is around the handlers, and the routes of our own."""

    runtime: Runtime
    git: GitHttp
    hg: HgHttp

    @web.middleware
    async def around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Name, answer, count and log one request."""
        began = time.perf_counter()
        _silent.discard(request.protocol)
        exchange = Exchange(
            request_id(request.headers.get(REQUEST_ID)), self.runtime.locator.find(request)
        )
        request[EXCHANGE] = exchange
        status = 500
        try:
            response = await self._answer(request, handler, exchange)
            status = response.status
        except web.HTTPException as error:
            status = error.status
            error.headers[REQUEST_ID] = exchange.request_id
            raise
        except (ConnectionError, Stalled, TimeoutError) as error:
            status = 499  # nginx's word for a client that went away
            _log.info("request %s: %s", exchange.request_id, error or type(error).__name__)
            if request.transport is not None:
                _reset(request.transport)
            raise ConnectionResetError from error
        finally:
            self._count(exchange)
            self.runtime.access.write(
                Access(
                    request_id=exchange.request_id,
                    remote=request.remote or "",
                    method=request.method,
                    target=request.raw_path,
                    status=status,
                    sent=exchange.sent,
                    seconds=time.perf_counter() - began,
                    repository=exchange.repository or "",
                    command=exchange.command,
                    outcome=exchange.outcome or "",
                ),
                time.time(),
            )
        return response

    async def _answer(
        self, request: web.Request, handler: Handler, exchange: Exchange
    ) -> web.StreamResponse:
        """Call the handler; what it did not expect is logged and told as an error of ours."""
        try:
            response = await handler(request)
        except (web.HTTPException, ConnectionError, Stalled, TimeoutError):
            raise
        except web.RequestPayloadError as error:
            # It was not what its Content-Encoding or Transfer-Encoding said.
            exchange.outcome = Outcome.ERROR
            _log.info("request %s: its body cannot be read: %s", exchange.request_id, error)
            raise web.HTTPBadRequest(text="The request's body cannot be read.\n") from None
        except Exception:  # noqa: BLE001 - it is logged, and the client is told
            exchange.outcome = Outcome.ERROR
            _log.exception("request %s failed", exchange.request_id)
            if exchange.begun:
                # The answer has begun: breaking off is the only way left to say that it failed.
                raise ConnectionResetError("failed in mid-answer") from None
            return web.Response(
                status=500,
                text=f"The server failed; its log says why (request {exchange.request_id}).\n",
                headers={**NO_CACHE, REQUEST_ID: exchange.request_id},
            )
        if not response.prepared:
            response.headers[REQUEST_ID] = exchange.request_id
            if not exchange.sent and isinstance(response, web.Response):
                exchange.sent = response.content_length or 0
        elif not exchange.sent and request.method != "HEAD":
            exchange.sent = response.content_length or 0
        return response

    def _count(self, exchange: Exchange) -> None:
        metrics = self.runtime.metrics
        if not exchange.dialect or not exchange.command:
            return
        outcome = exchange.outcome or Outcome.ERROR
        metrics.response(exchange.repository, exchange.dialect, exchange.command, outcome)
        if exchange.redirected:
            metrics.content(
                exchange.repository, exchange.dialect, "redirected", exchange.redirected
            )
        if exchange.sent:
            metrics.content(exchange.repository, exchange.dialect, "inline", exchange.sent)

    async def repository(self, request: web.Request) -> web.StreamResponse:
        """A path that is not ours is a repository's; its URL says which kind of client asks."""
        routed = route(request.path, request.query.get("cmd"))
        return await (
            self.git.handle(request) if routed is None else self.hg.handle(request, routed)
        )

    async def livez(self, request: web.Request) -> web.Response:
        """The process answers."""
        del request
        return web.Response(text="ok\n")

    async def readyz(self, request: web.Request) -> web.Response:
        """The repositories can be read. A store that is down only makes clones go inline."""
        del request
        root = self.runtime.settings.local_root
        if root is not None and not root.is_dir():
            return web.Response(status=503, text=f"ROOT {root} is not there\n")
        health = self.runtime.health
        down = health.down()
        passed = [
            f"{name} ({state.value})"
            for target, (name, state) in zip(health.targets, health.states(), strict=True)
            if target.fingerprint in down
        ]
        note = f"; passed over: {', '.join(passed)}" if passed else ""
        return web.Response(text=f"ok{note}\n")

    async def metrics(self, request: web.Request) -> web.Response:
        """The figures, for Prometheus; they name every repository."""
        if not self.runtime.access_rules.is_operator(request):
            return answers.text(403, "These figures are for access.operators.")
        body, content_type = self.runtime.metrics.render()
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def bundles(self, request: web.Request) -> web.StreamResponse:
        """The list of bundles as a file, for ``git clone --bundle-uri=``."""
        name = request.match_info["repository"]
        exchange = request[EXCHANGE]
        exchange.dialect, exchange.command = "git-v2", "bundle-list"
        wanted = request.query.get("filter")
        if wanted not in {None, BLOBLESS}:
            return answers.text(404, f"There are bundles with filter={BLOBLESS} only.")
        mirrored = self.git.mirrored
        remote = None if mirrored is None else mirrored.named(name)
        if mirrored is not None and remote is not None:
            try:
                return await mirrored.bundle_file(request, remote, wanted)
            except StoreError as error:
                return answers.text(503, f"The store does not answer: {error}")
        verdict = self.runtime.access_rules.local(request, name)
        if not isinstance(verdict, Allowed):
            return answer(verdict)
        repository = self.runtime.repositories.get(name)
        if repository is None:
            return answer(Hidden())
        exchange.repository, exchange.outcome = repository.name, Outcome.HIT
        settings = self.runtime.settings
        client = client_of(request, settings.public_url, settings.listen)
        try:
            listing = await bundle_list(
                self.runtime,
                repository.name,
                client,
                bundle_filter=wanted,
                audience=self.runtime.access_rules.audience,
            )
        except StoreError as error:
            return web.Response(status=503, text=f"The store does not answer: {error}\n")
        return answers.bundle_file(listing)
