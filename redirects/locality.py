# Law of this file: where a client is, is what it says itself, else where its address is. It is a
# value that can be explained; whoever makes it has read address and word off a request.

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from redirects.networks import (
    NO_NETWORKS,
    IPNetwork,
    NetworkTable,
    Prefix,
    network_of,
    read_address,
)

REGION_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
"""What a region can be called: as clouds call theirs, or a word of one's own."""

REGION_OPTION: Final = "offramp.region"
"""Server option of git's protocol v2: ``git fetch -o offramp.region=eu-central-1``."""

REGION_HEADER: Final = "X-Offramp-Region"

# Addresses of which it is remembered where they are; as many as are remembered as values.
_REMEMBERED: Final = 16384

# What proxies write, some with a port, an interface or quotes: 192.0.2.1, 192.0.2.1:80,
# 2001:db8::1, [2001:db8::1]:80, fe80::1%eth0. None is longer than this.
_FORWARDED: Final = re.compile(
    r"\"?(?:(?:\[([0-9A-Fa-f:.]+)(?:%\w+)?\]|([0-9.]+))(?::\d{1,5})?|([0-9A-Fa-f:.]+)(?:%\w+)?)\"?"
)
_LONGEST: Final = 80

# Proxies of ours that one request may have come through.
_HOPS: Final = 32


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where a client is, and how that is known.

    Attributes:
        address: from where it asks; empty if that is not known.
        network: that stands for it when load is spread, such as ``192.0.2.0/24``; or empty.
        region: in which it is; None if that is not known.
        said: the region is its own word.
        prefix: the network that holds its address; None: no network that is known.
    """

    address: str = ""
    network: str = ""
    region: str | None = None
    said: bool = False
    prefix: Prefix | None = None

    def saying(self, word: str | None) -> Whereabouts:
        """The same client, when it says that it is in the region ``word``; None: it does not."""
        if word is None:
            return self
        return Whereabouts(self.address, self.network, word, said=True, prefix=self.prefix)


NOWHERE: Final = Whereabouts()


@dataclass(frozen=True, slots=True)
class Locality:
    """Knows where addresses are.

    Attributes:
        table: networks and their regions.
        proxies: networks of the proxies that are believed when they say for whom they ask.
    """

    table: NetworkTable = NO_NETWORKS
    proxies: Sequence[IPNetwork] = ()
    _found: Callable[[str], Whereabouts] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_found", lru_cache(_REMEMBERED)(self._look))

    def find(
        self, peer: str, forwarded: Sequence[str] = (), word: str | None = None
    ) -> Whereabouts:
        """Where the client of a request is.

        Args:
            peer: the address from which the request came, or empty.
            forwarded: values of its ``X-Forwarded-For`` headers, in order.
            word: the region that the client itself says it is in.
        """
        address = self._client(peer, forwarded) if forwarded and self.proxies else peer
        return self._found(address).saying(word)

    def _client(self, peer: str, forwarded: Sequence[str]) -> str:
        """The last address of the chain that is no proxy of ours; empty, if it is none at all.

        Whatever stands before it was written by somebody whom nobody here knows.
        """
        if not self._is_proxy(peer):
            return peer
        address = peer
        said = [each for value in forwarded for each in value.split(",") if each.strip()]
        for value in reversed(said[-_HOPS:]):
            match = _FORWARDED.fullmatch(value.strip()) if len(value) <= _LONGEST else None
            address = "" if match is None else match[1] or match[2] or match[3]
            if not self._is_proxy(address):
                return address
        return address

    def _is_proxy(self, text: str) -> bool:
        address = read_address(text)
        return address is not None and any(address in network for network in self.proxies)

    def _look(self, text: str) -> Whereabouts:
        address = read_address(text)
        if address is None:
            return NOWHERE
        prefix = self.table.find(address)
        region = None if prefix is None else prefix.region
        return Whereabouts(str(address), network_of(address), region, prefix=prefix)


def region_word(text: str) -> str | None:
    """A client's word for where it is, as a region's name; None for what can be none."""
    return _region_word(text) if len(text) <= _LONGEST else None


@lru_cache(1024)
def _region_word(text: str) -> str | None:
    word = text.strip().lower()
    return word if REGION_NAME.fullmatch(word) else None


def region_of_options(options: Iterable[str]) -> str | None:
    """The region that server options name, the last one counts; None if they name none."""
    word = None
    for option in options:
        name, _, value = option.partition("=")
        if name == REGION_OPTION:
            word = region_word(value) or word
    return word
