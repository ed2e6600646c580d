# Law of this file: what is known of a request while it is answered, for the log and the figures.

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from redirects.acceptance import Client
from redirects.decision import Decision, told
from redirects.locality import NOWHERE, Whereabouts, region_of_options
from server.outcome import Outcome

# A list of bundles has more decisions than a line of the log should.
_DECISIONS: Final = 8

_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(\d{1,5}))?")

# A name of 253 characters (RFC 1035), a colon and a port. Hosts are remembered in thousands, in
# URLs as well: longer ones are nobody's name, and would take hundreds of MiB.
_LONGEST_HOST: Final = 259


@dataclass(slots=True)
class Exchange:
    """One request and what became of it.

    Attributes:
        request_id: in the log and in the answer's ``X-Request-Id``.
        where: the client is, by headers and address.
        repository: served name, once it is known to exist; it becomes a label.
        dialect, command: as in the metrics.
        outcome: how it was answered.
        begun: an answer is under way, so no other can be given in its place.
        sent: bytes of content sent.
        redirected: bytes of content named by a location.
        here: it came by a path below which sessions stay.
        decisions: a word for each thing that was decided of content: the target to which the
            client is sent, or why to none; each once.
    """

    request_id: str
    where: Whereabouts = NOWHERE
    repository: str | None = None
    dialect: str = ""
    command: str = ""
    outcome: Outcome | None = None
    begun: bool = False
    sent: int = 0
    redirected: int = 0
    here: bool = False
    decisions: list[str] = field(default_factory=list)

    def decided(self, decision: Decision) -> None:
        """Remember what was decided, for the log."""
        outcome, target, reason = told(decision)
        word = f"shadow:{target}" if outcome == "shadow" else target or reason
        if word not in self.decisions and len(self.decisions) < _DECISIONS:
            self.decisions.append(word)


CURRENT: ContextVar[Exchange | None] = ContextVar("exchange", default=None)
"""The exchange on whose behalf something is done: the pipeline is handed a command, and knows
nothing of requests."""

REQUEST_ID: Final = "X-Request-Id"

EXCHANGE: Final = web.RequestKey("exchange", Exchange)


@functools.lru_cache(maxsize=16384)
def _client(base_url: str, region: str | None, network: str, address: str) -> Client:
    return Client(base_url, region, network, address)


def client_of(
    request: web.Request, public_url: str | None, fallback: str, options: Iterable[str] = ()
) -> Client:
    """Who asks, from where, and where it reaches this server.

    ``options`` are the server options of a git client, in which it may say where it is.

    Without ``public_url`` it reaches this server by what it wrote in its Host header, which only
    its own answer is made from; one that is no host and port is not believed.
    """
    where = request[EXCHANGE].where
    if options:
        where = where.saying(region_of_options(options))
    base_url = public_url
    if base_url is None:
        said = request.headers.get("Host", "")
        host = _host(said, fallback) if len(said) <= _LONGEST_HOST else fallback
        base_url = f"http://{host}"
    return _client(base_url, where.region, where.network, where.address)


@functools.lru_cache(maxsize=1024)
def _host(said: str, fallback: str) -> str:
    match = _HOST.fullmatch(said)
    if match is None or not 0 < int(match[1] or 80) <= 65535:
        return fallback
    return said
