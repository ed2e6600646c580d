# Law of this file: each test has a pipeline of its own, with a cache on disk, where all is well.

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cache.cache import Cache
from server.metrics import Metrics
from server.settings import RedirectSettings
from stores.memory import MemoryStore
from tests.server.pipeline.scene import AllWell, Bundles, House, Publishing, comes_back


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A pipeline whose publishing goes well."""
    executor = ThreadPoolExecutor(2)
    cache = await Cache.open(tmp_path / "data", 1 << 30, executor)
    yield House(
        cache,
        MemoryStore(),
        Publishing(comes_back),
        Bundles(),
        AllWell(),
        Metrics(),
        RedirectSettings(min_size=0, max_wait=60.0),
    )
    await cache.close()
    executor.shutdown()
