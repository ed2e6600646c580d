# Law of this file: whatever breaks behind the server, a client gets a whole answer or an error that
# says so, and what is broken is never recorded.

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cache.errors import CacheUnavailable
from repos.git.program import Git as Program
from server import pipeline
from server.settings import Settings
from stores.directory import DirectoryStore
from stores.faulty import Fail, FaultyStore, Flip, Hang, Truncate
from tests.conftest import Git, Serve, Served
from tests.server.asking import (
    HEADERS,
    REQUEST,
    command,
    connected,
    converse,
    error,
    head,
    listen_to_access,
    make_repository,
    pack,
    post,
    run_git,
    stock,
    want,
)
from wire.git import pktline

SIZE = 400_000
HTTP = ("-c", "fetch.uriProtocols=http")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory with one repository, ``p.git``, whose pack is larger than one write."""
    root = tmp_path / "root"
    root.mkdir()
    make_repository(root / "p.git", {"noise": os.urandom(SIZE)})
    return root


def tip(root: Path) -> str:
    """The commit of the repository."""
    return run_git("rev-parse", "HEAD", cwd=root / "p.git")


def replace_git(served: Served, tmp_path: Path, script: str, *, time_limit: float = 60.0) -> None:
    """Have fetches answered by a shell script; ``$ANSWER`` is a file with what git would say."""
    path = tmp_path / "wrapper"
    path.write_text(
        "#!/bin/sh\n"
        f"BODY=$(mktemp -p {tmp_path})\nANSWER=$BODY.answer\ncat > $BODY\n"
        "if grep -qaE 'command=fetch|want ' $BODY; then\n"
        f'git "$@" < $BODY > $ANSWER\n{script}\n'
        'else exec git "$@" < $BODY; fi\n'
    )
    path.chmod(0o755)
    repository = served.runtime.repositories.get("p.git")
    assert repository is not None
    repository.git = Program(time_limit, executable=str(path))


def restore_git(served: Served) -> None:
    """Have fetches answered by git again."""
    repository = served.runtime.repositories.get("p.git")
    assert repository is not None
    repository.git = Program(60.0)


def kept(served: Served) -> list[str]:
    """What the cache holds."""
    data = served.settings.data
    folders = (data / "records", data / "entities")
    return [str(path) for folder in folders for path in folder.rglob("*") if path.is_file()]


async def clone(git: Git, served: Served, to: Path, *options: str) -> None:
    """Clone, and see that the clone is whole."""
    await git(*options, "clone", "-q", f"{served.url}/p.git", to)
    await git("fsck", "--strict", cwd=to)


# --- git that fails ------------------------------------------------------------------------

FAULTS = {
    "killed at once": "kill -9 $$",
    "killed in the middle": "head -c 200000 $ANSWER; kill -9 $$",
    "killed in a packet's head": "head -c 2 $ANSWER; kill -9 $$",
    "fails after all is said": "cat $ANSWER; exit 1",
    "truncated": "head -c 200000 $ANSWER; exit 0",
    "without its last packet": "head -c -4 $ANSWER; exit 0",
    "empty": "exit 0",
    "no packets": "echo fatal: this is no packet; exit 0",
    "another pack": "head -c 200000 $ANSWER; tail -c +200100 $ANSWER; exit 0",
    "goes on after its end": "cat $ANSWER; echo more; exit 0",
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("options", [(), HTTP], ids=["inline", "redirect"])
async def test_a_broken_answer_is_not_recorded(
    serve: Serve, git: Git, root: Path, tmp_path: Path, *, fault: str, options: tuple[str, ...]
) -> None:
    """A run that did not end well fails its client, leaves nothing, and is run anew."""
    served = await serve(root)
    replace_git(served, tmp_path, FAULTS[fault])
    failed = await git(
        *options, "clone", "-q", f"{served.url}/p.git", tmp_path / "failed", check=False
    )
    assert failed.status != 0
    assert str(root) not in failed.stderr
    assert not kept(served)
    restore_git(served)
    await clone(git, served, tmp_path / "clone", *options)


@pytest.mark.parametrize("fault", ["killed at once", "killed in the middle", "truncated"])
async def test_a_broken_answer_of_protocol_v0_is_not_recorded(
    serve: Serve, git: Git, root: Path, tmp_path: Path, fault: str
) -> None:
    """The same for a client of protocol v0."""
    served = await serve(root)
    replace_git(served, tmp_path, FAULTS[fault])
    v0 = ("-c", "protocol.version=0")
    failed = await git(*v0, "clone", "-q", f"{served.url}/p.git", tmp_path / "failed", check=False)
    assert failed.status != 0
    assert not kept(served)
    restore_git(served)
    await clone(git, served, tmp_path / "clone", *v0)


async def test_the_client_is_told_that_git_failed(serve: Serve, root: Path, tmp_path: Path) -> None:
    """An answer that fails before its first byte is an error packet, without our paths."""
    served = await serve(root)
    replace_git(served, tmp_path, "echo secret complaint >&2; exit 3")
    told = error((await post(served, "p.git", want(tip(root)))).body)
    assert "git failed on the server" in told
    assert "secret" not in told
    assert served.outcomes() == {"error": 1}


@contextmanager
def gate(tmp_path: Path) -> Iterator[Path]:
    """A pipe at which a script waits until it is opened for writing."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    yield path


