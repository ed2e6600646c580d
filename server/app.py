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
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import HttpProcessingError

from redirects.sessions import HERE
from redirects.signing import BLOBS_PATH
from server.accepting import Room, heard
from server.access.rules import ADMIN
from server.admission import RETRY_SECONDS, Busy, Excess, refused
from server.bad_requests import put_in_words
from server.blobs import BLOB_ROUTE, Handler, blob_handler, store_opener
from server.client_routes import ClientRoutes
from server.exchange import CURRENT, EXCHANGE, REQUEST_ID, Exchange
from server.git import answers
from server.git.answers import NO_CACHE
from server.git.http import GitHttp
from server.hg.http import HgHttp
from server.logs import Access, request_id
from server.outcome import Outcome
from server.quantities import age
from server.runtime import Runtime
from server.sending import Stalled
from server.status.routes import StatusRoutes
from server.status_api import add_status_api
from server.traces import NOTHING, Span

_log = logging.getLogger("offramp.app")

# Longer than a client pauses between the requests of one fetch, and than most proxies wait.
KEEPALIVE_SECONDS: Final = 75.0

# Answered to everybody at all times: whoever watches over us must see that we are busy, not gone.
_ALWAYS: Final = frozenset(("/-/livez", "/-/readyz"))

# Of those who ask again and again, and never for a repository, there is no trace.
_UNTRACED: Final = _ALWAYS | {"/-/metrics"}

# How long whoever asks whether we are ready is told of a main store that had changed.
_TOLD_SECONDS: Final = 86400.0

# Others are a client's invention.
_METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "OPTIONS", "DELETE"))


def make_app(runtime: Runtime) -> web.Application:
    """The application of one server process; ``runtime`` is closed by whoever opened it."""
    shell = _Shell(runtime)
    clients = ClientRoutes(runtime, GitHttp.of(runtime), HgHttp.of(runtime))
    app = _empty(shell, runtime.settings.limits.request_body)
    entities = runtime.cache.entities
    opener = store_opener(
        runtime.store,
        lambda digest: path if (path := entities.path(digest)).exists() else None,
    )
    blobs = blob_handler(opener, runtime.keys, stall_time=runtime.settings.limits.stall_time)
    app.router.add_get(BLOB_ROUTE, blobs)
    app.router.add_get("/-/bundles/{repository:.+}", clients.bundles)
    app.router.add_route("*", f"{HERE}/{{path:.+}}", clients.here)
    if runtime.settings.admin.listen is None:
        _add_admin_routes(app, shell)
    else:
        _add_health_routes(app, shell)
        app.router.add_route("*", "/-/{path:.*}", shell.nothing)
    app.router.add_route("*", "/{path:.*}", clients.repository)
    return app


def make_admin_app(runtime: Runtime) -> web.Application:
    """The application of the listener for those who run this server: what is not for clients."""
    shell = _Shell(runtime)
    app = _empty(shell, runtime.settings.limits.request_body)
    app[ADMIN] = True
    _add_admin_routes(app, shell)
    app.router.add_route("*", "/{path:.*}", shell.nothing)
    return app


def _empty(shell: _Shell, largest: int) -> web.Application:
    app = web.Application(client_max_size=largest, middlewares=[shell.around])
    app.on_response_prepare.append(shell.prepared)
    return app


def _add_health_routes(app: web.Application, shell: _Shell) -> None:
    app.router.add_get("/-/livez", shell.livez)
    app.router.add_get("/-/readyz", shell.readyz)


def _add_admin_routes(app: web.Application, shell: _Shell) -> None:
    """Whatever is for those who run this server, and the same wherever they reach it."""
    _add_health_routes(app, shell)
    app.router.add_get("/-/metrics", shell.metrics)
    add_status_api(app.router, shell.runtime)
    for path, handler in StatusRoutes(shell.runtime.status, shell.runtime.access_rules).listed():
        app.router.add_get(path, handler)


