# Law of this file: what is remembered of an upstream is bounded, is of the credential that it was
# said to, and ends with what ended it there: a push, a move, a refusal.

from __future__ import annotations

import pytest

from server.upstreams import answers as answers_module
from server.upstreams import views as views_module
from server.upstreams.asking import Down, Refused, SpeaksV0
from tests.upstreams.told import ANN, BOB, V2, A, B, Told, listed, main, told_by_script


@pytest.fixture
def told() -> Told:
    """An upstream that says yes to ann and bob."""
    return told_by_script()


# --- objects that no ref names -------------------------------------------------------------------


async def test_what_may_be_had_is_remembered_for_its_credential(told: Told) -> None:
    """One probe for all unknown objects, again after `auth_ttl`; a no is not remembered."""
    remote = told.remote(auth_ttl=60)
    ann, bob = [await told.views.now(remote, who) for who in (ANN, BOB)]
    told.script.has = {B}
    assert await told.views.may_have(remote, ANN, ann, [B]) is None
    assert await told.views.may_have(remote, ANN, ann, [B]) is None
    assert told.script.count("may_have") == 1
    assert await told.views.may_have(remote, BOB, bob, [B]) is None
    assert told.script.count("may_have") == 2
    for _ in range(2):
        words = await told.views.may_have(remote, ANN, ann, [A, B])
        assert words == f"not our ref {A}"
    assert told.script.count("may_have") == 4
    told.script.has = set()
    told.clock.now += 61
    assert await told.views.may_have(remote, ANN, ann, [B]) == f"not our ref {B}"


async def test_a_refusal_ends_what_might_be_had(told: Told) -> None:
    """After a no to the credential, each object is asked about anew."""
    remote = told.remote(auth_ttl=60)
    ann = await told.views.now(remote, ANN)
    told.script.has = {B}
    assert await told.views.may_have(remote, ANN, ann, [B]) is None
    yes = told.script.says.pop(ANN)
    with pytest.raises(Refused):
        await told.views.now(remote, ANN)
    with pytest.raises(Refused):
        await told.views.may_have(remote, ANN, ann, [B])
    told.script.says[ANN] = yes
    told.script.has = set()
    assert await told.views.may_have(remote, ANN, ann, [B]) == f"not our ref {B}"


async def test_protocol_v0_gives_nothing_that_no_ref_names(told: Told) -> None:
    """Such an upstream cannot be asked; its own words are said for it."""
    told.script.spoken = SpeaksV0("https://forge.example.org/acme/widget.git", "sha1")
    remote = told.remote()
    view = await told.views.now(remote, ANN)
    assert main(view) == A
    words = await told.views.may_have(remote, ANN, view, [B])
    assert words == f"upload-pack: not our ref {B}"
    assert told.script.count("may_have") == 0


# --- force push, redirects, memory ---------------------------------------------------------------


async def test_after_a_force_push_the_old_tip_is_no_tip(told: Told) -> None:
    """The view that comes after it does not have it; the one before is not changed."""
    remote = told.remote()
    before = await told.views.now(remote, ANN)
    told.script.says[ANN] = listed(B)
    after = await told.views.now(remote, ANN)
    assert (before.refs.tips, after.refs.tips) == (frozenset({A}), frozenset({B}))
    assert (await told.views.recent(remote, ANN)).refs.tips == {B}


async def test_where_it_moved_is_known_until_it_is_down(told: Told) -> None:
    """Discovery is asked once, whoever asks; after a silence it may speak another way."""
    remote = told.remote()
    assert told.views.base(remote) == remote.url
    for who in (ANN, BOB, ANN):
        await told.views.now(remote, who)
    assert told.script.count("discover") == 1
    assert told.views.base(remote) == V2.base
    told.script.says[ANN] = Down("is down")
    with pytest.raises(Down):
        await told.views.now(remote, ANN)
    assert told.views.base(remote) == remote.url
    assert main(await told.views.now(remote, BOB)) == A
    assert told.script.count("discover") == 2


async def test_memory_is_bounded(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who makes up credentials, repositories or objects pushes out the longest unused, no more."""
    monkeypatch.setattr(answers_module, "_REMEMBERED", 5)
    for name in ("_OBJECTS", "_SPOKEN"):
        monkeypatch.setattr(views_module, name, 5)
    monkeypatch.setattr(views_module, "_LISTS", 1)
    remote = told.remote()
    for number in range(12):
        ann = await told.views.recent(remote, ANN)
        with pytest.raises(Refused):
            await told.views.now(remote, f"Bearer made-up-{number}")
    assert len(told.views._known) == 5
    assert [who for _, who in told.script.questions].count(ANN) == 2  # discovery, refs: in use
    for number in range(12):
        await told.views.now(told.remote(f"acme/r{number}"), ANN)
    views = told.views
    assert (len(views._known), len(views._spoken), len(views._lists)) == (5, 5, 1)
    told.script.has = {f"{number:040}" for number in range(12)}
    for oid in sorted(told.script.has):
        assert await told.views.may_have(remote, ANN, ann, [oid]) is None
    assert len(views._objects[views._of(remote, ANN)].may_have) <= 5


async def test_no_credential_is_kept(told: Told) -> None:
    """What is remembered is remembered under a keyed hash."""
    await told.views.now(told.remote(), ANN)
    assert ANN not in repr(told.views._known)
    assert ANN.partition(" ")[2] not in repr(told.views._known)
