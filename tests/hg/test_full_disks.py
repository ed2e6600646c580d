# Law of this file: a disk that takes nothing costs no answer.

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.hg.asking import (
    call,
    dag,
    exchange,
    explicit,
    request,
    serve_hg,
)
from tests.hg.cloning import Client, clone
from tests.hg.conftest import Sources
from tests.hg.controlled import kept, unavailable
from tests.hg.session import Session
from tests.hg.stock import client_encodings
from tests.hg.versions import V2, hg
from wire.hg.client import ClientReactor
from wire.hg.encodings import Encoding

INLINE = {"enabled": False}


# --- the disk -----------------------------------------------------------------------------------


def full(*_: object) -> None:
    """Refuse as a full disk does."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("refused", ["content", "head", "file", "rename"])
@pytest.mark.parametrize("kind", ["linear", "large"])
async def test_a_full_disk_costs_no_answer(
    serve: Serve, sources: Sources, monkeypatch: pytest.MonkeyPatch, refused: str, kind: str
) -> None:
    """With a disk that takes nothing, answers are made for each client, and nothing is kept."""
    with Session(hg(V2), sources.path(kind)) as session:
        node = bytes.fromhex(session("log", "-r", "tip", "-T", "{node}").decode())
    asked = request(
        "filesdata", revisions=[dag([], [node])], fields=frozenset({b"revision", b"parents"})
    )
    served = await serve_hg(serve, sources.root)
    expected = (await call(served, kind, "heads")).objects
    match refused:
        case "content":
            monkeypatch.setattr("cache.sink.write_all", full)
        case "head":
            monkeypatch.setattr("cache.sink.append_frame", full)
        case "file":
            monkeypatch.setattr("cache.layout.Layout.create", unavailable)
        case "rename":
            monkeypatch.setattr("cache.layout.Layout.move", unavailable)
    told = []
    for encoding in Encoding:
        client = ClientReactor((encoding, Encoding.IDENTITY), extra_frames=False)
        found = await exchange(served, kind, asked, request("heads"), client=client)
        told.append(found.answers[0])
        assert found.answers[1].objects == expected
    assert not kept(served)
    monkeypatch.undo()
    right = (await exchange(served, kind, asked)).answers[0].data
    assert [each.data for each in told] == [right] * 3


async def test_a_disk_that_fills_up_while_an_entity_is_compressed(
    serve: Serve, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is recorded and cannot be compressed into the cache is compressed for its client."""
    with Session(hg(V2), sources.path("large")) as session:
        node = bytes.fromhex(session("log", "-r", "tip", "-T", "{node}").decode())
    asked = request("filesdata", revisions=[explicit(node)], fields=frozenset({b"revision"}))
    served = await serve_hg(serve, sources.root, redirect=INLINE)
    right = (await exchange(served, "large", asked)).answers[0].data
    monkeypatch.setattr("cache.sink.write_all", full)
    client = ClientReactor((Encoding.ZSTD,), extra_frames=False)
    assert (await exchange(served, "large", asked, client=client)).answers[0].data == right


async def test_a_data_directory_that_cannot_be_written(
    serve: Serve, sources: Sources, client: Client, tmp_path: Path
) -> None:
    """Clones are answered without the cache, and that is what the figures say."""
    sources.path("linear")
    served = await serve_hg(serve, sources.root)
    incoming = served.settings.data / "incoming"
    shutil.rmtree(incoming)
    incoming.write_text("in the way")
    for encoding in ("identity", "zstd-8mb"):
        options = client_encodings(encoding)
        cloned = await clone(served, client, "linear", tmp_path / encoding, *options)
        assert cloned == sources.expected("linear")
    assert served.outcomes("filesdata") == {"passthrough": 2}
