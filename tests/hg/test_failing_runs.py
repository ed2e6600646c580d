# Law of this file: a run that fails is told in frames to who asked, so that no client waits for
# ever; it is not recorded, and costs nobody else anything.

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from server.accepting import listen
from server.app import make_runner
from server.hg import reply
from server.listening import address_of, bind
from server.logs import AccessLog
from server.metrics import Metrics
from server.runtime import Runtime
from server.serving import BACKLOG
from server.settings import load
from tests.conftest import Serve, Served
from tests.hg.asking import (
    SELF,
    call,
    exchange,
    explicit,
    frames,
    request,
    serve_hg,
    where,
)
from tests.hg.cloning import talk
from tests.hg.conftest import Sources
from tests.hg.controlled import body_of, controlled, everything, kept, post
from tests.hg.versions import V1, executable
from tests.server.asking import connected, occupied, read_reply
from wire.hg.client import ClientReactor
from wire.hg.encodings import Encoding
from wire.hg.frames import Frame, FrameType
from wire.hg.messages import Failed, parse_error

INLINE = {"enabled": False}


def error_of(frame: Frame) -> str:
    """What an error frame says."""
    assert frame.kind is FrameType.ERROR
    return parse_error(frame.payload).text


# --- runs that fail -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1000, 200_000])
@pytest.mark.parametrize("encoding", Encoding)
async def test_a_run_that_fails_in_mid_answer(  # noqa: PLR0917 - fixtures, by name
    serve: Serve,
    sources: Sources,
    tip: bytes,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    encoding: Encoding,
) -> None:
    """Its client is told in an error frame, others are answered, and nothing is kept of it."""
    served = await serve_hg(serve, sources.root, redirect=INLINE)
    run = controlled(monkeypatch, size, OSError("a secret path"))
    sending = reply.Reply._send_growing

    async def begun(*args: object) -> None:
        # From here on its status is said.
        run.may_end.set()
        await sending(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(reply.Reply, "_send_growing", begun)
    client = ClientReactor((encoding, Encoding.IDENTITY), extra_frames=False)
    found = await exchange(
        served,
        "linear",
        request("changesetdata", **everything(tip)),
        request("heads"),
        client=client,
    )
    broken, heads = found.answers
    assert broken.error is not None
    assert "could not finish" in broken.error.text
    assert "secret" not in broken.error.text
    assert heads.objects == [[tip]]
    assert not kept(served)
    monkeypatch.undo()
    assert (await call(served, "linear", "changesetdata", **everything(tip))).objects


@pytest.mark.parametrize("offer", [None, SELF], ids=["inline", "redirected"])
async def test_a_run_that_fails_before_its_answer(
    serve: Serve, sources: Sources, tip: bytes, monkeypatch: pytest.MonkeyPatch, offer: object
) -> None:
    """What fails before anything was said is the command's status; nothing is kept."""
    served = await serve_hg(serve, sources.root)
    run = controlled(monkeypatch, 0, OSError("a secret path"))
    run.may_end.set()
    told = await call(served, "linear", "changesetdata", offer, **everything(tip))  # type: ignore[arg-type]
    assert "its log says why" in told.failure
    assert "secret" not in told.failure
    assert not kept(served)


async def test_a_run_beyond_the_queue(serve: Serve, sources: Sources, tip: bytes) -> None:
    """The command's status says that the server is busy; what is at hand is answered meanwhile."""
    limits = {"programs": 1, "queue": 0}
    served = await serve_hg(serve, sources.root, redirect=INLINE, limits=limits)
    async with occupied(served):
        told = await call(served, "linear", "changesetdata", **everything(tip))
        assert told.failure == "the server is too busy; try again in 10 s"
        assert (await call(served, "linear", "heads")).objects == [[tip]]
    known = await call(served, "linear", "changesetdata", **everything(tip))
    async with occupied(served):
        again = await call(served, "linear", "changesetdata", **everything(tip))
    assert again.objects == known.objects


@pytest.mark.parametrize("redirect", [True, False], ids=["redirected", "inline"])
async def test_a_stock_client_is_not_left_waiting(
    serve: Serve,
    sources: Sources,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    redirect: bool,
) -> None:
    """Hg aborts when an answer breaks off, rolls back, and clones well the next time."""
    sources.path("linear")
    served = await serve_hg(serve, sources.root, redirect={"min_size": 0, "enabled": redirect})
    run = controlled(monkeypatch, 300_000, OSError("broken"))
    run.may_end.set()
    done = await talk(tmp_path, "clone", f"{served.url}/linear", "clone")
    assert done.returncode == 255
    assert b"log says why" in done.stderr
    assert b"Traceback" not in done.stderr
    assert not (tmp_path / "clone").exists()
    monkeypatch.undo()
    assert (await talk(tmp_path, "clone", f"{served.url}/linear", "clone")).returncode == 0


async def test_hg_that_is_not_there(serve: Serve, sources: Sources, tmp_path: Path) -> None:
    """Without hg on the server, the handshake of a client says that it failed, and no more."""
    sources.path("linear")
    served = await serve(sources.root, hg={"program": str(tmp_path / "no-hg")})
    done = await talk(tmp_path, "clone", f"{served.url}/linear", "clone")
    assert done.returncode == 255
    assert done.stderr.startswith(b"abort: remote error:\nhg failed on the server")
    assert str(tmp_path).encode() not in done.stderr
    told = await call(served, "linear", "heads")
    assert "its log says why" in told.failure


async def test_a_repository_that_version_2_cannot_say(
    serve: Serve, sources: Sources, tmp_path: Path
) -> None:
    """What version 2 cannot say is not served by it, and the reason is told without paths."""
    source = sources.copy("linear", tmp_path / "root")
    with (source / ".hg" / "requires").open("a") as requires:
        requires.write("treemanifest\n")
    served = await serve_hg(serve, tmp_path / "root")
    told = await call(served, "repo", "heads")
    assert "manifest is split by directories" in told.failure
    assert str(tmp_path) not in told.failure


async def test_a_status_is_never_recorded(serve: Serve, sources: Sources, tip: bytes) -> None:
    """Errors of commands leave nothing in the cache."""
    served = await serve_hg(serve, sources.root)
    for offer in (None, SELF):
        told = await call(served, "linear", "changesetdata", offer, revisions=[explicit(b"1" * 20)])
        assert isinstance(told.status, Failed)
    assert not kept(served)


# --- the server's end ---------------------------------------------------------------------------


@asynccontextmanager
async def stoppable(root: Path, data: Path) -> AsyncIterator[tuple[Served, web.AppRunner]]:
    """A server that the test stops: it gives answers a moment to end, and then another one."""
    bound = bind("127.0.0.1:0", shared=False)
    settings = load(
        None,
        root=root,
        listen=address_of(bound),
        data=data,
        redirect=INLINE,
        hg={"program": str(executable(V1[-1]))},
    )
    with open(os.devnull, "w") as nowhere:  # noqa: ASYNC230, PTH123
        runtime = await Runtime.open(
            settings, AccessLog(settings.log, nowhere), Metrics(), index=False
        )
        runner = make_runner(runtime, stop_seconds=0.5)
        await runner.setup()
        await listen(runner, bound, settings.limits.request_time, BACKLOG)
        yield Served(f"http://{settings.listen}", settings, runtime), runner
        await runner.cleanup()
        await runtime.close()


async def test_a_server_that_stops_in_mid_answer(
    sources: Sources, tmp_path: Path, tip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that cannot be finished end in an error frame: stock clients would wait for ever."""
    monkeypatch.setattr(reply, "PULSE_SECONDS", 0.01)
    run = controlled(monkeypatch, 200_000)
    body = body_of(request("changesetdata", **everything(tip)))
    async with stoppable(sources.root, tmp_path / "data") as (served, runner):
        async with connected(served) as (reader, writer):
            writer.write(post(where("linear", "changesetdata"), body))
            begun = await reader.readexactly(50_000)
            stopping = asyncio.create_task(runner.cleanup())
            whole = asyncio.StreamReader()
            whole.feed_data(begun + await reader.read(-1))
            whole.feed_eof()
            answer = await read_reply(whole)
            await stopping
        run.may_end.set()
    last = frames(answer.body)[-1]
    assert last.request_id == 1
    assert "could not finish" in error_of(last)


@pytest.mark.parametrize("size", [0, 200_000])
async def test_a_stock_client_of_a_server_that_stops(
    sources: Sources, tmp_path: Path, tip: bytes, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """The client aborts, whether its answer had begun or not, and does not wait."""
    monkeypatch.setattr(reply, "PULSE_SECONDS", 0.01)
    run = controlled(monkeypatch, size)
    async with stoppable(sources.root, tmp_path / "data") as (served, runner):
        cloning = asyncio.create_task(talk(tmp_path, "clone", f"{served.url}/linear", "clone"))
        await asyncio.to_thread(run.has_begun.wait)
        await runner.cleanup()
        done = await cloning
        run.may_end.set()
    assert done.returncode == 255
    assert b"Traceback" not in done.stderr
    assert (b"log says why" if size else b"HTTP Error 500") in done.stderr
