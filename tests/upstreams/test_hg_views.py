# Law of this file: what an upstream of Mercurial says is asked once for all who ask at the same
# time, is remembered no longer than it may be, and is read as what it is.

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.access.credentials import Fingerprints
from server.settings_upstreams import UpstreamSettings
from server.upstreams.asking import Down, Refused
from server.upstreams.hg_asking import HgState
from server.upstreams.hg_views import HgView, HgViews
from server.upstreams.routes import Remote, Routes
from tests.upstreams.told import ANN, BOB, Clock
from wire.hg.v1.capabilities import Capabilities
from wire.hg.v1.requests import BatchCall, join_batch

A: Final = "a" * 40
B: Final = "b" * 40
WORDS: Final = Capabilities(("batch", "getbundle"))


def said(*heads: str, bookmarks: bytes = b"", phases: bytes = b"publishing\tTrue") -> bytes:
    """The answer to the batch."""
    branches = f"default {' '.join(heads)}".encode()
    return join_batch([f"{' '.join(heads)}\n".encode(), branches, bookmarks, b"phases\t", phases])


@dataclass
class Script:
    """In the place of HgAsking: says what the test put there, when the test lets it."""

    clock: Clock
    says: dict[str | None, bytes | Refused | Down | Exception] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def capabilities(self, remote: Remote, authorization: str | None) -> Capabilities:
        """Ask what it can do."""
        self.asked.append("capabilities")
        return WORDS

    async def state(self, remote: Remote, authorization: str | None) -> HgState:
        """Ask for the state; what is said was decided when the question came."""
        self.asked.append("state")
        answer = self.says.get(authorization, Refused(401, ("Basic realm=x",), "who?"))
        await self.gate.wait()
        if isinstance(answer, bytes):
            return HgState.read(answer)
        raise answer


@dataclass
class Told:
    """Views over a script."""

    script: Script
    clock: Clock
    views: HgViews

    def remote(self, **settings: object) -> Remote:
        """A repository of an upstream with these settings."""
        values = {"prefix": "/up/", "url": "https://hg.example.org", "vcs": "hg", **settings}
        remote = Routes((UpstreamSettings.model_validate(values),)).hg("/up/widget")
        assert remote is not None
        return remote


@pytest.fixture
async def told() -> Told:
    """An upstream that says yes to ann and bob, at once."""
    clock = Clock()
    script = Script(clock, says={ANN: said(A), BOB: said(A)})
    script.gate.set()
    return Told(script, clock, HgViews(script, Fingerprints.random(), clock))  # type: ignore[arg-type]


async def test_waiting_callers_share_one_question(told: Told) -> None:
    """Who comes while a question is under way shares the next, and not this one."""
    remote = told.remote()
    told.script.gate.clear()
    first = asyncio.create_task(told.views.now(remote, ANN))
    await asyncio.sleep(0)
    late = [asyncio.create_task(told.views.now(remote, ANN)) for _ in range(5)]
    await asyncio.sleep(0)
    told.script.says[ANN] = said(B)
    told.script.gate.set()
    assert (await first).state.heads == (bytes.fromhex(A),)
    views = await asyncio.gather(*late)
    assert {view.state.heads for view in views} == {(bytes.fromhex(B),)}
    assert told.script.asked == ["capabilities", "state", "state"]


async def test_freshness(told: Told) -> None:
    """Within `freshness` nothing is asked; beyond it is, and capabilities at `auth_ttl`."""
    remote = told.remote(freshness="10s")
    await told.views.now(remote, ANN)
    told.clock.now += 10
    await told.views.now(remote, ANN)
    assert told.script.asked == ["capabilities", "state"]
    told.clock.now += 1
    await told.views.now(remote, ANN)
    assert told.script.asked == ["capabilities", "state", "state"]
    told.clock.now += 61
    await told.views.recent(remote, ANN)
    assert told.script.asked[3:] == ["capabilities", "state"]


async def test_each_credential_is_asked_for(told: Told) -> None:
    """Nobody is told what somebody else was told; equal states are one object."""
    remote = told.remote(freshness="10s")
    ann = await told.views.now(remote, ANN)
    bob = await told.views.now(remote, BOB)
    assert ann.state is bob.state
    assert told.script.asked.count("state") == 2
    with pytest.raises(Refused) as refused:
        await told.views.now(remote, None)
    assert (refused.value.status, refused.value.challenges) == (401, ("Basic realm=x",))


async def test_no_is_remembered_and_takes_a_yes_back(told: Told) -> None:
    """A no holds for `auth_ttl`, and no older yes is told after it."""
    remote = told.remote()
    await told.views.now(remote, ANN)
    told.script.says[ANN] = Refused(403)
    for _ in range(2):
        with pytest.raises(Refused):
            await told.views.now(remote, ANN)
    assert told.script.asked.count("state") == 2
    assert told.views.last(remote, ANN) is None
    told.clock.now += 61
    told.script.says[ANN] = said(A)
    assert await told.views.recent(remote, ANN)


