# Law of this file: what all requests to one repository have in common, known after the handshake.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp
from yarl import URL

from client.address import Address
from client.limits import Limits
from client.watch import Call, Watch
from wire.hg.encodings import Encoding
from wire.hg.handshake import API_NAME, ServerApi

USER_AGENT: Final = "offramp-call"

_PULL: Final = frozenset((b"pull",))


@dataclass(frozen=True, slots=True)
class Link:
    """A repository, and how it is asked.

    Attributes:
        address: of the repository.
        api: what its server says of itself.
        session: for the server.
        downloads: for targets; it has no credentials and no cookies.
        encodings: that we accept, and may use for requests, in our order.
        limits: ours.
        watch: who looks on.
    """

    address: Address
    api: ServerApi
    session: aiohttp.ClientSession
    downloads: aiohttp.ClientSession
    encodings: tuple[Encoding, ...]
    limits: Limits
    watch: Watch

    def url(self, calls: Sequence[Call]) -> URL:
        """Where these commands are sent: ``ro`` if nothing more than reading is needed."""
        needed = [self.api.commands.get(call.name) for call in calls]
        reads = all(each is None or each.permissions <= _PULL for each in needed)
        name = calls[0].name.decode("utf-8", "replace") if len(calls) == 1 else "multirequest"
        path = URL.build(path=name).raw_path
        base = f"{self.api.base}/" if self.api.base else ""
        return self.address.below(f"{base}{API_NAME}/{'ro' if reads else 'rw'}/{path}")

    @property
    def timeout(self) -> aiohttp.ClientTimeout:
        """Of requests to the server."""
        return server_timeout(self.limits)


def server_timeout(limits: Limits) -> aiohttp.ClientTimeout:
    """How long a server may take; an answer that goes on may last."""
    return aiohttp.ClientTimeout(total=None, sock_connect=limits.connect, sock_read=limits.silence)
