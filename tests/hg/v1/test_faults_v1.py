# Law of this file: whatever happens to the program behind us, to the store or to the repository, no
# client has a wrong clone, nothing wrong is kept, and the next client is served.

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from moto.server import ThreadedMotoServer

from redirects.acceptance import ACCEPTS_NOTHING
from repos.hg.backend import BackendLimits
from repos.hg.peer import Peer, PeerRefused
from server.exchange import EXCHANGE, Exchange
from server.hg.v1.bundling import Bundling
from server.hg.v1.getbundle import GetBundleCommand
from server.pipeline import Pipeline
from tests.conformance.fleet import SELDOM
from tests.conftest import Serve, Served
from tests.hg.asking import serve_hg
from tests.hg.controlled import kept
from tests.hg.repositories import work
from tests.hg.v1.conftest import NEWEST, REPO, Shelf, publish
from tests.hg.v1.faulty import Fault, Faulty
from tests.hg.v1.raw import NULL, put
from tests.hg.v1.reference import Reference
from tests.hg.versions import V2, VERSIONS, hg

# How long the program behind us may say nothing, in seconds: so long do these tests take.
SILENCE = 1.0


@pytest.fixture
def faulty(tmp_path: Path) -> Faulty:
    """An hg for the server."""
    directory = tmp_path / "faulty"
    directory.mkdir()
    return Faulty.make(directory, NEWEST)


def impatient(served: Served) -> None:
    """Let the program behind the server be given up soon."""
    backend = served.runtime.hg_backend
    assert backend is not None
    backend._limits = BackendLimits(start=30, probe=SILENCE, again=0)


def records(served: Served) -> list[Path]:
    """What the cache has recorded."""
    return [path for path in kept(served) if "records" in path.parts]


FAULTS = ("exits", "html", "fails", "hangs", "dies", "ends-early", "is-cut", "aborts")


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_program_that_fails(
    serve: Serve,
    shelf: Shelf,
    reference: Reference,
    tmp_path: Path,
    *,
    faulty: Faulty,
    fault: Fault,
) -> None:
    """A client fails with a sentence, or does not notice; the next one has a whole clone."""
    program = {"program": str(faulty.program), "silence": SILENCE}
    served = await serve_hg(serve, shelf.root("merges"), hg=program)
    impatient(served)
    person, url = reference.person(NEWEST), f"{served.url}/{REPO}"
    faulty.fault(fault)
    first = await person.attempt(tmp_path, "clone", url, "first")
    assert faulty.is_over
    assert (first.returncode, b"Traceback" in first.stderr) != (0, True), first
    if first.returncode:
        assert first.returncode == 255, first
        assert not (tmp_path / "first").exists()
        assert (b"out of oxygen" in first.stderr) == (fault == "aborts"), first
        assert not records(served)
    expected = await reference.expected(NEWEST, shelf.repository("merges"))
    # One that answers pages is as alive as one that answers; so it may be there still.
    backend = served.runtime.hg_backend
    if first.returncode and backend is not None and backend.pid is not None:
        os.kill(backend.pid, signal.SIGKILL)
    for name in ("second", "third"):
        copy, _ = await person.clone(url, tmp_path / name)
        assert copy == expected
    assert len(records(served)) == 1
    assert served.outcomes("getbundle")["hit"] == (1 if first.returncode else 2)


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL], ids=["stopped", "killed"])
@pytest.mark.parametrize("command", ["getbundle", "branches"])
async def test_a_program_that_is_stopped_or_killed(
    serve: Serve,
    shelf: Shelf,
    reference: Reference,
    tmp_path: Path,
    *,
    how: signal.Signals,
    command: str,
) -> None:
    """Another one takes its place, at once for who clones, and for who asks next."""
    served = await serve_hg(serve, shelf.root("linear"), hg={"silence": SILENCE})
    impatient(served)
    backend = served.runtime.hg_backend
    assert backend is not None
    nodes = (await put(served, "heads")).string.decode().strip()
    before = (await put(served, "branches", {"nodes": nodes})).string
    first = backend.pid
    assert first is not None
    os.kill(first, how)
    if command == "branches":
        # It is told, or was noticed before.
        await put(served, "branches", {"nodes": nodes})
        assert (await put(served, "branches", {"nodes": nodes})).string == before
    else:
        person = reference.person(NEWEST)
        copy, _ = await person.clone(f"{served.url}/{REPO}", tmp_path / "clone")
        assert copy == await reference.expected(NEWEST, shelf.repository("linear"))
    assert backend.pid not in {None, first}


# --- the store -----------------------------------------------------------------------------------


