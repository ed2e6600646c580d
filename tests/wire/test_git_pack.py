# Law of this file: a pack passes exactly when git would take it for whole, however it was cut.

from __future__ import annotations

import hashlib
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.git.pack import HASH_SIZES, BadPack, PackChecker, PackInfo, empty_pack

formats = pytest.mark.parametrize("object_format", ["sha1", "sha256"])
EMPTY_SHA1 = bytes.fromhex("5041434b 00000002 00000000 029d08823bd8a8eab510ad6ac75c823cfd3ed31e")


def pack(content: bytes, object_format: str = "sha1", version: int = 2, objects: int = 1) -> bytes:
    """A frame around ``content`` as a pack has it."""
    body = b"PACK" + version.to_bytes(4, "big") + objects.to_bytes(4, "big") + content
    return body + hashlib.new(object_format, body).digest()


def check(chunks: list[bytes], object_format: str = "sha1") -> PackInfo:
    """Feed all of ``chunks`` and finish."""
    checker = PackChecker(object_format)
    for chunk in chunks:
        checker.feed(chunk)
    return checker.finish()


def test_empty_pack_golden():
    """The empty SHA-1 pack is the well-known 32 bytes."""
    assert empty_pack("sha1") == EMPTY_SHA1


@formats
def test_empty_pack_is_a_pack(object_format, tmp_path):
    """Git itself indexes our empty pack, and our checker passes it."""
    whole = empty_pack(object_format)
    assert len(whole) == 12 + HASH_SIZES[object_format]
    assert check([whole], object_format) == PackInfo(
        0, whole[-HASH_SIZES[object_format] :].hex(), len(whole)
    )
    subprocess.run(["git", "init", "-q", f"--object-format={object_format}", tmp_path], check=True)
    subprocess.run(["git", "-C", tmp_path, "index-pack", "--stdin"], input=whole, check=True)


@formats
def test_real_pack(object_format, tmp_path):
    """A pack of git's own passes; its checksum is the one that index-pack prints."""
    git = ["git", "-C", str(tmp_path)]
    subprocess.run(["git", "init", "-q", f"--object-format={object_format}", tmp_path], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "one"], check=True)
    made = subprocess.run(
        [*git, "pack-objects", "--stdout", "--all", "-q"],
        input=b"",
        check=True,
        capture_output=True,
    ).stdout
    printed = subprocess.run(
        [*git, "index-pack", "--stdin"], input=made, check=True, capture_output=True
    ).stdout
    info = check([made], object_format)
    assert info == PackInfo(2, printed.decode().split()[-1], len(made))
    assert Path(tmp_path, ".git/objects/pack", f"pack-{info.checksum}.pack").read_bytes() == made


@given(
    st.binary(max_size=100),
    st.lists(st.integers(0, 150)),
    st.sampled_from(["sha1", "sha256"]),
    st.sampled_from([2, 3]),
)
def test_chunks_do_not_matter(content, places, object_format, version):
    """A pack passes however it is cut, and says what its header and its end say."""
    whole = pack(content, object_format, version, 70000)
    edges = [0, *sorted(min(place, len(whole)) for place in places), len(whole)]
    info = check([whole[a:b] for a, b in pairwise(edges)], object_format)
    assert info == PackInfo(70000, whole[-HASH_SIZES[object_format] :].hex(), len(whole))


@given(st.binary(max_size=60), st.data())
def test_cut_short(content, data):
    """A pack without its last bytes never passes, wherever it ends."""
    whole = pack(content)
    length = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(BadPack):
        check([whole[:length]])


@given(st.binary(max_size=60), st.data())
def test_damaged(content, data):
    """A pack with one changed byte never passes."""
    whole = bytearray(pack(content))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BadPack):
        check([bytes(whole)])


def test_trailing_bytes():
    """What follows a pack makes it no pack."""
    with pytest.raises(BadPack, match="checksum"):
        check([pack(b"content"), b"\n"])


def test_the_other_hash():
    """A SHA-256 pack is no pack of a SHA-1 repository."""
    with pytest.raises(BadPack, match="checksum"):
        check([pack(b"content", "sha256")])


@given(st.lists(st.binary(max_size=40)))
def test_garbage(chunks):
    """Garbage is refused with the parser's own error."""
    with pytest.raises(BadPack):
        check(chunks)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"ERR no", "a pack begins with 'PACK', not with 'ERR '"),
        (b"pa", "a pack begins with 'PACK', not with 'pa'"),
        (b"PACK\0\0\0\x04", "packs have version 2 or 3, not 4"),
    ],
)
def test_early_refusal(start, message):
    """What cannot become a pack is refused at once, not when it ends."""
    with pytest.raises(BadPack, match=message):
        PackChecker("sha1").feed(start)


def test_messages_at_the_end():
    """The message says whether bytes are missing or wrong."""
    with pytest.raises(BadPack, match="ends after 0 bytes"):
        check([])
    with pytest.raises(BadPack, match="cut short or damaged"):
        check([pack(b"content")[:-1]])
