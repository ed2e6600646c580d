# Law of this file: whatever the sizes, what goes out is what lies on disk, framed as the protocol
# says; and what was written is not overwritten before the kernel has it.

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.sending import PACKETS, Framer, Sender, Stalled, read_at
from wire.git.response import FRAME_PAYLOAD, KEEPALIVE, framed_size, sideband

STEP = FRAME_PAYLOAD * PACKETS
NOISE = os.urandom(3 * STEP + 5)

# Around the edges of frames and of the buffer.
sizes = st.one_of(
    st.integers(0, 40),
    st.builds(
        lambda times, off: max(0, times * FRAME_PAYLOAD + off),
        st.integers(0, 2 * PACKETS + 2),
        st.integers(-3, 3),
    ),
    st.integers(0, len(NOISE)),
)


@contextmanager
def file_of(content: bytes) -> Iterator[int]:
    """A file, by its descriptor."""
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        yield file.fileno()


@dataclass
class Connection:
    """Stands in for request, transport and response; keeps what it was given, not a copy.

    Attributes:
        busy: the kernel is said to have taken nothing yet.
        stalled: writes never end.
    """

    busy: bool = False
    stalled: bool = False
    given: list[bytes | memoryview] = field(default_factory=list)

    @property
    def transport(self) -> Connection:
        """Itself."""
        return self

    def get_write_buffer_size(self) -> int:
        """Bytes that wait for the kernel."""
        return 1 if self.busy else 0

    async def write(self, data: bytes | memoryview) -> None:
        """Take data."""
        if self.stalled:
            await asyncio.Event().wait()
        self.given.append(data if self.busy else bytes(data))

    def said(self) -> bytes:
        """All that was written, as it is now."""
        return b"".join(self.given)


def sender(connection: Connection, stall_time: float = 60.0) -> Sender:
    """A sender to a connection."""
    return Sender(connection, connection, stall_time)  # type: ignore[arg-type]


@dataclass
class Growing:
    """Stands in for the reader of a run: grows to each of these sizes, one after another."""

    fd: int
    extents: list[int | type[Exception]]

    async def extent(self, offset: int, timeout: float | None = None) -> int:
        """The next size beyond ``offset``; the last one for ever."""
        while len(self.extents) > 1:
            following = self.extents.pop(0)
            if not isinstance(following, int):
                raise following
            if following > offset:
                return following
        assert isinstance(self.extents[0], int)
        return self.extents[0]


@settings(deadline=None)
@given(size=sizes, busy=st.booleans())
async def test_a_file_is_framed_as_the_protocol_says(size: int, busy: bool) -> None:
    """A complete file's bytes are those of one sideband of the whole, and as many as announced."""
    connection = Connection(busy=busy)
    sending = sender(connection)
    with file_of(NOISE[:size]) as fd:
        await sending.framed_file(fd, size)
    assert connection.said() == sideband(NOISE[:size])
    assert sending.sent == framed_size(size)


@settings(deadline=None)
@given(size=sizes, busy=st.booleans())
async def test_a_file_is_sent_as_it_is(size: int, busy: bool) -> None:
    """Without frames the bytes are the file's."""
    connection = Connection(busy=busy)
    with file_of(NOISE[:size]) as fd:
        await sender(connection).raw_file(fd, size)
    assert connection.said() == NOISE[:size]


def unframed(said: bytes) -> bytes:
    """The payloads of sideband packets, each of which is checked."""
    found, at = [], 0
    while at < len(said):
        length = int(said[at : at + 4], 16)
        assert 5 <= length <= FRAME_PAYLOAD + 5
        assert said[at + 4] == 1
        found.append(said[at + 5 : at + length])
        at += length
    return b"".join(found)


