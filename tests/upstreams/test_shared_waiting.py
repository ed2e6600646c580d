# Law of this file: many wait for one question or one fetch, and whoever of them goes away, first or
# last, takes nothing from the others.

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from server.upstreams.mirrors import Mirrors
from server.upstreams.views import Views
from tests.conformance.clones import V2_HEADERS
from tests.conformance.processes import Offramp
from tests.conformance.repositories import Repository, dropped
from tests.conftest import Serve
from tests.server.asking import Reply, connected, head, read_reply
from tests.upstreams.faults import Holds, Kind, Proxy
from tests.upstreams.forge import Forge
from tests.upstreams.machine import Machine
from tests.upstreams.packed import fetch_v2
from tests.upstreams.private import LS_REFS, REPOSITORY
from tests.upstreams.scene import NAME, Arrivals, Scene, scene
from tests.upstreams.told import ANN, A, Told, told_by_script, waiting

WAITING: Final = 4
LEAVING: Final = pytest.mark.parametrize(
    "leaving", [(0,), (WAITING - 1,), (0, 1, 2)], ids=["first", "last", "all-but-one"]
)


@pytest.fixture
def told() -> Told:
    """An upstream that says yes to ann and bob when it is let."""
    told = told_by_script()
    told.script.gate.clear()
    return told


@pytest.fixture
def repository(forge: Forge) -> Repository:
    """A public repository."""
    return forge.make(NAME)


@pytest.fixture
async def at(serve: Serve, proxy: Proxy, repository: Repository, tmp_path: Path) -> Scene:
    """It, mirrored; an answer to a question holds for long enough to wait."""
    at = await scene(serve, proxy, repository, tmp_path)
    await at.mirrored()
    return at


# --- questions -----------------------------------------------------------------------------------


@LEAVING
async def test_who_leaves_does_not_end_a_question(told: Told, leaving: tuple[int, ...]) -> None:
    """Also who has put it: the others hear the answer, and it is not asked again."""
    remote = told.remote()
    tasks = [asyncio.create_task(told.views.fresh(remote, ANN)) for _ in range(WAITING)]
    await told.script.arrived.get()
    await waiting(*tasks)
    for number in leaving:
        tasks[number].cancel()
    told.script.gate.set()
    said = await asyncio.gather(*tasks, return_exceptions=True)
    for number, answer in enumerate(said):
        assert isinstance(answer, asyncio.CancelledError) == (number in leaving)
    # Who came while it ran may have needed a second one; nobody needed a third.
    assert told.script.count() <= 2


