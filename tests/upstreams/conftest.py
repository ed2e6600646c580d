# Law of this file: each test has an upstream of its own, which is gone when the test is.

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.upstreams.faults import Proxy
from tests.upstreams.forge import Forge, missing_programs


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[Forge]:
    """A real forge without repositories."""
    missing = missing_programs()
    if missing is not None:
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    forge = Forge.start(tmp_path / "forge")
    yield forge
    forge.close()


@pytest.fixture
async def proxy(forge: Forge) -> AsyncIterator[Proxy]:
    """In front of the forge: counts, records and breaks what goes through."""
    proxy = await Proxy.start(forge.url)
    yield proxy
    await proxy.close()


@pytest.fixture
async def elsewhere(forge: Forge) -> AsyncIterator[Proxy]:
    """Another host with the same repositories, where redirects can lead to."""
    proxy = await Proxy.start(forge.url)
    yield proxy
    await proxy.close()