@settings(deadline=None)
@given(
    extents=st.lists(sizes, min_size=1, max_size=6).map(sorted),
    busy=st.booleans(),
    waits=st.integers(0, 3),
)
async def test_a_growing_file(extents: list[int], busy: bool, waits: int) -> None:
    """However it grows, all of it is sent once and in order; silence is broken by keep-alives."""
    steps: list[int | type[Exception]] = [*extents, extents[-1]]
    for _ in range(waits):
        steps.insert(1, TimeoutError)
    framed, raw = Connection(busy=busy), Connection(busy=busy)
    with file_of(NOISE[: extents[-1]]) as fd:
        await sender(framed).framed_growing(Growing(fd, [0, *steps]))  # type: ignore[arg-type]
        await sender(raw).raw_growing(Growing(fd, [*extents, extents[-1]]))  # type: ignore[arg-type]
    assert unframed(framed.said()) == NOISE[: extents[-1]]
    assert framed.given.count(KEEPALIVE) == waits
    assert raw.said() == NOISE[: extents[-1]]


async def test_a_file_that_grew_at_once_is_framed_as_a_complete_one() -> None:
    """Full packets, and one for the rest."""
    size = 2 * STEP + 17
    connection = Connection()
    with file_of(NOISE[:size]) as fd:
        await sender(connection).framed_growing(Growing(fd, [size]))  # type: ignore[arg-type]
    assert connection.said() == sideband(NOISE[:size])


@settings(deadline=None)
@given(offset=st.integers(0, len(NOISE)), lengths=st.lists(sizes, min_size=1, max_size=4))
async def test_reading_at(offset: int, lengths: list[int]) -> None:
    """Views are filled one after another from a position; a file that is too short is an error."""
    views = tuple(memoryview(bytearray(length)) for length in lengths)
    end = offset + sum(lengths)
    with file_of(NOISE) as fd:
        if end > len(NOISE):
            with pytest.raises(EOFError):
                await read_at(fd, views, offset)
        else:
            await read_at(fd, views, offset)
            assert b"".join(views) == NOISE[offset:end]


async def test_reading_where_the_page_cache_cannot_be_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file system without RWF_NOWAIT, and a disk that would have to be waited for, are read."""
    preadv = os.preadv

    def partly(fd: int, views: list[memoryview], offset: int, flags: int = 0) -> int:
        if flags:
            raise OSError(95, "not supported")
        return preadv(fd, [views[0][:7]], offset)

    monkeypatch.setattr(os, "preadv", partly)
    views = (memoryview(bytearray(10)), memoryview(bytearray(5)))
    with file_of(NOISE[:20]) as fd:
        await read_at(fd, views, 3)
    assert b"".join(views) == NOISE[3:18]


async def test_other_errors_of_a_disk_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken disk is no end of file."""

    def broken(*_: object) -> int:
        raise OSError(5, "I/O error")

    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(OSError, match="I/O error"):
        await read_at(0, (memoryview(bytearray(1)),), 0)


async def test_the_framer_never_takes_more_than_its_buffer() -> None:
    """A read gives full packets, or one that is not."""
    framer = Framer.make()
    with file_of(NOISE) as fd:
        assert bytes(await framer.read(fd, 0, len(NOISE))) == sideband(NOISE[:STEP])
        assert bytes(await framer.read(fd, 1, 2 * FRAME_PAYLOAD)) == sideband(
            NOISE[1 : 1 + 2 * FRAME_PAYLOAD]
        )
        assert bytes(await framer.read(fd, 2, 3)) == sideband(NOISE[2:5])


async def test_a_client_that_takes_nothing() -> None:
    """A write that nobody takes is given up."""
    sending = sender(Connection(stalled=True), 0.05)
    with pytest.raises(Stalled):
        await sending.write(b"x")
    assert sending.sent == 0


async def test_pieces_are_sent_in_order() -> None:
    """What an iterator yields is what is sent."""

    async def pieces():
        yield b"a"
        yield b"bc"

    connection = Connection()
    sending = sender(connection)
    await sending.all_of(pieces())
    assert (connection.said(), sending.sent) == (b"abc", 3)


def test_a_connection_that_is_gone_is_not_idle() -> None:
    """Without a transport nothing says that what was written may be overwritten."""
    gone = Sender(SimpleNamespace(transport=None), None, 1.0)  # type: ignore[arg-type]
    assert not gone.idle