async def test_down_rests_and_may_be_stale(told: Told) -> None:
    """Silence is not asked about again at once; what is public may be as old as `stale`."""
    remote = told.remote()
    told.script.says[ANN] = Down("the upstream sleeps")
    for _ in range(3):
        with pytest.raises(Down, match="sleeps"):
            await told.views.now(remote, ANN)
    assert told.script.asked.count("state") == 1
    told.clock.now += 3
    told.script.says[ANN] = said(A)
    public = told.remote(public=True, stale="1h")
    view = await told.views.now(public, ANN)
    told.script.says[ANN] = Down("the upstream sleeps")
    assert await told.views.now(public, ANN) is view
    told.clock.now += 3601
    with pytest.raises(Down):
        await told.views.now(public, ANN)


@pytest.mark.parametrize(("retry_after", "pause"), [(None, 2), (20.0, 20), (9e9, 300)])
async def test_who_says_for_how_long_is_left_alone(
    told: Told, retry_after: float | None, pause: float
) -> None:
    """An upstream that is down is asked again when it wants to be, within bounds."""
    remote = told.remote()
    told.script.says[ANN] = Down("the upstream sleeps", retry_after)
    for seconds, asked in ((0, 1), (pause - 0.5, 1), (1, 2)):
        told.clock.now += seconds
        with pytest.raises(Down) as down:
            await told.views.now(remote, ANN)
        assert (down.value.retry_after, told.script.asked.count("state")) == (retry_after, asked)


async def test_unexpected_error_is_down(told: Told) -> None:
    """What nobody expected is told as that the upstream cannot be asked."""
    told.script.says[ANN] = ValueError("surprise")
    with pytest.raises(Down, match="log says why"):
        await told.views.now(told.remote(), ANN)


async def test_forgotten_while_it_is_asked(told: Told) -> None:
    """Who waits while somebody pushes is told what was asked after the push."""
    remote = told.remote(freshness="60s")
    await told.views.now(remote, ANN)
    told.views.forget(remote)
    told.script.gate.clear()
    waiting = asyncio.create_task(told.views.now(remote, ANN))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    told.script.says[ANN] = said(B)
    told.views.forget(remote)
    told.script.gate.set()
    view = await waiting
    assert view.state.heads == (bytes.fromhex(B),)


def test_digest_is_of_what_is_said() -> None:
    """Another head, bookmark or phase is another state; another order is the same."""
    states = [said(A), said(A, B), said(A, bookmarks=b"x\t" + A.encode()), said(A, phases=b"")]
    assert len({HgState.read(each).digest for each in states}) == len(states)
    one = HgState.read(said(A, bookmarks=b"x\t1\ny\t2"))
    other = HgState.read(said(A, bookmarks=b"y\t2\nx\t1"))
    assert one.digest == other.digest


def test_answers_are_as_they_were_said() -> None:
    """Small commands are answered with the upstream's own bytes; what it was not asked, is not."""
    state = HgState.read(said(A, bookmarks=b"a;b,c=d:e\t1"))
    assert state.answer(BatchCall("heads", {})) == f"{A}\n".encode()
    assert state.answer(BatchCall("listkeys", {b"namespace": b"bookmarks"})) == b"a;b,c=d:e\t1"
    assert state.answer(BatchCall("listkeys", {b"namespace": b"obsolete"})) is None
    assert state.answer(BatchCall("lookup", {b"key": b"tip"})) is None
    assert state.answer(BatchCall("known", {b"nodes": f"{A} {A}".encode()})) == b"11"
    assert state.answer(BatchCall("known", {b"nodes": f"{A} {B}".encode()})) is None
    nothing = HgState.read(said("0" * 40))
    assert nothing.answer(BatchCall("known", {b"nodes": b"0" * 40})) is None


@pytest.mark.parametrize("answer", [b"", b";;;;", b"xyz;;;;", b"\n;;;", said(A)[:30]])
def test_broken_answers_are_down(answer: bytes) -> None:
    """What is no whole answer to the batch is never a yes."""
    with pytest.raises(Down):
        HgState.read(answer)


@given(st.binary(max_size=200))
def test_any_bytes(answer: bytes) -> None:
    """Any bytes are a state or Down, nothing else."""
    with suppress(Down):
        assert HgState.read(answer).heads


def test_view_is_a_value() -> None:
    """Two views of the same are equal."""
    state = HgState.read(said(A))
    assert HgView(state, WORDS, 1.0, 2.0) == HgView(state, WORDS, 1.0, 2.0)
