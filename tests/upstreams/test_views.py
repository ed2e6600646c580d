# Law of this file: what is remembered of an upstream's answers, for whom and for how long, is seen
# by which questions are put; the upstream and the clock are the test's.

from __future__ import annotations

import asyncio

import pytest

from server.upstreams.asking import Down, Refused
from server.upstreams.views import View
from tests.upstreams.told import ANN, BOB, A, B, Told, listed, main, told_by_script, waiting


@pytest.fixture
def told() -> Told:
    """An upstream that says yes to ann and bob."""
    return told_by_script()


# --- one question for many -----------------------------------------------------------------------


async def test_who_comes_while_a_question_runs_shares_the_next(told: Told) -> None:
    """One may have been answered before what a newcomer knows of; so all of them share one more."""
    remote = told.remote()
    told.script.gate.clear()
    first = asyncio.create_task(told.views.now(remote, ANN))
    await told.script.arrived.get()
    told.script.says[ANN] = listed(B)  # a push, after the first was answered
    later = [asyncio.create_task(told.views.now(remote, ANN)) for _ in range(20)]
    await waiting(first, *later)
    assert told.script.count() == 1
    told.script.gate.set()
    assert main(await first) == A
    assert {main(view) for view in await asyncio.gather(*later)} == {B}
    assert told.script.count() == 2


async def test_nobody_shares_the_question_of_another_credential(told: Told) -> None:
    """The same repository, asked about by three at once, is three questions."""
    remote = told.remote()
    tasks = [asyncio.create_task(told.views.now(remote, who)) for who in (ANN, BOB, None)]
    ann, bob, nobody = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(ann, View)
    assert isinstance(bob, View)
    assert isinstance(nobody, Refused)
    assert {who for _, who in told.script.questions} == {ANN, BOB, None}


async def test_who_leaves_takes_no_answer_from_others(told: Told) -> None:
    """A client that goes away while it waits ends nobody else's waiting."""
    remote = told.remote()
    told.script.gate.clear()
    tasks = [asyncio.create_task(told.views.now(remote, ANN)) for _ in range(3)]
    await told.script.arrived.get()
    tasks[0].cancel()
    await waiting(*tasks[1:])
    told.script.gate.set()
    assert [main(view) for view in await asyncio.gather(*tasks[1:])] == [A, A]


async def test_equal_lists_are_kept_once(told: Told) -> None:
    """A hundred users who see the same refs share them in memory, and only while they are equal."""
    remote = told.remote()
    ann, bob = [await told.views.now(remote, who) for who in (ANN, BOB)]
    assert ann.refs is bob.refs
    told.script.says[BOB] = listed(B)
    assert main(await told.views.now(remote, BOB)) == B
    assert main(ann) == A


# --- how long ------------------------------------------------------------------------------------


async def test_a_yes_is_remembered_for_auth_ttl(told: Told) -> None:
    """`recent` asks again after that and not before; `now` asks each time, or by its age."""
    remote = told.remote(auth_ttl=60)
    for seconds, asked in ((0, 1), (30, 1), (30, 1), (0.5, 2), (60, 2), (0.5, 3)):
        told.clock.now += seconds
        assert main(await told.views.recent(remote, ANN)) == A
        assert told.script.count() == asked
    await told.views.now(remote, ANN)
    assert told.script.count() == 4
    aged = told.remote(freshness=30)
    told.clock.now += 30
    await told.views.now(aged, ANN)
    assert told.script.count() == 4
    told.clock.now += 1
    await told.views.now(aged, ANN)
    assert told.script.count() == 5


async def test_the_age_of_an_answer_counts_from_its_question(told: Told) -> None:
    """An upstream that takes long does not lengthen a right that ended meanwhile."""
    remote = told.remote(auth_ttl=60)
    told.script.gate.clear()
    slow = asyncio.create_task(told.views.now(remote, ANN))
    await told.script.arrived.get()
    told.clock.now += 50
    told.script.gate.set()
    await slow
    told.clock.now += 11
    told.script.says.clear()
    with pytest.raises(Refused):
        await told.views.recent(remote, ANN)


async def test_a_no_ends_a_yes_at_once_and_is_remembered(told: Told) -> None:
    """After a refusal an older yes opens nothing; the upstream is asked again after `auth_ttl`."""
    remote = told.remote(auth_ttl=60)
    await told.views.now(remote, ANN)
    yes = told.script.says.pop(ANN)
    told.clock.now += 1
    for ask in (told.views.now, told.views.recent, told.views.now, told.views.fresh):
        with pytest.raises(Refused) as refused:
            await ask(remote, ANN)
        assert (refused.value.status, refused.value.challenges) == (401, ("Basic realm=x",))
    assert told.script.count() == 2
    told.script.says[ANN] = yes
    told.clock.now += 61
    assert main(await told.views.recent(remote, ANN)) == A
    assert main(await told.views.now(remote, BOB)) == A


@pytest.mark.parametrize(("retry_after", "pause"), [(None, 2), (0.0, 2), (20.0, 20), (9e9, 300)])
async def test_silence_is_not_asked_about_again_at_once(
    told: Told, retry_after: float | None, pause: float
) -> None:
    """Who is down is left alone for a while from when it failed, as long as it says, bounded."""
    remote = told.remote()
    told.script.says[ANN] = Down("is down", retry_after)
    for _ in range(5):
        with pytest.raises(Down, match="is down"):
            await told.views.now(remote, ANN)
    assert told.script.count("discover") == 1
    told.clock.now += pause - 0.5
    with pytest.raises(Down) as down:
        await told.views.recent(remote, ANN)
    assert down.value.retry_after == retry_after
    assert told.script.count("discover") == 1
    told.clock.now += 1
    told.script.says[ANN] = listed(B)
    assert main(await told.views.now(remote, ANN)) == B


async def test_a_long_silence_is_followed_by_the_pause_too(told: Told) -> None:
    """An upstream that let a question time out is left alone for as long as one that broke off."""
    remote = told.remote()
    told.script.says[ANN], told.script.takes = Down("did not answer in time"), 30
    for _ in range(3):
        with pytest.raises(Down, match="in time"):
            await told.views.now(remote, ANN)
    assert told.script.count("discover") == 1


async def test_stale_refs_are_told_while_a_public_upstream_is_down(told: Told) -> None:
    """For as long as the settings say, to whoever had a yes, and to nobody else; a no ends that."""
    remote = told.remote(public=True, stale=600)
    await told.views.now(remote, ANN)
    told.script.says[ANN] = told.script.says[BOB] = Down("is down")
    told.clock.now += 599
    assert main(await told.views.now(remote, ANN)) == A
    with pytest.raises(Down):
        await told.views.now(remote, BOB)
    told.clock.now += 2
    with pytest.raises(Down):
        await told.views.now(remote, ANN)
    told.clock.now += 3
    told.script.says.pop(ANN)
    with pytest.raises(Refused):
        await told.views.now(remote, ANN)
    told.script.says[ANN] = Down("is down")
    told.clock.now += 61
    with pytest.raises(Down):
        await told.views.now(remote, ANN)


async def test_what_nobody_expected_is_silence(
    told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug of ours is logged, told to who waits, and asked about again."""
    remote = told.remote()
    told.script.says[ANN] = ZeroDivisionError("oh")
    with pytest.raises(Down, match="the server's log says why"):
        await told.views.now(remote, ANN)
    assert "ZeroDivisionError" in caplog.text
    told.script.says[ANN] = listed(A)
    told.clock.now += 3
    assert main(await told.views.now(remote, ANN)) == A
