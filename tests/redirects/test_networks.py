# Law of this file: a table of networks says what ipaddress says, address by address, and is fast
# because it was made ready, not because it is wrong.

from __future__ import annotations

import struct
from collections.abc import Sequence
from ipaddress import (
    IPv4Address,
    IPv6Address,
    ip_address,
    ip_network,
)

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from redirects.networks import (
    NO_NETWORKS,
    IPAddress,
    IPNetwork,
    NetworkTable,
    Prefix,
    network_of,
    read_address,
    read_network,
)

# Few bits that differ, so that networks nest, touch and repeat.
_V4_BITS = st.integers(0, 255).map(lambda bits: (bits >> 4) << 28 | (bits & 15) << 14)
_V6_BITS = st.integers(0, 255).map(lambda bits: (bits >> 4) << 124 | (bits & 15) << 60)


def _network(bits: int, length: int, version: int) -> IPNetwork:
    address = IPv4Address(bits) if version == 4 else IPv6Address(bits)
    return ip_network((address, length), strict=False)


networks = st.one_of(
    st.builds(_network, _V4_BITS, st.integers(0, 32), st.just(4)),
    st.builds(_network, _V6_BITS, st.integers(0, 128), st.just(6)),
)
addresses = st.one_of(_V4_BITS.map(IPv4Address), _V6_BITS.map(IPv6Address), st.ip_addresses())


def around(network: IPNetwork) -> list[IPAddress]:
    """The first and the last address of a network, and their neighbours outside."""
    first, last = int(network.network_address), int(network.broadcast_address)
    kind = type(network.network_address)
    top = (1 << network.max_prefixlen) - 1
    return [kind(n) for n in (first - 1, first, last, last + 1) if 0 <= n <= top]


def slowly(prefixes: Sequence[Prefix], address: IPAddress) -> Prefix | None:
    """What ipaddress says: the longest that holds it, the first of those that are the same."""
    holding = [
        prefix
        for prefix in prefixes
        if prefix.network.version == address.version and address in prefix.network
    ]
    return max(holding, key=lambda prefix: prefix.network.prefixlen, default=None)


@given(st.lists(networks, max_size=30), st.lists(addresses, max_size=10))
def test_the_longest_prefix_wins(held: list[IPNetwork], asked: list[IPAddress]) -> None:
    """Whatever nests, touches or repeats: each address is found where ipaddress finds it."""
    prefixes = [Prefix(network, f"r{place}", "test") for place, network in enumerate(held)]
    table = NetworkTable.of(prefixes)
    assert table.size == len(set(held))
    for address in [*asked, *(edge for network in held for edge in around(network))]:
        assert table.find(address) is slowly(prefixes, address)


def test_everything_and_nothing() -> None:
    """A table of nothing holds nothing; one of everything holds the first and the last address."""
    everything = [Prefix(ip_network(text), "all", "test") for text in ("0.0.0.0/0", "::/0")]
    table = NetworkTable.of(everything)
    for prefix in everything:
        for address in (prefix.network.network_address, prefix.network.broadcast_address):
            assert NO_NETWORKS.find(address) is None
            assert table.find(address) is prefix


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        *((bad, None) for bad in ("", "192.0.2", "192.0.2.1:80", "here", "[::1]", "010.0.0.1")),
    ],
)
def test_addresses(text: str, address: str | None) -> None:
    """IPv4 within IPv6 is IPv4, and what is no address is none."""
    assert read_address(text) == (None if address is None else ip_address(address))


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("::ffff:192.0.2.1", "192.0.2.1/32"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::/0", None),
        ("::fffe:192.0.2.0/120", None),
        ("192.0.2.0/24", None),
        ("2001:db8::/32", None),
    ],
)
def test_networks_of_ipv4_within_ipv6(text: str, network: str | None) -> None:
    """They are networks of IPv4, so that addresses, which are read likewise, are found in them."""
    assert read_network(text) == ip_network(network or text)


@given(st.text(max_size=50))
def test_any_text_is_an_address_or_none(text: str) -> None:
    """No text is an error."""
    found = read_address(text)
    assert found is None or read_address(str(found)) == found


# Groups of zeros, which are written as `::`, at any place.
_groups = st.lists(st.just(0) | st.integers(0, 0xFFFF), min_size=8, max_size=8)


@given(st.ip_addresses() | _groups.map(lambda groups: IPv6Address(struct.pack(">8H", *groups))))
@example(IPv6Address("::"))
def test_the_network_of_a_client(address: IPAddress) -> None:
    """It is the /24 or the /56 that holds the address, written as everybody writes it."""
    network = ip_network((address, {4: 24, 6: 56}[address.version]), strict=False)
    assert network_of(address) == str(network)
