# Law of this file: what is remembered of an object is forgotten as soon as the object could have
# come or gone.

from __future__ import annotations

import os
import subprocess
import time
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from repos.git import presence
from repos.git.presence import RACY_SECONDS, Presence, is_racy, stamp
from repos.git.program import Git, GitFailed

NOWHERE = "ab" * 20
OLD = 1_000_000_000


class Counting(Git):
    """Counts its runs."""

    runs: list[tuple[str, ...]]

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "runs", [])

    def run(self, *args: str, **others: object) -> bytes:
        """Count, and run."""
        self.runs.append(args)
        return super().run(*args, **others)  # type: ignore[arg-type]


def git(path: Path, *args: str, stdin: bytes = b"") -> str:
    """Run stock git."""
    done = subprocess.run(["git", *args], cwd=path, input=stdin, check=True, capture_output=True)
    return done.stdout.decode().strip()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An empty bare repository."""
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "p.git"], check=True)
    return tmp_path / "p.git"


@pytest.fixture
def counting() -> Counting:
    """A git that counts."""
    return Counting()


@pytest.fixture
def asked(path: Path, counting: Counting) -> Iterator[Presence]:
    """What is asked."""
    with ThreadPoolExecutor(1) as executor:
        yield Presence(counting, path, executor, OrderedDict())


def blob(path: Path, content: bytes) -> str:
    """A loose object."""
    return git(path, "hash-object", "-w", "--stdin", stdin=content)


def age(path: Path) -> None:
    """Let every directory of objects look as if it had not changed for years."""
    for directory in (path / "objects", *(path / "objects").rglob("*")):
        os.utime(directory, (OLD, OLD))


async def test_nothing_asked(asked: Presence, counting: Counting) -> None:
    """No question, no program."""
    assert await asked.existing([]) == frozenset()
    assert counting.runs == []


async def test_what_is_there_and_what_is_not(path: Path, asked: Presence) -> None:
    """Those that exist are told from those that do not, of any type, loose or packed."""
    loose = blob(path, b"loose")
    packed = blob(path, b"packed")
    git(path, "update-ref", "refs/packed", packed)
    git(path, "repack", "-q", "-a", "-d")
    tree = git(path, "mktree")
    everything = [loose, packed, tree, NOWHERE]
    assert await asked.existing(everything) == {loose, packed, tree}
    assert await asked.existing(everything * 3) == {loose, packed, tree}


async def test_what_has_not_changed_is_not_asked_again(
    path: Path, asked: Presence, counting: Counting
) -> None:
    """Both answers are remembered while the directories stay as they are."""
    there = blob(path, b"there")
    age(path)
    for _ in range(5):
        assert await asked.existing([there, NOWHERE]) == {there}
    assert len(counting.runs) == 1


async def test_an_object_that_arrives(path: Path, asked: Presence) -> None:
    """A missing object is found once it has come, loose or in a pack."""
    donor = path.with_name("donor.git")
    git(path, "init", "-q", "--bare", str(donor))
    loose, packed = blob(donor, b"loose"), blob(donor, b"packed")
    age(path)
    assert await asked.existing([loose, packed]) == frozenset()
    assert blob(path, b"loose") == loose
    assert await asked.existing([loose, packed]) == {loose}
    pack = path / "objects" / "pack" / "pack"
    git(donor, "pack-objects", "-q", str(pack), stdin=packed.encode())
    assert await asked.existing([loose, packed]) == {loose, packed}


@pytest.mark.parametrize("packed", [False, True])
async def test_an_object_that_is_pruned(path: Path, asked: Presence, packed: bool) -> None:
    """What was there is not any more, after a prune or a repack without it."""
    gone = blob(path, b"gone")
    if packed:
        git(path, "update-ref", "refs/gone", gone)
        git(path, "repack", "-q", "-a", "-d")
        git(path, "update-ref", "-d", "refs/gone")
    age(path)
    assert await asked.existing([gone]) == {gone}
    git(path, "repack", "-q", "-a", "-d")
    git(path, "prune", "--expire=now")
    assert await asked.existing([gone]) == frozenset()


async def test_alternates(path: Path, asked: Presence) -> None:
    """Borrowed objects exist; they come and go with the alternates, of alternates too."""
    near, far = path.with_name("near.git"), path.with_name("far.git")
    for donor in (near, far):
        git(path, "init", "-q", "--bare", str(donor))
    from_near, from_far = blob(near, b"near"), blob(far, b"far")
    oids = [from_near, from_far]
    for directory in (path, near, far):
        age(directory)
    assert await asked.existing(oids) == frozenset()
    link = path / "objects" / "info" / "alternates"
    link.write_text(f"# comment\n{near / 'objects'}\n")
    assert await asked.existing(oids) == {from_near}
    (near / "objects" / "info" / "alternates").write_text("../../far.git/objects\n")
    assert await asked.existing(oids) == {from_near, from_far}
    later = blob(far, b"later")
    assert await asked.existing([*oids, later]) == {from_near, from_far, later}
    link.unlink()
    assert await asked.existing([*oids, later]) == frozenset()


async def test_alternates_that_are_no_use(path: Path, asked: Presence) -> None:
    """Alternates that are gone, or go in a circle, harm nobody."""
    there = blob(path, b"there")
    link = path / "objects" / "info" / "alternates"
    link.write_text(f"{path / 'objects'}\n/nowhere/objects\n\n")
    assert await asked.existing([there, NOWHERE]) == {there}


async def test_what_is_racy_is_not_remembered(
    path: Path, asked: Presence, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Just after a change another one could look the same: nothing is remembered then."""
    there = blob(path, b"there")
    now = (path / "objects" / "pack").stat().st_mtime_ns
    os.utime(path / "objects" / there[:2], ns=(now, now))
    monkeypatch.setattr(presence.time, "time", lambda: now / 1e9 + RACY_SECONDS / 2)
    await asked.existing([there])
    await asked.existing([there])
    assert len(counting.runs) == 2
    monkeypatch.setattr(presence.time, "time", lambda: now / 1e9 + RACY_SECONDS * 2)
    await asked.existing([there])
    await asked.existing([there])
    assert len(counting.runs) == 3


