# Law of this file: the lists of networks that clouds publish are read whole or refused; what is
# cut off, empty, or something else says nothing of where anybody is.
#
# AWS: https://docs.aws.amazon.com/vpc/latest/userguide/aws-ip-syntax.html
#     {"prefixes": [{"ip_prefix": "3.4.12.4/32", "region": "eu-west-1", ...}, ...],
#      "ipv6_prefixes": [{"ipv6_prefix": "2600:1f01::/47", "region": "us-west-2", ...}, ...]}
# Google Cloud: https://cloud.google.com/vpc/docs/ip-ranges (cloud.json)
#     {"prefixes": [{"ipv4Prefix": "34.1.208.0/20", "scope": "africa-south1", ...},
#                   {"ipv6Prefix": "2600:1900:8000::/44", "scope": "asia-east1", ...}, ...]}

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from redirects.locality import REGION_NAME
from redirects.networks import IPNetwork, Prefix, read_network

RangeFormat = Literal["aws", "google"]

# Networks that are in every region, in either list: they say nothing of where a client is.
_EVERYWHERE: Final = frozenset({"global"})


class BadRanges(ValueError):  # noqa: N818 - what the file is
    """The file is no list of networks; the message says why."""


@dataclass(frozen=True, slots=True)
class _Shape:
    """Where a format has what: the arrays, the keys of a network, the key of its region."""

    arrays: tuple[str, ...]
    networks: tuple[str, ...]
    region: str


_SHAPES: Final = {
    "aws": _Shape(("prefixes", "ipv6_prefixes"), ("ip_prefix", "ipv6_prefix"), "region"),
    "google": _Shape(("prefixes",), ("ipv4Prefix", "ipv6Prefix"), "scope"),
}


def read_ranges(body: bytes, shape: RangeFormat, source: str) -> tuple[Prefix, ...]:
    """The networks of a published list, each once, in no order that means anything.

    A network that is said to be in two regions is in neither: the one around it counts.

    Args:
        body: the file. The largest there are have some 10,000 networks, 2 MB; that takes 0.1 s.
        shape: whose list it is.
        source: where it is from, for people.

    Raises:
        BadRanges: it is cut off, names no network in a region, or is not of that format.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRanges(f"no JSON ({len(body)} bytes): {error}") from None
    regions: dict[IPNetwork, str | None] = {}
    for network, region in _entries(document, _SHAPES[shape]):
        if region not in _EVERYWHERE and regions.setdefault(network, region) != region:
            regions[network] = None
    found = tuple(Prefix(n, region, source) for n, region in regions.items() if region is not None)
    if not found:
        raise BadRanges("it names no network in a region")
    return found


def _entries(document: object, shape: _Shape) -> Iterator[tuple[IPNetwork, str]]:
    if not isinstance(document, dict):
        raise BadRanges(f"a JSON object was expected, and it is a {type(document).__name__}")
    for array in shape.arrays:
        entries = document.get(array)
        if not isinstance(entries, list):
            raise BadRanges(f"it has no array {array!r}")
        for place, entry in enumerate(entries):
            try:
                yield _entry(entry, shape)
            except ValueError as error:
                raise BadRanges(f"{array}[{place}]: {error}") from None


def _entry(entry: object, shape: _Shape) -> tuple[IPNetwork, str]:
    if not isinstance(entry, dict):
        raise BadRanges(f"an object was expected, and it is a {type(entry).__name__}")
    texts = [entry[key] for key in shape.networks if key in entry]
    if len(texts) != 1 or not isinstance(texts[0], str):
        raise ValueError(f"it has not one of {' and '.join(shape.networks)}")
    region = entry.get(shape.region)
    region = region.lower() if isinstance(region, str) else ""
    if not REGION_NAME.fullmatch(region):
        raise ValueError(f"its {shape.region} is no name of a region")
    return read_network(texts[0]), region
