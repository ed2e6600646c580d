# Law of this file: between requests and policies: what a request says is read here, and a verdict
# becomes an answer here, the same for what is not there and for what is not for the caller.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network
from typing import Final

from aiohttp import web

from redirects.audience import Audience
from server.access.policies import (
    Allowed,
    Auth,
    Caller,
    Hidden,
    Policies,
    Refused,
    Unauthorised,
    Verdict,
    holds,
)
from server.git.answers import NO_CACHE
from server.settings_upstreams import AccessSettings, UpstreamSettings

Unplaced = Callable[[str], frozenset[str]]
"""Names of the targets that read no store which a repository, by its served name, is for."""

ADMIN: Final = web.AppKey("admin", bool)
"""An application that is reached by a listener for those who run this server."""


def _placed(repository: str) -> frozenset[str]:
    del repository
    return frozenset()


class AccessRules:
    """The rules of our own, for requests; asked before a repository is looked up."""

    def __init__(
        self, settings: AccessSettings, *, private: bool = False, unplaced: Unplaced = _placed
    ) -> None:
        """Prepare.

        Args:
            settings: what they say.
            private: something that is served is not for everybody.
            unplaced: says which targets read only stores that a repository is not for.
        """
        self._settings = settings
        self._unplaced = unplaced
        self._private = private
        self._operators = tuple(map(ip_network, settings.operators))
        self._policies = Policies(settings)
        self.audience = Audience(settings.private)
        """For whom the content of repositories below ROOT is."""

    def audience_of(self, name: str, upstream: UpstreamSettings | None = None) -> Audience:
        """For whom the content of a repository is, and which targets may not name it.

        Args:
            name: at which it is served.
            upstream: where it is, if not below ROOT.
        """
        audience = self.audience if upstream is None else upstream_audience(upstream)
        unplaced = self._unplaced(name)
        return replace(audience, unplaced=unplaced) if unplaced else audience

    def is_operator(self, request: web.Request) -> bool:
        """Whether a caller may see figures that name every repository."""
        if request.app.get(ADMIN, False) is True or self._operators:
            return self.sees_clients(request)
        return not self._private

    def sees_clients(self, request: web.Request) -> bool:
        """Whether a caller may see who asks for what: never everybody, whatever is served.

        Where nobody is listed, nobody may, this machine neither: a proxy on it that says nothing of
        whom it asks for, and takes our address for the host that he wanted, looks the same. Who
        reaches a listener that is for no clients may, unless somebody is listed.
        """
        if request.app.get(ADMIN, False) is True and not (self._operators and request.remote):
            # At a Unix socket there is no address, and its file says who may open it.
            return True
        return holds(self._operators, request.remote or "")

    def local(self, request: web.Request, name: str) -> Verdict:
        """Whether a caller may read the repository ``name`` below ROOT."""
        return self.for_auth(self._settings.auth, request, name)

    def for_auth(self, auth: Auth, request: web.Request, name: str) -> Verdict:
        """Whether a caller may read what is served as ``name``, where ``auth`` rules."""
        if auth == "none":
            return _EVERYBODY
        caller = Caller(
            request.headers.getall("Authorization", ()),
            request.remote or "",
            request.headers.getall(self._settings.user_header, ()),
        )
        return self._policies.check(auth, caller, name)


_EVERYBODY = Allowed("")
HANDED_ON = ("X-Forwarded-For", "Forwarded", "Via", "X-Real-IP")


def upstream_audience(upstream: UpstreamSettings) -> Audience:
    """For whom the content of an upstream's repositories is."""
    return Audience(not upstream.public, frozenset(upstream.targets))


def answer(verdict: Unauthorised | Refused | Hidden) -> web.Response:
    """What a caller is told who may not read; git shows the text after ``remote:``."""
    headers = dict(NO_CACHE)
    match verdict:
        case Unauthorised(challenge):
            status = 401
            headers["WWW-Authenticate"] = challenge
        case Refused():
            status = 403
        case Hidden():
            status = 404
    return web.Response(status=status, text=f"{verdict.message}\n", headers=headers)