async def test_who_leaves_does_not_end_a_question_about_objects(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether objects may be had is one question too."""
    told.script.gate.set()
    view = await told.views.fresh(told.remote(), ANN)
    gate = asyncio.Event()
    original = told.script.may_have

    async def gated(*args: object) -> str | None:
        await gate.wait()
        return await original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(told.script, "may_have", gated)
    told.script.has.add(A)
    asked = [
        asyncio.create_task(told.views.may_have(told.remote(), ANN, view, [A, A]))
        for _ in range(WAITING)
    ]
    for _ in range(10):
        await asyncio.sleep(0)
    asked[0].cancel()
    gate.set()
    said = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(said[0], asyncio.CancelledError)
    assert said[1:] == [None] * (WAITING - 1)
    assert told.script.count("may_have") == 1


# --- clients over HTTP ---------------------------------------------------------------------------


async def _ask(at: Scene, body: bytes, leave: asyncio.Event, left: asyncio.Event) -> Reply | None:
    """Put a request; None if the client was told to leave before there was an answer."""
    lines = {**V2_HEADERS, "Content-Length": f"{len(body)}"}
    async with connected(at.served) as (reader, writer):
        writer.write(head("POST", f"{REPOSITORY}/git-upload-pack", lines) + body)
        answer = asyncio.create_task(read_reply(reader))
        gone = asyncio.create_task(leave.wait())
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            gone.cancel()
            return await answer
        answer.cancel()
        await asyncio.gather(answer, return_exceptions=True)
    left.set()
    return None


async def _answers(
    at: Scene, arrivals: Arrivals, held: Holds, body: bytes, leaving: tuple[int, ...]
) -> list[Reply]:
    """What those hear who stay, when the others have left while all of them waited."""
    leave = [asyncio.Event() for _ in range(WAITING)]
    left = [asyncio.Event() for _ in range(WAITING)]
    tasks = []
    for number in range(WAITING):
        each = _ask(at, body, leave[number], left[number])
        tasks.append(asyncio.create_task(each))
        await arrivals.reach(number + 1)
    await held.held()
    for number in leaving:
        leave[number].set()
        await left[number].wait()
    held.release()
    said = await asyncio.gather(*tasks)
    return [reply for reply in said if reply is not None]


@pytest.mark.nginx
@LEAVING
@pytest.mark.parametrize("held_back", ["fetch", "info-refs"])
async def test_who_leaves_does_not_end_an_update(
    *,
    at: Scene,
    monkeypatch: pytest.MonkeyPatch,
    leaving: tuple[int, ...],
    held_back: Kind,
) -> None:
    """Those who stay are answered from the mirror, after one fetch."""
    arrivals = Arrivals(monkeypatch, Mirrors, "ready")
    oid = at.repository.commit("refs/heads/main", 20)
    await at.upstreams.views.fresh(at.remote, None)
    at.proxy.forget()
    held = Holds(after=None)
    at.proxy.fault(held_back, held, times=1)
    replies = await _answers(at, arrivals, held, fetch_v2(f"want {oid}"), leaving)
    assert len(replies) == WAITING - len(leaving)
    assert all(b"PACK" in reply.body for reply in replies)
    assert len(at.proxy.seen("fetch")) == 1
    assert at.served.outcomes().get("passthrough", 0) == 0
    at.check_mirror()


@pytest.mark.nginx
@LEAVING
async def test_whose_patience_ends_does_not_end_an_update(
    at: Scene, monkeypatch: pytest.MonkeyPatch, leaving: tuple[int, ...]
) -> None:
    """Who is no longer waited for within the server, as by `max_wait`, is only one of many."""
    arrivals = Arrivals(monkeypatch, Mirrors, "ready")
    oid = at.repository.commit("refs/heads/main", 20)
    view = await at.upstreams.views.fresh(at.remote, None)
    held = Holds(after=None)
    at.proxy.fault("fetch", held, times=1)
    tasks = []
    for number in range(WAITING):
        ready = at.upstreams.mirrors.ready(at.remote, view, [oid], None)
        tasks.append(asyncio.create_task(ready))
        await arrivals.reach(number + 1)
    await held.held()
    for number in leaving:
        tasks[number].cancel()
    await asyncio.gather(*(tasks[number] for number in leaving), return_exceptions=True)
    held.release()
    for number in set(range(WAITING)) - {*leaving}:
        assert await tasks[number] is not None
    assert len(at.proxy.seen("fetch")) == 1
    at.check_mirror()


@pytest.mark.nginx
@LEAVING
async def test_who_leaves_does_not_end_a_question_of_clients(
    at: Scene, monkeypatch: pytest.MonkeyPatch, leaving: tuple[int, ...]
) -> None:
    """A list of refs for all who wait; one for the first, and one for who came while that ran."""
    arrivals = Arrivals(monkeypatch, Views, "now")
    oid = at.repository.commit("refs/heads/main", 20)
    held = Holds(after=None)
    at.proxy.fault("ls-refs", held, times=1)
    replies = await _answers(at, arrivals, held, LS_REFS, leaving)
    assert len(replies) == WAITING - len(leaving)
    assert all(oid.encode() in reply.body for reply in replies)
    assert 1 <= len(at.proxy.seen("ls-refs")) <= 2


@pytest.mark.nginx
async def test_who_leaves_does_not_end_a_question_about_an_object(
    at: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that no ref names: those who stay get it, for one question and one fetch."""
    arrivals = Arrivals(monkeypatch, Views, "may_have")
    held = Holds(after=None)
    at.proxy.fault("fetch", held, times=1)
    body = fetch_v2(f"want {dropped(at.repository)}")
    replies = await _answers(at, arrivals, held, body, (0,))
    assert len(replies) == WAITING - 1
    assert all(b"PACK" in reply.body for reply in replies)
    assert len(at.proxy.seen("fetch")) == 2


# --- two workers ---------------------------------------------------------------------------------


@pytest.fixture
async def machine(proxy: Proxy, forge: Forge, tmp_path: Path) -> AsyncIterator[Machine]:
    """Where real servers run; what still runs after the test is killed."""
    offramp = Offramp(tmp_path / "data")
    yield Machine(offramp, proxy, forge.make(NAME), tmp_path)
    await offramp.close()


@pytest.mark.nginx
async def test_a_process_that_ends_leaves_the_others_their_update(machine: Machine) -> None:
    """Of two processes whose clients wait for one fetch, the one that fetches is killed."""
    first = await machine.serve()
    await machine.mirrored(first)
    second = await machine.serve()
    machine.push()
    held = Holds(after=200)
    machine.proxy.fault("fetch", held, times=1)
    lost = asyncio.create_task(machine.clone(first, "lost"))
    await held.held()
    staying = asyncio.create_task(machine.right(second, "staying"))
    await first.kill()
    assert not (await lost).well
    held.release()
    assert (await staying).packs
    machine.check_mirror()
