# Law of this file: a fetch from an upstream's repository is answered from its mirror, for a caller
# who may have what it wants by the upstream's own word; what the mirror cannot give, the upstream
# gives itself.

from __future__ import annotations

import functools
import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

from aiohttp import web

from cache.flights import RunFailed
from redirects.acceptance import Client
from repos.git.program import GitFailed
from repos.git.repository import GitRepository, Snapshot
from repos.git.upload_pack import Refused as GitRefused
from server.exchange import EXCHANGE
from server.git import answers
from server.git.answers import UPLOAD_PACK
from server.git.bundles import bundle_list
from server.git.callers import Caller
from server.git.fetch import Overtaken
from server.git.requests import asker, body_of, parsed, protocol_of
from server.git.sight import Sight
from server.git.upload_pack import AGENT, Terms, UploadPack
from server.outcome import Outcome
from server.runtime import Runtime
from server.upstreams.asking import Down, SpeaksV0
from server.upstreams.routes import Remote
from server.upstreams.upstreams import Upstreams
from server.upstreams.views import View
from wire.git import v0, v2
from wire.git.bundle_list import BundleList
from wire.git.capabilities import Capabilities, advertise, intersect, service_preface
from wire.git.pktline import ProtocolError
from wire.git.v0_advertisement import encode_advertisement

_log = logging.getLogger("offramp.mirrors")

# A view that is younger than this was asked while the request that it answers was on its way.
_JUST_NOW: Final = 1.0
# So git says that it cannot read what is wanted, or what that reaches.
_LOST: Final = ("not our ref", "repository corruption")


