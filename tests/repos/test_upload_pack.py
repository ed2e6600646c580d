# Law of this file: what a run puts into its sink is what stock upload-pack says; what does not end
# well raises, whatever was said before.

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from repos.git.program import Git, GitFailed
from repos.git.repository import GitRepository, Snapshot
from repos.git.upload_pack import Refused, advertise_v0, fetch_v0, fetch_v2, stream
from wire.git import pktline, v2
from wire.git.pktline import ProtocolError

NOWHERE = "ab" * 20
COMMITS = 4000


def git(path: Path, *args: str, stdin: bytes = b"") -> bytes:
    """Run stock git."""
    return subprocess.run(
        ["git", *args], cwd=path, input=stdin, check=True, capture_output=True
    ).stdout


@dataclass
class Kept:
    """A sink that keeps everything."""

    heads: list[tuple[bytes, bool]] = field(default_factory=list)
    pack: bytearray = field(default_factory=bytearray)

    def head(self, head: bytes, has_pack: bool) -> None:
        """Keep a head."""
        self.heads.append((head, has_pack))

    def write(self, data: bytes) -> None:
        """Keep a piece."""
        self.pack += data


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A bare repository with a long history of small commits."""
    path = tmp_path / "p.git"
    subprocess.run(["git", "init", "-q", "--bare", path], check=True)
    stream = b"".join(
        b"commit refs/heads/main\ncommitter T <t@example.org> %d +0000\ndata 1\nx"
        b"\nM 644 inline f\ndata %d\n%d\n\n" % (1_000_000_000 + n, len(str(n)), n)
        for n in range(COMMITS)
    )
    git(path, "fast-import", "--quiet", stdin=stream)
    return path


@pytest.fixture
def repository(path: Path) -> Iterator[GitRepository]:
    """The same, as it is served."""
    with ThreadPoolExecutor(1) as executor:
        yield GitRepository("p.git", path, Git(time_limit=20.0), executor)


@pytest.fixture
async def snapshot(repository: GitRepository) -> Snapshot:
    """What it advertises."""
    return await repository.snapshot()


def broken(repository: GitRepository, tmp_path: Path, script: str) -> GitRepository:
    """Have its git be a script; ``git "$@"`` in it is stock git."""
    path = tmp_path / "wrapper"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    repository.git = Git(time_limit=20.0, executable=str(path))
    return repository


def request(*wants: str, haves: tuple[str, ...] = (), done: bool = True) -> bytes:
    """A v2 fetch."""
    fetch = v2.Fetch(v2.Session(), wants=wants, haves=haves, done=done, ofs_delta=True)
    return v2.encode_fetch(fetch)


def tip(path: Path) -> str:
    """The newest commit."""
    return git(path, "rev-parse", "main").decode().strip()


# --- protocol v2 ---------------------------------------------------------------------------


def test_a_fetch(path: Path, repository: GitRepository, snapshot: Snapshot) -> None:
    """Head and pack are taken apart; the checksum is the pack's own."""
    kept = Kept()
    fetched = fetch_v2(repository, snapshot, request(tip(path)), kept)
    assert kept.heads == [(b"", True)]
    assert fetched.has_pack
    assert kept.pack[-20:].hex() == fetched.checksum
    other = path.with_name("other.git")
    subprocess.run(["git", "init", "-q", "--bare", other], check=True)
    git(other, "index-pack", "--stdin", "--strict", stdin=bytes(kept.pack))
    assert git(other, "cat-file", "-t", tip(path)) == b"commit\n"


def test_a_round_without_a_pack(path: Path, repository: GitRepository, snapshot: Snapshot) -> None:
    """Acknowledgements alone are a head and no entity."""
    kept = Kept()
    asked = request(tip(path), haves=(NOWHERE,), done=False)
    fetched = fetch_v2(repository, snapshot, asked, kept)
    assert not fetched.has_pack
    assert fetched.checksum == ""
    assert b"NAK" in kept.heads[0][0]
    assert kept.pack == b""


