# Law of this file: the first request of a session is answered by a redirect, or not, from memory.
# Where it is not known that a session may move, it stays.

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final, Self

import aiohttp
from aiohttp import web

from redirects.acceptance import Client
from redirects.audience import Audience
from redirects.control import Control
from redirects.decision import Reason
from redirects.holding_off import HoldOffs, held_off_key
from redirects.negotiation import Verdict
from redirects.selection import Selection
from redirects.sessions import (
    Session,
    SessionDecision,
    SessionMirror,
    SessionRedirect,
    Sighting,
    Stay,
    Vcs,
    choose,
    explain_session,
)
from redirects.suspicion import Suspicions
from repos.git.program import GitFailed
from repos.git.repository import GitRepository
from repos.hg.database import IndexBroken, IndexUnreadable
from repos.hg.errors import Unservable
from repos.hg.program import HgFailed
from repos.hg.repository import HgRepository
from server.access.rules import HANDED_ON
from server.decisions import Decisions
from server.exchange import EXCHANGE, client_of
from server.metrics import Metrics
from server.outcome import Outcome
from server.repeats import Repeats
from server.repositories import Repositories
from server.sessions.reading import Reading
from server.sessions.refs import Ours, git_digest, hg_digest
from server.sessions.watch import MirrorWatch
from server.settings import Settings
from server.wiring import build_session_selection
from wire.git.refs import Refs
from wire.git.v2 import Fetch

_log = logging.getLogger("offramp.sessions")

# Names of headers that may hold a credential, or in which a proxy says whom it let in: it may have
# taken a password away, which the client would send along. git sends even the headers of
# `http.extraHeader` to whatever host it is redirected to, if they are said to be for one URL alone.
_CREDENTIALS: Final = re.compile(
    r"auth|cookie|token|secret|passw|credential|key|jwt|assertion|saml|oidc|claim|login|session"
    r"|user(?![-_]agent$)|email|identity|principal|subject|pwd|groups$|ssl[-_]cert"
    r"|client[-_]?(?:cert|dn|cn|verify|[si][-_]dn|serial|fingerprint)",
    re.IGNORECASE,
)

_PROTOCOL: Final = "X-Forwarded-Proto"

# No cache may send others to where this client was sent.
_HEADERS: Final = {"Cache-Control": "no-store"}

_NOTHING: Final[Mapping[str, Sighting]] = {}


