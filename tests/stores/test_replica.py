# Law of this file: a store that was emptied, or is another one, gives no answer that could be taken
# for that of the one that was there before.

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stores.base import Conflict, Document, Stored, StoreUnavailable
from stores.directory import DirectoryStore
from stores.entity import Entity
from stores.faulty import Fail, FaultyStore
from stores.memory import MemoryStore
from stores.replica import (
    PREFIX,
    Expected,
    NotTheSame,
    Replica,
    confirm,
    generation_of,
    innermost,
    parse,
    seal,
    seals,
)

MakeFile = Callable[[bytes], tuple[Entity, Path]]
NAME = f"{PREFIX}eu"


@pytest.fixture
def main() -> MemoryStore:
    """The main store."""
    return MemoryStore()


@pytest.fixture
def inner() -> MemoryStore:
    """Behind the replica."""
    return MemoryStore()


@pytest.fixture
async def used(main: MemoryStore, inner: MemoryStore) -> Replica:
    """One that has its seal."""
    replica = Replica("eu", inner, main)
    await replica.check()
    return replica


async def test_the_first_use_seals_it(main: MemoryStore, inner: MemoryStore) -> None:
    """For good: whoever comes later expects the same generation, and finds its seal."""
    replica = Replica("eu", inner, main)
    generation = await replica.generation()
    assert not inner.entities
    await replica.check()
    own, content = seal(generation)
    assert inner.entities == {own.digest: content}
    assert parse(main.documents[NAME]).settled
    later = Replica("eu", inner, main)
    await later.check()
    assert await later.generation() == generation
    assert [stored async for stored in later.list()] == []


async def test_seals_of_all_labels_are_known(main: MemoryStore, inner: MemoryStore) -> None:
    """Whoever collects must not take the seal of another label for what nobody needs."""
    main.documents[f"{PREFIX}odd"] = Document(b"no JSON", "1")
    for label in ("office", "berlin"):
        await Replica(label, inner, main).check()
    assert await seals(main) == set(inner.entities)
    assert len(inner.entities) == 2


async def test_first_users_agree(main: MemoryStore, inner: MemoryStore) -> None:
    """However many processes begin at once, there is one generation, and one seal."""
    replicas = [Replica("eu", inner, main) for _ in range(10)]
    await asyncio.gather(*(replica.check() for replica in replicas))
    assert len({await replica.generation() for replica in replicas}) == 1
    assert len(inner.entities) == 1


async def test_one_that_cannot_be_reached_at_first(main: MemoryStore, inner: MemoryStore) -> None:
    """Its generation is known all the same; it is sealed when it answers."""
    faulty = FaultyStore(inner, {"stat": Fail()})
    replica = Replica("eu", faulty, main)
    generation = await replica.generation()
    with pytest.raises(StoreUnavailable, match="fails"):
        await replica.check()
    faulty.faults.clear()
    await replica.check()
    assert seal(generation)[0].digest in inner.entities


async def read_all(replica: Replica, entity: Entity) -> None:
    """Open it."""
    async for _ in replica.open(entity.digest):
        pass


async def list_all(replica: Replica, entity: Entity) -> None:
    """List it."""
    del entity
    async for _ in replica.list():
        pass


async def list_documents(replica: Replica, entity: Entity) -> None:
    """List documents."""
    del entity
    async for _ in replica.list_documents(""):
        pass


QUESTIONS: dict[str, Callable[[Replica, Entity], Awaitable[object]]] = {
    "stat": lambda replica, entity: replica.stat(entity.digest),
    "open": read_all,
    "delete": lambda replica, entity: replica.delete(entity.digest),
    "list": list_all,
    "read_document": lambda replica, _: replica.read_document("d"),
    "write_document": lambda replica, _: replica.write_document("d", b"", None),
    "delete_document": lambda replica, _: replica.delete_document("d"),
    "list_documents": list_documents,
    "check": lambda replica, _: confirm(replica),
}


@pytest.mark.parametrize("question", QUESTIONS)
async def test_nothing_is_asked_of_one_that_was_emptied(
    used: Replica, inner: MemoryStore, make_file: MakeFile, question: str
) -> None:
    """Each question is refused, and the message says which store it is and what to do."""
    entity, _ = make_file(b"content")
    inner.entities.clear()
    with pytest.raises(NotTheSame, match=r"the store eu .memory. is not .* stores renew eu"):
        await QUESTIONS[question](used, entity)
    assert not inner.entities
    assert not inner.documents


