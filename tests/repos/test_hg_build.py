# Law of this file: what a bundle carries comes out of the index as it went in, and nothing gets in
# that is not what its node says. No hg is needed for it.

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from repos.hg import build as module
from repos.hg import database
from repos.hg.build import Builder, Misfit
from repos.hg.chains import Chains
from repos.hg.database import IndexBroken
from repos.hg.generation import Generation, built, current, locked, open_current
from repos.hg.index import HgIndex
from repos.hg.nodes import Dag
from tests.repos.hg_bundles import History, Made, changegroup, revision
from wire.hg.bundle2 import BundleReader, PartData
from wire.hg.changegroup import ChangegroupReader
from wire.hg.delta import whole
from wire.hg.texts import NULL, node_of


def put(db: sqlite3.Connection, pieces: Iterable[bytes], dag: Dag | None = None) -> Builder:
    """Put a changegroup into an index."""
    builder = Builder(db, Dag.empty() if dag is None else dag, growing=dag is not None)
    reader = ChangegroupReader()
    for piece in pieces:
        for event in reader.feed(piece):
            builder.take(event)
    reader.end()
    builder.finish()
    return builder


def history(history: History) -> Iterator[bytes]:
    """Its changegroup, taken out of the bundle."""
    reader = BundleReader()
    for piece in history.pieces():
        yield from (each.data for each in reader.feed(piece) if isinstance(each, PartData))


Index = Callable[[Iterable[bytes]], HgIndex]


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    """Makes an index of a changegroup, which serves all of it."""
    opened: list[Generation] = []

    def make(pieces: Iterable[bytes]) -> HgIndex:
        with locked(tmp_path), built(tmp_path) as path:
            db = database.open_new(path)
            dag = put(db, pieces).dag
            database.write_meta(db, "format", database.FORMAT)
            database.seal(db, path)
        generation = open_current(tmp_path)
        assert generation is not None
        opened.append(generation)
        return HgIndex.of(generation, dag, range(len(dag)))

    yield make
    for generation in opened:
        generation.close()


