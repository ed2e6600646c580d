# Law of this file: what is put into a manifest, a client's reading takes out of it again.

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.hg.v1.manifest import INLINE_SCHEME, Entry, encode_manifest, inline_length

PRINTABLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1)
TEXTS = st.text(st.characters(codec="utf-8"))
ENTRIES = st.builds(
    Entry,
    PRINTABLE,
    st.lists(st.tuples(TEXTS.filter(bool), TEXTS), max_size=3).map(tuple),
)


def taken(manifest: bytes) -> list[Entry]:
    """As stock clients take a manifest apart."""
    found = []
    for line in manifest.splitlines():
        url, *attributes = line.decode("ascii").split()
        pairs = (attribute.split("=", 1) for attribute in attributes)
        found.append(Entry(url, tuple((unquote(key), unquote(value)) for key, value in pairs)))
    return found


@given(st.lists(ENTRIES))
def test_round_trip(entries: list[Entry]):
    """Any attributes of any printable URL come out as they went in."""
    assert taken(encode_manifest(entries)) == entries


def test_golden():
    """The lines as administrators know them; a specification's own quoting is quoted once more."""
    entries = (
        Entry(
            "https://cdn.example.org/a.hg?x=1&y=%20",
            (
                ("BUNDLESPEC", "none-v2;stream=v2;requirements%3Dgeneraldelta%2Crevlogv1"),
                ("REQUIRESNI", "true"),
                ("DIGEST", "sha256:00ff"),
            ),
        ),
        Entry(f"{INLINE_SCHEME}a.hg", (("BUNDLESPEC", "zstd-v2"), ("a key=", "\N{EURO SIGN} +"))),
    )
    assert encode_manifest(entries) == (
        b"https://cdn.example.org/a.hg?x=1&y=%20"
        b" BUNDLESPEC=none-v2;stream=v2;requirements%253Dgeneraldelta%252Crevlogv1"
        b" REQUIRESNI=true DIGEST=sha256:00ff\n"
        b"peer-bundle-cache://a.hg BUNDLESPEC=zstd-v2 a%20key%3D=%E2%82%AC%20%2B\n"
    )
    assert encode_manifest(()) == b""


@pytest.mark.parametrize("url", ["", "a b", "a\tb", "a\nb", "a\x00", "a\x7f", "\xe4", "\u2028"])
def test_bad_urls(url: str):
    """A URL that would break its line is not put into a manifest."""
    with pytest.raises(ValueError, match="is no URL"):
        encode_manifest((Entry(url),))


def test_no_key():
    """An attribute has a key."""
    with pytest.raises(ValueError, match="without a key"):
        encode_manifest((Entry("https://example.org/a", (("", "x"),)),))


@pytest.mark.parametrize(
    ("size", "written"),
    [(0, "00"), (1, "01"), (127, "7f"), (128, "8001"), (1337, "b90a"), (65536, "808004")],
)
def test_golden_inline_lengths(size: int, written: str):
    """The length before an inline bundle: seven bits a byte, the lowest first, the last without."""
    assert inline_length(size) == bytes.fromhex(written)