@dataclass(slots=True)
class Sessions:
    """Moves sessions to mirrors.

    Attributes:
        settings: of the server.
        selection: the mirrors, and what decides between them.
        watch: what is known of them.
        repeats: knows clients again that were sent to one.
        hold_offs: which sessions are kept from which mirrors.
        decisions: take note of them.
        moved: how many sessions this process sent to which mirror.
    """

    settings: Settings
    selection: Selection[SessionMirror]
    watch: MirrorWatch
    repeats: Repeats[SessionMirror]
    hold_offs: HoldOffs
    decisions: Decisions
    moved: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(  # noqa: PLR0917 - what a server has of these, each once
        cls,
        settings: Settings,
        http: aiohttp.ClientSession,
        git: Repositories[GitRepository],
        hg: Repositories[HgRepository],
        suspicions: Suspicions,
        metrics: Metrics,
        decisions: Decisions,
        secret: bytes,
    ) -> Self | None:
        """What moves the sessions of a server; None without mirrors.

        ``secret`` is that of :class:`server.repeats.Repeats`.
        """
        if not settings.session_mirrors:
            return None
        rules = settings.health.rules
        selection = build_session_selection(settings)

        async def own(vcs: Vcs, repository: str) -> Ours | None:
            return await own_refs(git if vcs == "git" else hg, repository)

        watch = MirrorWatch(
            selection.targets,
            lambda mirror: Reading(http, mirror, rules.timeout, rules.interval),
            own,
            rules,
            metrics.session_mirror,
        )
        # Who is answered here costs what he always did, so nobody has a share of that.
        repeats = Repeats(replace(suspicions, per_address=None), watch, metrics, secret)
        hold_offs = HoldOffs(suspicions.table)
        return cls(settings, selection, watch, repeats, hold_offs, decisions)

    def adopt(self, settings: Settings) -> None:
        """Go on with other settings, of which only live ones differ; the mirrors are the same."""
        self.settings, self.selection = settings, build_session_selection(settings)

    def redirect(
        self,
        request: web.Request,
        session: Session,
        control: Control,
        audience: Audience,
    ) -> web.Response | None:
        """The answer to the first request of a session that moves; None if it stays.

        Args:
            request: of the client, which may read the repository.
            session: what it asks; why it would stay is found here, beside what is said already.
            control: who is redirected at all.
            audience: for whom the repository is.
        """
        settings, exchange = self.settings, request[EXCHANGE]
        client = client_of(request, settings.public_url, settings.listen)
        if settings.public_url is None and _may_be_https(request):
            client = replace(client, base_url=f"https:{client.base_url.partition(':')[2]}")
        session = self._kept(request, session)
        decision = choose(
            session,
            self.selection,
            client,
            self.watch.clock(),
            seen=self._seen(session, audience),
            down=self.watch.down(),
            held_off=self._held_off(client, session.vcs, session.repository),
            enabled=settings.redirect.enabled,
            held_back=control.held_back(client, session.repository),
            shadow=control.shadow,
            audience=audience,
        )
        question = f"session {session.vcs} {session.repository}"
        if isinstance(decision, SessionRedirect) and self.repeats.asked_again(request, question):
            self._hold_off(session, client, decision.location.target)
            decision = Stay(Reason.ASKED_AGAIN, decision.passed_over)
        self.decisions.session(session, client, decision)
        if isinstance(decision, Stay):
            return None
        self.moved[decision.location.target] += 1
        self.repeats.sent(request, question, ((decision.location, None),))
        exchange.outcome = Outcome.REDIRECT
        return web.Response(status=302, headers={**_HEADERS, "Location": decision.location.url})

    def explain(
        self, session: Session, client: Client, control: Control, audience: Audience
    ) -> tuple[SessionDecision, tuple[Verdict, ...]]:
        """What would become of such a session now, and a verdict on each mirror.

        It is none of a client: nothing is counted. That the repository is of interest is noted.
        """
        return explain_session(
            session,
            self.selection,
            client,
            self.watch.clock(),
            seen=self._seen(session, audience),
            down=self.watch.down(),
            held_off=self._held_off(client, session.vcs, session.repository),
            enabled=self.settings.redirect.enabled,
            held_back=control.held_back(client, session.repository),
            shadow=control.shadow,
            audience=audience,
        )

    def fetched(self, request: web.Request, repository: str, fetch: Fetch, refs: Refs) -> None:
        """A client fetches from a git repository here; one that a mirror might fail is noted.

        It asks for an object by its id that no ref names, as machines do that build a commit. If it
        was force-pushed away, no mirror with our refs has it. Clients with a part of a repository,
        which say so by a filter, fetch the rest of it so, and that is there.
        """
        if fetch.filter is not None or refs.tips.issuperset(fetch.wants):
            return
        client = client_of(request, self.settings.public_url, self.settings.listen)
        now = self.repeats.clock()
        for mirror in self.selection.targets:
            if mirror.serves("git", repository):
                self.hold_offs.would_fail(
                    self._held_off_key(client, "git", repository, mirror.name), now
                )

    def _held_off(self, client: Client, vcs: Vcs, repository: str) -> Callable[[str], bool]:
        """Whether such sessions are kept from a mirror."""

        def held_off(mirror: str) -> bool:
            key = self._held_off_key(client, vcs, repository, mirror)
            return self.hold_offs.holds(key, self.repeats.clock())

        return held_off

    def _hold_off(self, session: Session, client: Client, mirror: str) -> None:
        """Keep sessions like this one from a mirror that is well, and did not do for this one."""
        key = self._held_off_key(client, session.vcs, session.repository, mirror)
        seconds = self.hold_offs.failed(key, self.repeats.clock())
        _log.info(
            "session mirror %s, repository %s: a client asked again, and sessions of its network"
            " %s stay for %.0f s",
            mirror,
            session.repository,
            client.network,
            seconds,
        )

    def _held_off_key(self, client: Client, vcs: Vcs, repository: str, mirror: str) -> bytes:
        session = (vcs, repository)
        return held_off_key(client.network, session, mirror, secret=self.repeats.secret)

    def _kept(self, request: web.Request, session: Session) -> Session:
        """The session, with why it stays if the request says so."""
        reason = session.stays
        if request[EXCHANGE].here:
            reason = Reason.STAYS_HERE
        elif any(map(_may_hold_credential, request.headers)):
            reason = Reason.CARRIES_CREDENTIALS
        elif reason is None and self.repeats.knows_nobody(request):
            reason = Reason.CLIENT_UNKNOWN
        return replace(session, stays=reason)

    def _seen(self, session: Session, audience: Audience) -> Mapping[str, Sighting]:
        # Mirrors are not asked for what would not move there anyway.
        if session.stays is not None or audience.private or not self.settings.redirect.enabled:
            return _NOTHING
        return self.watch.seen(session.vcs, session.repository, session.digest)


def _may_be_https(request: web.Request) -> bool:
    """Whether a client may have come by https, by what a proxy in front says of it, or does not."""
    said = request.headers.getall(_PROTOCOL, ())
    handed_on = said or any(name in request.headers for name in HANDED_ON)
    return bool(handed_on) and [each.strip().lower() for each in said] != ["http"]


@lru_cache(1024)
def _may_hold_credential(header: str) -> bool:
    return _CREDENTIALS.search(header) is not None


async def own_refs(
    repositories: Repositories[GitRepository] | Repositories[HgRepository], name: str
) -> Ours | None:
    """What we say of a repository now; None if it is none any more, or cannot be read."""
    repository = repositories.get(name)
    try:
        match repository:
            case GitRepository():
                git = await repository.snapshot()
                return Ours(git.refs.digest, await git_digest(git.refs), git.capabilities)
            case HgRepository():
                snapshot = repository.at_hand() or await repository.snapshot()
                return Ours(snapshot.digest, await hg_digest(snapshot))
            case _:
                return None
    except (GitFailed, HgFailed, Unservable, IndexBroken, IndexUnreadable):
        return None  # whoever asks for it is told why