async def test_what_is_remembered_is_bounded(
    path: Path, asked: Presence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made-up object ids do not fill the memory."""
    monkeypatch.setattr(presence, "_REMEMBERED", 10)
    age(path)
    for number in range(5):
        await asked.existing(f"{number}{other:039x}" for other in range(7))
    assert len(asked._known) == 10


async def test_repositories_share_the_bound(
    path: Path, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made-up ids fill no memory either if each repository is asked for them; none is mixed up."""
    monkeypatch.setattr(presence, "_REMEMBERED", 10)
    monkeypatch.setattr(presence, "_SHARED", shared := OrderedDict())
    other = path.with_name("other.git")
    git(path, "init", "-q", "--bare", str(other))
    there = blob(path, b"there")
    age(path)
    age(other)
    with ThreadPoolExecutor(1) as executor:
        here, beside = (Presence(counting, place, executor) for place in (path, other))
        for _ in range(2):
            assert await here.existing([there]) == {there}
            assert await beside.existing([there]) == frozenset()
        assert len(counting.runs) == 2
        for number in range(5):
            await here.existing(f"{number}{each:039x}" for each in range(7))
            await beside.existing(f"{number}{each:039x}" for each in range(7))
    assert len(shared) == 10


async def test_a_repository_that_is_gone(path: Path, asked: Presence) -> None:
    """Where git cannot say, that is raised, and remembered as nothing."""
    (path / "HEAD").unlink()
    with pytest.raises(GitFailed):
        await asked.existing([NOWHERE])
    assert not asked._known


def test_stamps(tmp_path: Path) -> None:
    """A stamp differs when a file is made, grows or is replaced by one of the same size."""
    path = tmp_path / "file"
    seen = {stamp(str(path))}
    path.write_text("a")
    os.utime(path, (OLD, OLD))
    seen.add(stamp(str(path)))
    path.write_text("aa")
    os.utime(path, (OLD, OLD))
    seen.add(stamp(str(path)))
    other = tmp_path / "other"
    other.write_text("bb")
    os.utime(other, (OLD, OLD))
    other.rename(path)
    seen.add(stamp(str(path)))
    assert len(seen) == 4


def test_racy() -> None:
    """A stamp is racy for as long as the clock of the file system may stand still."""
    now = time.time()
    assert is_racy([(int(now * 1e9), 0, 0)], now)
    assert is_racy([(0, 0, 0), (int((now + 100) * 1e9), 0, 0)], now)
    assert not is_racy([(int((now - 2 * RACY_SECONDS) * 1e9), 0, 0)], now)
    assert not is_racy([], now)
