# Law of this file: however a repository came to be what it is, its answers are those of one that
# was read from the beginning; and what is not served any more is not in them from then on.

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from repos.hg import database
from repos.hg import keeper as keeping
from repos.hg import repository as module
from repos.hg.build import Builder
from repos.hg.database import IndexBroken, IndexUnreadable
from repos.hg.errors import UnknownNode, Unservable
from repos.hg.keeper import Keeper
from repos.hg.peer import Peer, PeerRefused
from repos.hg.program import HgFailed
from repos.hg.repository import HgRepository, HgSnapshot
from repos.hg.revisions import Explicit
from repos.hg.state import stamps_of
from tests.hg.repositories import Work, configure, work
from tests.hg.versions import hg
from tests.repos.hg_replay import Replay, served, stock
from tests.repos.hg_serving import served as serving
from wire.hg.texts import entries, manifest_node


@pytest.fixture(autouse=True)
def _no_memory_of_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each question looks at the files, however soon it comes."""
    monkeypatch.setattr(module, "LOOK_SECONDS", -1.0)


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    """Threads of one test."""
    with ThreadPoolExecutor(4) as threads:
        yield threads


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Work]:
    """A repository that does not publish, whose changesets may be rewritten."""
    with work(hg(), tmp_path / "p", "experimental.evolution=all", "extensions.strip=") as made:
        configure(made.path, "[phases]\npublish = false\n[experimental]\nevolution = all\n")
        yield made


@pytest.fixture
def repository(made: Work, tmp_path: Path, executor: ThreadPoolExecutor) -> HgRepository:
    """It, served."""
    made.commit("first", a="1\n", b="1\n")
    made.commit("second", a="2\n")
    return served(made.path, tmp_path, executor)


def content(snapshot: HgSnapshot) -> Replay:
    """All that a clone has, checked."""
    replay = Replay()
    replay.pull(snapshot)
    replay.check_complete()
    return replay


async def anew(repository: HgRepository, place: Path) -> HgSnapshot:
    """The same repository, with an index from the beginning."""
    return await served(
        repository.path.parent,
        place,
        repository.executor,  # type: ignore[arg-type]
    ).snapshot()


async def same_as_anew(repository: HgRepository, place: Path) -> HgSnapshot:
    """Check that what is served is what a fresh index gives."""
    snapshot = await repository.snapshot()
    place.mkdir()
    fresh = await anew(repository, place)
    one, other = content(snapshot), content(fresh)
    assert one.changesets == other.changesets
    assert (one.phases, one.bookmarks) == (other.phases, other.bookmarks)
    assert (one.manifests, one.files) == (other.manifests, other.files)
    assert (snapshot.heads, snapshot.branches) == (fresh.heads, fresh.branches)
    return snapshot


async def test_growth(made: Work, repository: HgRepository, tmp_path: Path) -> None:
    """What is committed and merged is added; the epoch stays, and a client pulls the rest."""
    before = await repository.snapshot()
    client = content(before)
    files = before.index.files(before.index.revs, lambda _: True, haveparents=True).selections()
    begun = next(files).revisions()
    assert next(begun).data is not None
    made.commit("third", a="3\n", new="1\n")
    made.update("0")
    side = made.commit("a side", b="2\n", new="1\n")
    made.update("2")
    made.merge(side)
    made.hg("bookmark", "--rev", "0", "mark")
    after = await same_as_anew(repository, tmp_path / "anew")
    assert after.epoch == before.epoch
    assert after.digest != before.digest
    assert after.moving != before.moving
    client.pull(after)
    client.check_complete()
    assert client.changesets == content(after).changesets
    # The old snapshot answers as it did, and what was begun is finished.
    assert (len(list(begun)), [each.path for each in files]) == (1, [b"b"])
    assert content(before).changesets.keys() < client.changesets.keys()
    assert before.index.known(after.heads) == [False]


async def test_the_same_change_on_two_branches(
    made: Work, repository: HgRepository, tmp_path: Path
) -> None:
    """A file revision that two changesets introduced is given for each of them."""
    made.commit("change", a="same\n")
    await repository.snapshot()
    made.update("1")
    made.hg("branch", "--quiet", "other")
    made.commit("the same change", a="same\n")
    made.hg("branch", "--quiet", "third")
    made.commit("and no change at all")
    after = await same_as_anew(repository, tmp_path / "anew")
    for head in after.heads:
        client = Replay()
        client.pull(after, (head,))
        client.check_complete()
    # Also when the one that came first goes away.
    made.hg("strip", "--quiet", "--no-backup", "--rev", "2")
    left = await same_as_anew(repository, tmp_path / "anew2")
    assert left.index.count == 4
    assert left.epoch != after.epoch


async def test_strip(made: Work, repository: HgRepository, tmp_path: Path) -> None:
    """What was stripped is gone from every answer, and may come back."""
    node = bytes.fromhex(made.commit("to go", a="gone\n", only="here\n"))
    before = await repository.snapshot()
    bundle = tmp_path / "kept.hg"
    made.hg("bundle", "--quiet", "--base", "1", "--rev", "2", bundle)
    made.hg("strip", "--quiet", "--no-backup", "--rev", "2")
    after = await same_as_anew(repository, tmp_path / "anew")
    assert after.epoch != before.epoch
    assert after.index.known([node]) == [False]
    with pytest.raises(UnknownNode):
        after.index.resolve([Explicit((node,))])
    assert after.index.file(b"only", []) is None
    # They are still in the index, by their nodes as well.
    (gone,) = before.index.changesets(before.index.resolve([Explicit((node,))]))
    manifest = manifest_node(gone.text)
    file_nodes = {e.path: e.node for e in entries(content(before).manifests[manifest])}
    with pytest.raises(UnknownNode):
        after.index.manifests([manifest])
    with pytest.raises(UnknownNode):
        after.index.file(b"a", [file_nodes[b"a"]])
    assert before.index.file(b"a", [file_nodes[b"a"]]) is not None
    made.hg("unbundle", "--quiet", bundle)
    again = await same_as_anew(repository, tmp_path / "anew2")
    assert again.epoch == after.epoch
    assert again.index.known([node]) == [True]


async def test_phases_move(made: Work, repository: HgRepository, tmp_path: Path) -> None:
    """A draft that becomes secret is hidden in a new epoch; as a draft again it is there again."""
    before = await repository.snapshot()
    assert set(content(before).phases.values()) == {b"draft"}
    made.hg("phase", "--public", "--rev", "0")
    public = await same_as_anew(repository, tmp_path / "public")
    assert (public.epoch, public.moving == before.moving) == (before.epoch, False)
    assert list(content(public).phases.values()) == [b"public", b"draft"]
    made.hg("phase", "--secret", "--force", "--rev", "1")
    secret = await same_as_anew(repository, tmp_path / "secret")
    assert secret.index.count == 1
    assert secret.epoch != before.epoch
    assert not secret.stream_allowed
    made.hg("phase", "--draft", "--rev", "1")
    again = await same_as_anew(repository, tmp_path / "again")
    assert (again.index.count, again.epoch) == (2, secret.epoch)


async def test_amend(made: Work, repository: HgRepository, tmp_path: Path) -> None:
    """The predecessor of an amended changeset is hidden, and its files with it."""
    before = await repository.snapshot()
    made.write("a", "amended\n")
    made.hg("commit", "--amend", "--message", "second, amended", "--date", "0 0")
    after = await same_as_anew(repository, tmp_path / "anew")
    assert after.epoch != before.epoch
    assert after.index.count == 2
    assert after.index.known(before.heads) == [False]


async def test_bookmarks_and_tags_move(made: Work, repository: HgRepository) -> None:
    """A bookmark changes what depends on bookmarks; a local tag changes the digest alone."""
    first = await repository.snapshot()
    made.hg("bookmark", "--rev", "0", "mark")
    second = await repository.snapshot()
    assert set(second.bookmarks) == {b"mark"}
    assert (second.epoch, second.moving == first.moving) == (first.epoch, False)
    made.hg("tag", "--local", "--rev", "0", "here")
    third = await repository.snapshot()
    assert (third.moving, third.digest == second.digest) == (second.moving, False)


async def test_an_empty_repository_gets_its_first_changeset(
    made: Work, tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    """Nothing is served, and then something, in the same epoch."""
    repository = served(made.path, tmp_path, executor)
    nothing = await repository.snapshot()
    assert nothing.heads == (bytes(20),) == nothing.public_heads
    assert content(nothing).changesets == {}
    made.commit("first", a="1\n")
    something = await same_as_anew(repository, tmp_path / "anew")
    assert (something.index.count, something.epoch) == (1, nothing.epoch)


# --- when hg is asked --------------------------------------------------------------------------


def age(path: Path) -> None:
    """Let the repository look as if it had not changed for years."""
    for each in path.rglob("*"):
        os.utime(each, (1_000_000_000, 1_000_000_000), follow_symlinks=False)


def count_asks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have the questions to hg counted."""
    asks = [0]
    ask = keeping.ask

    def counted(*args: object) -> object:
        asks[0] += 1
        return ask(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(keeping, "ask", counted)
    return asks


def test_a_time_that_was_set_back(tmp_path: Path) -> None:
    """A file that was written has changed, also if it is as long and as old as it was."""
    store = tmp_path / "store"
    store.mkdir()
    changelog = store / "00changelog.i"
    changelog.write_bytes(b"one")
    before, stamps = changelog.stat(), stamps_of(tmp_path, {})
    assert stamps_of(tmp_path, {}) == stamps
    while changelog.stat().st_ctime_ns == before.st_ctime_ns:  # until the clock's next tick
        changelog.write_bytes(b"two")
        os.utime(changelog, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert changelog.stat().st_mtime_ns == before.st_mtime_ns
    assert stamps_of(tmp_path, {}) != stamps


async def test_hg_is_asked_once(
    repository: HgRepository,
    tmp_path: Path,
    executor: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of many who come at once, in two processes, one asks; the others and later ones share it."""
    asks = count_asks(monkeypatch)
    age(repository.path)
    twin = served(repository.path.parent, tmp_path, executor)
    snapshots = await asyncio.gather(*(each.snapshot() for each in [repository, twin] * 5))
    assert len({snapshot.digest for snapshot in snapshots}) == 1
    assert asks == [1]
    assert (await repository.snapshot()) is (await repository.snapshot())
    assert asks == [1]


async def test_two_processes_build_at_once(
    made: Work, repository: HgRepository, tmp_path: Path
) -> None:
    """Two processes that come to a repository without an index agree on one."""
    code = (
        "import asyncio, sys\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from pathlib import Path\n"
        "from repos.hg.program import Hg\n"
        "from repos.hg.repository import HgRepository\n"
        "path, data, program = sys.argv[1:]\n"
        "hg = Hg(executable=program)\n"
        "served = HgRepository('p', Path(path), hg, ThreadPoolExecutor(1), Path(data))\n"
        "snapshot = asyncio.run(served.snapshot())\n"
        "print(snapshot.epoch, snapshot.digest, snapshot.index.count)\n"
    )
    program = stock(tmp_path).executable
    args = [sys.executable, "-c", code, str(repository.path), str(tmp_path / "hg"), program]
    running = [
        await asyncio.create_subprocess_exec(*args, stdout=subprocess.PIPE) for _ in range(2)
    ]
    said = [(await process.communicate())[0].decode() for process in running]
    assert said[0] == said[1] != ""
    snapshot = await repository.snapshot()
    assert said[0].split() == [snapshot.epoch, snapshot.digest, "2"]


async def test_who_may_read_is_not_ours_to_guess(made: Work, repository: HgRepository) -> None:
    """A repository that names its readers is refused, without a word of where it lies."""
    await repository.snapshot()
    hgrc = made.path / ".hg" / "hgrc"
    for setting in ("allow_read = alice", "deny_read = *"):
        hgrc.write_text(f"[web]\n{setting}\n")
        with pytest.raises(Unservable, match=r"web\.allow_read") as refused:
            await repository.snapshot()
        assert str(made.path.parent) not in str(refused.value)
    hgrc.write_text("[web]\nallow_read = *\ndescription = for all\n")
    assert (await repository.snapshot()).index.count
    hgrc.write_text("# about the web\n")
    assert (await repository.snapshot()).index.count


@pytest.mark.parametrize("how", ["file", "directory", "include"])
async def test_who_may_read_anything(
    made: Work, repository: HgRepository, tmp_path: Path, how: str
) -> None:
    """What HGRCPATH says of readers counts for each repository, from when it says so."""
    place = tmp_path / "site"
    place.mkdir()
    (place / "not-read").write_text("[web]\ndeny_read = *\n")
    said = rc = place / "web.rc"
    rc.write_text("[web]\nstyle = paper\n")
    if how == "include":
        (place / "also-not-read").write_text("%include web.rc\n")
        said = place / "also-not-read"
    environ = {**repository.hg.environ, "HGRCPATH": f"{place if how == 'directory' else said}"}
    asked = replace(repository, hg=replace(repository.hg, environ=environ))
    assert (await asked.snapshot()).index.count == 2
    rc.write_text("[web]\ndeny_read = *\n")
    if how == "include":  # what it names is not looked at, before something else has changed
        made.commit("third", a="3\n")
    with pytest.raises(Unservable, match="HGRCPATH"):
        await asked.snapshot()
    assert (await repository.snapshot()).index.count


RULES = {
    "": True,
    "deny_read = bob": False,
    "deny_read =": True,
    "allow_read = *": True,
    "allow_read = *, bob": False,
    "allow-pull = off": False,
    "allowpull = False": False,
    "allow-pull = yes": True,
}


async def test_who_may_read_as_hgweb_sees_it(
    repository: HgRepository, tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    """A repository is answered for if hgweb would let in somebody whom it does not know."""
    await repository.snapshot()
    roots = [tmp_path / f"rule{number}" for number in range(len(RULES))]
    for root, rule in zip(roots, RULES, strict=True):
        shutil.copytree(repository.path.parent, root)
        (root / ".hg" / "hgrc").write_text(f"[web]\n{rule}\n")
    with serving(tmp_path / "serving", *(root / ".hg" for root in roots)) as urls:
        for root, url, allowed in zip(roots, urls, RULES.values(), strict=True):
            with nullcontext() if allowed else pytest.raises(PeerRefused, match="not authorized"):
                Peer(url).call("heads")
            keeper = Keeper(repository.hg, root / ".hg", tmp_path / "checked")
            with nullcontext() if allowed else pytest.raises(Unservable, match="who may read"):
                await asyncio.get_running_loop().run_in_executor(executor, keeper.check)


async def test_a_failure_is_told_and_forgotten(made: Work, repository: HgRepository) -> None:
    """When hg refuses the repository its words are passed on; mended, it is served."""
    hgrc = repository.path / "hgrc"
    good = hgrc.read_text()
    hgrc.write_text("no section\n")
    for _ in range(2):
        with pytest.raises(HgFailed, match="hgrc"):
            await repository.snapshot()
    hgrc.write_text(good)
    assert (await repository.snapshot()).index.count == 2


async def test_what_the_protocol_cannot_say(
    made: Work, repository: HgRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repository with LFS, or a censored file, is refused with the reason, and once only."""
    requires = repository.path / "requires"
    good = requires.read_text()
    requires.write_text(good + "lfs\n")
    with pytest.raises(Unservable, match=r"files in LFS \(requirement lfs\)"):
        await repository.snapshot()
    requires.write_text(good)
    assert (await repository.snapshot()).index.count == 2
    made.hg("phase", "--public", "--rev", "1")
    made.commit("goes on", a="3\n")
    made.hg("--config", "extensions.censor=", "censor", "--rev", "1", "a")
    fresh = HgRepository(
        "p", repository.path, repository.hg, repository.executor, repository.data / "fresh"
    )
    with pytest.raises(Unservable, match=r"revision .* of a does not hash to its node: it is"):
        await fresh.snapshot()
    asks = count_asks(monkeypatch)
    with pytest.raises(Unservable):
        await fresh.snapshot()
    assert asks == [0]


async def test_what_hg_cannot_read_is_told_in_its_words(
    made: Work, repository: HgRepository
) -> None:
    """A bundle that breaks off is no damage of ours: hg says what it could not read."""
    await repository.snapshot()
    made.commit("more", a="4\n")
    log = made.path / ".hg" / "store" / "data" / "a.i"
    data = bytearray(log.read_bytes())
    place = 0
    while (end := place + 64 + int.from_bytes(data[place + 8 : place + 12])) < len(data):
        place = end
    data[place + 64] = ord("Q")  # how the last revision is compressed
    log.write_bytes(data)
    with pytest.raises(HgFailed, match="unknown compression type"):
        await repository.snapshot()


# --- crashes and damage ------------------------------------------------------------------------


class Crash(BaseException):
    """Somebody pulled the plug."""


@pytest.mark.parametrize(("after", "grown"), [(0, False), (9, False), (3, True)])
async def test_a_crash_while_it_is_built(  # noqa: PLR0917 - fixtures and parameters
    made: Work,
    repository: HgRepository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
    grown: bool,
) -> None:
    """A crash in the middle of a build or of growth leaves what was there, and it is done again."""
    keeper = Keeper(repository.hg, repository.path, tmp_path / "crash")
    before = keeper.refresh() if grown else None
    made.commit("more", a="more\n", new="n\n")
    left = [after]
    take = Builder.take

    def crashing(self: Builder, event: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Crash
        take(self, event)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(Builder, "take", crashing)
        with pytest.raises(Crash):
            keeper.refresh()
    if before is not None:
        assert before.index.count == 2
        assert len(list(before.index.changesets(before.index.revs))) == 2
    kept = Keeper(repository.hg, repository.path, tmp_path / "crash").refresh()
    assert kept.index.count == 3
    assert before is None or kept.state.epoch == before.state.epoch
    assert len([each for each in (tmp_path / "crash").iterdir() if each.is_dir()]) == 1


async def test_a_damaged_index(repository: HgRepository, tmp_path: Path) -> None:
    """An index that is no database, or lost what it says it has, is built anew."""
    place = tmp_path / "damaged"
    first = Keeper(repository.hg, repository.path, place).refresh()
    path = first.index.generation.path
    path.write_bytes(b"no database" * 1000)
    second = Keeper(repository.hg, repository.path, place).refresh()
    assert second.index.generation.path != path
    assert second.index.count == 2
    assert second.state.epoch != first.state.epoch
    (place / "current").write_text("../elsewhere")
    assert Keeper(repository.hg, repository.path, place).refresh().index.count == 2


async def test_an_index_that_breaks_while_it_is_used(repository: HgRepository) -> None:
    """Damage that is found by an answer has the index built anew, once."""
    before = await repository.snapshot()
    db = database.open_to_grow(before.index.generation.path)
    db.execute("UPDATE revision SET kind = 0, data = x'00'")
    db.close()
    with pytest.raises(IndexBroken, match="does not hash"):
        content(before)
    after = await repository.renewed(before, broken=True)
    assert len(content(after).changesets) == 2
    assert after.epoch != before.epoch
    assert (await repository.renewed(before, broken=True)).epoch == after.epoch


async def test_an_index_that_cannot_be_made(
    repository: HgRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is told, and not at once tried again; then it is, without being asked to."""
    asks = count_asks(monkeypatch)

    def full(_path: Path) -> sqlite3.Connection:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(module, "UNREADABLE_SECONDS", 1000.0)
    with monkeypatch.context() as patched:
        patched.setattr(database, "open_new", full)
        for _ in range(2):
            with pytest.raises(IndexUnreadable, match="disk is full"):
                await repository.snapshot()
        assert asks == [1]
        patched.setattr(module.time, "monotonic", lambda: 1e9)
        with pytest.raises(IndexUnreadable, match="disk is full"):
            await repository.snapshot()
    assert asks == [2]
    monkeypatch.setattr(module.time, "monotonic", lambda: 2e9)
    assert (await repository.snapshot()).index.count == 2


async def test_too_much_that_is_hidden(
    made: Work, repository: HgRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index of which too much is not served is built anew; readers of the old one finish."""
    made.commit("to go", a="gone\n")
    before = await repository.snapshot()
    monkeypatch.setattr(keeping, "HIDDEN_LEAST", 0)
    made.hg("strip", "--quiet", "--no-backup", "--rev", "2")
    after = await repository.snapshot()
    assert len(after.index.dag) == after.index.count == 2
    assert after.epoch != before.epoch
    assert after.index.generation.path != before.index.generation.path
    assert len(content(before).changesets) == 3
    assert len(content(after).changesets) == 2
