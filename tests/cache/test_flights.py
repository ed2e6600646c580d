# Law of this file: one run per key; every follower sees exactly the bytes of one run that ended
# well, or an error.

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import random
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache.entities import Entities
from cache.errors import CacheUnavailable, RunFailed
from cache.flights import Outcome, Reader, Sink
from cache.journal import Frames, append_frame, take_off
from cache.keys import record_key
from cache.layout import Descriptor, lock, unlock

if TYPE_CHECKING:
    from conftest import House, Script

ReadAll = Callable[[Reader], Awaitable[bytes]]


class Boom(Exception):  # noqa: N818
    """What a run raises."""


def no_space(file: int, data: bytes) -> None:
    """A full disk."""
    raise OSError(28, "No space left on device")


async def test_a_run_becomes_a_record_and_an_entity(
    house: House, script: Script, key: str, read_all: ReadAll
) -> None:
    """Head, bytes, checksum and media type are those that the run said."""
    flight = await house.flights.board(key, "repo", script)
    script.head(b"head").write(b"con").write(b"tent").end(checksum="c0ffee")
    record = await flight.finished()
    assert (flight.leader, flight.key) == (True, key)
    assert await flight.head() == record.head == b"head"
    assert (record.key, record.repository) == (key, "repo")
    assert record.parts[0].checksum == "c0ffee"
    entity = record.parts[0].entity
    assert (entity.digest, entity.size) == (hashlib.sha256(b"content").hexdigest(), 7)
    assert entity.media_type == "application/x-git-packed-objects"
    assert house.records.load(key) == house.another().records.load(key) == record
    assert house.entities.path(entity.digest).read_bytes() == b"content"
    assert await read_all(flight.reader()) == b"content"
    assert house.incoming() == []


async def test_head_and_bytes_reach_followers_while_the_run_goes_on(
    house: House, script: Script, key: str
) -> None:
    """Nobody waits for the end of a run to begin to read."""
    flight = await house.flights.board(key, "repo", script)
    script.head(b"head")
    assert await flight.head() == b"head"
    with flight.reader() as reader:
        with pytest.raises(ValueError, match="nothing to read"):
            _ = reader.fd
        script.write(b"abc")
        assert await reader.extent(0) == 3
        assert os.pread(reader.fd, 10, 0) == b"abc"
        assert not reader.complete
        script.write(b"d")
        assert await reader.extent(3) == 4
        script.end()
        assert await reader.extent(4) == 4
        assert reader.complete
        await flight.finished()


async def test_waiting_for_bytes_can_be_limited(house: House, script: Script, key: str) -> None:
    """Who must send keepalives gets a TimeoutError, and asks again."""
    flight = await house.flights.board(key, "repo", script)
    reader = flight.reader()
    with pytest.raises(TimeoutError):
        await reader.extent(0, timeout=0)
    script.head(b"").write(b"x").end()
    assert await reader.extent(0, timeout=60) == 1
    await flight.finished()


async def test_an_answer_may_be_a_head_alone(
    house: House, script: Script, key: str, read_all: ReadAll
) -> None:
    """Then the record has no parts, and reading ends at once."""
    flight = await house.flights.board(key, "repo", script)
    script.head(b"only").end(has_entity=False)
    assert (await flight.finished()).parts == ()
    assert await read_all(flight.reader()) == b""
    assert house.records.load(key).head == b"only"
    assert house.incoming() == []


async def test_an_entity_may_be_empty(
    house: House, script: Script, key: str, read_all: ReadAll
) -> None:
    """No bytes are an entity too, if the run says so."""
    flight = await house.flights.board(key, "repo", script)
    script.head(b"").end()
    assert (await flight.finished()).parts[0].entity.size == 0
    assert await read_all(flight.reader()) == b""


