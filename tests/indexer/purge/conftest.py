# Law of this file: each test has a repository of its own that was indexed, and a machine's cache.

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cache.cache import Cache
from stores.memory import MemoryStore
from tests.indexer.conftest import Bench, Publishing, Served
from tests.indexer.purge.scene import House


@pytest.fixture
async def house(served: Served, tmp_path: Path) -> AsyncIterator[House]:
    """A repository that was indexed into a store in memory."""
    store = MemoryStore()
    bench = Bench(served, store, tmp_path / "index", Publishing(store))
    await bench.index()
    executor = ThreadPoolExecutor(2)
    cache = await Cache.open(tmp_path / "data", 1 << 30, executor)
    yield House(served, bench, store, cache, tmp_path)
    await cache.close()
    executor.shutdown()
