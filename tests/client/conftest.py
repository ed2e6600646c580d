# Law of this file: every test has a server of its own, on this machine, stopped by the test.

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.client.scripted import Files, Scripted, file_server, scripted_server


@pytest.fixture
async def server() -> AsyncIterator[Scripted]:
    """A server of the frame protocol."""
    async with scripted_server() as found:
        yield found


@pytest.fixture
async def files() -> AsyncIterator[Files]:
    """A target."""
    async with file_server() as found:
        yield found


@pytest.fixture
async def others() -> AsyncIterator[Files]:
    """Another target."""
    async with file_server() as found:
        yield found
