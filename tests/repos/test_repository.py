# Law of this file: a snapshot is what stock git says now, and however many ask at once, git is run
# a few times only.

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from repos.git import repository as module
from repos.git.program import Git, GitFailed
from repos.git.repository import GitRepository, Snapshot

OLD = 1_000_000_000


def git(path: Path, *args: str) -> str:
    """Run stock git."""
    return subprocess.run(
        ["git", *args], cwd=path, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture(autouse=True)
def _no_memory_of_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each question looks at the files, however soon it comes."""
    monkeypatch.setattr(module, "LOOK_SECONDS", -1.0, raising=False)
    monkeypatch.setattr(module, "CONFIG_SECONDS", -1.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A bare repository with one commit on main."""
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "p.git"], check=True)
    path = tmp_path / "p.git"
    commit(path, "first")
    return path


def commit(path: Path, message: str) -> str:
    """Put a commit onto HEAD."""
    oid = git(
        path, "commit-tree", "-m", message, git(path, "hash-object", "-wt", "tree", "/dev/null")
    )
    git(path, "update-ref", "HEAD", oid)
    return oid


def age(path: Path) -> None:
    """Let the repository and the user's settings look as if they had not changed for years."""
    for each in (*path.rglob("*"), path, Path.home() / ".gitconfig"):
        os.utime(each, (OLD, OLD))


@pytest.fixture
def counted(path: Path, tmp_path: Path) -> Iterator[tuple[GitRepository, Path]]:
    """A repository, and a file with a line for each run of git."""
    log = tmp_path / "runs"
    log.touch()
    wrapper = tmp_path / "git"
    wrapper.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec git "$@"\n')
    wrapper.chmod(0o755)
    with ThreadPoolExecutor(4) as executor:
        yield GitRepository("p.git", path, Git(executable=str(wrapper)), executor), log


def runs(log: Path) -> int:
    """How often git was run."""
    return len(log.read_text().splitlines())


async def test_a_snapshot(counted: tuple[GitRepository, Path], path: Path) -> None:
    """It says what stock git advertises, and with which settings git is to be run."""
    repository, _ = counted
    snapshot = await repository.snapshot()
    assert snapshot.object_format == "sha1"
    assert snapshot.refs.tips == {git(path, "rev-parse", "HEAD")}
    assert snapshot.config == (("uploadpack.allowFilter", "true"),)
    assert snapshot.capabilities.has("ls-refs")
    assert (snapshot.readable, snapshot.pushable) == (True, None)
    assert repository.identity == str(path)


async def test_git_is_asked_again_only_after_a_change(
    counted: tuple[GitRepository, Path], path: Path
) -> None:
    """Without a change a snapshot costs no run of git; after one it is new."""
    repository, log = counted
    age(path)
    first = await repository.snapshot()
    asked = runs(log)
    for _ in range(10):
        assert await repository.snapshot() is first
    assert runs(log) == asked
    new = commit(path, "second")
    assert (await repository.snapshot()).refs.tips == {new}


async def test_a_hundred_at_once(counted: tuple[GitRepository, Path], path: Path) -> None:
    """A hundred who ask at once share two answers at most, and so a few runs of git."""
    repository, log = counted
    age(path)
    snapshots = await asyncio.gather(*(repository.snapshot() for _ in range(100)))
    assert len({id(snapshot) for snapshot in snapshots}) <= 2
    # Settings, capabilities and refs the first time; refs alone the second.
    assert runs(log) <= 4


async def test_a_hundred_at_once_of_a_busy_repository(
    counted: tuple[GitRepository, Path], path: Path
) -> None:
    """The same for a repository that has changed just now, whose answers are not kept."""
    repository, log = counted
    new = commit(path, "second")
    snapshots = await asyncio.gather(*(repository.snapshot() for _ in range(100)))
    assert all(snapshot.refs.tips == {new} for snapshot in snapshots)
    assert runs(log) <= 6


async def test_a_hundred_at_once_of_a_broken_repository(
    counted: tuple[GitRepository, Path], path: Path
) -> None:
    """A repository that git refuses costs a hundred askers a few runs of git as well."""
    repository, log = counted
    (path / "HEAD").write_text("nonsense\n")
    answers = await asyncio.gather(
        *(repository.snapshot() for _ in range(100)), return_exceptions=True
    )
    assert all(isinstance(answer, GitFailed) for answer in answers)
    assert runs(log) <= 6


