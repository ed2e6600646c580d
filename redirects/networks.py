# Law of this file: an address is looked up among networks, and the smallest that holds it counts.
# Networks nest or are apart, never anything else, so they become intervals that are apart, once;
# then a look-up is one bisection.

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_network,
)
from typing import Final, Self

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

# Bits of the prefix under which addresses of IPv4 stand in IPv6 (RFC 4291, section 2.5.5.2).
_MAPPED: Final = 96

# Bits of an IPv6 address below its /56.
_SITE: Final = 72

# Textual addresses that are remembered: a fleet's, or an attacker's, which push each other out.
_ADDRESSES: Final = 16384


@dataclass(frozen=True, slots=True)
class Prefix:
    """A network, and the region that it lies in.

    Attributes:
        network: what is looked up.
        region: its region's name.
        source: who says so, for people: a setting, or the path or URL of a list.
    """

    network: IPNetwork
    region: str
    source: str


@lru_cache(_ADDRESSES)
def read_address(text: str) -> IPAddress | None:
    """The address that ``text`` is, one of IPv4 in IPv6 (``::ffff:192.0.2.1``) as that of IPv4.

    Returns:
        None for what is no address. What stands behind ``%`` is about this machine's interfaces,
        and left out.
    """
    text = text.partition("%")[0]
    try:
        # `ip_address` reads each as one of IPv4 first, and the error of that costs microseconds.
        address = IPv6Address(text) if ":" in text else IPv4Address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def read_network(text: str) -> IPNetwork:
    """The network that ``text`` is, one of IPv4 in IPv6 (``::ffff:192.0.2.0/120``) as of IPv4.

    Addresses are read likewise, so they would be in none of those.

    Raises:
        ValueError: it is none, or an address within one.
    """
    network = ip_network(text)
    if isinstance(network, IPv6Network) and network.prefixlen >= _MAPPED:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - _MAPPED))
    return network


def network_of(address: IPAddress) -> str:
    """The network that stands for a client when load is spread: its /24, of IPv6 its /56.

    A /56 is what one site gets of most providers (RFC 6177).
    """
    bits = int(address)
    if isinstance(address, IPv4Address):
        return f"{bits >> 24}.{bits >> 16 & 255}.{bits >> 8 & 255}.0/24"
    # As the network itself would be written (RFC 5952), and making one costs microseconds. Its last
    # four groups are zeros, and no other run is as long: `::` stands for these, and those before.
    first, second = bits >> 112, bits >> 96 & 0xFFFF
    groups = f"{first:x}:{second:x}:{bits >> 80 & 0xFFFF:x}:{bits >> 64 & 0xFF00:x}"
    while groups.endswith(":0"):
        groups = groups[:-2]
    return f"{groups}::/56" if bits >> _SITE else "::/56"


@dataclass(frozen=True, slots=True)
class _Intervals:
    """Disjoint intervals that cover all addresses of one version.

    Attributes:
        starts: where each begins, ascending, the first at 0.
        prefixes: what counts in each; None where no network is.
    """

    starts: Sequence[int]
    prefixes: Sequence[Prefix | None]

    @classmethod
    def of(cls, prefixes: Iterable[Prefix]) -> Self:
        """Flatten networks of one version, of which no two are the same."""
        starts, counting = [0], list[Prefix | None]([None])

        def begin(start: int, prefix: Prefix | None) -> None:
            if starts[-1] == start:
                counting[-1] = prefix
            else:
                starts.append(start)
                counting.append(prefix)

        around: list[Prefix] = []  # each holds the next
        # A network comes before those that it holds.
        ordered = sorted(
            prefixes, key=lambda p: (int(p.network.network_address), p.network.prefixlen)
        )
        for prefix in (*ordered, None):
            start = None if prefix is None else int(prefix.network.network_address)
            while around and (start is None or _last(around[-1]) < start):
                ended = around.pop()
                begin(_last(ended) + 1, around[-1] if around else None)
            if prefix is not None and start is not None:
                begin(start, prefix)
                around.append(prefix)
        return cls(starts, counting)

    def find(self, address: int) -> Prefix | None:
        return self.prefixes[bisect_right(self.starts, address) - 1]


def _last(prefix: Prefix) -> int:
    return int(prefix.network.broadcast_address)


@dataclass(frozen=True, slots=True)
class NetworkTable:
    """Networks by the addresses in them."""

    _v4: _Intervals
    _v6: _Intervals
    size: int

    @classmethod
    def of(cls, prefixes: Iterable[Prefix]) -> Self:
        """A table of ``prefixes``; of two of the same network the first counts.

        With 20,000 this takes a tenth of a second or two: not on an event loop.
        """
        v4: dict[IPNetwork, Prefix] = {}
        v6: dict[IPNetwork, Prefix] = {}
        for prefix in prefixes:
            same_version = v4 if prefix.network.version == 4 else v6
            same_version.setdefault(prefix.network, prefix)
        size = len(v4) + len(v6)
        return cls(_Intervals.of(v4.values()), _Intervals.of(v6.values()), size)

    def find(self, address: IPAddress) -> Prefix | None:
        """The longest prefix that holds ``address``, or None; of IPv4 in IPv6, see above."""
        intervals = self._v4 if address.version == 4 else self._v6
        return intervals.find(int(address))


NO_NETWORKS: Final = NetworkTable.of(())
