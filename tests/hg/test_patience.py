# Law of this file: what one client asks keeps nobody else waiting for long, and a client that goes
# away takes its questions with it.

from __future__ import annotations

import asyncio
import itertools
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from server.hg import interest, questions, responding
from tests.conftest import Serve
from tests.hg.asking import dag, exchange, handshake, objects, request, serve_hg
from tests.hg.cloning import Client, clone
from tests.hg.conftest import Sources
from tests.hg.session import Session
from tests.hg.versions import V1, hg
from wire.hg.messages import Failed, Ok

MANY = 100


async def test_names_are_looked_up_so_many_at_a_time(serve: Serve, sources: Sources) -> None:
    """A name may be a process: an exchange has so many of them, and as many nodes as it likes."""
    sources.path("linear")
    served = await serve_hg(serve, sources.root)
    node = (await objects(served, "linear", "lookup", key=b"tip"))[0]
    assert isinstance(node, bytes)
    nodes = [request("lookup", key=node.hex().encode())] * MANY
    names = [request("lookup", key=b"tip")] * MANY
    found = await exchange(served, "linear", *nodes, *names)
    statuses = [told.status for told in found.answers]
    assert statuses[: MANY + 64] == [Ok()] * (MANY + 64)
    assert all(isinstance(status, Failed) for status in statuses[MANY + 64 :])
    assert "more than 64 names" in found.answers[-1].failure


async def test_what_nobody_waits_for_is_not_begun(
    serve: Serve, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that wait for a thread are forgotten with the client that wanted them."""
    sources.path("linear")
    served = await serve_hg(serve, sources.root, limits={"programs": 1})
    (heads,) = await objects(served, "linear", "heads")
    assert isinstance(heads, list)
    runs: list[bytes] = []
    has_begun, may_end = threading.Event(), threading.Event()
    changesetdata = questions._BULK[b"changesetdata"]

    def counted(*args: object) -> None:
        runs.append(b"")
        has_begun.set()
        may_end.wait()
        changesetdata(*args)  # type: ignore[arg-type]

    monkeypatch.setitem(questions._BULK, b"changesetdata", counted)  # type: ignore[arg-type]

    def ask(field: bytes) -> asyncio.Task[object]:
        asked = request("changesetdata", revisions=[dag([], heads)], fields=frozenset({field}))
        return asyncio.ensure_future(exchange(served, "linear", asked))

    first, gone = ask(b"parents"), ask(b"revision")
    await asyncio.to_thread(has_begun.wait)
    while len(interests()) < 2:  # noqa: ASYNC110 - the server tells nobody
        await asyncio.sleep(0)
    gone.cancel()
    while len(interests()) > 1:  # noqa: ASYNC110 - the server tells nobody
        await asyncio.sleep(0.01)
    may_end.set()
    await first
    await ask(b"phase")
    assert len(runs) == 2


def interests() -> set[object]:
    """What is waited for."""
    return {key for found in _made for key in found._waiting}


_made: list[interest.Interest] = []


@pytest.fixture(autouse=True)
def _collected(monkeypatch: pytest.MonkeyPatch) -> None:
    _made.clear()
    plain = interest.Interest.__init__

    def made(self: interest.Interest, *args: object, **kwargs: object) -> None:
        plain(self, *args, **kwargs)  # type: ignore[arg-type]
        _made.append(self)

    monkeypatch.setattr(interest.Interest, "__init__", made)


async def test_a_run_takes_no_longer_than_it_may(
    serve: Serve, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that takes longer than limits.program_time is given up, and not recorded."""
    sources.path("linear")
    served = await serve_hg(serve, sources.root)
    (heads,) = await objects(served, "linear", "heads")
    assert isinstance(heads, list)
    hours = itertools.count(0.0, 7200.0)
    clock = SimpleNamespace(monotonic=lambda: next(hours))
    monkeypatch.setattr(responding, "time", clock)
    asked = request("changesetdata", revisions=[dag([], heads)])
    (told,) = (await exchange(served, "linear", asked)).answers
    assert "could not answer" in told.failure
    monkeypatch.undo()
    (told,) = (await exchange(served, "linear", asked)).answers
    assert told.objects


async def test_streams_can_be_switched_off(serve: Serve, sources: Sources) -> None:
    """With hg.stream_clones = false nobody is told of the store's files, nor given them."""
    sources.path("linear")
    served = await serve_hg(serve, sources.root, hg={"stream_clones": False})
    descriptor = await handshake(served, "linear")
    assert isinstance(descriptor, dict)
    commands = descriptor[b"commands"]
    assert isinstance(commands, dict)
    assert b"rawstorefiledata" not in commands
    asked = request("rawstorefiledata", files=[b"changelog"])
    (told,) = (await exchange(served, "linear", asked)).answers
    assert "not offered" in told.failure


async def test_stores_that_clients_may_not_read_are_not_streamed(
    serve: Serve, sources: Sources, client: Client, tmp_path: Path
) -> None:
    """What a newer Mercurial writes into its store, and 5.9.3 cannot read, is not copied."""
    newer = hg(V1[-1])
    root = tmp_path / "root"
    root.mkdir()
    with Session(newer, root, "format.use-delta-info-flags=true") as session:
        session("clone", "--quiet", "--pull", sources.path("linear"), root / "repo")
    served = await serve_hg(serve, root)
    descriptor = await handshake(served, "repo")
    assert isinstance(descriptor, dict)
    commands = descriptor[b"commands"]
    assert isinstance(commands, dict)
    assert b"rawstorefiledata" not in commands
    cloned = await clone(served, client, "repo", tmp_path / "cloned", "--stream")
    assert cloned.heads == sources.expected("linear").heads