@dataclass(frozen=True, slots=True)
class MirroredFetch:
    """Answers discovery and fetches of upstreams' repositories."""

    runtime: Runtime
    upstreams: Upstreams
    uploads: UploadPack
    sight: Sight

    # --- discovery ---------------------------------------------------------------------------

    async def info_refs(
        self, request: web.Request, remote: Remote, caller: Caller
    ) -> web.StreamResponse:
        """Answer ``info/refs`` for fetching.

        Raises:
            server.upstreams.asking.Refused, Down: the upstream says no, or nothing.
        """
        exchange = request[EXCHANGE]
        exchange.command = "info-refs"
        views, mirrors = self.upstreams.views, self.upstreams.mirrors
        protocol = protocol_of(request)
        exchange.dialect = "git-v2" if protocol == 2 else "git-v0"
        wanted = views.recent if protocol == 2 else views.now
        view = await wanted(remote, caller.shown)
        exchange.repository = remote.name
        repository = mirrors.get(remote)
        if repository is None and (protocol != 2 or isinstance(view.spoken, SpeaksV0)):
            # The whole session is the upstream's: what it advertises, it must answer.
            mirrors.begin(remote, view, caller.shown)
            return await self.pass_on(request, remote, "/info/refs", caller.shown)
        exchange.outcome = Outcome.HIT
        abilities, words = await self.upstreams.abilities.of(view.spoken.object_format)
        if protocol == 2:
            body = advertise(
                _common(abilities, view),
                AGENT,
                packfile_uris=self.runtime.settings.redirect.enabled,
                bundle_uri=True,
            )
        else:
            body = encode_advertisement(view.refs, words, view.spoken.object_format, AGENT)
        return answers.plain(UPLOAD_PACK, "advertisement", service_preface(UPLOAD_PACK) + body)

    # --- fetching ----------------------------------------------------------------------------

    async def upload_pack(
        self, request: web.Request, remote: Remote, caller: Caller
    ) -> web.StreamResponse:
        """Answer a request for ``git-upload-pack``.

        Raises:
            server.upstreams.asking.Refused, Down: the upstream says no, or nothing.
        """
        exchange = request[EXCHANGE]
        if request.content_type != f"application/x-{UPLOAD_PACK}-request":
            return answers.text(415, f"Content-Type must be application/x-{UPLOAD_PACK}-request.")
        body = await body_of(request, self.runtime.settings.limits.request_time)
        protocol = protocol_of(request)
        try:
            if protocol == 2:
                exchange.dialect = "git-v2"
                return await self._v2(request, remote, caller, body)
            exchange.dialect, exchange.command = "git-v0", "fetch"
            return await self._v0(request, remote, caller, body)
        except (ProtocolError, GitRefused, GitFailed) as error:
            return answers.failed(error, remote.name, exchange)

    async def _v2(
        self, request: web.Request, remote: Remote, caller: Caller, body: bytes
    ) -> web.StreamResponse:
        exchange = request[EXCHANGE]
        views = self.upstreams.views
        asked = await parsed(body)
        if asked is None:
            exchange.command, exchange.outcome = "goodbye", Outcome.HIT
            return answers.plain(UPLOAD_PACK, "result", b"")
        exchange.command = {v2.LsRefs: "ls-refs", v2.Fetch: "fetch"}.get(type(asked), "other")
        wanted = views.now if isinstance(asked, v2.LsRefs) else views.recent
        view = await wanted(remote, caller.shown)
        exchange.repository = remote.name
        answers.check_format(view.spoken.object_format, asked.session.object_format)
        match asked:
            case v2.LsRefs():
                exchange.outcome = Outcome.HIT
                return answers.refs(request, view.refs, asked)
            case v2.BundleUri():
                exchange.command, exchange.outcome = "bundle-uri", Outcome.HIT
                client = asker(self.runtime, request, asked.session.server_options)
                bundles = await self.bundles(client, remote, view)
                return answers.plain(UPLOAD_PACK, "result", bundles.to_lines())
            case v2.ObjectInfo():
                exchange.command = "object-info"
                return await self.pass_on(
                    request, remote, f"/{UPLOAD_PACK}", caller.shown, body=body
                )
            case v2.Fetch():
                return await self._fetch(request, remote, caller, view, asked)

    async def bundles(
        self, client: Client, remote: Remote, view: View, bundle_filter: str | None = None
    ) -> BundleList:
        """The list of bundles that hold nothing but what this caller may see."""
        repository = self.upstreams.mirrors.get(remote)
        if repository is None:
            return BundleList(())
        return await bundle_list(
            self.runtime,
            remote.name,
            client,
            bundle_filter=bundle_filter,
            audience=self.runtime.access_rules.audience_of(remote.name, remote.upstream),
            shown=functools.partial(self.runtime.coverage.behind, repository, view.refs),
        )

    async def _fetch(
        self, request: web.Request, remote: Remote, caller: Caller, view: View, fetch: v2.Fetch
    ) -> web.StreamResponse:
        view = await self._settle(remote, caller, view, fetch.wants)
        named = tuple(oid for ref in fetch.want_refs if (oid := view.refs.oid(ref)) is not None)
        wants = frozenset(fetch.wants + named)
        canonical = v2.encode_fetch(replace(fetch, packfile_uris=()), AGENT)
        pass_on = functools.partial(
            self.pass_on,
            request,
            remote,
            f"/{UPLOAD_PACK}",
            caller.shown,
            body=canonical,
            view=view,
        )
        try:
            answer = await self._from_mirror(request, remote, caller, view, fetch, wants=wants)
        except (GitFailed, GitRefused, Overtaken, RunFailed) as failure:
            self._look_after(request, remote, failure, view)
            answer = None
        return await pass_on() if answer is None else answer

    async def _from_mirror(
        self,
        request: web.Request,
        remote: Remote,
        caller: Caller,
        view: View,
        fetch: v2.Fetch,
        *,
        wants: frozenset[str],
    ) -> web.StreamResponse | None:
        """Answer a v2 fetch from the mirror; None: the upstream is to."""
        repository = await self._ready(remote, caller, view, fetch, wants)
        if repository is None:
            return None
        if fetch.include_tag and not (
            await self._same_tags(repository, view)
            or (not fetch.haves and await self._follows_tags(repository, remote, caller, view))
        ):
            # git would add tags that this caller's view does not have. Who fetches asks by itself
            # for those that it wants; a clone of one branch takes what comes along.
            if not fetch.haves and not isinstance(view.spoken, SpeaksV0):
                return None
            fetch = replace(fetch, include_tag=False)
        terms = self._terms(remote, repository, view)
        if fetch.include_tag and not remote.upstream.public:
            terms = await self._while_tags_stay(terms, repository, view)
        snapshot = await self._snapshot(repository, view)
        return await self.uploads.fetch(request, repository, snapshot, fetch, terms=terms)

    async def _v0(
        self, request: web.Request, remote: Remote, caller: Caller, body: bytes
    ) -> web.StreamResponse:
        fetch = v0.parse_request(body)
        view = await self.upstreams.views.recent(remote, caller.shown)
        request[EXCHANGE].repository = remote.name
        view = await self._settle(remote, caller, view, fetch.wants)
        pass_on = functools.partial(
            self.pass_on, request, remote, f"/{UPLOAD_PACK}", caller.shown, body=body
        )
        try:
            answer = await self._from_mirror_v0(request, remote, caller, view, fetch)
        except (GitFailed, GitRefused, Overtaken, RunFailed) as failure:
            self._look_after(request, remote, failure, None)
            answer = None
        return await pass_on() if answer is None else answer

    async def _from_mirror_v0(
        self, request: web.Request, remote: Remote, caller: Caller, view: View, fetch: v0.V0Fetch
    ) -> web.StreamResponse | None:
        """Answer a fetch of protocol v0 or v1 from the mirror; None: the upstream is to."""
        repository = await self._ready(remote, caller, view, fetch, frozenset(fetch.wants))
        if repository is None or not await self._knows_no_more(repository, view, fetch.haves):
            return None
        terms = self._terms(remote, repository, view)
        if "include-tag" in fetch.capabilities:
            if not await self._same_tags(repository, view) and not await self._follows_tags(
                repository, remote, caller, view
            ):
                return None
            if not remote.upstream.public:
                terms = await self._while_tags_stay(terms, repository, view)
        snapshot = await self._snapshot(repository, view)
        return await self.uploads.legacy(
            request, repository, snapshot, fetch, protocol=protocol_of(request), terms=terms
        )

    async def _ready(
        self,
        remote: Remote,
        caller: Caller,
        view: View,
        asked: v2.Fetch | v0.V0Fetch,
        wants: frozenset[str],
    ) -> GitRepository | None:
        """The mirror, if it can answer this; None: the upstream is to."""
        repository = await self.upstreams.mirrors.ready(remote, view, wants, caller.shown)
        if repository is None:
            return None
        may = await self.sight.may_answer(repository, asked, wants)
        return repository if may else None

    def _terms(self, remote: Remote, repository: GitRepository, view: View) -> Terms:
        # What it has beyond its view is nobody's business: not whether the mirror has it too.
        reached = functools.partial(self.sight.reached, repository, view.refs)
        audience = self.runtime.access_rules.audience_of(remote.name, remote.upstream)
        return Terms(audience, reached)

    async def _while_tags_stay(self, terms: Terms, repository: GitRepository, view: View) -> Terms:
        """Let an answer hold only if the tags that git read are those of the view.

        It is then not sent before its run has ended; where everybody may see every tag, it may.
        """
        before = await repository.in_thread(repository.state)
        same = await self._same_tags(repository, view)
        return replace(terms, unchanged=lambda: same and repository.state() == before)

    async def _knows_no_more(
        self, repository: GitRepository, view: View, haves: Collection[str]
    ) -> bool:
        """Whether git would acknowledge nothing beyond the view."""
        there = await repository.presence.existing(haves)
        return there <= await self.sight.reached(repository, view.refs, haves)

    def _look_after(
        self, request: web.Request, remote: Remote, failure: Exception, view: View | None
    ) -> None:
        """See to a mirror that could not answer; what follows is that the upstream does.

        Raises:
            the failure, where no other answer can be given any more.
        """
        # It was found to hold what is wanted.
        lost = isinstance(failure, GitRefused) and any(words in str(failure) for words in _LOST)
        if lost or isinstance(failure, GitFailed):
            _log.error("the mirror of %s failed: %s", remote.name, failure)
            self.upstreams.mirrors.suspect(remote)
        if request[EXCHANGE].begun:
            raise failure
        told = isinstance(failure, GitFailed | GitRefused)
        if told and view is not None and isinstance(view.spoken, SpeaksV0):
            raise failure

    async def _same_tags(self, repository: GitRepository, view: View) -> bool:
        """Whether the tags that git would add to a pack are those that the caller sees."""
        return (await repository.snapshot()).refs.tags_digest == view.refs.tags_digest

    async def _follows_tags(
        self, repository: GitRepository, remote: Remote, caller: Caller, view: View
    ) -> bool:
        """Bring the mirror up to date; whether its tags are then those that the caller sees."""
        await self.upstreams.mirrors.follow(remote, view, caller.shown)
        return await self._same_tags(repository, view)

    async def _settle(
        self, remote: Remote, caller: Caller, view: View, wants: Collection[str]
    ) -> View:
        """See that the caller may have what it wants, as the upstream has it.

        Raises:
            GitRefused: the upstream's own words, if not.
        """
        views = self.upstreams.views
        unnamed = [oid for oid in wants if oid not in view.refs.tips]
        old = isinstance(view.spoken, SpeaksV0)  # and cannot be asked for what no ref names
        if unnamed and (old or views.clock() - view.asked > _JUST_NOW):
            # Somebody else may have told the caller of newer refs.
            view = await views.newer(remote, caller.shown, view)
            unnamed = [oid for oid in unnamed if oid not in view.refs.tips]
        if unnamed:
            words = await views.may_have(remote, caller.shown, view, unnamed)
            if words is not None:
                raise GitRefused(words)
        return view

    async def _snapshot(self, repository: GitRepository, view: View) -> Snapshot:
        """What the caller sees of the mirror; its wants were looked at, so git need not."""
        snapshot = await repository.snapshot()
        config = (*snapshot.config, ("uploadpack.allowAnySHA1InWant", "true"))
        return replace(snapshot, refs=view.refs, config=config)

    async def pass_on(
        self,
        request: web.Request,
        remote: Remote,
        rest: str,
        authorization: str | None,
        *,
        body: bytes | None = None,
        view: View | None = None,
    ) -> web.StreamResponse:
        """Have the upstream answer what is below the repository at ``rest``.

        ``view`` is given where it must speak protocol v2 for that.

        Raises:
            Down: it does not, or nothing.
        """
        if view is not None:
            if isinstance(view.spoken, SpeaksV0):
                raise Down("its mirror is not up to date, and it does not speak protocol v2 itself")
            body = None if body is None else view.spoken.spelt(body)
        return await self.upstreams.passing.through(
            request,
            remote,
            f"{self.upstreams.views.base(remote)}{rest}",
            authorization,
            query=f"service={UPLOAD_PACK}" if rest == "/info/refs" else "",
            body=body,
        )


def _common(abilities: Capabilities, view: View) -> Capabilities:
    """What may be advertised: what can be passed on to the upstream, if it must be."""
    if isinstance(view.spoken, SpeaksV0):
        return abilities
    return intersect(abilities, view.spoken.capabilities)
