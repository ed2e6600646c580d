# Law of this file: phases are told as their definition has it, of any graph; what we do not know to
# the byte is left to hg; and what was encoded once is not encoded again.

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repos.hg import side_bundle as module
from repos.hg import v1_answers
from repos.hg.nodes import Dag
from repos.hg.side_bundle import SideRequest, phase_heads, side_bundle
from repos.hg.v1_answers import Remembered
from tests.hg.session import Session
from tests.hg.versions import hg
from tests.repos.hg_kinds import Kinds

ASKED = SideRequest(True, True, (), None, None, {"bookmarks": (), "phases": ("heads",)})


@st.composite
def phased(draw: st.DrawFn) -> tuple[Dag, set[int], list[int]]:
    """A graph, its drafts (with all their descendants), and some heads."""
    size = draw(st.integers(1, 14))
    graph = [
        (draw(st.integers(-1, rev - 1)), draw(st.one_of(st.just(-1), st.integers(-1, rev - 1))))
        for rev in range(size)
    ]
    dag = Dag.empty().grown((bytes((rev + 1,)) * 20, *pair) for rev, pair in enumerate(graph))
    numbers = st.integers(0, size - 1)
    drafts = {rev for rev, flag in enumerate(dag.descendants(draw(st.sets(numbers)))) if flag}
    return dag, drafts, draw(st.lists(st.integers(-1, size - 1), max_size=5))


def ancestors(dag: Dag, heads: set[int]) -> set[int]:
    """Those of some, and themselves."""
    return {rev for rev, flag in enumerate(dag.ancestors(heads - {-1})) if flag}


@given(phased())
def test_phase_heads(given_: tuple[Dag, set[int], list[int]]) -> None:
    """Beside public heads, the heads of what drafts have of public and these have not are told."""
    dag, drafts, heads = given_
    draft = set(heads) & drafts
    public = set(heads) - draft
    only = ancestors(dag, draft) - ancestors(dag, public) - drafts
    parents = {parent for rev in only for parent in (dag.p1[rev], dag.p2[rev])}
    assert phase_heads(dag, lambda rev: rev not in drafts, heads) == (
        public | (only - parents),
        draft,
    )


@pytest.mark.parametrize(
    "asked",
    [
        replace(ASKED, obsmarkers=True),
        replace(ASKED, listkeys=(b"phases", b"obsolete")),
        replace(ASKED, listkeys=(b"namespaces",)),
        replace(ASKED, listkeys=(b"nothing",)),
        replace(ASKED, capabilities={"bookmarks": ()}),
        replace(ASKED, capabilities={"bookmarks": (), "phases": ("roots",)}),
        replace(ASKED, capabilities={"phases": ("heads",)}),
        replace(ASKED, heads=(b"\1" * 20,)),
        replace(ASKED, heads=(b"short",)),
    ],
)
async def test_what_hg_must_say(kinds: Kinds, asked: SideRequest) -> None:
    """Markers, strange namespaces, strange heads and clients that lack a part are not ours."""
    snapshot = await kinds("phases").snapshot()
    assert side_bundle(snapshot, ASKED) is not None
    assert side_bundle(snapshot, asked) is None


async def test_secret_and_hidden_heads(kinds: Kinds) -> None:
    """Nobody learns whether a changeset that is not served is there."""
    for kind, revset in (("phases", "secret()"), ("obsolete", "obsolete()")):
        repository = kinds(kind)
        snapshot = await repository.snapshot()
        with Session(hg(), repository.path.parent) as session:
            said = session("--hidden", "log", "--rev", revset, "--template", "{node}\n")
        nodes = [bytes.fromhex(line.decode()) for line in said.split()]
        assert nodes
        for node in nodes:
            assert side_bundle(snapshot, replace(ASKED, heads=(node,))) is None
            assert node not in (side_bundle(snapshot, ASKED) or b"")


async def test_encoded_once(kinds: Kinds, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same question about the same snapshot is encoded once; another one is not confused."""
    snapshot = await kinds("branches").snapshot()
    for each in (module, v1_answers):
        monkeypatch.setattr(each, "REMEMBERED", remembered := Remembered())
    heads, bundle = v1_answers.heads(snapshot), side_bundle(snapshot, ASKED)
    assert side_bundle(snapshot, replace(ASKED, bookmarks=False)) != bundle
    assert side_bundle(snapshot, replace(ASKED, heads=snapshot.heads[:1])) != bundle
    for name in ("encode_heads", "encode_listkeys", "encode_branchmap"):
        monkeypatch.setattr(v1_answers, name, lambda *_: b"again")
    monkeypatch.setattr(module, "_encode", lambda *_: b"again")
    assert v1_answers.heads(snapshot) == heads
    assert side_bundle(snapshot, ASKED) == bundle
    moved = replace(snapshot, digest="another")
    assert v1_answers.heads(moved) == side_bundle(moved, ASKED) == b"again"
    assert remembered.answer(snapshot, "other", lambda: b"other") == b"other"


async def test_answers_make_room(kinds: Kinds) -> None:
    """What is kept is bounded: the answers not asked for longest go, a huge one at once."""
    snapshot = await kinds("empty").snapshot()
    made: list[int] = []

    def answer(question: int, size: int = 1000) -> bytes:
        def make() -> bytes:
            made.append(question)
            return bytes(size)

        return remembered.answer(snapshot, question, make)

    remembered = Remembered(limit=4500)
    for question in (1, 2, 3, 1, 4, 1, 3):
        answer(question)
    assert made == [1, 2, 3, 4]
    answer(2)
    assert made == [1, 2, 3, 4, 2]
    assert len(answer(5, 9000)) == len(answer(5, 9000)) == 9000
    answer(2)
    assert made[5:] == [5, 5]
