# Law of this file: the files of a stream are found in any chunking, and what is none is refused.

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wire.hg.stream2 import FileBegin, FileData, StreamError, StreamReader

Files = list[tuple[bytes, bytes, bytes]]

files = st.lists(
    st.tuples(
        st.sampled_from((b"s", b"c")),
        st.binary(min_size=1, max_size=200),
        st.binary(max_size=300),
    )
)


def number(value: int) -> bytes:
    """Unsigned LEB128, as hg writes it."""
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*written, value))


def payload(of: Files) -> bytes:
    """A part's payload, by the format's description."""
    return b"".join(
        place + number(len(name)) + number(len(content)) + name + content
        for place, name, content in of
    )


def read(pieces: list[bytes]) -> tuple[Files, StreamReader]:
    """What a reader makes of a payload that comes in pieces."""
    reader = StreamReader()
    found: Files = []
    for piece in pieces:
        for event in reader.feed(piece):
            if isinstance(event, FileBegin):
                found.append((event.place, event.name, b""))
            elif isinstance(event, FileData):
                place, name, content = found[-1]
                found[-1] = place, name, content + event.data
    return found, reader


@given(files, st.lists(st.integers(0, 1000)))
@example([(b"s", b"00changelog.i", b"")], [])
def test_files_are_found_in_any_chunking(of: Files, cuts: list[int]) -> None:
    """Names and contents come out as they went in, and what was announced is counted."""
    whole = payload(of)
    places = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    found, reader = read([whole[a:b] for a, b in itertools.pairwise(places)])
    assert found == of
    reader.end(len(of), sum(len(content) for _, _, content in of))


@given(files.filter(bool), st.data())
def test_what_is_cut_off_is_noticed(of: Files, data: st.DataObject) -> None:
    """Wherever it ends too early, that is said."""
    whole = payload(of)
    cut = data.draw(st.integers(0, len(whole) - 1))
    _, reader = read([whole[:cut]])
    with pytest.raises(StreamError):
        reader.end(len(of), sum(len(content) for _, _, content in of))


@pytest.mark.parametrize(
    ("garbage", "why"),
    [
        (b"\0\1\1ab", "begins no file"),
        (b"s\0\0", "name of 0 bytes"),
        (b"s\xff\xff\x7f\1", "name of 2097151 bytes"),
        (b"s" + b"\xff" * 20, "a number of more than 10 bytes"),
    ],
)
def test_what_is_no_file_is_refused(garbage: bytes, why: str) -> None:
    """It is said what is wrong, before anything is held for it."""
    with pytest.raises(StreamError, match=why):
        read([garbage])


@given(st.binary())
def test_garbage_is_refused_or_read(garbage: bytes) -> None:
    """Nothing else is raised."""
    try:
        _, reader = read([garbage])
        reader.end(reader.files, reader.content)
    except StreamError:
        pass