async def test_who_comes_later_does_not_get_an_older_answer(
    counted: tuple[GitRepository, Path], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is being read may be from before a change: who asks after the change waits for more."""
    repository, _ = counted
    age(path)
    ask = GitRepository._ask
    read, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(self: GitRepository) -> Snapshot:
        snapshot = ask(self)
        loop.call_soon_threadsafe(read.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
        return snapshot

    monkeypatch.setattr(GitRepository, "_ask", slow)
    early = asyncio.create_task(repository.snapshot())
    await read.wait()
    new = commit(path, "second")
    late = asyncio.create_task(repository.snapshot())
    await asyncio.sleep(0)
    go_on.set()
    assert (await late).refs.tips == {new}
    assert (await early).refs.tips != {new}


async def test_a_caller_that_goes_does_not_stop_the_others(
    counted: tuple[GitRepository, Path], path: Path
) -> None:
    """Who started a look at git and is cancelled leaves it to those who wait for it."""
    repository, _ = counted
    first = asyncio.create_task(repository.snapshot())
    second = asyncio.create_task(repository.snapshot())
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).refs.tips == {git(path, "rev-parse", "HEAD")}


async def test_what_is_racy_is_asked_again(
    counted: tuple[GitRepository, Path], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change within the same tick of the file system's clock is seen."""
    repository, _ = counted
    now = path.stat().st_mtime_ns
    for each in (*path.rglob("*"), path):
        os.utime(each, ns=(now, now))
    monkeypatch.setattr(module.time, "time", lambda: now / 1e9 + 0.001)
    await repository.snapshot()
    (ref,) = (each for each in (path / "refs" / "heads").iterdir())
    other = git(path, "commit-tree", "-m", "other", git(path, "rev-parse", "HEAD^{tree}"))
    ref.write_text(other + "\n")
    for each in (*path.rglob("*"), path):
        os.utime(each, ns=(now, now))
    assert (await repository.snapshot()).refs.tips == {other}


@pytest.mark.parametrize(
    ("setting", "attribute", "expected"),
    [
        (("http.uploadpack", "false"), "readable", False),
        (("http.uploadpack", "0"), "readable", False),
        (("http.uploadpack", "yes"), "readable", True),
        (("http.receivepack", "true"), "pushable", True),
        (("http.receivepack", "off"), "pushable", False),
        (("uploadpack.allowFilter", "false"), "config", (("uploadpack.allowFilter", "false"),)),
        (("uploadpack.allowFilter", "1"), "config", (("uploadpack.allowFilter", "true"),)),
        (("http.receivepack", "2"), "pushable", True),
    ],
)
async def test_settings_of_the_repository(
    counted: tuple[GitRepository, Path],
    path: Path,
    *,
    setting: tuple[str, str],
    attribute: str,
    expected: object,
) -> None:
    """Its own configuration is read as git reads booleans, and a change of it is seen."""
    repository, _ = counted
    before = await repository.snapshot()
    git(path, "config", *setting)
    after = await repository.snapshot()
    assert getattr(after, attribute) == expected
    assert after.config_digest != before.config_digest


async def test_filters_may_be_off_by_default(path: Path) -> None:
    """Where partial clones are switched off here, a repository may still allow them."""
    with ThreadPoolExecutor(1) as executor:
        repository = GitRepository("p", path, Git(), executor, allow_filter=False)
        assert "filter" not in (await repository.snapshot()).capabilities.fetch_features
        git(path, "config", "uploadpack.allowFilter", "true")
        assert "filter" in (await repository.snapshot()).capabilities.fetch_features


async def test_a_shallow_repository_has_another_digest(
    counted: tuple[GitRepository, Path], path: Path
) -> None:
    """Grafts change what a fetch is answered with, so they change the digest."""
    repository, _ = counted
    before = (await repository.snapshot()).config_digest
    (path / "shallow").write_text(git(path, "rev-parse", "HEAD") + "\n")
    assert (await repository.snapshot()).config_digest != before


async def test_a_repository_that_goes(counted: tuple[GitRepository, Path], path: Path) -> None:
    """A repository that is gone raises, and is served again when it is back."""
    repository, _ = counted
    before = await repository.snapshot()
    path.rename(path.with_name("away"))
    with pytest.raises(GitFailed):
        await repository.snapshot()
    path.with_name("away").rename(path)
    assert (await repository.snapshot()).refs.tips == before.refs.tips
