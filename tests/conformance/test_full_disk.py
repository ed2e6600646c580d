# Law of this file: a data directory's disk that is full, or refuses, costs clients the cache at
# most, however many workers there are; no worker ends of it, and no figure is lost.

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from tests.conformance.processes import Offramp, Running

REPOSITORIES = 30
SMALL = "size=8m"


def mount(*args: str | Path) -> None:
    """Mount something, or skip the test where that is not allowed."""
    done = subprocess.run(["mount", *map(str, args)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a disk of one's own takes root, and a system that lets it: {done.stderr}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount("-t", "tmpfs", "-o", SMALL, "tmpfs", path)
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory of many small repositories."""
    root = tmp_path / "root"
    for number in range(REPOSITORIES):
        for folder in ("objects", "refs"):
            (root / f"{number}.git" / folder).mkdir(parents=True)
        (root / f"{number}.git" / "HEAD").write_text("ref: refs/heads/main\n")
    return root


def fill(disk: Path) -> Path:
    """Leave no space on a disk; what takes it."""
    path = disk / "filling"
    with path.open("wb", buffering=0) as filling, suppress(OSError):
        while True:
            filling.write(bytes(4096))
    return path


async def ask(server: Running) -> list[int]:
    """Ask for each repository on a connection of its own, so that all workers are asked."""
    found = []
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        for number in range(REPOSITORIES):
            url = f"{server.url}/{number}.git/info/refs?service=git-upload-pack"
            async with session.get(url, headers={"Git-Protocol": "version=2"}) as answer:
                await answer.read()
                found.append(answer.status)
    return found


async def test_a_full_disk_ends_no_worker(disk: Path, root: Path, offramp: Offramp) -> None:
    """All are answered, by the same workers, and are counted once there is space again."""
    offramp.data = disk / "data"
    server = await offramp.serve(root, "--workers", "2")
    workers = server.workers()
    filling = fill(disk)
    assert set(await ask(server)) == {200}
    assert server.workers() == workers
    filling.unlink()
    await ask(server)
    assert await server.figure("offramp_responses_total") == 2 * REPOSITORIES
    assert server.workers() == workers
    assert await server.stop() == 0


async def test_a_start_on_a_disk_that_takes_nothing(
    disk: Path, root: Path, offramp: Offramp
) -> None:
    """A server that is started again on a full disk, or on a read-only one, answers."""
    offramp.data = disk / "data"
    assert await (await offramp.serve(root)).stop() == 0
    fill(disk)
    full = await offramp.serve(root)
    assert set(await ask(full)) == {200}
    assert await full.stop() == 0
    mount("-o", f"remount,ro,{SMALL}", disk)
    server = await offramp.serve(root, "--workers", "2")
    assert set(await ask(server)) == {200}
    assert await server.figure("offramp_responses_total") == REPOSITORIES
    assert await server.stop() == 0
