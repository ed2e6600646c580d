# Law of this file: what one client told us about itself, and the one answer it can use. Values
# only; whoever makes them has read them off a wire.

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Literal

UriProtocol = Literal["http", "https"]

# It is sent back to clients inside lines of text: a space or a line break in it would be a line of
# somebody else's making, and git takes no URI but these two schemes.
# Nearly all clients say the same one, so a few are remembered; made-up ones push each other out.
_BASE_URL = re.compile(r"https?://[A-Za-z0-9._:\[\]-]+(?:/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?")


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What a client says it accepts in place of content.

    Attributes:
        protocols: schemes of the URLs that it will fetch from, of ``http`` and ``https``; git
            lists them in ``packfile-uris https,http``. Empty: it wants everything inline.
        targets: names of the targets that it can use, in its order of preference; Mercurial's wire
            protocol v2 lists them. None: it does not know our targets, and takes any.
        in_vain: it would accept some, and was just sent to one in vain.
    """

    protocols: frozenset[str]
    targets: tuple[str, ...] | None = None
    in_vain: bool = False


ACCEPTS_NOTHING: Final = Acceptance(frozenset())

SENT_IN_VAIN: Final = Acceptance(frozenset(), in_vain=True)
"""Of a client that asks again what it was sent elsewhere for."""


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks.

    Attributes:
        base_url: where this client reaches this server, such as ``https://git.example.org``,
            with a path below which everything is served if there is one; no trailing slash.
        region: in which it is; None if that is not known.
        network: that stands for it when load is spread, such as ``192.0.2.0/24``; empty if that is
            not known. Clients of one network are sent to the same target.
        address: from which it asks; empty if that is not known.
        spread: 64 bits made of the network.

    Raises:
        ValueError: the base URL is none; its Host header was made up.
    """

    base_url: str
    region: str | None = None
    network: str = ""
    address: str = ""
    spread: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not _is_base_url(self.base_url):
            raise ValueError(
                f"{self.base_url!r} is no base URL; it must be http(s)://host[:port][/path]"
                " in ASCII, without user, query, fragment or trailing slash"
            )
        object.__setattr__(self, "spread", spread_of(self.network))


@lru_cache(1024)
def _is_base_url(text: str) -> bool:
    return _BASE_URL.fullmatch(text) is not None and not text.endswith("/")


@dataclass(frozen=True, slots=True)
class Location:
    """Where one entity is, for one client, now.

    Attributes:
        url: final and complete; whoever holds it may read, so it belongs into no log.
        target: name of the target that it leads to.
        protocol: its scheme.
        expires: seconds since the epoch at which it stops working; None, it does not.
    """

    url: str
    target: str
    protocol: UriProtocol
    expires: float | None


def spread_of(name: str) -> int:
    """64 bits that are the same for the same name, on every machine, and else as if by chance."""
    return int.from_bytes(hashlib.sha256(name.encode(errors="surrogateescape")).digest()[:8])


def scheme(url: str) -> UriProtocol:
    """The scheme of an ``http(s)://`` URL.

    Raises:
        ValueError: it is of another scheme.
    """
    if url.startswith("https://"):
        return "https"
    if url.startswith("http://"):
        return "http"
    raise ValueError(f"{url!r} is neither an http:// nor an https:// URL")
