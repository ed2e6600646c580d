# Law of this file: a store is streamed as a real hg wrote it, or it is not streamed.

from __future__ import annotations

import io
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from repos.hg import keeper, rawstore
from repos.hg import repository as module
from repos.hg.errors import CommandError, Moved
from repos.hg.rawstore import write_rawstorefiledata
from repos.hg.repository import HgRepository, HgSnapshot
from repos.hg.state import count_revisions, nodes_of, stored_changesets
from tests.hg.repositories import Work, work
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
    assert not snapshot.stream_unsettled
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


def hide(made: Work, content: str) -> bytes:
    """Amend the last changeset to a secret one; its node. It takes the place of the other one."""
    made.write("a", content)
    made.hg("commit", "--quiet", "--amend", "--secret", "--message", "hidden")
    return bytes.fromhex(made.node("tip"))


def left_behind(snapshot: HgSnapshot, at: int, happens: Callable[[], None]) -> bytes:
    """What of a store is streamed by a snapshot, if something happens before the piece ``at``."""
    pieces: list[bytes] = []

    def write(piece: bytes) -> None:
        if len(pieces) == at:
            happens()
        pieces.append(piece)

    with pytest.raises(Moved):
        write_rawstorefiledata(snapshot, BOTH, write)
    return b"".join(pieces)


async def test_one_goes_and_a_secret_one_comes(repository: HgRepository, tmp_path: Path) -> None:
    """As many changesets as are served are not streamed if one is another, and secret."""
    with work(hg(), tmp_path / "p") as made:
        made.commit(a="2\n")
        made.commit(a="3\n")
        snapshot = await repository.snapshot()
        assert snapshot.stream_allowed
        secret = hide(made, "secret\n")
    assert stored_changesets(repository.path) == snapshot.index.count
    with pytest.raises(Moved, match="3 changesets, of which 2 are served; 3 are in all"):
        streamed(snapshot, BOTH)
    assert left_behind(snapshot, 0, lambda: None) == b""
    store = repository.path / "store"
    assert secret in (store / "00changelog.i").read_bytes()


@pytest.mark.parametrize("large", [False, True])
async def test_a_secret_one_comes_while_it_is_streamed(
    repository: HgRepository, tmp_path: Path, large: bool
) -> None:
    """Who strips writes into the very files that are read; what he adds is not sent."""
    with work(hg(), tmp_path / "p") as made:
        if large:  # than what hg keeps in one file
            made.write("a", "2\n")
            message = tmp_path / "message"
            message.write_text(random.Random(1).randbytes(150_000).hex())
            made.hg("commit", "--quiet", "--logfile", message)
        made.commit(a="3\n")
        snapshot = await repository.snapshot()
        assert snapshot.stream_allowed
        secrets: list[bytes] = []
        sent = left_behind(snapshot, 2, lambda: secrets.append(hide(made, "secret\n")))
    store = repository.path / "store"
    assert (store / "00changelog.d").exists() == large
    assert secrets[0] in (store / "00changelog.i").read_bytes()
    assert secrets[0] not in sent


async def test_what_is_appended_meanwhile(repository: HgRepository, tmp_path: Path) -> None:
    """A commit while a store is streamed changes nothing of what is sent."""
    snapshot = await repository.snapshot()
    before = streamed(snapshot, BOTH)
    pieces: list[bytes] = []
    with work(hg(), tmp_path / "p") as made:

        def write(piece: bytes) -> None:
            if len(pieces) == 3:
                made.commit(a="2\n")
            pieces.append(piece)

        write_rawstorefiledata(snapshot, BOTH, write)
    assert stored_changesets(repository.path) == 2
    sent = b"".join(item.data for item in decode(b"".join(pieces)) if isinstance(item, Chunk))
    assert sent == b"".join(before.values())


async def test_a_commit_while_hg_is_asked(
    repository: HgRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that grew before it was counted is streamed by the next snapshot."""

    def grown(path: Path) -> int | None:
        if not done:
            with work(hg(), tmp_path / "p") as made:
                done.append(made.commit(a="2\n"))
        return stored_changesets(path)

    done: list[str] = []
    monkeypatch.setattr(keeper, "stored_changesets", grown)
    snapshot = await repository.snapshot()
    assert (snapshot.index.count, snapshot.stream_allowed) == (1, False)
    assert snapshot.stream_unsettled
    renewed = await repository.renewed(snapshot)
    assert (renewed.index.count, renewed.stream_allowed) == (2, True)
    assert not renewed.stream_unsettled


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


def entry(node: bytes, size: int = 0) -> bytes:
    """An entry of a revlog's index; the first one begins with the header instead."""
    return bytes(8) + size.to_bytes(4, "big") + bytes(20) + node + bytes(12)


@pytest.mark.parametrize("count", [0, 1, 3, 2500])
def test_nodes_of_a_revlog(count: int) -> None:
    """The nodes of a revlog are those of its entries, inline or not, as far as it counts."""
    nodes = [number.to_bytes(20, "big") for number in range(count)]
    plain = b"".join(map(entry, nodes))
    inline = b"".join(entry(node, at % 5) + b"x" * (at % 5) for at, node in enumerate(nodes))
    for header, entries in ((b"\0\0\0\1", plain), (b"\0\1\0\1", inline)):
        index = header[: len(entries)] + entries[4:]
        found = nodes_of(io.BytesIO(index + b"more"), len(index))
        assert found is not None
        assert list(found) == nodes
        if count:
            assert nodes_of(io.BytesIO(index), len(index) - 1) is None
            cut = nodes_of(io.BytesIO(index[:-10]), len(index))
            assert cut is None or list(cut) == nodes[:-1]