def make_runner(runtime: Runtime, *, stop_seconds: float, admin: bool = False) -> web.AppRunner:
    """An application, ready to be put on sockets.

    ``stop_seconds``: how long requests that run may go on when it is told to stop. ``admin``: it is
    that of those who run this server.
    """
    return web.AppRunner(
        make_admin_app(runtime) if admin else make_app(runtime),
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


class _Gone(web.StreamResponse):
    """The answer to who went away, of which aiohttp says nothing.

    An exception in its place would be held by the task that it ended, in a circle with the frames
    that it went through: each client that hangs up would leave its buffer of half a MiB there until
    the garbage collector comes.
    """

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        del request
        raise ConnectionResetError


def _answer_of(error: web.HTTPException) -> web.Response:
    """What aiohttp answers an exception with; it would keep the exception, as of :class:`_Gone`."""
    headers = error.headers.copy()
    headers.popall("Content-Length", None)
    response = web.Response(
        status=error.status, reason=error.reason, headers=headers, body=error.body
    )
    if error.keep_alive is False:
        response.force_close()
    return response


def _saying(response: web.Response) -> Handler:
    """A handler that answers so."""

    async def say(request: web.Request) -> web.StreamResponse:
        del request
        return response

    return say


def _is_ours(record: logging.LogRecord) -> bool:
    """A request that is no HTTP gets a 400, and clients go away; neither is an error of ours."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | web.RequestPayloadError | ConnectionError)


_http_log = logging.getLogger("offramp.http")
_http_log.addFilter(_is_ours)


def _trace(span: Span, method: str, exchange: Exchange, status: int) -> None:
    """Tell a trace what became of a request; nothing of who made it."""
    span.set("http.request.method", method if method in _METHODS else "_OTHER")
    span.set("http.response.status_code", status)
    if status >= 500:
        span.fail(str(status))
    span.set("request_id", exchange.request_id)
    if exchange.repository is not None:
        span.set("repository", exchange.repository)
    if exchange.command:
        span.set("dialect", exchange.dialect)
        span.set("command", exchange.command)
        span.set("outcome", (exchange.outcome or Outcome.ERROR).value)
        span.set("bytes", exchange.sent)
        span.set("redirected", exchange.redirected)
    if exchange.decisions:
        span.set("decision", ",".join(exchange.decisions))


@dataclass(frozen=True, slots=True)
class _Shell:
    """What is around the handlers, and the routes for those who run this server."""

    runtime: Runtime

    @web.middleware
    async def around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Name, answer, count, log and trace one request."""
        if request.path in _UNTRACED:
            return await self._told(request, handler, NOTHING)
        traceparent = request.headers.get("traceparent")
        with self.runtime.traces.request(request.remote, traceparent) as span:
            return await self._told(request, handler, span)

    async def _told(self, request: web.Request, handler: Handler, span: Span) -> web.StreamResponse:
        """Answer a request, and tell what became of it."""
        began = time.perf_counter()
        room = heard(request.protocol)
        exchange = Exchange(
            request_id(request.headers.get(REQUEST_ID)), self.runtime.locator.find(request)
        )
        request[EXCHANGE] = exchange
        CURRENT.set(exchange)  # a request is a task of its own
        status = 500
        try:
            excess = self._refusal(request, exchange, room)
            handler = handler if excess is None else _saying(excess)
            response = await self._answer(request, handler, exchange)
            if room is not Room.ENOUGH:
                response.force_close()
            status = response.status
        except web.HTTPException as error:
            status = error.status
            put_in_words(error)
            response = _answer_of(error)
            response.headers[REQUEST_ID] = exchange.request_id
        except (ConnectionError, Stalled, TimeoutError) as error:
            status = 499  # nginx's word for a client that went away
            _log.info("request %s: %s", exchange.request_id, error or type(error).__name__)
            if request.transport is not None:
                _reset(request.transport)
            response = _Gone()
        finally:
            self._count(exchange)
            _trace(span, request.method, exchange, status)
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
                    redirected=exchange.redirected,
                    decision=",".join(exchange.decisions),
                ),
                time.time(),
            )
        return response

    def _refusal(self, request: web.Request, exchange: Exchange, room: Room) -> web.Response | None:
        """What a request is answered with that is not even looked at."""
        if request.path in _ALWAYS or request.app.get(ADMIN, False):
            return None
        if request.path in _UNTRACED and self.runtime.access_rules.sees_clients(request):
            return None  # whoever watches over us, by name; anybody else may ask as often as others
        if request.path.startswith(BLOBS_PATH) and room is not Room.NONE:
            # We sent whoever asks there; and a CDN that pulls is one address, which hands a refusal
            # on to clients, and to our own probes, that would take it for dead while we are busy.
            return None
        limits = self.runtime.settings.limits
        excess = Excess.CONNECTIONS
        seconds = 0.0
        if room is Room.ENOUGH:
            excess = Excess.RATE
            seconds = self.runtime.gate.wait(
                exchange.where, limits.rate, limits.burst, time.monotonic()
            )
            if not seconds:
                return None
        self.runtime.metrics.refused(excess)
        exchange.outcome = Outcome.ERROR
        return refused(excess, seconds or RETRY_SECONDS)

    async def prepared(self, request: web.Request, response: web.StreamResponse) -> None:
        """If we are stopping, a connection ends with this answer, and the next goes elsewhere."""
        del request
        if self.runtime.gate.stopping:
            response.force_close()
            response.headers["Connection"] = "close"

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
        except Busy as busy:
            exchange.outcome = Outcome.ERROR
            self.runtime.metrics.refused(Excess.QUEUE)
            if exchange.begun:
                raise ConnectionResetError(str(busy)) from busy
            response = refused(Excess.QUEUE)
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

    async def livez(self, request: web.Request) -> web.Response:
        """The process answers."""
        del request
        return web.Response(text="ok\n")

    async def readyz(self, request: web.Request) -> web.Response:
        """The repositories can be read. A store that is down only makes clones go inline."""
        del request
        if self.runtime.gate.stopping:
            return web.Response(status=503, text="stopping\n")
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
        sessions = self.runtime.sessions
        if sessions is not None:
            states = dict(sessions.watch.states())
            passed += [f"mirror {n} ({states[n].value})" for n in sorted(sessions.watch.down())]
        note = f"; passed over: {', '.join(passed)}" if passed else ""
        ago = time.time() - self.runtime.seal.known.noticed
        if ago < _TOLD_SECONDS:
            note += f"; the main store was found to be another one, or emptied, {age(ago)} ago"
        return web.Response(text=f"ok{note}\n")

    async def nothing(self, request: web.Request) -> web.Response:
        """What is not for whoever reaches this listener is not there."""
        del request
        return answers.text(404, "There is nothing here.")

    async def metrics(self, request: web.Request) -> web.Response:
        """The figures, for Prometheus; they name every repository."""
        if not self.runtime.access_rules.is_operator(request):
            return answers.text(403, "These figures are for access.operators, or at admin.listen.")
        body, content_type = await self.runtime.metrics.rendered.result()
        return web.Response(body=body, headers={"Content-Type": content_type})
