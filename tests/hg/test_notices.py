# Law of this file: people are told what goes on by clients that said that they can read it; other
# clients get no frame of that kind, since stock ones break on it.

from __future__ import annotations

import asyncio

import pytest

from server.hg import answering, reply
from tests.conftest import Serve
from tests.hg.asking import (
    Exchange,
    Told,
    exchange,
    frames,
    read,
    request,
    serve_hg,
    where,
)
from tests.hg.conftest import Sources
from tests.hg.controlled import controlled, everything, post
from tests.server.asking import connected, read_reply
from wire.hg.client import ClientReactor
from wire.hg.encodings import Encoding
from wire.hg.frames import FrameType

INLINE = {"enabled": False}


# --- progress and text --------------------------------------------------------------------------


async def test_progress_is_for_who_reads_it(
    serve: Serve, sources: Sources, tip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two wait for one run: who says that it can read progress is told, the other is not."""
    monkeypatch.setattr(reply, "PULSE_SECONDS", 0.01)
    served = await serve_hg(serve, sources.root, redirect=INLINE)
    run = controlled(monkeypatch)
    asked = request("changesetdata", **everything(tip))
    silent = asyncio.create_task(exchange(served, "linear", asked))
    reads = ClientReactor((Encoding.IDENTITY,), extra_frames=True)
    _, body = reads.request(asked)
    found = Exchange(None, {1: Told()})  # type: ignore[arg-type]
    async with connected(served) as (reader, writer):
        writer.write(post(where("linear", "changesetdata"), body))
        top = await reader.readuntil(b"\r\n\r\n")
        size = int(await reader.readuntil(b"\r\n"), 16)
        first = await reader.readexactly(size + 2)
        assert frames(first[:-2])[-1].kind is FrameType.PROGRESS
        run.may_end.set()
        whole = asyncio.StreamReader()
        whole.feed_data(top + b"%x\r\n" % size + first + await reader.read(-1))
        whole.feed_eof()
        found.reply = await read_reply(whole)
    read(found, reads)
    assert found.answers[0].objects == [0]
    assert {progress.topic for _, progress in found.progress} == {b"changesetdata"}
    assert found.progress[-1][1].pos == -1
    assert found.progress[0][1].pos >= 0
    plain = await silent
    assert plain.answers[0].objects == [0]
    assert not plain.progress
    assert not plain.texts
    assert run.count == 1


async def test_text_is_for_who_reads_it(
    serve: Serve, sources: Sources, tip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the repository is being read for the first time, who reads text is told so."""
    monkeypatch.setattr(answering, "_PATIENCE", 0.0)
    served = await serve_hg(serve, sources.root, redirect=INLINE)
    reads = ClientReactor((Encoding.IDENTITY,), extra_frames=True)
    told, silent = await asyncio.gather(
        exchange(served, "linear", request("heads"), client=reads),
        exchange(served, "linear", request("heads")),
    )
    assert told.answers[0].objects == silent.answers[0].objects == [[tip]]
    assert "reading what is new" in told.texts[0].text
    assert not silent.texts
