# Law of this file: bytes of the frame protocol are written here without the code under test, from
# the layout of the specification alone; what came of bytes is told the same way for all readers.

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Final, TypeVar

from hypothesis import strategies as st

from wire.hg.errors import ProtocolViolation

T = TypeVar("T")

BEGIN: Final = 0x01
STREAM_END: Final = 0x02
ENCODED: Final = 0x04

REQUEST, DATA, RESPONSE, ERROR, TEXT, PROGRESS, SENDER, STREAM = 1, 2, 3, 5, 6, 7, 8, 9

NEW, CONTINUED, MORE, HAS_DATA = 0x1, 0x2, 0x4, 0x8
GOES_ON, LAST = 0x1, 0x2

HEADS: Final = b"\xa1\x44name\x45heads"
"""The request ``{name: heads}``."""


def frame(  # noqa: PLR0917 - in the order of the wire
    request_id: int, stream_id: int, stream_flags: int, kind: int, flags: int, payload: bytes = b""
) -> bytes:
    """A frame, right or wrong; numbers must only fit into their fields."""
    return (
        len(payload).to_bytes(3, "little")
        + request_id.to_bytes(2, "little")
        + bytes((stream_id, stream_flags, kind << 4 | flags))
        + payload
    )


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """``data`` in chunks that end at ``places``."""
    edges = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def outcome(
    receive: Callable[[bytes], Iterable[T]], end: Callable[[], None], chunks: Iterable[bytes]
) -> tuple[list[T], tuple[str, int] | None]:
    """What a reader made of chunks: events, and the violation that ended them, if one did."""
    events: list[T] = []
    try:
        for chunk in chunks:
            # One by one: those before a violation count.
            for event in receive(chunk):
                events.append(event)  # noqa: PERF402
        end()
    except ProtocolViolation as violation:
        return events, (str(violation), violation.request_id)
    return events, None


def refusal(read: Callable[[], object]) -> str:
    """Why what is read was refused; nothing if it was not."""
    try:
        read()
    except ProtocolViolation as violation:
        return str(violation)
    return ""


chunkings: Final = st.lists(st.integers(0, 400), max_size=12)
"""Places at which to cut; single bytes are tested apart."""


def frames_like(streams: Sequence[int], kinds: Sequence[int]) -> st.SearchStrategy[bytes]:
    """Frames that are often nearly right."""
    return st.builds(
        frame,
        st.sampled_from((0, 1, 1, 1, 2, 3)),
        st.sampled_from(streams),
        st.sampled_from((0, 0, BEGIN, BEGIN, STREAM_END, BEGIN | STREAM_END, ENCODED, 8)),
        st.sampled_from(kinds),
        st.sampled_from((1, 1, 1, 2, 2, 4, 5, 8, 9, 10, 0)),
        st.sampled_from((b"", HEADS, b"\x48zstd-8mb", b"\x44zlib", b"\xa0", b"\x80"))
        | st.binary(max_size=12),
    )