def open_gate(path: Path) -> None:
    """Let the script go on."""
    path.write_bytes(b"")


async def test_a_failure_in_mid_answer_is_told_in_the_answer(
    serve: Serve, root: Path, tmp_path: Path
) -> None:
    """What fails after its first byte ends with the protocol's error on band 3."""
    served = await serve(root)
    with gate(tmp_path) as waits:
        replace_git(served, tmp_path, f"head -c 200000 $ANSWER; cat {waits}; kill -9 $$")
        async with connected(served) as (reader, writer):
            body = want(tip(root))
            fields = {**HEADERS, "Content-Length": str(len(body))}
            writer.write(head("POST", "/p.git/git-upload-pack", fields) + body)
            await reader.readuntil(b"PACK")
            await asyncio.to_thread(open_gate, waits)
            told = await reader.read()
            while more := await reader.read():
                told += more
    assert b"\x03git failed on the server" in told
    assert b"HTTP/1.1" not in told
    assert not kept(served)


async def test_a_failure_in_mid_answer_of_protocol_v0_breaks_off(
    serve: Serve, root: Path, tmp_path: Path
) -> None:
    """Where no error can be told any more, the connection ends; no second answer is sent in it."""
    served = await serve(root)
    oid = tip(root).encode()
    body = pktline.text(b"want %s ofs-delta" % oid) + b"0000" + pktline.text(b"done")
    fields = {"Content-Type": REQUEST, "Content-Length": str(len(body))}
    with gate(tmp_path) as waits:
        replace_git(served, tmp_path, f"head -c 200000 $ANSWER; cat {waits}; kill -9 $$")
        async with connected(served) as (reader, writer):
            writer.write(head("POST", "/p.git/git-upload-pack", fields) + body)
            await reader.readuntil(b"PACK")
            await asyncio.to_thread(open_gate, waits)
            try:
                told = await reader.read()
            except ConnectionResetError:
                told = b""
    assert b"HTTP/1.1" not in told
    assert not told.endswith(b"0\r\n\r\n")
    assert not kept(served)


async def test_a_program_that_hangs_is_ended(serve: Serve, root: Path, tmp_path: Path) -> None:
    """limits.program_time ends a git that hangs, and its client gets an error packet."""
    served = await serve(root)
    replace_git(served, tmp_path, "exec sleep 1000", time_limit=0.3)
    reply = await post(served, "p.git", want(tip(root)))
    assert "git failed on the server" in error(reply.body)
    assert not kept(served)


async def test_a_program_that_hangs_is_ended_without_the_cache(
    serve: Serve, root: Path, tmp_path: Path
) -> None:
    """The same where the cache cannot be used."""
    served = await serve(root)
    break_incoming(served)
    replace_git(served, tmp_path, "exec sleep 1000", time_limit=0.3)
    reply = await post(served, "p.git", want(tip(root)))
    assert "git failed on the server" in error(reply.body)


