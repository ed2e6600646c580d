# Law of this file: a repository of an upstream is shown to a caller as the upstream would show it.
# What is answered from here, that caller was told there; what cannot be known here goes through.

from __future__ import annotations

import asyncio
import functools
import logging
import re
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final, Self
from urllib.parse import urlencode

import aiohttp
from aiohttp import web

from redirects.acceptance import ACCEPTS_NOTHING, Acceptance
from redirects.sessions import HERE
from repos.git.mirror import mirror_path
from repos.hg.peer import Peer
from server.exchange import EXCHANGE, client_of
from server.git.callers import Answered, Caller, caller_of, refusal
from server.hg.v1 import replies, small
from server.hg.v1.asked import HIDDEN, Asked, headers_of, read_asked, writes
from server.hg.v1.bundling import Bundling, in_loop
from server.hg.v1.getbundle import (
    DIALECT,
    GETBUNDLE,
    GetBundleCommand,
    acceptance_of,
    known_by,
)
from server.hg.v1.running import Streaming
from server.hg.v1.words import CLONE_BUNDLES, ENGINES, edited
from server.outcome import Outcome
from server.runtime import Runtime
from server.upstreams.asking import Down, Refused
from server.upstreams.hg_asking import HgState, judge
from server.upstreams.hg_views import HgView, HgViews
from server.upstreams.mirrors import MIRRORS
from server.upstreams.routes import Remote
from server.upstreams.upstreams import Upstreams
from wire.hg.v1.getbundle import GetBundle, argument_bytes
from wire.hg.v1.media import Framing, choose
from wire.hg.v1.requests import COMMANDS, BadRequest, read_arguments

_log = logging.getLogger("offramp.hg")

# A command of an extension.
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}")

# What an answer depends on in these is in a view.
_VIEWED: Final = frozenset({b"bookmarks", b"namespaces", b"phases"})

_HEADER: Final = 1024


@dataclass(frozen=True, slots=True)
class _Question:
    """One request of a caller whom our own rules let pass."""

    request: web.Request
    remote: Remote
    caller: Caller
    asked: Asked

    @property
    def writes(self) -> bool:
        """It changes the repository, or may."""
        return writes(self.request, self.asked)

    @property
    def is_unknown(self) -> bool:
        """There are commands in it of which only the upstream knows what they do."""
        return any(call.name not in COMMANDS for call in self.asked.calls)

    @property
    def query(self) -> str:
        """The command; its arguments go in headers.

        By one word in the query a client asks for what is hidden. An upstream that lets some users
        do that decides by the credential, which must be theirs.
        """
        found = [("cmd", self.asked.command)]
        if self.remote.upstream.auth == "upstream":
            said = read_arguments(self.request.raw_path.partition("?")[2], [], b"")
            found += [(HIDDEN.decode(), said[HIDDEN].decode("latin-1"))] if HIDDEN in said else []
        return urlencode(found)

    def headers(self, length: int) -> dict[str, str]:
        """What it is asked with; see :func:`headers_of`."""
        said = {name: value for name, value in self.asked.arguments.items() if name != HIDDEN}
        return headers_of(self.request, said, length, ())


