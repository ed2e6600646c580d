# Law of this file: a client is told of this API only if it says both that it knows it and that it
# reads CBOR; and what a server tells, it is understood to tell.

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.hg_wire import refusal
from wire.hg import cbor
from wire.hg.cbor import Encodable
from wire.hg.commands import COMMANDS
from wire.hg.errors import ProtocolViolation
from wire.hg.handshake import (
    API_NAME,
    MAX_HEADERS,
    AdvertisedTarget,
    Descriptor,
    ServerApi,
    ServerCommand,
    asks_upgrade,
    encode_descriptor,
    encode_handshake,
    numbered,
    parse_handshake,
    wants_upgrade,
)

TARGET = AdvertisedTarget("s3", "https", ("https://x/",), sni_required=True, tls_versions=("1.2",))
FULL = Descriptor(
    tuple(COMMANDS.values()), (b"revlogv1", b"generaldelta"), (TARGET,), encodings=(b"zlib",)
)

# --- headers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "value"),
    [
        ({}, ""),
        ({"X-1": "a"}, "a"),
        ({"X-2": "b", "X-1": "a", "X-3": "c"}, "abc"),
        ({"X-1": "a", "X-3": "c"}, "a"),
        ({"X-2": "b"}, ""),
        ({"X": "a"}, ""),
        ({f"X-{n}": "a" for n in range(1, 100)}, "a" * MAX_HEADERS),
    ],
)
def test_numbered_headers(headers: dict[str, str], value: str):
    """A value is split over headers that are numbered without a gap, and not without end."""
    assert numbered(headers, "X") == value


@pytest.mark.parametrize(
    ("apis", "protocols", "asks", "wants"),
    [
        (API_NAME, "cbor", True, True),
        (f"other {API_NAME}", "0.1 cbor 0.2", True, True),
        ("other", "cbor", True, False),
        (API_NAME, "0.1 0.2", False, False),
        (API_NAME, "", False, False),
        (API_NAME, "cborx", False, False),
        ("", "cbor", False, False),
        (f"x{API_NAME}", "cbor", True, False),
    ],
)
def test_upgrade(apis: str, protocols: str, asks: bool, wants: bool):
    """Both headers are needed, and each name as a word of its own."""
    headers = {"X-HgUpgrade-1": apis, "X-HgProto-1": protocols}
    assert asks_upgrade(headers) is asks
    assert wants_upgrade(headers) is wants


def test_upgrade_over_several_headers():
    """Names may be cut by the length of headers."""
    headers = {"X-HgUpgrade-1": API_NAME[:5], "X-HgUpgrade-2": API_NAME[5:], "X-HgProto-1": "cbor"}
    assert wants_upgrade(headers)


# --- the descriptor -------------------------------------------------------------------


def test_golden_descriptor():
    """The descriptor has the keys of the specification, and redirects with all that is said."""
    descriptor = Descriptor((COMMANDS[b"branchmap"],), (b"b", b"a"), (TARGET,))
    assert encode_descriptor(descriptor) == {
        b"commands": {b"branchmap": {b"args": {}, b"permissions": [b"pull"]}},
        b"framingmediatypes": [b"application/mercurial-exp-framing-0006"],
        b"pathfilterprefixes": frozenset((b"path:", b"rootfilesin:")),
        b"rawrepoformats": [b"a", b"b"],
        b"redirect": {
            b"targets": [
                {
                    b"name": b"s3",
                    b"protocol": b"https",
                    b"uris": [b"https://x/"],
                    b"snirequired": True,
                    b"tlsversions": [b"1.2"],
                }
            ],
            b"hashes": [b"sha256", b"sha1"],
        },
    }


def test_no_redirects():
    """A server without redirects says nothing of them; one without targets says that."""
    none = encode_descriptor(Descriptor((), ()))
    empty = encode_descriptor(Descriptor((), (), ()))
    assert isinstance(none, dict)
    assert isinstance(empty, dict)
    assert b"redirect" not in none
    assert b"requestencodings" not in none
    assert empty[b"redirect"] == {b"targets": [], b"hashes": [b"sha256", b"sha1"]}


def test_plain_targets():
    """What nothing is to be said of is not said."""
    plain = Descriptor((), (), (AdvertisedTarget("a", "http", ()),))
    value = encode_descriptor(plain)
    assert isinstance(value, dict)
    redirect = value[b"redirect"]
    assert isinstance(redirect, dict)
    assert redirect[b"targets"] == [{b"name": b"a", b"protocol": b"http", b"uris": []}]


