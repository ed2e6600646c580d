# Law of this file: our own rules are applied before anything is asked or looked up, and what was
# shown to us is shown to an upstream only where it is meant for it.

from __future__ import annotations

import logging
from dataclasses import dataclass

from aiohttp import web

from server.access.credentials import Malformed, sole
from server.access.policies import Allowed
from server.access.rules import answer
from server.exchange import EXCHANGE
from server.git import answers
from server.outcome import Outcome
from server.runtime import Runtime
from server.upstreams.asking import Down, Refused
from server.upstreams.routes import Remote
from server.upstreams.upstreams import Upstreams

_log = logging.getLogger("offramp.mirrors")

# How soon a client may ask again, where an upstream that is down does not say.
_RETRY_AFTER = 5.0


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, once our own rules have let it pass.

    Attributes:
        shown: the ``Authorization`` that questions to the upstream carry.
        own: the caller's own, where it is meant for the upstream; None where it is not.
        passes: what we do not answer is passed on in the caller's name.
    """

    shown: str | None
    own: str | None
    passes: bool


class Answered(Exception):  # noqa: N818 - a way out
    """The request is answered with this."""

    def __init__(self, response: web.Response) -> None:
        self.response = response
        super().__init__()


def caller_of(
    runtime: Runtime, upstreams: Upstreams, request: web.Request, remote: Remote
) -> Caller:
    """Apply our own rules; the upstream's are applied by asking it.

    Raises:
        Answered: they do not let it pass.
    """
    auth = remote.upstream.auth
    try:
        own = sole(request.headers.getall("Authorization", ()))
    except Malformed as malformed:
        raise Answered(answers.text(400, str(malformed))) from None
    if auth == "upstream":
        return Caller(own, own, passes=True)
    verdict = runtime.access_rules.for_auth(auth, request, remote.name)
    if not isinstance(verdict, Allowed):
        raise Answered(answer(verdict))
    ours = upstreams.own(remote)
    # What was shown to us, or to a proxy, is not for the upstream to see.
    return Caller(ours, own if auth == "none" else None, passes=auth == "none")


def refusal(remote: Remote, refused: Refused) -> web.Response:
    """Tell a caller the upstream's no to its own credential; one to ours is our fault."""
    if remote.upstream.auth != "upstream" and refused.status != 404:
        _log.error(
            "upstream %s refuses this server's credential (%d); see upstreams.credential",
            remote.upstream.title,
            refused.status,
        )
        return answers.text(502, "The upstream refuses this server; its operator can mend it.")
    words = refused.text or {
        401: "The upstream wants to know who you are.",
        403: "The upstream refuses you this repository.",
        404: "The upstream has no such repository, or not for you.",
    }.get(refused.status, "The upstream refuses this.")
    response = answers.text(refused.status, words)
    for challenge in refused.challenges:
        response.headers.add("WWW-Authenticate", challenge)
    return response


def silence(request: web.Request, remote: Remote, down: Down) -> web.Response:
    """Tell a caller that the upstream does not answer, and when to ask again."""
    request[EXCHANGE].outcome = Outcome.ERROR
    _log.warning("%s: %s", remote.name, down)
    response = answers.text(503, f"{remote.upstream.title}: {down}.")
    seconds = _RETRY_AFTER if down.retry_after is None else down.retry_after
    response.headers["Retry-After"] = str(max(1, round(seconds)))
    return response