def lose(served: Served) -> int:
    """Take all entities from store and cache; how many there were."""
    found = [
        path
        for place in ("store/entities", "entities")
        for path in (served.settings.data / place).rglob("*")
        if path.is_file()
    ]
    for path in found:
        path.unlink()
    return len(found)


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_bundle_that_the_store_has_lost(
    serve: Serve, shelf: Shelf, reference: Reference, tmp_path: Path, *, version: str
) -> None:
    """A client that may falls back; after the next run of the indexer all is well again."""
    # Nobody looks at the store meanwhile, and finds that it was emptied.
    served = await serve_hg(serve, shelf.root("branches"), health=SELDOM)
    await publish(served)
    assert lose(served) >= 3
    person, url = reference.person(version), f"{served.url}/{REPO}"
    first = await person.attempt(tmp_path, "clone", url, "first")
    assert first.returncode == 255
    assert b"HTTP error fetching bundle" in first.stderr + first.stdout
    expected = await reference.expected(version, shelf.repository("branches"))
    fallback = ("--config", "ui.clonebundlefallback=true")
    copy, _ = await person.clone(url, tmp_path / "second", *fallback)
    assert copy == expected
    await publish(served)
    copy, said = await person.clone(url, tmp_path / "third")
    assert copy == expected
    assert "applying clone bundle" in said


async def test_an_inline_bundle_that_is_lost(
    serve: Serve, shelf: Shelf, reference: Reference, tmp_path: Path
) -> None:
    """It is not offered; who was told of it reads a sentence; the next index mends it."""
    served = await serve_hg(serve, shelf.root("branches"), redirect={"enabled": False})
    await publish(served)
    listed = (await put(served, "clonebundles_manifest")).string.decode()
    path = listed.split()[0].removeprefix("peer-bundle-cache://")
    lose(served)
    assert (await put(served, "get_cached_bundle_inline", {"path": path})).error
    person, url = reference.person(NEWEST), f"{served.url}/{REPO}"
    expected = await reference.expected(NEWEST, shelf.repository("branches"))
    copy, said = await person.clone(url, tmp_path / "first")
    assert copy == expected
    assert "applying clone bundle" not in said
    await publish(served)
    copy, said = await person.clone(url, tmp_path / "second")
    assert copy == expected
    assert "applying clone bundle from peer-bundle-cache://" in said


@pytest.fixture
def perishable(
    s3: dict[str, Any], endpoint: str
) -> Iterator[tuple[dict[str, Any], Callable[[], None]]]:
    """Settings of a store at a server of S3 that can be stopped, and what stops it.

    It has what the others of this process have.
    """
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    running = [server]

    def stop() -> None:
        while running:
            running.pop().stop()
            assert server._server is not None
            server._server.server_close()

    yield {**s3, "endpoint": f"http://{host}:{port}"}, stop
    stop()


@pytest.mark.parametrize("noticed", [True, False], ids=["noticed", "unnoticed"])
async def test_a_store_that_is_down(
    serve: Serve,
    shelf: Shelf,
    reference: Reference,
    tmp_path: Path,
    *,
    perishable: tuple[dict[str, Any], Callable[[], None]],
    noticed: bool,
) -> None:
    """What would have to be fetched from it is not offered by us: a clone comes, without it."""
    store, stop = perishable
    served = await serve_hg(serve, shelf.root("branches"), store=store, redirect={"enabled": False})
    await publish(served)
    assert b"peer-bundle-cache://" in (await put(served, "clonebundles_manifest")).string
    lose(served)
    stop()
    if noticed:
        await served.runtime.health.probe()
    person, url = reference.person(NEWEST), f"{served.url}/{REPO}"
    expected = await reference.expected(NEWEST, shelf.repository("branches"))
    for name in ("first", "second"):
        copy, said = await person.clone(url, tmp_path / name)
        assert copy == expected
        assert "applying clone bundle" not in said
    assert served.outcomes("getbundle") == {"miss": 1, "hit": 1}


async def test_what_is_in_the_store_alone(
    serve: Serve, shelf: Shelf, reference: Reference, tmp_path: Path, *, s3: dict[str, Any]
) -> None:
    """A bundle that we have not is fetched for who is to get it from us, while it can be."""
    served = await serve_hg(serve, shelf.root("branches"), store=s3, redirect={"enabled": False})
    await publish(served)
    lose(served)
    person, url = reference.person(NEWEST), f"{served.url}/{REPO}"
    copy, said = await person.clone(url, tmp_path / "clone")
    assert copy == await reference.expected(NEWEST, shelf.repository("branches"))
    assert "applying clone bundle from peer-bundle-cache://" in said


# --- what cannot be checked ----------------------------------------------------------------------


async def test_a_bare_changegroup(
    serve: Serve, shelf: Shelf, reference: Reference, tmp_path: Path
) -> None:
    """It is hg's answer, and nothing of it is kept: nothing in it says that it is whole."""
    served = await serve_hg(serve, shelf.root("branches"))
    repository = shelf.repository("branches")
    heads = (await put(served, "heads")).string.decode().strip()
    asked = {"heads": heads, "common": NULL}
    expected = await asyncio.to_thread(
        reference.answers(), reference.name(repository), "getbundle", **asked
    )
    for _ in range(2):
        assert (await put(served, "getbundle", asked)).stream == expected
    old = ("--config", "devel.legacy.exchange=bundle1")
    copy, _ = await reference.person(NEWEST).clone(f"{served.url}/{REPO}", tmp_path / "old", *old)
    assert copy == await reference.expected(NEWEST, repository, *old)
    assert served.outcomes("getbundle") == {"passthrough": 3}
    assert not kept(served)