def test_golden_handshake():
    """The answer to a handshake is a map of where APIs are, which, and version 1's capabilities."""
    assert encode_handshake({API_NAME: {}}, b"batch") == (
        b"\xa3\x47apibase\x44api/\x44apis\xa1\x50exp-http-v2-0003\xa0\x4ev1capabilities\x45batch"
    )
    assert cbor.decode_one(encode_handshake({}, b"")) == {
        b"apibase": b"api/",
        b"apis": {},
        b"v1capabilities": b"",
    }


def test_round_trip():
    """A client understands what our server says."""
    api = parse_handshake(encode_handshake({API_NAME: encode_descriptor(FULL)}, b""))
    assert api is not None
    assert api.base == "api"
    assert set(api.commands) == set(COMMANDS)
    assert api.commands[b"pushkey"].permissions == {b"push"}
    assert api.commands[b"manifestdata"] == ServerCommand(
        {b"nodes": b"list", b"tree": b"bytes", b"fields": b"set", b"haveparents": b"bool"}
    )
    assert (api.targets, api.hashes) == ((TARGET,), (b"sha256", b"sha1"))
    assert api.encodings == (b"zlib",)


def answer(descriptor: Encodable, base: bytes = b"/a/b/") -> bytes:
    """An answer that names this API."""
    return cbor.encode({b"apibase": base, b"apis": {API_NAME.encode(): descriptor}, b"more": 1})


def test_others_descriptors():
    """What is not known or says too little is passed over, and the rest is understood."""
    descriptor: Encodable = {
        b"commands": {
            b"a": {b"args": {b"x": {b"type": b"list"}, b"y": {}, b"z": 1, 5: {b"type": b"int"}}},
            b"b": {b"permissions": [b"push"], b"args": [], b"new": 1},
            b"c": None,
            5: {},
        },
        b"redirect": {
            b"targets": [
                1,
                {b"name": b"n"},
                {b"name": b"n", b"protocol": b"http", b"snirequired": 1, b"uris": b"x", b"new": 1},
            ],
            b"hashes": frozenset((b"sha256", b"sha1")),
        },
    }
    assert parse_handshake(answer(descriptor)) == ServerApi(
        "a/b",
        {
            b"a": ServerCommand({b"x": b"list"}),
            b"b": ServerCommand({}, frozenset((b"push",))),
            b"c": ServerCommand(),
        },
        (AdvertisedTarget("n", "http", ()),),
        (b"sha1", b"sha256"),
    )


@pytest.mark.parametrize("redirect", [1, {}, {b"targets": b"x", b"hashes": 1}])
def test_redirects_that_mean_nothing(redirect: Encodable):
    """A server that says nothing sensible of redirects has none."""
    api = parse_handshake(answer({b"commands": {}, b"redirect": redirect}))
    assert api is not None
    assert (api.targets, api.hashes) == ((), ())


def test_other_apis():
    """A server without this API, or with other frames in it, is none that we can speak to."""
    assert parse_handshake(encode_handshake({"other": {}}, b"")) is None
    later: Encodable = {b"commands": {}, b"framingmediatypes": [b"application/other"]}
    assert parse_handshake(answer(later)) is None


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        (b"", "cannot be read"),
        (b"batch branchmap", "cannot be read"),
        (b"<html>", "cannot be read"),
        (b"\x80", "without apibase or apis"),
        (b"\xa0", "without apibase or apis"),
        (cbor.encode({b"apibase": 1, b"apis": {}}), "without apibase or apis"),
        (cbor.encode({b"apibase": b"", b"apis": []}), "without apibase or apis"),
        (answer([]), "descriptor that is no map"),
        (answer({}), "without commands"),
        (answer({b"commands": []}), "without commands"),
        (answer({b"commands": {}}, b"\xff"), "no path"),
    ],
)
def test_bad_handshakes(body: bytes, wrong: str):
    """An answer that is none is refused."""
    with pytest.raises(ProtocolViolation, match=wrong):
        parse_handshake(body)


scalars = st.integers(0, 3) | st.sampled_from((b"", b"a", b"\xff")) | st.booleans() | st.none()
trees: st.SearchStrategy[Encodable] = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from((b"commands", b"redirect", b"targets", b"hashes", b"args", b"a")), inner
        )
    ),
    max_leaves=8,
)


@given(st.binary(max_size=40) | trees.map(answer))
def test_arbitrary_handshakes(body: bytes):
    """Arbitrary answers are understood or refused, and nothing else."""
    assert len(refusal(lambda: parse_handshake(body))) < 1000