async def test_nothing_is_put_into_one_that_was_emptied(
    used: Replica, inner: MemoryStore, make_file: MakeFile
) -> None:
    """What is below a mount point is another disk, and stays as it is."""
    inner.entities.clear()
    with pytest.raises(NotTheSame):
        await used.put(*make_file(b"content"))
    assert not inner.entities


@pytest.mark.parametrize("method", ["put", "delete", "list", "stat"])
async def test_what_was_done_meanwhile_does_not_count(
    main: MemoryStore, make_file: MakeFile, method: str
) -> None:
    """One that goes while it is asked has not done what it was asked."""
    entity, path = make_file(b"content")

    class Goes(MemoryStore):
        """Emptied by whatever is asked of it but the seal."""

        async def stat(self, digest: str) -> Stored | None:
            if digest == entity.digest:
                self.entities.clear()
            return await super().stat(digest)

        async def put(self, given: Entity, path: Path) -> None:
            if given == entity:
                self.entities.clear()
            await super().put(given, path)

        async def delete(self, digest: str) -> None:
            self.entities.clear()
            await super().delete(digest)

        async def list(self) -> AsyncIterator[Stored]:
            self.entities.clear()
            async for stored in super().list():
                yield stored

    replica = Replica("eu", Goes(), main)
    await replica.check()
    asked = {**QUESTIONS, "put": lambda replica, entity: replica.put(entity, path)}
    with pytest.raises(NotTheSame):
        await asked[method](replica, entity)


async def test_one_that_is_not_mounted(
    main: MemoryStore, tmp_path: Path, make_file: MakeFile
) -> None:
    """It is refused, stays empty, and is the one that it was when it is mounted again."""
    place = tmp_path / "eu"
    entity, path = make_file(b"content")
    replica = Replica("eu", DirectoryStore(place), main)
    await replica.put(entity, path)
    place.rename(tmp_path / "elsewhere")
    place.mkdir()
    with pytest.raises(NotTheSame):
        await replica.stat(entity.digest)
    assert list(place.iterdir()) == []
    place.rmdir()
    (tmp_path / "elsewhere").rename(place)
    assert await replica.stat(entity.digest) is not None
    await replica.close()


async def test_who_was_there_before_it_was_sealed_does_not_seal_another(
    main: MemoryStore, inner: MemoryStore
) -> None:
    """That it was settled by others is looked up before an empty store is taken for new."""
    waiting = Replica("eu", inner, main)
    await waiting.generation()
    await Replica("eu", inner, main).check()
    inner.entities.clear()
    with pytest.raises(NotTheSame):
        await waiting.check()
    assert not inner.entities


async def test_renewing_begins_anew(used: Replica, main: MemoryStore, inner: MemoryStore) -> None:
    """By another generation; who has the old one in mind is told to begin anew as well."""
    before = await used.generation()
    inner.entities.clear()
    renewing = Replica("eu", inner, main)
    generation = await renewing.renew()
    await renewing.check()
    assert generation == await Replica("eu", inner, main).generation() != before
    assert set(inner.entities) == {seal(generation)[0].digest}
    with pytest.raises(NotTheSame, match=r"was renewed .*; restart"):
        await used.check()


async def test_one_that_was_there_when_it_was_renewed(
    used: Replica, main: MemoryStore, inner: MemoryStore, make_file: MakeFile
) -> None:
    """Keeps its content, and loses the seal by which others would know it."""
    entity, path = make_file(b"content")
    await used.put(entity, path)
    generation = await Replica("eu", inner, main).renew()
    assert set(inner.entities) == {entity.digest, seal(generation)[0].digest}


async def test_the_lost_one_comes_back_after_renewing(main: MemoryStore) -> None:
    """It is not the one any more, whatever it has."""
    lost, empty = MemoryStore(), MemoryStore()
    await Replica("eu", lost, main).check()
    await Replica("eu", empty, main).renew()
    with pytest.raises(NotTheSame):
        await Replica("eu", lost, main).check()


async def test_renewing_one_that_does_not_answer(
    used: Replica, main: MemoryStore, inner: MemoryStore
) -> None:
    """Fails; nobody who comes then believes what was there, and it can be done again."""
    before = await used.generation()
    faulty = FaultyStore(inner, {"delete": Fail()})
    with pytest.raises(StoreUnavailable):
        await Replica("eu", faulty, main).renew()
    assert await Replica("eu", inner, main).generation() != before
    assert await Replica("eu", inner, main).renew() != before


