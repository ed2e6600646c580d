# Law of this file: the cache as a whole survives restarts, keeps its size and cleans up.

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cache.cache import Cache
from cache.errors import CacheUnavailable
from cache.flights import Outcome, Sink
from cache.keys import record_key

LARGE = 1 << 40


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    """Threads for runs."""
    with ThreadPoolExecutor(2) as threads:
        yield threads


def answer(number: int, size: int = 10_000) -> tuple[str, bytes]:
    """A key and the content of its answer."""
    return record_key("d", "r", b"%d" % number), bytes([number]) * size


async def compute(cache: Cache, number: int) -> None:
    """Have an answer recorded."""
    key, content = answer(number)

    def run(sink: Sink) -> Outcome:
        sink.head(b"head")
        sink.write(content)
        return Outcome("a/b", "sum", has_entity=True)

    flight = await cache.flights.board(key, "r", run)
    await flight.finished()


def is_hit(cache: Cache, number: int) -> bool:
    """Whether record and entity are there, and right."""
    key, content = answer(number)
    record = cache.records.load(key)
    if record is None:
        return False
    opened = cache.entities.open(record.parts[0].entity.digest)
    if opened is None:
        return False
    with opened:
        return os.pread(opened.fd, len(content) + 1, 0) == content


async def test_a_restart_keeps_everything(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    """Records, entities, publications and sizes."""
    cache = await Cache.open(tmp_path / "new" / "data", LARGE, executor)
    await compute(cache, 1)
    cache.publications.record("ab" * 32, ["cdn"], 4e9, 10)
    await cache.close()
    figures = cache.figures()
    again = await Cache.open(tmp_path / "new" / "data", LARGE, executor)
    assert is_hit(again, 1)
    assert again.figures() == figures
    assert figures[0] > 10_000
    assert figures[1] == 1
    assert again.publications.readable("ab" * 32, 4e9) == {"cdn"}
    await again.close()


async def test_a_crash_before_any_flush_keeps_everything(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    """Law 9: what has its name is there, though the index never heard of it."""
    cache = await Cache.open(tmp_path, LARGE, executor)
    await compute(cache, 1)
    again = await Cache.open(tmp_path, LARGE, executor)
    assert is_hit(again, 1)
    assert again.total_size() == cache.total_size() > 10_000


async def test_opening_clears_up_after_the_dead(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    """Left-over files and ended leases go."""
    cache = await Cache.open(tmp_path, LARGE, executor)
    cache.publications.record("ab" * 32, ["cdn"], 1.0, 10)
    left = tmp_path / "incoming" / "left"
    left.touch()
    os.utime(left, (1, 1))
    await cache.close()
    await Cache.open(tmp_path, LARGE, executor)
    assert not left.exists()
    assert list((tmp_path / "published" / "ab").iterdir()) == []


async def test_the_cache_keeps_to_its_size(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    """After maintenance there is no more than allowed, and the newest answer is still a hit."""
    cache = await Cache.open(tmp_path, 35_000, executor)
    for number in range(10):
        await compute(cache, number)
        await cache.maintain()
        assert cache.total_size() <= 35_000
        assert is_hit(cache, number)
    on_disk = sum(p.stat().st_size for p in tmp_path.glob("[er]*/*/*"))
    assert cache.total_size() == on_disk
    assert not is_hit(cache, 0)
    await cache.close()


async def test_a_full_disk_evicts_once(
    tmp_path: Path, executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though there is less than allowed; and then the cache takes answers again."""
    cache = await Cache.open(tmp_path, LARGE, executor)
    for number in range(5):
        await compute(cache, number)

    def full(file: int, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("cache.sink.write_all", full)
        with pytest.raises(CacheUnavailable):
            await compute(cache, 6)
    before = cache.total_size()
    await cache.maintain()
    after = cache.total_size()
    assert after <= 0.9 * before
    await cache.maintain()
    assert cache.total_size() == after
    await compute(cache, 6)
    assert is_hit(cache, 6)
    await cache.close()


async def test_an_index_that_cannot_be_written_stops_nothing(
    tmp_path: Path, executor: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """Opening, answering, maintaining and closing go on, and the log says what is wrong."""
    (tmp_path / "index.sqlite").mkdir()
    with caplog.at_level(logging.WARNING, "offramp.cache"):
        cache = await Cache.open(tmp_path, 5_000, executor)
        await compute(cache, 1)
        assert is_hit(cache, 1)
        await cache.maintain()
        assert not is_hit(cache, 1), "evicted all the same"
        await cache.close()
    assert "index.sqlite" in caplog.text


async def test_a_data_directory_that_cannot_be_made_is_said_so(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    """The server does not start on a file."""
    (tmp_path / "data").touch()
    with pytest.raises(OSError, match="data"):
        await Cache.open(tmp_path / "data", LARGE, executor)
