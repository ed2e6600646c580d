# Law of this file: a list that is whole is read, as its cloud publishes it; any other is refused.

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redirects.range_files import BadRanges, read_ranges

# Entries as they are published, of each kind.
AWS: dict[str, Any] = {
    "syncToken": "1640995149",
    "createDate": "2022-01-01-00-59-09",
    "prefixes": [
        {
            "ip_prefix": "3.4.12.4/32",
            "region": "eu-west-1",
            "service": "AMAZON",
            "network_border_group": "eu-west-1",
        },
        {"ip_prefix": "3.5.140.0/22", "region": "ap-northeast-2", "service": "AMAZON"},
        {"ip_prefix": "3.5.140.0/22", "region": "ap-northeast-2", "service": "S3"},
        {"ip_prefix": "15.177.0.0/18", "region": "GLOBAL", "service": "AMAZON"},
    ],
    "ipv6_prefixes": [
        {"ipv6_prefix": "2600:1f01:4874::/47", "region": "us-west-2", "service": "AMAZON"}
    ],
}
GOOGLE: dict[str, Any] = {
    "syncToken": "1700000000000",
    "creationTime": "2023-11-14T22:13:20.00000",
    "prefixes": [
        {"ipv4Prefix": "34.1.208.0/20", "service": "Google Cloud", "scope": "africa-south1"},
        {"ipv6Prefix": "2600:1900:8000::/44", "service": "Google Cloud", "scope": "asia-east1"},
        {"ipv4Prefix": "34.107.0.0/17", "service": "Google Cloud", "scope": "global"},
    ],
}


def read(document: object, shape: Any) -> dict[str, str]:
    """Regions by network."""
    found = read_ranges(json.dumps(document).encode(), shape, "there")
    assert {prefix.source for prefix in found} == {"there"}
    return {str(prefix.network): prefix.region for prefix in found}


def test_aws() -> None:
    """Each network once, whatever the services; those of no region are left out."""
    assert read(AWS, "aws") == {
        "3.4.12.4/32": "eu-west-1",
        "3.5.140.0/22": "ap-northeast-2",
        "2600:1f01:4874::/47": "us-west-2",
    }


def test_google() -> None:
    """Both versions stand in one array."""
    assert read(GOOGLE, "google") == {
        "34.1.208.0/20": "africa-south1",
        "2600:1900:8000::/44": "asia-east1",
    }


def test_ipv4_within_ipv6() -> None:
    """A network that is written so is one of IPv4, where the addresses of clients are looked up."""
    document = deepcopy(AWS)
    document["ipv6_prefixes"].append({"ipv6_prefix": "::ffff:192.0.2.0/120", "region": "eu-west-1"})
    assert read(document, "aws")["192.0.2.0/24"] == "eu-west-1"


def test_a_network_in_two_regions_is_in_neither() -> None:
    """What a list contradicts, it does not say."""
    document = deepcopy(AWS)
    document["prefixes"][2]["region"] = "eu-west-1"
    assert set(read(document, "aws")) == {"3.4.12.4/32", "2600:1f01:4874::/47"}


@pytest.mark.parametrize("shape", ["aws", "google"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><body>404</body></html>",
        b"null",
        b"[]",
        b"{}",
        b'{"prefixes": []}',
        b'{"prefixes": [], "ipv6_prefixes": []}',
        b'{"prefixes": {}, "ipv6_prefixes": []}',
        b'{"prefixes": [1], "ipv6_prefixes": []}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_what_is_no_list_is_refused(body: bytes, shape: Any) -> None:
    """An error page, an empty list, or anything else says so."""
    with pytest.raises(BadRanges):
        read_ranges(body, shape, "there")


def test_the_other_cloud_is_refused() -> None:
    """A list that is taken for one of the other format is none."""
    with pytest.raises(BadRanges, match="ipv6_prefixes"):
        read({**GOOGLE, "prefixes": []}, "aws")
    with pytest.raises(BadRanges, match="ipv4Prefix"):
        read(AWS, "google")


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"ip_prefix": "3.4.12.5/24"}, "host bits"),
        ({"ip_prefix": "here"}, "here"),
        ({"ip_prefix": 7}, "ip_prefix"),
        ({"ipv6_prefix": "::/0"}, "not one of"),
        ({"region": ""}, "region"),
        ({"region": None}, "region"),
        ({"region": "a b"}, "region"),
    ],
)
def test_one_bad_entry_spoils_a_list(changed: dict[str, object], why: str) -> None:
    """Half of a list would send the other half of the clients somewhere else, unseen."""
    document = deepcopy(AWS)
    document["prefixes"][1].update(changed)
    with pytest.raises(BadRanges, match=rf"prefixes\[1\].*{why}"):
        read(document, "aws")


@given(st.integers(0, len(json.dumps(AWS)) - 1))
def test_a_list_that_is_cut_off_is_refused(length: int) -> None:
    """Wherever a download broke off, what came is no list."""
    with pytest.raises(BadRanges):
        read_ranges(json.dumps(AWS).encode()[:length], "aws", "there")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["prefixes", "ipv6_prefixes", "ip_prefix", "scope", "region"]),
                inner,
            )
        ),
        max_leaves=10,
    )
)
def test_any_json_is_a_list_or_refused(document: object) -> None:
    """No document makes anything but networks or the one error."""
    for shape in ("aws", "google"):
        with pytest.raises(BadRanges):
            read(document, shape)