async def test_two_who_renew_at_once(used: Replica, main: MemoryStore, inner: MemoryStore) -> None:
    """One wins, the other one is told."""
    del used
    replicas = [Replica("eu", inner, main) for _ in range(2)]
    done = await asyncio.gather(*(each.renew() for each in replicas), return_exceptions=True)
    assert sorted(type(each) for each in done if isinstance(each, Exception)) in ([], [Conflict])
    await Replica("eu", inner, main).check()


@pytest.mark.parametrize("body", [b"", b"{}", b"[" * 100000, b'{"generation": "x"}'])
async def test_a_damaged_document_is_told(main: MemoryStore, body: bytes) -> None:
    """With what mends it, and that does."""
    main.documents[NAME] = Document(body, "1")
    replica = Replica("eu", MemoryStore(), main)
    with pytest.raises(StoreUnavailable, match=r"document stores/eu: .* stores renew eu"):
        await replica.check()
    await replica.renew()
    await replica.check()


async def test_who_only_looks_writes_nothing(main: MemoryStore, inner: MemoryStore) -> None:
    """Neither before the first use nor after; what is wrong is found all the same."""
    looking = Replica("eu", inner, main, writes=False)
    await looking.check()
    assert await looking.generation() == ""
    assert not main.documents
    assert not inner.entities
    await Replica("eu", inner, main).check()
    looking = Replica("eu", inner, main, writes=False)
    await looking.check()
    assert await looking.generation()
    inner.entities.clear()
    with pytest.raises(NotTheSame):
        await looking.check()


async def test_other_stores_have_no_generation(main: MemoryStore) -> None:
    """The main one is asked for none, and stands for itself."""
    await confirm(main)
    assert await generation_of(main) == ""
    assert innermost(main) is main
    assert innermost(Replica("eu", main, main)) is main


NEARLY = st.from_regex(r'\{"generation": "[0-9a-f]{30,33}", "settled": (true|false|1)\}')


@given(st.binary() | NEARLY.map(str.encode))
def test_no_document_breaks_the_reader(body: bytes) -> None:
    """It is read as it was written, or refused."""
    try:
        found = parse(Document(body, "7"))
    except ValueError:
        return
    assert parse(Document(found.body, "7")) == found


def test_a_document_is_read_as_it_was_written() -> None:
    """With its version."""
    expected = Expected("ab" * 16, settled=True)
    assert parse(Document(expected.body, "3")) == Expected("ab" * 16, settled=True, version="3")


async def test_who_begins_while_the_main_store_is_away(
    used: Replica, main: MemoryStore, inner: MemoryStore, tmp_path: Path
) -> None:
    """It goes by the generation that was said last, and believes nothing before main answers."""
    away = FaultyStore(main, {"read_document": Fail()})
    with pytest.raises(StoreUnavailable):
        await Replica("eu", inner, away, notes=tmp_path).generation()
    expected = await Replica("eu", inner, main, notes=tmp_path).generation()
    begun = Replica("eu", inner, away, notes=tmp_path)
    assert await begun.generation() == expected == await used.generation()
    with pytest.raises(StoreUnavailable):
        await begun.check()
    away.faults.clear()
    await begun.check()
    # If it was renewed meanwhile, that is another store than this process has in mind.
    late = Replica("eu", inner, FaultyStore(main, {"read_document": Fail(1)}), notes=tmp_path)
    await late.generation()
    await Replica("eu", inner, main).renew()
    with pytest.raises(NotTheSame, match="renewed since"):
        await late.check()


@pytest.mark.parametrize("said", ["", "nonsense", "0" * 33])
async def test_a_note_that_is_none(
    used: Replica, main: MemoryStore, inner: MemoryStore, tmp_path: Path, said: str
) -> None:
    """It is as if nothing had been noted, and written anew when the main store has told."""
    (tmp_path / "eu").write_text(said)
    away = FaultyStore(main, {"read_document": Fail()})
    with pytest.raises(StoreUnavailable):
        await Replica("eu", inner, away, notes=tmp_path).generation()
    await Replica("eu", inner, main, notes=tmp_path).generation()
    assert (tmp_path / "eu").read_text() == await used.generation()
    assert [path.name for path in tmp_path.iterdir()] == ["eu"]
