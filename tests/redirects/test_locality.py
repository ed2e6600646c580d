# Law of this file: a client's word goes before its address, and nobody is believed who speaks for
# somebody else, but the proxies that are listed.

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redirects.locality import NOWHERE, Locality, region_of_options, region_word
from redirects.networks import NetworkTable, Prefix

OFFICE = Prefix(ip_network("192.0.2.0/25"), "office", "settings")
EUROPE = Prefix(ip_network("192.0.2.0/24"), "eu-west-1", "settings")
TABLE = NetworkTable.of((EUROPE, OFFICE))
PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
PLAIN = Locality(TABLE)
PROXIED = Locality(TABLE, PROXIES)


def test_the_address_tells_the_region() -> None:
    """The smallest network that holds it counts, and is named as the reason."""
    found = PLAIN.find("192.0.2.7")
    assert (found.region, found.prefix, found.said) == ("office", OFFICE, False)
    assert PLAIN.find("::ffff:192.0.2.200").region == "eu-west-1"
    assert PLAIN.find("::ffff:192.0.2.200").network == "192.0.2.0/24"
    elsewhere = PLAIN.find("198.51.100.1")
    assert (elsewhere.region, elsewhere.network) == (None, "198.51.100.0/24")
    assert PLAIN.find("") == PLAIN.find("a socket") == NOWHERE


def test_the_clients_word_goes_before_its_address() -> None:
    """What it says is its region; its network stays what it is, and the address is kept."""
    found = PLAIN.find("192.0.2.7", word="us-east-1")
    assert (found.region, found.said) == ("us-east-1", True)
    assert (found.prefix, found.network) == (OFFICE, "192.0.2.0/24")


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("10.0.0.1", ["192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", ["198.51.100.9, 192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", ["198.51.100.9", "192.0.2.7, 10.2.3.4"], "192.0.2.7"),
        ("10.0.0.1", ["192.0.2.7, fd00::1 , 10.0.0.2"], "192.0.2.7"),
        ("10.0.0.1", ["192.0.2.7:4711"], "192.0.2.7"),
        ("10.0.0.1", ["[2001:db8::1]:4711"], "2001:db8::1"),
        ("10.0.0.1", ["2001:db8::1"], "2001:db8::1"),
        ("10.0.0.1", ["fe80::1%eth0"], "fe80::1"),
        ("10.0.0.1", ['"[fe80::1%eth0]:80"'], "fe80::1"),
        ("10.0.0.1", ['"192.0.2.7"'], "192.0.2.7"),
        ("10.0.0.1", ["192.0.2.7, "], "192.0.2.7"),
        ("10.0.0.1", ["192.0.2.7" + ", 10.0.0.2" * 100], "10.0.0.2"),
        ("::ffff:10.0.0.1", ["::ffff:192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", ["10.0.0.2, 10.0.0.3"], "10.0.0.2"),
        ("10.0.0.1", [], "10.0.0.1"),
        # Made up by the client, before what a proxy wrote; or by somebody who is no proxy.
        ("198.51.100.1", ["192.0.2.7"], "198.51.100.1"),
        ("198.51.100.1", ["10.0.0.2, 192.0.2.7, 10.0.0.1"], "198.51.100.1"),
        *(
            ("10.0.0.1", [f"192.0.2.7, {bad}"], "")
            for bad in ("unknown", "_x", "1.2.3", "a:b:", "1" * 100)
        ),
    ],
)
def test_forwarded_addresses(peer: str, forwarded: list[str], address: str) -> None:
    """Of listed proxies the last address counts that is none of them; of others, none does."""
    assert PROXIED.find(peer, forwarded).address == address
    assert PLAIN.find(peer, forwarded) == PLAIN.find(peer)


@given(st.text(max_size=20), st.lists(st.text(max_size=40), max_size=3))
def test_any_header(peer: str, forwarded: list[str]) -> None:
    """Whatever is written there, a place is found, or none."""
    assert PROXIED.find(peer, forwarded).region in {None, "office", "eu-west-1"}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("eu-west-1", "eu-west-1"),
        (" EU-West-1 ", "eu-west-1"),
        ("a" * 63, "a" * 63),
        *((bad, None) for bad in ("", "-", "eu west", "eu/west", "a" * 64, "e\u0301u", "eu\nx")),
    ],
)
def test_words(text: str, word: str | None) -> None:
    """A word that can be a region's name is one, in lower case; others say nothing."""
    assert region_word(text) == word


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ((), None),
        (("region=eu",), None),
        (("offramp.region=eu",), "eu"),
        (("offramp.region=eu", "x", "offramp.region=us"), "us"),
        (("offramp.region=eu", "offramp.region=?"), "eu"),
        (("offramp.region",), None),
    ],
)
def test_server_options(options: tuple[str, ...], word: str | None) -> None:
    """Of git's server options the last that names a region counts."""
    assert region_of_options(options) == word
