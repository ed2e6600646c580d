# Law of this file: what is checked is found, and what is found is named.

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stores.base import Corrupt, StoreUnavailable
from stores.checks import (
    check_document_name,
    is_document_name,
    part_digests,
    verify_file,
    verify_size,
)
from stores.directory import DirectoryStore
from stores.entity import Entity


def entity_of(content: bytes) -> Entity:
    """The entity that ``content`` is."""
    return Entity(hashlib.sha256(content).hexdigest(), len(content))


@given(content=st.binary(max_size=300), part_size=st.integers(1, 400))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_parts_have_their_own_digests(content: bytes, part_size: int, tmp_path: Path) -> None:
    """Those of the consecutive slices; one empty part for no content."""
    path = tmp_path / "file"
    path.write_bytes(content)
    slices = [content[at : at + part_size] for at in range(0, len(content), part_size)] or [b""]
    expected = tuple(hashlib.sha256(one).digest() for one in slices)
    assert part_digests(entity_of(content), path, part_size) == expected


@given(content=st.binary(max_size=100), promised=st.binary(max_size=100))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_only_the_promised_content_passes(content: bytes, promised: bytes, tmp_path: Path) -> None:
    """Everything else is Corrupt, and the error names the file and the promise."""
    path = tmp_path / "file"
    path.write_bytes(content)
    if content == promised:
        verify_file(entity_of(promised), path)
        return
    with pytest.raises(Corrupt) as raised:
        verify_file(entity_of(promised), path)
    assert str(path) in str(raised.value)
    assert entity_of(promised).digest in str(raised.value)


def test_a_copy_is_named_by_its_source(tmp_path: Path) -> None:
    """Nobody knows temporary names."""
    (tmp_path / "copy").write_bytes(b"x")
    for check in (verify_file, verify_size):
        with pytest.raises(Corrupt, match="original: 1 bytes"):
            check(entity_of(b""), tmp_path / "copy", given=Path("original"))


def test_an_unreadable_file_is_not_corrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may hold what was promised; try later."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    path = tmp_path / "file"
    path.write_bytes(b"x")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(StoreUnavailable, match="Input/output error"):
        verify_file(entity_of(b"x"), path)


@given(name=st.one_of(st.text(), st.text(alphabet="a./\\\0%"), st.text().map("a/{}/b".format)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_name_stays_inside(name: str, tmp_path: Path) -> None:
    """A name is refused with ValueError, or is a path strictly below the documents, as written."""
    try:
        check_document_name(name)
    except ValueError:
        assert not is_document_name(name)
        return
    top = tmp_path / "documents"
    path = top / name
    assert str(path) == f"{top}/{name}"
    assert path.resolve() == path
    assert path != top


@given(name=st.text(min_size=1).filter(is_document_name), body=st.binary())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
async def test_every_name_is_listed_as_written(name: str, body: bytes, tmp_path: Path) -> None:
    """The file system keeps each name that passes, to the character."""
    store = DirectoryStore(tmp_path / hashlib.sha256(name.encode()).hexdigest())
    found = await store.read_document(name)
    await store.write_document(name, body, found and found.version)
    assert [listed async for listed in store.list_documents(name[:1])] == [name]
    await store.close()
