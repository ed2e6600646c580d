# Law of this file: one flight per key holds across the processes of a machine, and a process that
# is killed takes nothing with it but its work.

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest

from cache.errors import RunFailed
from cache.flights import Reader
from cache.journal import has_ended, land, take_off

if TYPE_CHECKING:
    from conftest import House, Peer, Script

StartPeer = Callable[..., "Peer"]
ReadAll = Callable[[Reader], Awaitable[bytes]]


async def test_three_processes_with_a_hundred_boards_each_are_one_run(
    house: House, start_peer: StartPeer, key: str
) -> None:
    """One process leads, all of them read the same bytes, and the record is there for all."""
    peers = [start_peer(100) for _ in range(3)]
    # "running" comes from the thread of the run, and may come before "boarded" or after it.
    heard = [[peer.hear()] for peer in peers]
    for lines, peer in zip(heard, peers, strict=True):
        if lines != ["boarded 0"]:
            lines.append(peer.hear())
    assert sorted(map(sorted, heard)) == [["boarded 0"], ["boarded 0"], ["boarded 1", "running"]]
    leader = peers[[len(lines) for lines in heard].index(2)]
    leader.tell("head 0a0b", "write 300000", "write 1", "end")
    assert [leader.hear() for _ in range(3)] == ["done"] * 3
    reports = {peer.hear() for peer in peers}
    assert len(reports) == 1
    record = house.records.load(key)
    content = house.entities.path(record.parts[0].entity.digest).read_bytes()
    assert len(content) == 300_001
    read = hashlib.sha256(b"\n\x0b" + content).hexdigest()
    assert reports == {f"read {read} {record.parts[0].entity.digest}"}
    assert [peer.process.wait() for peer in peers] == [0, 0, 0]
    assert house.incoming() == []


def lead(peer: Peer) -> None:
    """Wait until a peer runs."""
    assert {peer.hear(), peer.hear()} == {"boarded 1", "running"}


async def test_a_run_of_another_process_is_read_along(
    house: House, start_peer: StartPeer, key: str, script: Script, read_all: ReadAll
) -> None:
    """Head and bytes come while it is written, and the same record in the end."""
    peer = start_peer()
    lead(peer)
    flight = await house.flights.board(key, "repo", script)
    assert not flight.leader
    peer.tell("head aa")
    assert await flight.head() == b"\xaa"
    reader = flight.reader()
    for size in (10, 25):
        peer.tell("write 10" if size == 10 else "write 15")
        assert await reader.extent(size - 1) == size
        assert not reader.complete
    peer.tell("end")
    record = await flight.finished()
    assert record == house.records.load(key)
    content = await read_all(reader)
    assert hashlib.sha256(content).hexdigest() == record.parts[0].entity.digest
    assert script.runs == 0


async def test_all_followers_of_a_process_share_one_poller(
    house: House, start_peer: StartPeer, key: str, script: Script
) -> None:
    """A hundred clients that wait for another process cost as much as one."""
    peer = start_peer()
    lead(peer)
    flights = [await house.flights.board(key, "repo", script) for _ in range(100)]
    heads = [asyncio.create_task(flight.head()) for flight in flights]
    await asyncio.sleep(0)
    assert len(house.flights._watches) == 1
    peer.tell("head 00", "end")
    assert set(await asyncio.gather(*heads)) == {b"\0"}
    await asyncio.gather(*(flight.finished() for flight in flights))


@pytest.mark.parametrize("crash", [False, True])
async def test_who_was_told_nothing_takes_off_when_another_process_fails(
    house: House, start_peer: StartPeer, key: str, script: Script, *, crash: bool
) -> None:
    """Its followers here do not notice: one of them runs, the others follow."""
    peer = start_peer()
    lead(peer)
    flights = [await house.flights.board(key, "repo", script) for _ in range(5)]
    reader = flights[0].reader()
    waiting = [asyncio.create_task(flight.finished()) for flight in flights]
    reading = asyncio.create_task(reader.extent(0))
    await asyncio.sleep(0)
    peer.tell("head 00")
    assert peer.hear() == "done"
    if crash:
        peer.kill()
    else:
        peer.tell("fail")
    script.head(b"ours").write(b"content").end()
    records = await asyncio.gather(*waiting)
    assert await reading == 7
    assert {record.head for record in records} == {b"ours"}
    assert sum(flight.leader for flight in flights) == 1
    assert script.runs == 1
    assert house.incoming() == []


async def test_law_9_a_leader_killed_in_mid_write_loses_only_its_work(
    house: House, start_peer: StartPeer, key: str, make_script: type[Script], read_all: ReadAll
) -> None:
    """Who was reading is told, nothing is recorded, and the next leader has its own files."""
    peer = start_peer()
    lead(peer)
    unused, script = make_script(), make_script()
    mid_read = await house.flights.board(key, "repo", unused)
    reader = mid_read.reader()
    peer.tell("head aa", "write 1000")
    assert await reader.extent(0) == 1000
    first = os.pread(reader.fd, 1000, 0)
    peer.kill()
    with pytest.raises(RunFailed, match="failed or died"):
        await reader.extent(1000)
    with pytest.raises(RunFailed):
        await mid_read.finished()
    assert house.records.load(key) is None
    assert list(house.layout.walk("entities")) == []
    flight = await house.flights.board(key, "repo", script)
    assert flight.leader
    script.head(b"h").write(b"whole").end()
    assert await read_all(flight.reader()) == b"whole"
    assert os.pread(reader.fd, 2000, 0) == first, "no bytes of another run"
    assert house.incoming() == []


async def test_law_9_a_peer_takes_over_from_a_peer_that_was_killed(
    house: House, start_peer: StartPeer, key: str
) -> None:
    """Without us: the survivor runs, and what it records is whole."""
    first = start_peer()
    lead(first)
    second = start_peer()
    assert second.hear() == "boarded 0"
    first.kill()
    assert second.hear() == "running"
    second.tell("head 00", "write 5", "end")
    assert [second.hear(), second.hear()] == ["done", "done"]
    assert second.hear().startswith("read ")
    assert house.records.load(key).parts[0].entity.size == 5


def test_a_program_that_was_just_started_does_not_keep_the_lock_of_a_run(
    house: House, key: str
) -> None:
    """It has a copy of every descriptor until it begins, and yet the run is seen to have ended."""
    led = take_off(house.layout, key)
    follower = take_off(house.layout, key).journal
    copy = os.dup(led.journal.number)
    assert not has_ended(follower)
    land(house.layout, key, led.name, led.journal)
    assert has_ended(follower)
    os.close(copy)
