# Law of this file: what clients make the server remember is bounded, whatever they make up; what
# they leave behind goes with them, and does not wait for the garbage collector.

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from server import accepting
from server.git import requests
from server.git.fetch import Questions
from server.sending import Framer
from tests.conftest import Serve
from tests.server.asking import (
    HEADERS,
    ask,
    command,
    connected,
    head,
    make_repository,
    want,
)
from wire.git.v2 import Fetch, Session

MEBIBYTE = 1 << 20
KEPT = {"Connection": "keep-alive"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory with one repository, ``p.git``."""
    root = tmp_path / "root"
    root.mkdir()
    make_repository(root / "p.git", {"noise": os.urandom(8 * MEBIBYTE)})
    return root


@pytest.fixture
def uncollected() -> Iterator[None]:
    """The garbage collector does not come: what is in a circle stays."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def there(kind: type) -> int:
    """How many objects of a kind there are."""
    return sum(isinstance(each, kind) for each in gc.get_objects())


async def until_gone(kind: type, before: int) -> None:
    """Wait until there are no more of a kind than ``before``, which other tests may have left."""
    async with asyncio.timeout(30):
        while there(kind) > before:  # noqa: ASYNC110 - who goes away tells no event
            await asyncio.sleep(0.01)


# --- what is left behind -------------------------------------------------------------------------


async def test_who_hangs_up_leaves_no_buffer(serve: Serve, root: Path, uncollected: None) -> None:
    """The buffer of an answer goes with the client that does not want the rest of it."""
    served = await serve(root)
    repository = served.runtime.repositories.get("p.git")
    assert repository is not None
    body = want(next(iter((await repository.snapshot()).refs.tips)))
    fields = {**HEADERS, "Content-Length": str(len(body))}
    before = there(Framer)
    for _ in range(2):  # sent while it is computed, and as it lies in the cache
        async with connected(served) as (reader, writer):
            writer.write(head("POST", "/p.git/git-upload-pack", fields) + body)
            await reader.readexactly(MEBIBYTE)
            assert there(Framer) == before + 1
        await until_gone(Framer, before)


async def test_a_connection_is_let_go_when_it_ends(
    serve: Serve, root: Path, uncollected: None
) -> None:
    """The timer that waits for a first request does not hold on to those who have said it."""
    served = await serve(root)
    before = there(web.RequestHandler)
    for _ in range(200):
        assert (await ask(served, "GET", "/-/livez")).status == 200
    async with connected(served) as (_, writer):
        writer.write(head("GET", "/-/livez", KEPT))
        gc.collect()
        assert there(web.RequestHandler) < before + 10


async def test_who_says_nothing_is_forgotten(
    serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections that end without a request are not held until patience has an end."""
    monkeypatch.setattr(accepting, "_MADE_SECONDS", 0.0)
    served = await serve(root)
    for _ in range(300):
        async with connected(served):
            pass
        await ask(served, "GET", "/-/livez")
    assert len(accepting._silent) <= 2 * accepting._FEW


# --- what is remembered --------------------------------------------------------------------------


async def test_bodies_that_are_remembered_are_few_if_they_are_large() -> None:
    """As many different bodies as one likes, of the largest size, take a few MiB."""
    long = b"ref-prefix " + b"x" * 60_000
    tracemalloc.start()
    try:
        for number in range(300):
            await requests.parsed(command(b"ls-refs", long + b"%d" % number))
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 16 * MEBIBYTE
    asked = [await requests.parsed(command(b"ls-refs")) for _ in range(2)]
    assert asked[0] is asked[1]


async def test_questions_that_are_remembered_are_few_if_they_are_large(
    serve: Serve, root: Path
) -> None:
    """Who names tens of thousands of objects does not fill the memory; small ones are kept."""
    served = await serve(root)
    repository = served.runtime.repositories.get("p.git")
    assert repository is not None
    snapshot = await repository.snapshot()
    questions = Questions()
    for number in range(12):
        haves = tuple(f"{each:040x}" for each in range(number, number + 20_000))
        questions.question(Fetch(Session(), haves=haves), snapshot, "p", redirecting=False)
    held = [each for each in gc.get_objects() if isinstance(each, Fetch)]
    assert sum(len(each.haves) for each in held) < 200_000
    small = Fetch(Session(), wants=("a" * 40,))
    asked = [questions.question(small, snapshot, "p", redirecting=False) for _ in range(2)]
    assert asked[0] is asked[1]


# --- the allocator -------------------------------------------------------------------------------

_FREES = """
import os, sys, threading
from pathlib import Path
from server.memory import economise

def held():
    said = Path("/proc/self/smaps_rollup").read_text()
    return int(next(line for line in said.splitlines() if line.startswith("Anonymous:")).split()[1])

print(economise(os.environ))
before = held()
pins = []

def work():
    # Blocks that grow, as buffers do, and a small one above each that stays.
    for size in range(200, 1400, 100):
        block = bytearray(size << 10)
        pins.append(bytearray(2000))
        del block

threads = [threading.Thread(target=work) for _ in range(8)]
for each in threads: each.start()
for each in threads: each.join()
print((held() - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_what_was_freed_goes_back() -> None:
    """Buffers that threads have freed are the system's again, unless somebody set it otherwise."""

    def grown(**environ: str) -> tuple[str, int]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        said = subprocess.run(
            [sys.executable, "-c", _FREES],
            env={**kept, "PYTHONPATH": os.pathsep.join(sys.path), **environ},
            capture_output=True,
            text=True,
            check=True,
        )
        set_, size = said.stdout.split()
        return set_, int(size)

    ours, theirs = grown(), grown(MALLOC_ARENA_MAX="32")
    assert (ours[0], theirs[0]) == ("True", "False")
    assert ours[1] < theirs[1]
