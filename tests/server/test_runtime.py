# Law of this file: what runs in the background does not end unheard.

from __future__ import annotations

import asyncio

import pytest

from server.runtime import _started


async def test_what_ends_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """With why; not what was cancelled, as by the end of a server."""

    async def runs() -> None:
        await asyncio.sleep(3600)

    async def fails() -> None:
        raise OSError(28, "No space left on device")

    going, failing = _started(runs()), _started(fails())
    await asyncio.wait({failing})
    assert not going.done()
    going.cancel()
    await asyncio.wait({going})
    await asyncio.sleep(0)
    (record,) = caplog.records
    assert "fails has ended" in record.getMessage()
    assert "No space left" in caplog.text