async def test_git_that_is_not_there(
    serve: Serve, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A git that cannot be started is an error that the client is told, with the cache or not."""
    monkeypatch.setattr("repos.git.repository.is_racy", lambda *_: False)
    served = await serve(root)
    repository = served.runtime.repositories.get("p.git")
    assert repository is not None
    await repository.snapshot()
    repository.git = Program(executable=str(tmp_path / "no-git"))
    for _ in range(2):
        reply = await post(served, "p.git", want(tip(root)))
        assert "git failed on the server" in error(reply.body)
        break_incoming(served)


# --- the disk ------------------------------------------------------------------------------


def break_incoming(served: Served) -> None:
    """Make the cache's directory for what is being written unusable."""
    incoming = served.settings.data / "incoming"
    if incoming.is_dir():
        shutil.rmtree(incoming)
        incoming.write_text("in the way")


def full(*_: object) -> None:
    """Refuse as a full disk does."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("refused", ["content", "head", "file", "rename"])
@pytest.mark.parametrize("version", ["2", "0"])
@pytest.mark.parametrize("options", [(), HTTP], ids=["inline", "redirect"])
async def test_a_full_disk_costs_no_clone(
    serve: Serve,
    git: Git,
    root: Path,
    tmp_path: Path,
    *,
    monkeypatch: pytest.MonkeyPatch,
    refused: str,
    version: str,
    options: tuple[str, ...],
) -> None:
    """With a disk that takes nothing clones are answered by git itself, and nothing is kept."""
    served = await serve(root)

    def unavailable(*_: object) -> None:
        raise CacheUnavailable(errno.ENOSPC, "no space left")

    match refused:
        case "content":
            monkeypatch.setattr("cache.sink.write_all", full)
        case "head":
            monkeypatch.setattr("cache.sink.append_frame", full)
        case "file":
            monkeypatch.setattr("cache.layout.Layout.create", unavailable)
        case "rename":
            monkeypatch.setattr("cache.layout.Layout.move", unavailable)
    for number in range(2):
        to = tmp_path / f"clone{number}"
        await clone(git, served, to, *options, "-c", f"protocol.version={version}")
    assert not kept(served)
    monkeypatch.undo()
    await clone(git, served, tmp_path / "after", "-c", f"protocol.version={version}")
    assert kept(served)


async def test_a_data_directory_that_cannot_be_written(
    serve: Serve, git: Git, root: Path, tmp_path: Path
) -> None:
    """With an unusable data directory clones are answered by git itself, and that is said."""
    served = await serve(root)
    break_incoming(served)
    for number, options in enumerate(((), HTTP)):
        await clone(git, served, tmp_path / f"clone{number}", *options)
    assert served.outcomes() == {"passthrough": 2}


# --- the store -----------------------------------------------------------------------------


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> FaultyStore:
    """The store of the servers that are started from now on."""
    made = FaultyStore(DirectoryStore(Path("/nonexistent")))

    def build(settings: Settings) -> FaultyStore:
        made.inner = DirectoryStore(settings.data / "store")
        return made

    monkeypatch.setattr("server.runtime.build_store", build)
    return made


async def test_a_store_that_hangs(
    serve: Serve, git: Git, root: Path, tmp_path: Path, faulty: FaultyStore
) -> None:
    """A client that accepts locations waits redirect.max_wait for a store, then gets all inline."""
    released = asyncio.Event()
    faulty.faults["put"] = Hang(released)
    served = await serve(root, redirect={"min_size": 0, "max_wait": 0.2})
    try:
        for number in range(2):
            await clone(git, served, tmp_path / f"clone{number}", *HTTP)
        assert served.content()["redirected"] == 0
        assert served.executions() == 1
    finally:
        released.set()


EVERYTHING = ("put", "stat", "open", "read_document")


async def test_a_store_that_answers_nothing(
    serve: Serve, git: Git, root: Path, tmp_path: Path, faulty: FaultyStore
) -> None:
    """A store of which every call hangs makes clones slower by a bounded time, not impossible."""
    released = asyncio.Event()
    served = await serve(root, redirect={"min_size": 0, "max_wait": 0.2})
    faulty.faults = dict.fromkeys(EVERYTHING, Hang(released))
    try:
        await clone(git, served, tmp_path / "clone", *HTTP)
        assert served.content()["redirected"] == 0
    finally:
        released.set()


async def test_a_store_that_fails(
    serve: Serve, git: Git, root: Path, tmp_path: Path, faulty: FaultyStore
) -> None:
    """With a store that fails every call, clones go inline, from one run."""
    served = await serve(root)
    faulty.faults = dict.fromkeys(EVERYTHING, Fail())
    for number in range(2):
        await clone(git, served, tmp_path / f"clone{number}", *HTTP)
    assert served.content()["redirected"] == 0
    assert served.executions() == 1


def evict(served: Served) -> None:
    """Remove all entities of the cache."""
    for path in (served.settings.data / "entities").glob("*/*"):
        path.unlink()


async def test_an_evicted_entity_is_fetched_from_the_store(
    serve: Serve, git: Git, root: Path, tmp_path: Path
) -> None:
    """What the cache has lost and the store has is not computed again."""
    served = await serve(root)
    await clone(git, served, tmp_path / "first", *HTTP)
    evict(served)
    await clone(git, served, tmp_path / "inline")
    evict(served)
    await clone(git, served, tmp_path / "redirected", *HTTP)
    assert served.executions() == 1


async def test_an_entity_that_is_nowhere_is_computed_again(
    serve: Serve, git: Git, root: Path, tmp_path: Path
) -> None:
    """What cache and store have lost is computed again."""
    served = await serve(root)
    await clone(git, served, tmp_path / "first")
    evict(served)
    await clone(git, served, tmp_path / "second")
    assert served.executions() == 2


@pytest.mark.parametrize("fault", [Flip(1000), Truncate(1000), Fail()], ids=lambda f: repr(f)[:8])
async def test_what_the_store_spoils_is_not_served(
    serve: Serve, git: Git, root: Path, tmp_path: Path, faulty: FaultyStore, *, fault: object
) -> None:
    """Content that comes back from the store as something else is computed again."""
    served = await serve(root)
    await clone(git, served, tmp_path / "first", *HTTP)
    evict(served)
    faulty.faults["open"] = fault  # type: ignore[assignment]
    await clone(git, served, tmp_path / "second")
    assert served.executions() == 2


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "gone"])
async def test_a_damaged_record_is_no_record(
    serve: Serve, git: Git, root: Path, tmp_path: Path, damage: str
) -> None:
    """A record that was damaged on disk is not served; the run is done again."""
    served = await serve(root)
    await clone(git, served, tmp_path / "first")
    (path,) = (served.settings.data / "records").glob("*/*")
    body = path.read_bytes()
    match damage:
        case "cut":
            path.write_bytes(body[:-1])
        case "flip":
            path.write_bytes(body[:-3] + bytes((body[-3] ^ 1,)) + body[-2:])
        case "empty":
            path.write_bytes(b"")
        case "gone":
            path.unlink()
    await clone(git, served, tmp_path / "second")
    assert served.executions() == 2


# --- clients that go -----------------------------------------------------------------------


@pytest.mark.parametrize("others", [0, 2])
async def test_a_client_that_goes_in_mid_answer(
    serve: Serve, root: Path, tmp_path: Path, others: int
) -> None:
    """The run that a client began is recorded although it goes, and its followers get it whole."""
    served = await serve(root)
    body = want(tip(root))
    fields = {**HEADERS, "Content-Length": str(len(body))}
    request = head("POST", "/p.git/git-upload-pack", fields) + body
    with gate(tmp_path) as waits:
        script = f"head -c 200000 $ANSWER; cat {waits}; tail -c +200001 $ANSWER"
        replace_git(served, tmp_path, script)
        async with connected(served) as (reader, writer):
            writer.write(request)
            await reader.readuntil(b"PACK")
        following = [asyncio.create_task(converse(served, request)) for _ in range(others)]
        runs = set(pipeline._watching)
        await asyncio.to_thread(open_gate, waits)
        await asyncio.gather(*runs)
        for reply in await asyncio.gather(*following):
            assert pack(reply.body)
    assert len(list((served.settings.data / "records").glob("*/*"))) == 1
    reply = await converse(served, request)
    assert len(pack(reply.body)) > SIZE
    assert served.executions() == 1


async def test_a_client_that_goes_is_no_error_of_ours(
    serve: Serve, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Clients go all the time: that is no traceback in the log."""
    served = await serve(root, log={"access": True})
    log = listen_to_access(served)
    body = want(tip(root))
    fields = {**HEADERS, "Content-Length": str(len(body))}
    with gate(tmp_path) as waits:
        replace_git(served, tmp_path, f"head -c 200000 $ANSWER; cat {waits}; kill -9 $$")
        async with connected(served) as (reader, writer):
            writer.write(head("POST", "/p.git/git-upload-pack", fields) + body)
            await reader.readuntil(b"PACK")
        await asyncio.to_thread(open_gate, waits)
        await log.until(1)
        # A request that is answered now was read after the handler of the first had ended.
        assert (await converse(served, head("GET", "/-/livez"))).status == 200
    assert not [record for record in caplog.records if record.exc_info]


# --- repositories that change --------------------------------------------------------------


async def test_a_repository_that_is_deleted(serve: Serve, root: Path) -> None:
    """A repository that is gone is 404 from the next request on, whatever was recorded of it."""
    served = await serve(root)
    body = want(tip(root))
    assert (await post(served, "p.git", body)).status == 200
    shutil.rmtree(root / "p.git")
    assert (await post(served, "p.git", body)).status == 404


async def test_a_repository_that_is_replaced(
    serve: Serve, git: Git, root: Path, tmp_path: Path
) -> None:
    """Another repository in its place is what is served, and nothing of the old one."""
    served = await serve(root)
    old = tip(root)
    assert pack((await post(served, "p.git", want(old))).body)
    shutil.rmtree(root / "p.git")
    make_repository(root / "p.git", {"other": b"content\n"})
    refused = error((await post(served, "p.git", want(old))).body)
    assert refused == error(stock(root / "p.git", want(old)))
    await clone(git, served, tmp_path / "clone")
    assert (tmp_path / "clone" / "other").exists()


async def test_a_repository_of_another_format_in_its_place(
    serve: Serve, git: Git, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The object format is that of the repository that is there now."""
    monkeypatch.setattr("repos.git.repository.CONFIG_SECONDS", -1.0)
    served = await serve(root)
    await clone(git, served, tmp_path / "first")
    shutil.rmtree(root / "p.git")
    make_repository(root / "p.git", {"other": b"content\n"}, object_format="sha256")
    await clone(git, served, tmp_path / "second")


@pytest.mark.parametrize("accepts", [(), (b"packfile-uris http",)], ids=["inline", "redirect"])
async def test_a_record_does_not_outlive_its_objects(
    serve: Serve, root: Path, accepts: tuple[bytes, ...]
) -> None:
    """After a force push and gc, what was recorded of the old commit is not served any more."""
    served = await serve(root)
    old = tip(root)
    asked = command(b"fetch", *accepts, b"want " + old.encode(), b"done")
    # An error is the first packet; anything may stand in a pack.
    assert not (await post(served, "p.git", asked)).body[4:].startswith(b"ERR ")
    repository = root / "p.git"
    tree = run_git("mktree", cwd=repository)
    other = run_git("commit-tree", "-m", "other", tree, cwd=repository)
    run_git("update-ref", "HEAD", other, cwd=repository)
    # still there, as in stock git, which asks only whether it exists
    assert not (await post(served, "p.git", asked)).body[4:].startswith(b"ERR ")
    run_git("gc", "-q", "--prune=now", cwd=repository)
    expected = error(stock(repository, want(old)))
    assert expected == f"upload-pack: not our ref {old}"
    for _ in range(2):
        assert error((await post(served, "p.git", asked)).body) == expected