async def test_a_hundred_boards_of_one_key_are_one_run(
    house: House, script: Script, key: str, read_all: ReadAll
) -> None:
    """One leads, all read the same."""
    flights = await asyncio.gather(*(house.flights.board(key, "repo", script) for _ in range(100)))
    script.head(b"h").write(b"x" * 100_000).end()
    contents = await asyncio.gather(*(read_all(flight.reader()) for flight in flights))
    assert set(contents) == {b"x" * 100_000}
    assert sum(flight.leader for flight in flights) == 1
    assert script.runs == 1


async def test_different_keys_run_side_by_side(
    house: House, make_script: type[Script], key: str
) -> None:
    """A run does not wait for one of another key."""
    first, second = make_script(), make_script()
    one = await house.flights.board(key, "repo", first)
    two = await house.flights.board(record_key("d", "r"), "repo", second)
    second.head(b"2").end()
    assert (await two.finished()).head == b"2"
    first.head(b"1").end()
    assert (await one.finished()).head == b"1"


async def test_who_boards_just_after_the_landing_gets_the_record(
    house: House, make_script: type[Script], key: str, read_all: ReadAll
) -> None:
    """Nothing runs again, whichever process comes late, and what it got is not evicted."""
    script, unused = make_script(), make_script()
    flight = await house.flights.board(key, "repo", script)
    script.head(b"h").write(b"content").end()
    record = await flight.finished()
    del flight
    for late in (house, house.another()):
        again = await late.flights.board(key, "repo", unused)
        assert house.usage.evict(0) > 0  # the record; the entity is held
        assert not again.leader
        assert await again.finished() == record
        assert await read_all(again.reader()) == b"content"
        house.records.save(record)
    assert unused.runs == 0
    assert house.incoming() == []


async def test_a_record_whose_entity_is_gone_runs_again(
    house: House, make_script: type[Script], key: str
) -> None:
    """Half of an answer is none."""
    first, second = make_script(), make_script()
    flight = await house.flights.board(key, "repo", first)
    first.head(b"h").write(b"content").end()
    record = await flight.finished()
    house.entities.path(record.parts[0].entity.digest).unlink()
    again = await house.flights.board(key, "repo", second)
    second.head(b"h").write(b"newer").end()
    assert (await again.finished()).parts[0].entity.size == 5


async def test_the_run_goes_on_when_every_follower_has_gone(
    house: House, script: Script, key: str
) -> None:
    """What was begun is finished and recorded."""
    flight = await house.flights.board(key, "repo", script)
    waiting = asyncio.create_task(flight.head())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    del flight, waiting
    script.head(b"h").write(b"x").end()
    house.executor.shutdown()
    assert house.records.load(key).head == b"h"


async def test_one_follower_that_goes_does_not_disturb_the_others(
    house: House, script: Script, key: str
) -> None:
    """Waiting is cancelled for just the one."""
    flight = await house.flights.board(key, "repo", script)
    tasks = [asyncio.create_task(flight.head()) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    script.head(b"h").end()
    assert await asyncio.gather(*tasks[1:]) == [b"h", b"h"]
    await flight.finished()


@pytest.mark.parametrize("told", [0, 1, 2])
async def test_law_3_a_broken_response_is_never_recorded(
    house: House, make_script: type[Script], key: str, told: int
) -> None:
    """However far a run came, all get its exception, nothing stays, and the next one may try."""
    script, second = make_script(), make_script()
    leader = await house.flights.board(key, "repo", script)
    follower = await house.flights.board(key, "repo", second)
    reader = follower.reader()
    if told > 0:
        script.head(b"h")
        await follower.head()
    if told > 1:
        script.write(b"half of it")
        await reader.extent(0)
    script.fail(Boom("exit status 128"))
    for waiting in (leader.finished(), follower.finished(), reader.extent(10), follower.head()):
        with pytest.raises(Boom, match="128"):
            await waiting
    assert house.records.load(key) is None
    assert list(house.layout.walk("entities")) == []
    assert house.incoming() == []
    again = await house.flights.board(key, "repo", second)
    assert again.leader
    second.head(b"h").end()
    await again.finished()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda script: script.end(),
        lambda script: script.write(b"x"),
        lambda script: script.head(b"").head(b""),
        lambda script: script.head(b"").write(b"x").end(has_entity=False),
        lambda script: script.fail(SystemExit(1)),
        lambda script: script.fail(asyncio.CancelledError()),
    ],
)
async def test_law_3_a_run_that_breaks_the_rules_has_failed(
    house: House, script: Script, key: str, spoil: Callable[[Script], object]
) -> None:
    """No head, two heads, bytes before the head, bytes of no entity, an exit: no record."""
    flight = await house.flights.board(key, "repo", script)
    spoil(script)
    with pytest.raises((RunFailed, RuntimeError)):
        await flight.finished()
    assert house.records.load(key) is None
    assert house.incoming() == []


