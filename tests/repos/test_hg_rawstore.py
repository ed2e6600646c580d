# Law of this file: a store is streamed as a real hg wrote it, or it is not streamed.

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from repos.hg import rawstore
from repos.hg import repository as module
from repos.hg.errors import CommandError, Moved
from repos.hg.rawstore import write_rawstorefiledata
from repos.hg.repository import HgRepository, HgSnapshot
from repos.hg.state import count_revisions
from tests.hg.repositories import work
from tests.hg.versions import hg
from tests.repos.hg_kinds import Kinds
from tests.repos.hg_replay import gathered, served
from wire.hg.cbor import Chunk, decode

BOTH = [b"changelog", b"manifestlog"]


def streamed(snapshot: HgSnapshot, files: list[bytes]) -> dict[str, bytes]:
    """The files of an answer, checked against what it promises."""
    found: dict[str, bytes] = {}
    items = decode(gathered(lambda write: write_rawstorefiledata(snapshot, files, write, 0.2)))
    head, *rest = items
    name = ""
    for item in rest:
        if isinstance(item, Chunk):
            found[name] += item.data
        else:
            assert isinstance(item, dict)
            name = str(item[b"path"], "ascii")  # type: ignore[arg-type]
            found[name] = b""
            assert item[b"location"] == b"store"
            assert item[b"size"] == (snapshot.hg_dir / "store" / name).stat().st_size
    assert head == {b"filecount": len(found), b"totalsize": sum(map(len, found.values()))}
    return found


@pytest.mark.parametrize("kind", ["empty", "linear", "branches", "large"])
async def test_files_of_the_store(kinds: Kinds, kind: str) -> None:
    """Changelog and manifest are sent byte by byte as they lie there, and nothing else."""
    snapshot = await kinds(kind).snapshot()
    assert snapshot.stream_allowed
    store = snapshot.hg_dir / "store"
    names = {f"00{log}.{end}" for log in ("changelog", "manifest") for end in ("i", "d")}
    expected = {name: (store / name).read_bytes() for name in names if (store / name).exists()}
    assert streamed(snapshot, BOTH) == expected
    assert streamed(snapshot, [b"changelog"]) == {
        name: content for name, content in expected.items() if "changelog" in name
    }


@pytest.mark.parametrize("kind", ["phases", "obsolete"])
async def test_what_may_not_be_streamed(kinds: Kinds, kind: str) -> None:
    """A store with secret, hidden or draft changesets is not streamed."""
    snapshot = await kinds(kind).snapshot()
    assert not snapshot.stream_allowed
    with pytest.raises(CommandError, match="stream clone is disabled"):
        streamed(snapshot, BOTH)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HgRepository]:
    """A repository of one changeset."""
    monkeypatch.setattr(module, "LOOK_SECONDS", -1.0)
    with work(hg(), tmp_path / "p") as made:
        made.commit(a="1\n")
    with ThreadPoolExecutor(2) as executor:
        yield served(tmp_path / "p", tmp_path, executor)


async def test_a_repository_that_changes(repository: HgRepository, tmp_path: Path) -> None:
    """What came after the snapshot is not streamed from it; it must be taken anew."""
    snapshot = await repository.snapshot()
    with work(hg(), tmp_path / "p") as made:
        made.commit(a="2\n")
        made.hg("phase", "--secret", "--force", "--rev", "1")
    with pytest.raises(Moved, match="2 changesets, of which 1 are served"):
        streamed(snapshot, BOTH)
    assert not (await repository.renewed(snapshot)).stream_allowed
    with pytest.raises(CommandError, match="unknown file type: files, x"):
        streamed(snapshot, [b"x", b"changelog", b"files"])


async def test_a_writer(repository: HgRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer's lock is waited for; one that never goes is not waited for for ever."""
    snapshot = await repository.snapshot()
    lock = repository.path / "store" / "lock"
    lock.symlink_to("host:1")
    with pytest.raises(CommandError, match="is being written to; try again"):
        streamed(snapshot, BOTH)
    looked = threading.Event()

    def waited(_: float) -> None:
        looked.set()
        lock.unlink(missing_ok=True)

    monkeypatch.setattr(rawstore.time, "sleep", waited)
    assert streamed(snapshot, BOTH)
    assert looked.is_set()


async def test_a_store_that_is_cut(repository: HgRepository) -> None:
    """A file that is cut while it is read is an error, and not a shorter file."""
    snapshot = await repository.snapshot()
    path = repository.path / "store" / "00changelog.i"

    def cut(_piece: bytes) -> None:
        with path.open("r+b") as file:
            file.truncate(3)

    with pytest.raises(Moved, match=r"00changelog.i was cut"):
        write_rawstorefiledata(snapshot, [b"changelog"], cut)


@pytest.mark.parametrize(
    ("index", "size", "count"),
    [
        (b"", 0, 0),
        (b"\0\0\0\1", 640, 10),
        (b"\0\0\0\1", 641, None),
        (b"\0\0\xde\xad", 640, None),
        (b"\0", 1, None),
        (b"\0\1\0\1" + bytes(4) + b"\0\0\0\2" + bytes(52) + b"ab", 66, 1),
        (b"\0\1\0\1" + bytes(4) + b"\0\0\0\2" + bytes(52) + b"a", 65, None),
        (b"\0\1\0\1" + bytes(4) + b"\xff\xff\xff\xff" + bytes(52), 64, None),
    ],
)
def test_counting_revisions(index: bytes, size: int, count: int | None) -> None:
    """A revlog's revisions are counted by its index, inline or not; what is none has no count."""
    assert count_revisions(index, size) == count
