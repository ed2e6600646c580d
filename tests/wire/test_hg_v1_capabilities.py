# Law of this file: what stock servers and clients say that they can do is read, and written back to
# the last byte.

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hg.capture_v1 import Question, read
from tests.hg.versions import VERSIONS
from wire.hg.v1.capabilities import Capabilities, decode_bundle2, encode_bundle2
from wire.hg.v1.media import BadAnswer
from wire.hg.v1.requests import read_arguments

WORDS = Capabilities.parse(b"batch bundle2=HG20%0Ax%3D1 lookup httpheader=1024")


def handshakes(version: str) -> list[bytes]:
    """What a stock server says of itself."""
    return [each.answer.encode() for each in read(version) if each.command == "capabilities"]


def bundlecaps(question: Question) -> list[bytes]:
    """What a stock client says of itself in a getbundle."""
    found = read_arguments(question.query, question.headers, question.body.encode())
    return found[b"bundlecaps"].split(b",")


@pytest.mark.parametrize("version", VERSIONS)
def test_stock_servers(version: str):
    """A stock server's words are written back to the same bytes, those of bundle2 too."""
    for said in handshakes(version):
        found = Capabilities.parse(said)
        assert found.encode() == said
        assert "getbundle" in found
        assert found.value("httpheader") == "1024"
        bundle2 = (found.value("bundle2") or "").encode()
        assert decode_bundle2(bundle2)["phases"] == ("heads",)
        assert encode_bundle2(decode_bundle2(bundle2)) == bundle2
        assert found.with_words(f"bundle2={bundle2.decode()}") == found


@pytest.mark.parametrize("version", VERSIONS)
def test_stock_clients(version: str):
    """A stock client's words are: the magic, and those of bundle2, which are written back alike."""
    for question in read(version):
        if question.command == "getbundle":
            magic, described = bundlecaps(question)
            assert magic == b"HG20"
            value = described.removeprefix(b"bundle2=")
            assert "02" in decode_bundle2(value)["changegroup"]
            assert encode_bundle2(decode_bundle2(value)) == value


def test_words():
    """Words are found by name, with or without a value."""
    assert "batch" in WORDS
    assert "bundle2" in WORDS
    assert "HG20" not in WORDS
    assert WORDS.value("bundle2") == "HG20%0Ax%3D1"
    assert WORDS.value("batch") is None
    assert WORDS.value("known") is None


def test_changes():
    """Words are taken away by name; new ones take the place of old ones, in hgweb's order."""
    assert WORDS.without({"bundle2", "known"}).words == ("batch", "lookup", "httpheader=1024")
    changed = WORDS.without({"bundle2"}).with_words("httpheader=8192", "clonebundles", "lookup")
    assert changed.encode() == b"batch clonebundles httpheader=8192 lookup"


@pytest.mark.parametrize("word", ["", "=1", "a b", "a\n", "a\xe4"])
def test_bad_words(word: str):
    """What would break the list of words is not put into it."""
    with pytest.raises(ValueError, match="is no word"):
        WORDS.with_words(word)


@given(st.binary())
def test_any_answer(answer: bytes):
    """Any answer is read or refused; what was read can be read again."""
    try:
        found = Capabilities.parse(answer)
    except BadAnswer:
        return
    assert Capabilities.parse(found.encode()) == found


NAMES = st.text(st.characters(codec="utf-8"), min_size=1)


@given(st.dictionaries(NAMES, st.lists(NAMES | st.just("")).map(tuple)))
def test_bundle2_round_trip(found: dict[str, tuple[str, ...]]):
    """Any names and values come out as they went in."""
    assert decode_bundle2(encode_bundle2(found)) == found


@given(st.binary())
def test_any_bundle2(value: bytes):
    """Anything can be read, and what was read is written in one form."""
    found = decode_bundle2(value)
    assert decode_bundle2(encode_bundle2(found)) == found


def test_golden_bundle2():
    """Names are sorted; what is special in a name or a value is quoted twice."""
    found = {"b": ("1", "2"), "HG20": (), "a%": ("x,",)}
    assert encode_bundle2(found) == b"HG20%0Aa%2525%3Dx%252C%0Ab%3D1%2C2"