# --- refusals that are for others ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Refusing:
    """A pipeline in which the run of somebody else, which all follow, is refused."""

    status: int

    async def respond(self, command: GetBundleCommand) -> NoReturn:
        """Follow it."""
        raise PeerRefused("not for you", self.status)


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_who_follows_a_run_that_is_refused(
    serve: Serve, shelf: Shelf, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """The no is to the credential of who began it; who follows is asked for by its own."""
    served = await serve_hg(serve, shelf.root("linear"), data=shelf.data("linear"))
    runtime = dataclasses.replace(served.runtime, pipeline=cast("Pipeline", Refusing(status)))
    request = make_mocked_request("GET", f"/{REPO}?cmd=getbundle")
    request[EXCHANGE] = Exchange("one")
    answered = web.Response(text="by its own")

    async def instead() -> web.StreamResponse:
        return answered

    command = cast("GetBundleCommand", SimpleNamespace(acceptance=ACCEPTS_NOTHING))
    assert await Bundling(runtime).respond(request, command, instead) is answered


# --- the repository ------------------------------------------------------------------------------


def interrupting(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None]) -> None:
    """Let something happen once, after the first piece of the next bundle that hg gives."""
    stream = Peer.stream
    left = [happens]

    @contextmanager
    def interrupted(
        peer: Peer, command: str, arguments: Mapping[bytes, bytes] | None = None
    ) -> Iterator[Iterator[bytes]]:
        with stream(peer, command, arguments) as pieces:
            yield _with(pieces, left)

    monkeypatch.setattr(Peer, "stream", interrupted)


def _with(pieces: Iterator[bytes], left: list[Callable[[], None]]) -> Iterator[bytes]:
    for piece in pieces:
        yield piece
        while left:
            left.pop()()


async def test_a_commit_in_the_middle_of_a_clone(
    serve: Serve,
    shelf: Shelf,
    reference: Reference,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The clone is whole, with what there was when it began; the next one has all."""
    root = shelf.own("merges")
    served = await serve_hg(serve, root)
    before = await reference.anew(NEWEST, root / REPO)

    def commit() -> None:
        with work(hg(V2), root / REPO) as made:
            made.update("tip")
            made.commit("in between", between="1\n")

    interrupting(monkeypatch, commit)
    person, url = reference.person(NEWEST), f"{served.url}/{REPO}"
    copy, _ = await person.clone(url, tmp_path / "first")
    assert copy == before
    copy, _ = await person.clone(url, tmp_path / "second")
    assert copy == await reference.anew(NEWEST, root / REPO) != before


async def test_a_strip_in_the_middle_of_a_clone(
    serve: Serve,
    shelf: Shelf,
    reference: Reference,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What has gone meanwhile is not recorded; the next clone is without it."""
    root = shelf.own("linear")
    served = await serve_hg(serve, root)

    def strip() -> None:
        with work(hg(V2), root / REPO, "extensions.strip=") as made:
            made.hg("strip", "--no-backup", "--rev", "tip")

    interrupting(monkeypatch, strip)
    person, url = reference.person(NEWEST), f"{served.url}/{REPO}"
    await person.attempt(tmp_path, "clone", url, "first")
    assert not records(served)
    copy, _ = await person.clone(url, tmp_path / "second")
    assert copy == await reference.anew(NEWEST, root / REPO)
    assert len(records(served)) == 1


@pytest.mark.parametrize("version", [V2, NEWEST])
async def test_a_push_while_others_clone(
    serve: Serve, shelf: Shelf, reference: Reference, tmp_path: Path, *, version: str
) -> None:
    """Clones that are made while somebody pushes are whole, and a pull brings them up to date."""
    root = shelf.own("merges")
    served = await serve_hg(serve, root, hg={"push": (REPO,)})
    person, pusher = reference.person(version), reference.person(NEWEST)
    url = f"{served.url}/{REPO}"
    await pusher("clone", "--quiet", url, tmp_path / "pushing")
    for number in range(3):
        (tmp_path / "pushing" / "pushed").write_text(f"{number}\n")
        await pusher("-R", tmp_path / "pushing", "commit", "-A", "--quiet", "-m", f"{number}")

    async def push() -> None:
        for number in range(3):
            done = await pusher.attempt(tmp_path / "pushing", "push", "-r", f"tip~{2 - number}")
            assert done.returncode == 0, done

    pushing = asyncio.create_task(push())
    names = ("one", "two")
    try:
        for name in names:
            await person.clone(url, tmp_path / name)
    finally:
        await pushing
    for name in names:
        await person("-R", tmp_path / name, "pull", "--update", "--quiet")
        assert await person.copy(tmp_path / name) == await reference.anew(version, root / REPO)
