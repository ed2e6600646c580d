# Law of this file: keys are canonical and injective.

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from cache.keys import record_key

_QUESTIONS = st.tuples(st.text(max_size=8), st.text(max_size=8), st.lists(st.binary(max_size=8)))


def test_a_key_is_a_sha256_over_length_prefixed_parts() -> None:
    """The key of a question stays the same from one release to the next."""
    hashed = b"\0" * 7 + b"\x06git-v2" + b"\0" * 7 + b"\x01r" + b"\0" * 8 + b"\0" * 7 + b"\x02ab"
    assert record_key("git-v2", "r", b"", b"ab") == hashlib.sha256(hashed).hexdigest()


def test_moving_a_byte_from_part_to_part_changes_the_key() -> None:
    """Parts are not just put one after another."""
    keys = {
        record_key("d", "r", b"ab", b"c"),
        record_key("d", "r", b"a", b"bc"),
        record_key("d", "r", b"abc"),
        record_key("d", "r", b"abc", b""),
        record_key("d", "rab", b"c"),
        record_key("dr", "", b"abc"),
    }
    assert len(keys) == 6


@given(_QUESTIONS, _QUESTIONS)
def test_only_equal_questions_have_equal_keys(
    one: tuple[str, str, list[bytes]], other: tuple[str, str, list[bytes]]
) -> None:
    """Two questions share a key just if they are the same."""
    keys = [record_key(dialect, name, *parts) for dialect, name, parts in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)


def test_a_path_that_is_not_utf8_has_a_key() -> None:
    """Repositories may have any name that the file system allows."""
    assert record_key("d", b"\xff".decode("utf-8", "surrogateescape")) != record_key("d", "?")
