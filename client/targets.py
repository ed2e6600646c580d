# Law of this file: which targets are offered: those that we can use and that have not failed, in
# the server's order. What failed once is not offered again.

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from yarl import URL

from wire.hg.handshake import HASHES, AdvertisedTarget, ServerApi
from wire.hg.messages import Offer

# The versions of TLS that Python's default context agrees to: the older ones are refused by it.
_TLS: Final = {
    name for name, there in (("1.2", ssl.HAS_TLSv1_2), ("1.3", ssl.HAS_TLSv1_3)) if there
}

Accept = Callable[[AdvertisedTarget], bool]


def every_target(target: AdvertisedTarget) -> bool:
    """Accept whichever target can be used."""
    del target
    return True


def no_target(target: AdvertisedTarget) -> bool:
    """Have everything sent inline."""
    del target
    return False


def unusable(target: AdvertisedTarget) -> str | None:
    """Why a target cannot be used here; None if it can."""
    if target.protocol not in {"http", "https"}:
        return f"its protocol is {target.protocol!r}, and ours are http and https"
    if target.protocol == "https":
        if target.sni_required and not ssl.HAS_SNI:
            return "it needs SNI, which this Python has not"
        if target.tls_versions and not _TLS.intersection(target.tls_versions):
            return f"of TLS it speaks {', '.join(target.tls_versions)} only"
    return None


@dataclass(slots=True)
class Targets:
    """The targets of one server, for as long as we speak with it.

    Attributes:
        api: what the server says.
        accept: what the caller allows.
        failed: names of those that gave nothing, and why.
    """

    api: ServerApi
    accept: Accept = every_target
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def hashes(self) -> tuple[bytes, ...]:
        """Those that we can check, the best first."""
        return tuple(name for name in HASHES if name in self.api.hashes)

    @property
    def usable(self) -> tuple[AdvertisedTarget, ...]:
        """The targets to be offered; none if nothing that comes from them could be checked."""
        if not self.hashes:
            return ()
        return tuple(
            target
            for target in self.api.targets
            if unusable(target) is None and target.name not in self.failed and self.accept(target)
        )

    def offer(self, *, inline: bool = False) -> Offer | None:
        """What a request says of redirects; None to a server that knows of none.

        Args:
            inline: offer no target, so that the answer comes from the server itself.
        """
        if not self.api.targets and not self.api.hashes:
            return None
        names = () if inline else tuple(target.name.encode() for target in self.usable)
        return Offer(names, self.hashes)

    def name_of(self, url: str, offer: Offer) -> str | None:
        """The offered target that a location is at, as far as one can tell.

        Locations do not name theirs. Its URIs are examples of what locations look like, so the
        longest that the URL begins with says it; else the only one on that host.
        """
        offered = [each for each in self.api.targets if each.name.encode() in offer.targets]
        found = [
            (len(uri), target.name)
            for target in offered
            for uri in target.uris
            if url.startswith(uri)
        ]
        if found:
            return max(found)[1]
        here = [
            target.name
            for target in offered
            if any(_origin(uri) == _origin(url) is not None for uri in target.uris)
        ]
        return here[0] if len(here) == 1 else None

    def fail(self, url: str, offer: Offer, reason: str) -> None:
        """Never offer again what a location is at; the first of the offer if we cannot tell."""
        name = self.name_of(url, offer)
        if name is None and offer.targets:
            name = offer.targets[0].decode("utf-8", "replace")
        if name is not None:
            self.failed.setdefault(name, reason)


def _origin(url: str) -> URL | None:
    try:
        return URL(url, encoded=True).origin()
    except ValueError:
        return None