def test_a_refusal_is_in_gits_own_words(repository: GitRepository, snapshot: Snapshot) -> None:
    """What git tells the client is what we tell it."""
    with pytest.raises(Refused, match=f"^upload-pack: not our ref {NOWHERE}$"):
        fetch_v2(repository, snapshot, request(NOWHERE), Kept())


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ('git "$@" | head -c 3000; exit 0', ProtocolError),
        ('git "$@" | head -c 3000; exit 1', GitFailed),
        ('git "$@" | head -c 3000; kill -9 $$', GitFailed),
        ('git "$@"; exit 1', GitFailed),
        ('git "$@" | head -c -4', ProtocolError),
        ('git "$@"; echo 0000', ProtocolError),
        ("cat > /dev/null", ProtocolError),
        ("cat > /dev/null; exit 1", GitFailed),
        ("cat > /dev/null; printf '0010ERR nonsense'; exit 128", Refused),
        ("cat > /dev/null; echo 'fatal: no packet'", ProtocolError),
        ("exit 7", GitFailed),
        ('git "$@" | sed s/PACK/KCAP/', ProtocolError),
    ],
)
def test_what_does_not_end_well_raises(
    repository: GitRepository, snapshot: Snapshot, tmp_path: Path, script: str, error: type
) -> None:
    """Cut short, killed, failed at the end, spoiled: none of it is an answer."""
    asked = request(*snapshot.refs.tips)
    with pytest.raises(error):
        fetch_v2(broken(repository, tmp_path, script), snapshot, asked, Kept())


def test_a_flipped_bit_in_the_pack_raises(
    repository: GitRepository, snapshot: Snapshot, tmp_path: Path
) -> None:
    """A pack whose checksum does not fit is no answer."""
    spoil = 'git "$@" > $0.out; printf X | dd of=$0.out bs=1 seek=2000 conv=notrunc 2> /dev/null'
    with pytest.raises(ProtocolError):
        fetch_v2(
            broken(repository, tmp_path, f"{spoil}; cat $0.out"),
            snapshot,
            request(*snapshot.refs.tips),
            Kept(),
        )


def test_a_sink_that_refuses_ends_the_program(
    repository: GitRepository, snapshot: Snapshot, tmp_path: Path
) -> None:
    """What the sink raises is raised, and the program does not go on for nobody."""

    class Full(Kept):
        def write(self, data: bytes) -> None:
            raise OSError("full")

    script = f'echo $$ > {tmp_path}/pid; git "$@"; exec sleep 1000'
    with pytest.raises(OSError, match="full"):
        fetch_v2(
            broken(repository, tmp_path, script), snapshot, request(*snapshot.refs.tips), Full()
        )
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()


# --- protocol v0 ---------------------------------------------------------------------------


def v0_request(path: Path, *haves: bytes) -> bytes:
    """A request of protocol v0 with many haves in one round."""
    want = b"want %s multi_ack_detailed no-done ofs-delta" % tip(path).encode()
    told = b"".join(pktline.text(b"have " + have) for have in haves)
    return pktline.text(want) + b"0000" + told + pktline.text(b"done")


def stock_v0(path: Path, asked: bytes) -> bytes:
    """What stock git answers."""
    return git(path, "upload-pack", "--stateless-rpc", "--strict", str(path), stdin=asked)


def test_a_v0_fetch_is_stock_gits_answer(
    path: Path, repository: GitRepository, snapshot: Snapshot
) -> None:
    """The whole answer is the entity, to the byte."""
    old = git(path, "rev-parse", "main~10").strip()
    for asked in (v0_request(path), v0_request(path, old), v0_request(path, NOWHERE.encode())):
        kept = Kept()
        fetched = fetch_v0(repository, snapshot, asked, kept, "", flushed=False)
        assert fetched.has_pack
        assert kept.heads == [(b"", True)]
        expected = stock_v0(path, asked)
        assert (
            bytes(kept.pack)[: len(expected) - 20].split(b"PACK")[0] == expected.split(b"PACK")[0]
        )


def test_a_v0_fetch_of_many_haves(
    path: Path, repository: GitRepository, snapshot: Snapshot
) -> None:
    """Thousands of common haves are acknowledged while they are still being told."""
    haves = git(path, "rev-list", "main~1").split()
    assert len(haves) > COMMITS - 10
    asked = v0_request(path, *haves)
    kept = Kept()
    fetch_v0(repository, snapshot, asked, kept, "", flushed=False)
    assert bytes(kept.pack).count(b"ACK ") == stock_v0(path, asked).count(b"ACK ")


def test_a_v0_refusal(path: Path, repository: GitRepository, snapshot: Snapshot) -> None:
    """An error packet is told as git's own refusal; a program that fails is not."""
    asked = pktline.text(b"want " + NOWHERE.encode()) + b"0000" + pktline.text(b"done")
    with pytest.raises(Refused, match="not our ref"):
        fetch_v0(repository, snapshot, asked, Kept(), "", flushed=False)


@pytest.mark.parametrize("script", ['git "$@" | head -c 100; exit 1', "exit 1", "kill -9 $$"])
def test_a_v0_run_that_fails(
    path: Path, repository: GitRepository, snapshot: Snapshot, tmp_path: Path, *, script: str
) -> None:
    """A run that did not end well raises, whatever was said before."""
    asked = v0_request(path)
    with pytest.raises(GitFailed):
        fetch_v0(broken(repository, tmp_path, script), snapshot, asked, Kept(), "", flushed=False)


