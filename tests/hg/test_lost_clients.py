# Law of this file: a client that goes away ends what was made for it, and one that does not read is
# made little for.

from __future__ import annotations

import asyncio

import pytest

from server.hg import reply
from tests.conftest import Serve
from tests.hg.asking import (
    call,
    exchange,
    request,
    serve_hg,
    where,
)
from tests.hg.conftest import Sources
from tests.hg.controlled import SIZE, body_of, controlled, everything, post, unavailable
from tests.server.asking import connected, listen_to_access
from tests.server.test_slow_clients import deaf, rest
from wire.hg.encodings import Encoding

INLINE = {"enabled": False}


# --- clients that go, or do not read ------------------------------------------------------------


async def settled(tasks: set[asyncio.Task[object]]) -> None:
    """Wait until no other tasks than these are left."""
    async with asyncio.timeout(60):  # a bound for one that never ends
        while extra := asyncio.all_tasks() - tasks - {asyncio.current_task()}:
            await asyncio.wait(extra, timeout=1)


@pytest.mark.parametrize("how", ["growing", "stored", "compressed", "piped", "waiting"])
async def test_a_client_that_goes_away(
    serve: Serve, sources: Sources, tip: bytes, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Its answers end with it: no task is left of them, and the next client is answered."""
    monkeypatch.setattr(reply, "PULSE_SECONDS", 0.01)
    served = await serve_hg(serve, sources.root, redirect=INLINE)
    await call(served, "linear", "heads")
    run = controlled(monkeypatch, 0 if how == "waiting" else SIZE)
    encoding = Encoding.ZSTD if how == "compressed" else Encoding.IDENTITY
    body = body_of(request("changesetdata", **everything(tip)), encoding=encoding)
    if how in {"stored", "compressed"}:
        run.may_end.set()
        await exchange(served, "linear", request("changesetdata", **everything(tip)))
    if how == "piped":
        monkeypatch.setattr("cache.layout.Layout.create", unavailable)
    before: set[asyncio.Task[object]] = asyncio.all_tasks()
    async with connected(served) as (reader, writer):
        writer.write(post(where("linear", "changesetdata"), body))
        if how != "waiting":
            await reader.readexactly(100_000)
        else:
            await asyncio.to_thread(run.has_begun.wait)
    if how != "piped":
        run.may_end.set()
    await settled(before)
    assert run.count == 1
    assert (await call(served, "linear", "heads")).objects == [[tip]]


@pytest.mark.parametrize("how", ["first", "stored", "compressed", "piped"])
async def test_a_reader_that_stops_reading(
    serve: Serve, sources: Sources, tip: bytes, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Who takes no byte for limits.stall_time is hung up on, and little was made for it."""
    made = 0
    original = reply._ahead

    async def counting(pieces):  # type: ignore[no-untyped-def]
        nonlocal made
        async for piece in original(pieces):
            made += len(piece)
            yield piece

    monkeypatch.setattr(reply, "_ahead", counting)
    served = await serve_hg(
        serve, sources.root, redirect=INLINE, limits={"stall_time": 0.5}, log={"access": True}
    )
    log = listen_to_access(served)
    seen = 0
    run = controlled(monkeypatch, SIZE)
    run.may_end.set()
    encoding = Encoding.ZSTD if how == "compressed" else Encoding.IDENTITY
    asked = request("changesetdata", **everything(tip))
    if how in {"stored", "compressed"}:
        await exchange(served, "linear", asked)
        seen = len(await log.until(1))
    if how == "piped":
        monkeypatch.setattr("cache.layout.Layout.create", unavailable)
    made = 0
    body = post(where("linear", "changesetdata"), body_of(asked, encoding=encoding))
    with deaf(served, body) as connection:
        lines = await log.until(seen + 1)
        assert await asyncio.to_thread(rest, connection) < SIZE
    assert " 499 " in lines[-1]
    assert made < SIZE // 3
    assert (await call(served, "linear", "heads")).objects == [[tip]]