@dataclass(frozen=True, slots=True)
class UpstreamFront:
    """Answers protocol version 1 for repositories of upstreams."""

    runtime: Runtime
    upstreams: Upstreams
    bundling: Bundling

    @classmethod
    def of(cls, runtime: Runtime, bundling: Bundling) -> Self | None:
        """The handlers of ``runtime``; None where there are no upstreams."""
        upstreams = runtime.upstreams
        return None if upstreams is None else cls(runtime, upstreams, bundling)

    @property
    def views(self) -> HgViews:
        """What upstreams said."""
        return self.upstreams.hg_views

    def route(self, request: web.Request) -> Remote | None:
        """The repository of an upstream that a request is for, if it is for one."""
        return self.upstreams.routes.hg(request.raw_path.partition("?")[0])

    async def answer(
        self, request: web.Request, remote: Remote, command: str
    ) -> web.StreamResponse:
        """Answer one command of anybody."""
        exchange = request[EXCHANGE]
        exchange.dialect = DIALECT
        exchange.command = command if command in COMMANDS else "unknown"
        try:
            caller = caller_of(self.runtime, self.upstreams, request, remote)
            if request.method not in {"GET", "POST"}:
                raise web.HTTPMethodNotAllowed(request.method, ("GET", "POST"))
            limit = self.runtime.settings.limits.request_time
            asked = await read_asked(request, command, limit)
            return await self._answer(_Question(request, remote, caller, asked))
        except Answered as answered:
            return answered.response
        except BadRequest as bad:
            return replies.refused(request, str(bad))
        except Refused as refused:
            told = refusal(remote, refused)
            # Of a status that is no no to the client, clients show no words.
            return told if told.status != 502 else replies.refused(request, told.text or "")
        except Down as down:
            _log.warning("%s: %s", remote.name, down)
            return replies.refused(request, f"{remote.upstream.title}: {down}")

    async def _answer(self, question: _Question) -> web.StreamResponse:
        command, caller = question.asked.command, question.caller
        if question.writes:
            return await self._push(question)
        if question.is_unknown:
            # Below /-/here/ nothing is passed on that may be a push.
            here = question.request[EXCHANGE].here
            if here or not caller.passes or _NAME.fullmatch(command) is None:
                return replies.refused(question.request, f"unknown command {command[:100]!r}")
            return await self._pass(question, caller.own, check=_told_as_it_is)
        if question.remote.upstream.auth == "upstream" and HIDDEN in question.asked.arguments:
            return await self._pass(question, caller.shown)
        match command:
            case "capabilities":
                return await self._capabilities(question)
            case "getbundle":
                return await self._getbundle(question)
            case "batch" | "heads" | "known" | "branchmap" | "listkeys":
                return await self._small(question)
            case _:
                return await self._pass(question, caller.shown)

    # --- by the upstream -------------------------------------------------------------------------

    async def _pass(
        self,
        question: _Question,
        authorization: str | None,
        *,
        check: Callable[[aiohttp.ClientResponse], Awaitable[None]] = judge,
    ) -> web.StreamResponse:
        """Have the upstream answer, with this credential."""
        view = self.views.last(question.remote, question.caller.shown)
        length = _HEADER if view is None else _header_length(view)
        # What came in its body were arguments, and it was read.
        reads = not question.writes
        response = await self.upstreams.passing.through(
            question.request,
            question.remote,
            question.remote.url,
            authorization,
            query=question.query,
            body=b"" if reads and question.request.can_read_body else None,
            further=question.headers(length),
            check=check,
        )
        if response.status == 200:
            question.request[EXCHANGE].repository = question.remote.name
        return response

    async def _push(self, question: _Question) -> web.StreamResponse:
        remote = question.remote
        if question.request[EXCHANGE].here:
            told = f"nothing is pushed below {HERE}/; push to where the repository lives"
            return replies.refused(question.request, told)
        if not self.runtime.settings.hg.may_push(remote.name):
            return replies.refused(
                question.request,
                f"pushing to '{remote.name}' through this server is not enabled; push to where the"
                " repository lives, or have the operator list it in hg.push",
            )
        if not question.caller.passes:
            # Nobody knows who this is there.
            return replies.refused(
                question.request,
                f"through this server, this repository can only be read; push to {remote.url}",
            )
        try:
            return await self._pass(question, question.caller.own, check=_told_as_it_is)
        finally:
            self.views.forget(remote)

    # --- from a view -----------------------------------------------------------------------------

    async def _capabilities(self, question: _Question) -> web.StreamResponse:
        view = await self.views.recent(question.remote, question.caller.shown)
        self._hit(question)
        return replies.string(edited(view.words, bundles=True).encode())

    async def _small(self, question: _Question) -> web.StreamResponse:
        """Answer small commands: all from one view, or all by the upstream."""
        remote, shown = question.remote, question.caller.shown
        calls = question.asked.calls
        last = self.views.last(remote, shown)
        # What was known lately is worth a question whether it still is; what was not is passed on.
        if all(
            HgState.holds(call) or (last is not None and last.state.answer(call) is not None)
            for call in calls
        ):
            view = await self.views.now(remote, shown)
            found = [view.state.answer(call) for call in calls]
            answers = [each for each in found if each is not None]
            if len(answers) == len(calls):
                self._hit(question)
                if question.asked.command != "batch":
                    return replies.string(answers[0])
                size = small.check_length(sum(map(len, answers)))
                return replies.string(await small.joined(answers, size))
        return await self._pass(question, shown)

    def _hit(self, question: _Question) -> None:
        exchange = question.request[EXCHANGE]
        exchange.repository, exchange.outcome = question.remote.name, Outcome.HIT

    # --- bundles ---------------------------------------------------------------------------------

    async def _getbundle(self, question: _Question) -> web.StreamResponse:
        request, remote = question.request, question.remote
        wanted = GetBundle.read(question.asked.arguments)
        instead = functools.partial(self._pass, question, question.caller.shown)
        # Nothing in a bare changegroup says that the server failed in its middle.
        if not wanted.bundle2 or not _is_viewed(wanted):
            return await instead()
        view = await self.views.now(remote, question.caller.shown)
        request[EXCHANGE].repository = remote.name
        if wanted.heads is None:
            wanted = replace(wanted, heads=view.state.heads)
        settings = self.runtime.settings
        framing = choose(question.asked.protocol, ENGINES, uncompressed=False)
        arguments = wanted.canonical()
        # Where a mirror of it would lie: by that, what is recorded of it is found and purged.
        identity = str(mirror_path(settings.data.absolute() / MIRRORS, remote.name))
        command = GetBundleCommand(
            repository=remote.name,
            identity=identity,
            question=(argument_bytes(arguments), view.state.digest, remote.url.encode()),
            framing=framing,
            compute=self._run(question, wanted, view, framing),
            acceptance=self._acceptance(question, wanted, view, framing),
            client=client_of(request, settings.public_url, settings.listen),
            audience=self.runtime.access_rules.audience_of(remote.name, remote.upstream),
            observe=functools.partial(
                self.runtime.metrics.execution, remote.name, DIALECT, GETBUNDLE
            ),
            known_by=known_by(wanted, identity, ()),
        )
        return await self.bundling.respond(request, command, instead)

    def _acceptance(
        self, question: _Question, wanted: GetBundle, view: HgView, framing: Framing
    ) -> Acceptance:
        settings = self.runtime.settings.hg
        # Which heads a client has that began with one of the upstream's own bundles, nobody knows.
        bundles = any(word in view.words for word in CLONE_BUNDLES)
        if bundles and settings.redirect_getbundle == "pulls":
            return ACCEPTS_NOTHING
        if question.remote.upstream.auth == "proxy":
            # Who was let in by a proxy shows a password, though not to us.
            return ACCEPTS_NOTHING
        return acceptance_of(wanted, framing, question.asked, settings, ())

    def _run(
        self, question: _Question, wanted: GetBundle, view: HgView, framing: Framing
    ) -> Streaming:
        loop = asyncio.get_running_loop()
        remote, shown, upstream = question.remote, question.caller.shown, question.remote.upstream
        context = self.upstreams.passing.asking.context(remote)
        peer = Peer(
            remote.url,
            authorization=shown,
            connect_timeout=upstream.timeout,
            silence=upstream.stall_time,
            header_length=_header_length(view),
            # Not every server takes arguments in a body, nor every proxy before one.
            post_over=None,
            connections=self.runtime.hg_connections,
            ssl_context=context if isinstance(context, ssl.SSLContext) else None,
        )

        async def look() -> bool:
            found = await self.views.fresh(remote, shown)
            return found.asked > view.asked and found.state.digest == view.state.digest

        def unchanged() -> bool:
            try:
                return in_loop(loop, look())
            except Exception:  # noqa: BLE001 - whatever it is, nobody knows that it is unchanged
                return False

        return Streaming(
            lambda: peer,
            GETBUNDLE,
            dict(wanted.canonical()),
            framing,
            wanted.bundle2,
            unchanged,
            lambda: None,
        )


async def _told_as_it_is(answer: aiohttp.ClientResponse) -> None:
    """Let a no pass, too: it is to the caller's own credential, or to that there is none."""
    if answer.status not in {401, 403, 404}:
        await judge(answer)


def _is_viewed(wanted: GetBundle) -> bool:
    """Whether all that the answer depends on is in a view.

    The files of a store hold what nobody is told of, markers of what is obsolete are told to nobody
    else, and extensions may show each user other files.
    """
    narrow = wanted.includepats or wanted.excludepats or wanted.other
    return not (wanted.stream or wanted.obsmarkers or narrow) and _VIEWED.issuperset(
        wanted.listkeys
    )


def _header_length(view: HgView) -> int:
    said = view.words.value("httpheader") or ""
    return int(said[:6]) if said.isdecimal() else _HEADER