def test_a_v0_answer_that_is_cut_short(
    path: Path, repository: GitRepository, snapshot: Snapshot, tmp_path: Path
) -> None:
    """A pack on a side band ends with a flush; without one it is no answer, however it ended."""
    want = b"want %s side-band-64k ofs-delta" % tip(path).encode()
    asked = pktline.text(want) + b"0000" + pktline.text(b"done")
    fetch_v0(repository, snapshot, asked, Kept(), "", flushed=True)
    cut = broken(repository, tmp_path, 'git "$@" | head -c 3000; exit 0')
    with pytest.raises(ProtocolError):
        fetch_v0(cut, snapshot, asked, Kept(), "", flushed=True)


def test_a_v0_refusal_is_not_a_part_of_the_answer(
    repository: GitRepository, snapshot: Snapshot
) -> None:
    """An error packet is raised and not written: nobody is sent it as the start of an answer."""
    asked = pktline.text(b"want " + NOWHERE.encode()) + b"0000" + pktline.text(b"done")
    kept = Kept()
    with pytest.raises(Refused):
        fetch_v0(repository, snapshot, asked, kept, "", flushed=False)
    assert kept.pack == b""


@pytest.mark.parametrize("protocol", ["", "version=1"])
def test_a_v0_advertisement(
    path: Path, repository: GitRepository, snapshot: Snapshot, protocol: str
) -> None:
    """The refs of protocol v0 and v1 are as stock git lists them."""
    body = advertise_v0(repository, snapshot, protocol)
    assert body.startswith(b"000eversion 1\n" if protocol else b"")
    assert tip(path).encode() + b" refs/heads/main\n" in body


# --- what is streamed ----------------------------------------------------------------------


async def once(body: bytes) -> AsyncIterator[bytes]:
    """A body in one piece."""
    yield body


async def collected(git: Git, *args: str, body: bytes = b"", **others: str) -> bytes:
    """Everything that a streamed program says."""
    return b"".join([piece async for piece in stream(git, args, once(body), **others)])


UPLOAD = ("upload-pack", "--stateless-rpc", "--strict")


async def test_a_stream(path: Path, repository: GitRepository) -> None:
    """It is what the program says, in order."""
    body = request(tip(path))
    said = await collected(repository.git, *UPLOAD, str(path), body=body, protocol="version=2")
    assert said.startswith(b"000dpackfile\n")
    assert said.endswith(b"0000")


async def test_a_streamed_program_that_fails(
    repository: GitRepository, snapshot: Snapshot, tmp_path: Path
) -> None:
    """What it said is given first, then it is raised that it failed, with its complaint."""
    failing = broken(repository, tmp_path, "echo said; echo complaint >&2; exit 3").git
    said = []
    with pytest.raises(GitFailed, match="complaint") as failed:
        said += [piece async for piece in stream(failing, UPLOAD, once(b""))]
    assert failed.value.status == 3


async def test_a_streamed_program_that_cannot_be_started(tmp_path: Path) -> None:
    """It is a failure of git as any other."""
    with pytest.raises(GitFailed):
        await collected(Git(executable=str(tmp_path / "no-git")), *UPLOAD)


async def test_a_streamed_program_that_takes_too_long(
    repository: GitRepository, tmp_path: Path
) -> None:
    """The time limit ends it."""
    slow = broken(repository, tmp_path, "exec sleep 1000")
    with pytest.raises(GitFailed, match="longer than"):
        await collected(Git(0.2, executable=slow.git.executable), *UPLOAD)


async def test_a_stream_that_nobody_reads_on(repository: GitRepository, tmp_path: Path) -> None:
    """Leaving a stream early kills the program."""
    script = f"echo $$ > {tmp_path}/pid; echo go; exec sleep 1000"
    pieces = stream(broken(repository, tmp_path, script).git, UPLOAD, once(b""))
    assert await anext(pieces) == b"go\n"
    await pieces.aclose()  # type: ignore[attr-defined]
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()


async def test_a_streamed_program_is_fed_while_it_answers(
    repository: GitRepository, tmp_path: Path
) -> None:
    """More than fits into pipes goes in and out at once."""
    much = os.urandom(2 << 20)
    echo = broken(repository, tmp_path, "exec cat").git
    assert await asyncio.wait_for(collected(echo, *UPLOAD, body=much), 60) == much


async def test_a_streamed_program_that_reads_nothing(
    repository: GitRepository, tmp_path: Path
) -> None:
    """A broken pipe is not our failure."""
    deaf = broken(repository, tmp_path, "exec 0<&-; echo done").git
    assert await collected(deaf, *UPLOAD, body=os.urandom(2 << 20)) == b"done\n"