def test_a_long_history(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every text of a long chain comes out whole, with and without what others have made."""
    made = index(history(History(700, files=3, edits=1)))
    with made.generation.reading() as db:
        rows = db.execute("SELECT id, chain, weight, base FROM revision").fetchall()
        snapshots = db.execute("SELECT count(*) FROM snapshot").fetchone()[0]
        assert max(chain for _, chain, _, _ in rows) < module.CHAIN_LENGTH
        assert snapshots >= 700 // module.CHAIN_LENGTH
        chains = Chains(db)
        for number, *_ in rows[::37]:
            assert chains.text(number) == Chains(db).text(number)
    files = made.files(made.revs, lambda _: True, haveparents=True)
    assert (files.paths, files.items) == (3, 3 + 699)
    wanted = [each.path for each in files.selections()]
    assert wanted == sorted(wanted)


def test_heavy_chains(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deltas that outweigh their text are followed by a snapshot, however few they are."""
    monkeypatch.setattr(module, "CHAIN_FREE_BYTES", 0)
    made = index(history(History(60, files=2, edits=1)))
    with made.generation.reading() as db:
        query = "SELECT max(weight), max(chain) FROM revision"
        weight, chain = db.execute(query).fetchone()
        assert 0 < chain < 60
        assert weight < 10_000
        assert db.execute("SELECT count(*) FROM snapshot").fetchone()[0] > 0


def test_revisions_alone(index: Index) -> None:
    """A revision whose base is not sent is sent as a text, or by a delta to a parent."""
    made = index(history(History(30, files=40, edits=2)))
    with made.generation.reading() as db:
        nodes = [node for (node,) in db.execute("SELECT node FROM revision WHERE id < 1 << 32")]
    (alone,) = made.manifests(nodes[20:21]).revisions()
    assert alone.base is None
    assert alone.data is not None
    assert node_of(alone.data, alone.p1, alone.p2) == nodes[20]
    (delta,) = made.manifests(nodes[20:21], haveparents=True).revisions()
    assert delta.base == nodes[19]
    bare = list(made.manifests(nodes, with_data=False).revisions())
    assert [each.node for each in bare] == nodes
    assert {(each.base, each.data) for each in bare} == {(None, None)}
    # A base that is neither sent nor a parent is of no use: what differs from the parent is sent.
    assert made.generation.path.exists()


def test_another_base_than_the_parent(index: Index) -> None:
    """A delta against something else is made anew against the parent where that saves much."""
    lines = [b"file%03d\0%b\n" % (number, b"1" * 40) for number in range(100)]
    texts = [b"".join(lines)]
    for number in (10, 20, 30):
        lines[number] = b"file%03d\0%b\n" % (number, b"%d" % (number // 10 + 1) * 40)
        texts.append(b"".join(lines))
    manifests: list[Made] = []
    changesets: list[Made] = []
    before = parent = NULL
    for number, text in enumerate(texts):
        node = node_of(text, before, NULL)
        said = b"%b\nu\n%d 0\n\nx" % (node.hex().encode(), number)
        changeset = node_of(said, parent, NULL)
        changesets.append(Made(changeset, parent, NULL, NULL, changeset, whole(said)))
        # Every delta is against the very first text.
        base = NULL if number == 0 else manifests[0].node
        manifests.append(
            Made(node, before, NULL, base, changeset, replaced(texts[0], text, number))
        )
        before, parent = node, changeset
    made = index(changegroup(changesets, manifests, []))
    (sent,) = made.manifests([manifests[3].node], haveparents=True).revisions()
    assert sent.base == manifests[2].node
    assert sent.data is not None
    assert len(sent.data) < 100
    (sent,) = made.manifests([manifests[3].node]).revisions()
    assert (sent.base, sent.data) == (None, texts[3])


def replaced(base: bytes, text: bytes, number: int) -> bytes:
    """A delta that replaces all."""
    if number == 0:
        return whole(text)
    return b"\0\0\0\0" + len(base).to_bytes(4) + len(text).to_bytes(4) + text


def simple() -> tuple[Made, Made, Made]:
    """A changeset, its manifest and its one file."""
    file = revision(b"content", b"")
    manifest = revision(b"a\0" + file.node.hex().encode() + b"\n", b"")
    text = manifest.node.hex().encode() + b"\nu\n0 0\na\n\nx"
    changeset = revision(text, b"")
    node = changeset.node

    def linked(made: Made) -> Made:
        return Made(made.node, made.p1, made.p2, made.base, node, made.delta)

    return linked(changeset), linked(manifest), linked(file)


def changed(made: Made, **fields: bytes) -> Made:
    """A revision with something else in place of what it had."""
    names = ("node", "p1", "p2", "base", "link", "delta")
    return Made(**{name: fields.get(name, getattr(made, name)) for name in names})


X = b"\7" * 20
C, M, F = simple()


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        (changegroup([changed(C, node=X)], [M], [(b"a", [F])]), "does not hash to its node"),
        (changegroup([changed(C, p1=X)], [M], [(b"a", [F])]), "does not hash to its node"),
        (changegroup([changed(C, base=X)], [M], [(b"a", [F])]), "changeset 0707.* is referred to"),
        (changegroup([C], [changed(M, link=X)], []), "belongs to changeset 0707"),
        (changegroup([C], [changed(M, base=X)], []), "is a delta of 0707"),
        (changegroup([C], [changed(M, delta=b"\0")], []), "cut off in a header"),
        (changegroup([C], [changed(M, delta=whole(b"b"))], []), "does not hash to its node"),
        (changegroup([C], [], []), "has no manifest"),
        (changegroup([C], [M], []), "has revision .* of a, which is missing"),
        (changegroup([C], [M], [(b"b", [F])]), "of a, which is missing"),
        (changegroup([C], [M], [(b"a", [changed(F, node=X)])]), "of a does not hash to its node"),
        (changegroup([C], [M], [(b"a", [changed(F, link=NULL)])]), "belongs to changeset 0000"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, pieces: Iterable[bytes], said: str) -> None:
    """A bundle with a gap, or with what is not what its node says, is refused with the place."""
    db = database.open_new(tmp_path / "x")
    try:
        with pytest.raises(Misfit, match=said):
            put(db, pieces)
    finally:
        db.close()


def test_the_same_again(tmp_path: Path) -> None:
    """What is there already changes nothing when it comes again."""
    db = database.open_new(tmp_path / "x")
    try:
        dag = put(db, changegroup([C], [M], [(b"a", [F])])).dag
        tables = ("changeset", "revision", "relink", "snapshot", "log")
        before = [db.execute(f"SELECT * FROM {table}").fetchall() for table in tables]  # noqa: S608
        again = put(db, changegroup([C], [M], [(b"a", [F])]), dag).dag
        assert again.packed == dag.packed
        assert before == [db.execute(f"SELECT * FROM {t}").fetchall() for t in tables]  # noqa: S608
    finally:
        db.close()


def test_damage_is_found_where_it_is_read(index: Index) -> None:
    """A text that is not what its node says any more is an error and not an answer."""
    made = index(history(History(20, files=2, edits=1)))
    path = made.generation.path
    db = database.open_to_grow(path)
    db.execute("UPDATE revision SET kind = 0, data = zeroblob(40) WHERE id >= 1 << 32")
    db.close()
    first = next(made.files(made.revs, lambda _: True, haveparents=True).selections())
    with pytest.raises(IndexBroken, match="does not hash"):
        list(first.revisions())
    db = database.open_to_grow(path)
    db.execute("DELETE FROM revision WHERE id >= 1 << 32")
    db.close()
    with pytest.raises(IndexBroken, match="lacks a revision"):
        made.files(made.revs, lambda _: True)
    db = database.open_to_grow(path)
    db.execute("UPDATE revision SET kind = 1, data = x'00'")
    db.execute("UPDATE changeset SET kind = 0, text = x'00'")
    db.close()
    with pytest.raises(IndexBroken, match="does not hash"):
        list(made.changesets(made.revs))
    with made.generation.reading() as reading, pytest.raises(IndexBroken, match="no zstd frame"):
        Chains(reading).text(0)


def test_generations(tmp_path: Path) -> None:
    """A new index takes the place of the old one, which stays as long as somebody reads it."""

    def build() -> None:
        with locked(tmp_path), built(tmp_path) as path:
            db = database.open_new(path)
            put(db, changegroup([C], [M], [(b"a", [F])]))
            database.write_meta(db, "format", database.FORMAT)
            database.seal(db, path)

    def places() -> set[str]:
        return {each.name for each in tmp_path.iterdir() if each.is_dir()}

    build()
    first = open_current(tmp_path)
    assert first is not None
    name = current(tmp_path)
    build()
    build()
    assert name in places()
    assert len(places()) == 3  # the first is read, the second goes with the next
    with first.reading() as db:
        assert db.execute("SELECT count(*) FROM revision").fetchone() == (2,)
    first.close()
    build()
    assert name not in places()
    assert len(places()) == 2


def test_an_index_of_another_format(tmp_path: Path) -> None:
    """What another version of ours made is not read."""
    with locked(tmp_path), built(tmp_path) as path:
        db = database.open_new(path)
        put(db, changegroup([C], [M], [(b"a", [F])]))
        database.write_meta(db, "format", b"0")
        database.seal(db, path)
    assert open_current(tmp_path) is None