async def test_a_failed_runs_content_leaves_the_disk(
    house: House, script: Script, key: str
) -> None:
    """An exception that somebody keeps does not keep the file."""
    flight = await house.flights.board(key, "repo", script)
    script.head(b"h").write(b"x" * 1000)
    with flight.reader() as reader:
        await reader.extent(0)
        fd = reader.fd
        script.fail(Boom())
        with pytest.raises(Boom) as kept:
            await flight.finished()
        assert os.fstat(fd).st_nlink == 0
    await asyncio.sleep(0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert kept.value is not None


@pytest.mark.parametrize("when", ["head", "write"])
async def test_a_full_disk_is_told_from_a_failed_run(
    house: House, script: Script, key: str, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Followers get CacheUnavailable, whatever the run made of it; room is asked for once."""
    flight = await house.flights.board(key, "repo", script)

    def stubborn(sink: Sink) -> Outcome:
        try:
            if when == "head":
                sink.head(b"h")
            else:
                sink.write(b"x")
        except CacheUnavailable as error:
            raise Boom("the pipe broke") from error
        raise AssertionError("the disk was full")

    with monkeypatch.context() as patch:
        if when == "write":
            script.head(b"h")
            await flight.head()
        patch.setattr("cache.sink.write_all", no_space)
        patch.setattr("cache.journal.write_all", no_space)
        script.do(stubborn)
        with pytest.raises(CacheUnavailable, match="No space left"):
            await flight.finished()
    assert house.alarms == 1
    assert house.records.load(key) is None
    assert house.incoming() == []


async def test_law_3_a_run_that_overlooks_a_full_disk_is_not_recorded(
    house: House, script: Script, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be written is missing, even if the run says that all is well."""
    flight = await house.flights.board(key, "repo", script)

    def careless(sink: Sink) -> Outcome:
        sink.head(b"h")
        monkeypatch.setattr("cache.sink.write_all", no_space)
        with pytest.raises(CacheUnavailable):
            sink.write(b"x")
        return Outcome("", "", has_entity=True)

    script.do(careless)
    with pytest.raises(CacheUnavailable):
        await flight.finished()
    assert house.records.load(key) is None


async def test_a_disk_that_fails_at_the_landing_costs_nobody_the_answer(
    house: House,
    script: Script,
    key: str,
    monkeypatch: pytest.MonkeyPatch,
    read_all: ReadAll,
) -> None:
    """All bytes were written: followers of every process get them; they are just not kept."""

    def refuse(*args: object) -> None:
        raise CacheUnavailable(28, "No space left on device")

    monkeypatch.setattr(Entities, "adopt", refuse)
    flight = await house.flights.board(key, "repo", script)
    other = await house.another().flights.board(key, "repo", script)
    reader = other.reader()
    script.head(b"h").write(b"con")
    await reader.extent(0)
    script.write(b"tent").end()
    assert await read_all(flight.reader()) == b"content"
    assert await read_all(reader) == b"content"
    assert (await flight.finished()).parts == (await other.finished()).parts
    assert house.alarms == 1
    assert house.records.load(key) is None
    assert house.incoming() == []


async def test_a_directory_that_cannot_be_written_is_said_at_boarding(
    house: House, script: Script, key: str
) -> None:
    """The caller can answer without the cache before anything has begun."""
    folder = house.layout.data / "incoming"
    folder.rmdir()
    folder.write_text("in the way")
    with pytest.raises(CacheUnavailable, match="Not a directory"):
        await house.flights.board(key, "repo", script)


async def test_a_full_disk_at_boarding_leaves_nothing_behind(
    house: House, script: Script, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one who boards can lead."""
    with monkeypatch.context() as patch:
        patch.setattr("cache.journal.write_all", no_space)
        with pytest.raises(CacheUnavailable, match="No space left"):
            await house.flights.board(key, "repo", script)
    assert house.incoming() == []
    script.head(b"h").end()
    assert (await house.flights.board(key, "repo", script)).leader
    house.executor.shutdown()


async def test_an_emptied_data_directory_is_made_again(
    house: House, script: Script, key: str
) -> None:
    """An operator may clear the cache under a running server."""
    for folder in ("incoming", "entities", "records"):
        (house.layout.data / folder).rmdir()
    flight = await house.flights.board(key, "repo", script)
    script.head(b"h").write(b"x").end()
    await flight.finished()
    assert house.records.load(key) is not None


async def test_a_server_that_stops_ends_what_was_not_begun(
    house: House, make_script: type[Script], key: str
) -> None:
    """Nobody waits for a run that will never come, and its lock is free."""
    busy, waiting = make_script(), make_script()
    house = type(house)(house.layout, ThreadPoolExecutor(1))
    first = await house.flights.board(key, "repo", busy)
    busy.head(b"h")
    await first.head()
    other_key = record_key("d", "r")
    second = await house.flights.board(other_key, "repo", waiting)
    house.executor.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(RunFailed, match="stopping"):
        await second.finished()
    with pytest.raises(RunFailed, match="stopping"):
        await house.flights.board(other_key, "repo", waiting)
    busy.end()
    await first.finished()
    assert house.incoming() == []


async def test_a_key_that_is_no_digest_is_refused(house: House, script: Script) -> None:
    """No key leads out of incoming/."""
    with pytest.raises(ValueError, match="no key"):
        await house.flights.board("../x", "repo", script)


async def test_a_fast_writer_does_not_flood_the_loop(
    house: House, script: Script, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most one wake-up is under way: a thousand writes that nobody looks at are one."""
    loop = asyncio.get_running_loop()
    calls = 0
    plain = loop.call_soon_threadsafe

    def counting(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        return plain(*args, **kwargs)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counting)
    flight = await house.flights.board(key, "repo", script)
    script.head(b"h")
    for _ in range(1000):
        script.write(b"x")
    script.end()
    house.executor.shutdown()  # the loop stands still meanwhile
    assert calls == 1
    assert (await flight.finished()).parts[0].entity.size == 1000


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)
@given(
    pieces=st.lists(st.binary(max_size=50) | st.integers(0, 200_000).map(bytes), max_size=8),
    readers=st.integers(1, 5),
    seed=st.integers(0, 2**32),
)
def test_every_reader_sees_exactly_the_bytes(
    house: House,
    make_script: type[Script],
    pieces: list[bytes],
    readers: int,
    seed: int,
) -> None:
    """In whatever pieces it is written and read, by whichever process."""
    script = make_script()
    chance = random.Random(seed)
    key = record_key("d", "r")
    house.records.delete(key)  # of the example before

    async def read(place: House) -> bytes:
        flight = await place.flights.board(key, "repo", script)
        assert await flight.head() == b"head"
        content = bytearray()
        async with flight.reader() as reader:
            while (size := await reader.extent(len(content))) > len(content):
                count = min(size - len(content), chance.randint(1, 100_000))
                content += os.pread(reader.fd, count, len(content))
        await flight.finished()
        return bytes(content)

    async def all_read() -> None:
        there = house.another()
        places = [house, there]
        tasks = [asyncio.create_task(read(places[i % 2])) for i in range(readers)]
        script.head(b"head")
        for piece in pieces:
            script.write(piece)
            if chance.random() < 0.5:
                await asyncio.sleep(0)
        script.end()
        assert set(await asyncio.gather(*tasks)) == {b"".join(pieces)}
        await there.flights.close()

    asyncio.run(all_read())
    assert script.runs == 1
    assert house.incoming() == []


async def test_eviction_while_reading_takes_nothing_from_the_reader(
    house: House, script: Script, key: str, read_all: ReadAll
) -> None:
    """What somebody reads stays, and what was opened stays readable even when removed by hand."""
    flight = await house.flights.board(key, "repo", script)
    script.head(b"h").write(b"content").end()
    record = await flight.finished()
    reader = flight.reader()
    await reader.extent(0)
    house.another().usage.evict(0)
    path = house.entities.path(record.parts[0].entity.digest)
    assert path.exists()
    path.unlink()
    assert await read_all(reader) == b"content"


def _die(house: House, key: str, *frames: bytes) -> None:
    """Leave what a process leaves that is killed, having said ``frames``."""
    led = take_off(house.layout, key)
    for frame in frames:
        append_frame(led.journal, frame)
    os.write(led.content.number, b"half")
    unlock(led.journal.number)
    unlock(led.content.number)


@pytest.mark.parametrize("frames", [(), (b"head",), (b"head", b"no record")])
async def test_law_9_what_a_dead_run_left_is_cleared_by_the_next(
    house: House, script: Script, key: str, frames: tuple[bytes, ...]
) -> None:
    """However far it came, the next leader begins anew, with files of its own."""
    _die(house, key, *frames)
    assert len(house.incoming()) == 2
    flight = await house.flights.board(key, "repo", script)
    script.head(b"h").write(b"whole").end()
    assert (await flight.finished()).parts[0].entity.size == 5
    assert house.incoming() == []


@pytest.mark.parametrize("garbage", [b"", b"\xff" * 8, b"\0" * 7 + b"\x02\xff\xff", b"short"])
async def test_law_9_a_damaged_journal_does_not_stop_the_next_run(
    house: House, script: Script, key: str, garbage: bytes
) -> None:
    """A power failure may leave anything in incoming/."""
    house.layout.incoming(key).write_bytes(garbage)
    flight = await house.flights.board(key, "repo", script)
    script.head(b"h").end()
    await flight.finished()
    assert house.incoming() == []


@given(body=st.binary(max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_a_journal_says_a_follower_ends(
    house: House, make_script: type[Script], key: str, body: bytes
) -> None:
    """Garbage in the journal of another process is a failed run, and nothing worse."""
    script = make_script()

    async def follow() -> None:
        journal = Descriptor(house.layout.create(key))
        lock(journal.number, fcntl.LOCK_EX)
        os.write(journal.number, body)
        flight = await house.flights.board(key, "repo", script)
        unlock(journal.number)
        script.head(b"h").end()
        with suppress(RunFailed):
            await flight.head()
            await flight.finished()
        await house.flights.close()

    asyncio.run(follow())
    house.records.delete(key)
    house.layout.incoming(key).unlink(missing_ok=True)


def test_a_frame_that_appears_during_a_look_is_not_taken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame that is written between two system calls of a follower is read whole."""
    path = tmp_path / "journal"
    path.touch()
    size_of = os.fstat

    def after_it_appeared(file: int) -> os.stat_result:
        path.write_bytes((4).to_bytes(8, "big") + b"head")
        return size_of(file)

    frames = Frames(Descriptor(os.open(path, os.O_RDONLY)))
    monkeypatch.setattr("cache.journal.os.fstat", after_it_appeared)
    assert frames.read() == b"head"
