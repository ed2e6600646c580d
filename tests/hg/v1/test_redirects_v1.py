# Law of this file: who is sent to the store for the answer to `getbundle` gets there what it would
# have got from us; who could not go on from there is not sent.

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from redirects.acceptance import Location
from server.hg.v1 import replies
from server.repeats import TABLE_FILE
from tests.conftest import Serve, Served
from tests.hg.asking import serve_hg
from tests.hg.repositories import _series, work
from tests.hg.session import Session
from tests.hg.v1.conftest import NEWEST, REPO, Shelf, publish
from tests.hg.v1.raw import BUNDLE2, STREAM, bundle_arguments, put, unpacked
from tests.hg.v1.reference import Reference
from tests.hg.versions import V2, VERSIONS, hg, output
from tests.server.asking import ask

OF_ALL = pytest.mark.parametrize("version", VERSIONS)
PLACES = pytest.mark.parametrize(
    ("version", "place"), [*((version, "s3") for version in VERSIONS), (NEWEST, "directory")]
)


def grow(repository: Path) -> None:
    """A new changeset."""
    with work(hg(V2), repository) as made:
        made.update("tip")
        made.commit("a new one", **{f"new at {made.node('tip')}": "n\n"})


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The locations that clients were sent to."""
    found: list[str] = []
    elsewhere = replies.elsewhere

    def noted(request: web.Request, location: Location, size: int) -> web.Response:
        found.append(location.url)
        return elsewhere(request, location, size)

    monkeypatch.setattr(replies, "elsewhere", noted)
    return found


@PLACES
async def test_pulls_are_redirected(
    serve: Serve,
    shelf: Shelf,
    reference: Reference,
    tmp_path: Path,
    *,
    s3: dict[str, Any],
    moved: list[str],
    version: str,
    place: str,
) -> None:
    """What a client pulls comes from the store and is right; its clone did not come from there."""
    root = shelf.own("branches")
    store = s3 if place == "s3" else {"type": "directory"}
    served = await serve_hg(serve, root, store=store, hg={"redirect_getbundle": "pulls"})
    beginning = s3["endpoint"] if place == "s3" else f"{served.url}/-/blobs/"
    person, url = reference.person(version), f"{served.url}/{REPO}"
    for name in ("one", "two"):
        await person("clone", "--quiet", url, tmp_path / name)
    assert not moved
    grow(root / REPO)
    for name in ("one", "two"):
        await person("-R", tmp_path / name, "pull")
    await person("clone", "--quiet", "--rev", "first", url, tmp_path / "part")
    assert len(moved) == 2
    for options in (("--rev", "stable"), ("--update",)):
        await person("-R", tmp_path / "part", "pull", *options)
    assert len(moved) == 4
    assert all(place.startswith(beginning) for place in moved)
    expected = await reference.anew(version, root / REPO)
    for name in ("one", "two"):
        assert await person.copy(tmp_path / name) == expected
    part = await person.copy(tmp_path / "part")
    assert part.state.changesets == expected.state.changesets


@PLACES
async def test_clones_are_redirected(
    serve: Serve,
    shelf: Shelf,
    reference: Reference,
    tmp_path: Path,
    *,
    s3: dict[str, Any],
    moved: list[str],
    version: str,
    place: str,
) -> None:
    """With `on`, what is not in a clone bundle comes from the store as well."""
    store = s3 if place == "s3" else {"type": "directory"}
    for kind in ("phases", "branches"):
        served = await serve_hg(
            serve,
            shelf.root(kind),
            store=store,
            data=tmp_path / f"data of {kind}",
            hg={"redirect_getbundle": "on"},
        )
        person, url = reference.person(version), f"{served.url}/{REPO}"
        for number in range(2):
            copy, _ = await person.clone(url, tmp_path / f"{kind}{number}")
            assert copy == await reference.expected(version, shelf.repository(kind))
    assert len(moved) == 4
    assert len(set(moved)) == 2


@OF_ALL
async def test_who_updates_to_a_name_is_not_sent_away(
    serve: Serve,
    shelf: Shelf,
    reference: Reference,
    tmp_path: Path,
    moved: list[str],
    *,
    version: str,
) -> None:
    """`hg clone -u NAME` asks last what the name means, with a clone bundle or without."""
    root = shelf.own("branches")
    served = await serve_hg(serve, root, hg={"redirect_getbundle": "pulls"})
    person, url = reference.person(version), f"{served.url}/{REPO}"
    for name in ("plain", "bundled"):
        copy, _ = await person.clone(url, tmp_path / name, "--updaterev", "v2")
        assert copy == await reference.anew(version, root / REPO, "--updaterev", "v2")
        await publish(served)
        grow(root / REPO)
    assert not moved


@OF_ALL
async def test_who_looks_what_is_incoming_is_not_sent_away(
    serve: Serve,
    shelf: Shelf,
    reference: Reference,
    tmp_path: Path,
    moved: list[str],
    *,
    version: str,
) -> None:
    """It asks for phases afterwards."""
    root = shelf.own("branches")
    served = await serve_hg(serve, root, hg={"redirect_getbundle": "on"})
    person, at = reference.person(version), tmp_path / "clone"
    await person("clone", "--quiet", reference.url(root / REPO), at)
    grow(root / REPO)
    for options in ((), ("--bundle", str(tmp_path / "bundle"))):
        assert b"a new one" in await person("-R", at, "incoming", *options, f"{served.url}/{REPO}")
    assert not moved


# --- question by question ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Node:
    """Nodes of a repository.

    Attributes:
        head: of it.
        old: an ancestor.
    """

    head: str
    old: str


def nodes(shelf: Shelf) -> Node:
    """Of the repository in a row."""
    with Session(hg(V2), shelf.repository("linear")) as session:
        said = session("log", "-r", "tip+3", "-T", "{node} ").decode().split()
    return Node(*said)


DEVIATIONS: dict[str, tuple[dict[str, str], dict[str, str], str]] = {
    "a password": ({}, {"Authorization": "Basic YTpi"}, NEWEST),
    "a cookie": ({}, {"Cookie": "session=1"}, NEWEST),
    "an old version": ({}, {}, "5.8.1"),
    "a newer version": ({}, {}, "8.0"),
    "no version": ({}, {"User-Agent": "something else"}, NEWEST),
    "media type 0.1 only": ({}, {"X-HgProto-1": "0.1"}, NEWEST),
    "long headers": ({"common": " ".join(f"{n:040x}" for n in range(1, 200))}, {}, NEWEST),
    "a bundle of version 1": ({"bundlecaps": ""}, {}, NEWEST),
    "no phases": ({"phases": "0"}, {}, NEWEST),
    "no changesets": ({"cg": "0"}, {}, NEWEST),
    "an argument of an extension": ({"more": "1"}, {}, NEWEST),
    "markers that there are not": (
        {"bundlecaps": f"HG20,bundle2={BUNDLE2}%0Aobsmarkers%3DV0%2CV1"},
        {},
        NEWEST,
    ),
}


async def test_which_questions_are_redirected(serve: Serve, shelf: Shelf) -> None:
    """A question that is a client's last is; one that differs from it in one point is not."""
    node = nodes(shelf)
    served = await serve_hg(serve, shelf.root("linear"), hg={"redirect_getbundle": "on"})
    usual = bundle_arguments(node.head, node.old)
    for _ in range(2):
        said = await put(served, "getbundle", usual)
        assert (said.reply.status, said.reply.body) == (302, b"")
    place = urlsplit(said.reply.headers["location"])
    stored = await ask(served, "GET", f"{place.path}?{place.query}")
    assert (stored.status, stored.headers["content-type"]) == (200, STREAM)
    for name, (arguments, extra, version) in DEVIATIONS.items():
        said = await put(served, "getbundle", {**usual, **arguments}, extra, version=version)
        assert said.reply.status == 200, name
        if name in {"a password", "an old version"}:
            assert said.stream == unpacked(stored.body)


# --- passwords that others ask for ----------------------------------------------------------------

ANN = b"X-Forwarded-User: ann\r\n"


@asynccontextmanager
async def static(store: Path, lacks: bytes | None = None) -> AsyncIterator[str]:
    """The URL of a static server before a store, which calls all of it what Mercurial demands.

    It has not what holds the word ``lacks`` in its beginning.
    """

    async def answer(request: web.Request) -> web.StreamResponse:
        path = store / request.path.lstrip("/")
        if not path.is_file() or (lacks is not None and lacks in path.read_bytes()[:100]):
            raise web.HTTPNotFound
        return web.FileResponse(path, headers={"Content-Type": STREAM})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


def of_ann(said: bytes) -> bytes:
    """What a proxy makes of what a client says that has shown it a password."""
    return said.replace(b" HTTP/1.1\r\n", b" HTTP/1.1\r\n" + ANN)


@pytest.mark.parametrize("auth", ["proxy", "none"])
async def test_who_a_proxy_lets_in_is_not_sent_away(
    serve: Serve,
    shelf: Shelf,
    reference: Reference,
    tmp_path: Path,
    moved: list[str],
    *,
    auth: str,
) -> None:
    """Its client would show the password at the other place; we see none of it."""
    node, user = nodes(shelf), {"X-Forwarded-User": "ann"}
    access = {"auth": auth, "public": True}
    if auth == "proxy":
        access["proxies"] = ["127.0.0.1"]
    async with static(tmp_path / "data" / "store") as place:
        served = await serve_hg(
            serve,
            shelf.root("linear"),
            targets=[{"type": "http", "base_url": place}],
            access=access,
            hg={"redirect_getbundle": "on"},
        )
        asked = bundle_arguments(node.head)
        statuses = [(await put(served, "getbundle", asked, user)).reply.status for _ in range(2)]
        async with counting(served, of_ann) as relay:
            person, url = reference.person(NEWEST), f"{relay.url}/{REPO}"
            copy, _ = await person.clone(url, tmp_path / "clone")
    assert copy == await reference.expected(NEWEST, shelf.repository("linear"))
    if auth == "proxy":
        assert (statuses, moved) == ([200, 200], [])
        assert served.outcomes("getbundle")["hit"] >= 1
    else:
        assert statuses == [302, 302]
        assert all(url.startswith(f"{place}/entities/") for url in moved)


async def test_who_was_sent_away_in_vain_is_answered_here(
    serve: Serve, shelf: Shelf, reference: Reference, tmp_path: Path, moved: list[str]
) -> None:
    """Where the other place is dead hg fails, as git does, and succeeds when it is run again."""
    async with static(tmp_path / "data" / "store") as place:
        served = await serve_hg(
            serve,
            shelf.root("linear"),
            targets=[{"type": "http", "base_url": place}],
            hg={"redirect_getbundle": "on"},
            health={"interval": "1h", "timeout": "30s"},
        )
        person, url = reference.person(NEWEST), f"{served.url}/{REPO}"
        assert (await person.attempt(tmp_path, "clone", url, "before")).returncode == 0
    assert len(moved) == 1
    os.truncate(tmp_path / "data" / TABLE_FILE, 0)  # as if that were long ago
    assert (await person.attempt(tmp_path, "clone", url, "failed")).returncode != 0
    assert len(moved) == 2
    copy, _ = await person.clone(url, tmp_path / "again")
    assert copy == await reference.expected(NEWEST, shelf.repository("linear"))
    assert len(moved) == 2


async def test_whose_bundle_did_not_come_clones_without(
    serve: Serve, shelf: Shelf, reference: Reference, tmp_path: Path
) -> None:
    """Hg fails where a clone bundle does, and succeeds when it is run again; others go on."""
    async with static(tmp_path / "data" / "store") as place:
        served = await serve_hg(
            serve,
            shelf.root("linear"),
            targets=[{"type": "http", "base_url": place}],
            health={"interval": "1h", "timeout": "30s"},
        )
        await publish(served)
        person, url = reference.person(NEWEST), f"{served.url}/{REPO}"
        first = await person.attempt(tmp_path, "clone", url, "before")
        assert (first.returncode, b"applying clone bundle" in first.stdout) == (0, True)
    os.truncate(tmp_path / "data" / TABLE_FILE, 0)  # as if that were long ago
    failed = await person.attempt(tmp_path, "clone", url, "failed")
    assert (failed.returncode, place.encode() in failed.stdout) == (255, True), failed
    copy, _ = await person.clone(url, tmp_path / "again")
    assert copy == await reference.expected(NEWEST, shelf.repository("linear"))


SELDOM = {"interval": "1h", "timeout": "30s"}


@pytest.mark.parametrize("clones", [True, False], ids=["clones", "pulls"])
async def test_who_was_sent_away_in_vain_is_known_after_a_push(
    serve: Serve,
    shelf: Shelf,
    reference: Reference,
    tmp_path: Path,
    *,
    moved: list[str],
    clones: bool,
) -> None:
    """It asks for other heads then, and is the same one by what it has."""
    root = shelf.own("branches")
    async with static(tmp_path / "data" / "store") as place:
        served = await serve_hg(
            serve,
            root,
            targets=[{"type": "http", "base_url": place}],
            hg={"redirect_getbundle": "on" if clones else "pulls"},
            health=SELDOM,
        )
        person, url = reference.person(NEWEST), f"{served.url}/{REPO}"

        def trying(number: int) -> tuple[str | Path, ...]:
            at = tmp_path / f"{number}"
            return ("clone", "--noupdate", url, at) if clones else ("-R", at, "pull")

        if not clones:
            for number in range(3):
                await person("clone", "--noupdate", url, tmp_path / f"{number}")
            grow(root / REPO)
        await person(*trying(0))
    assert len(moved) == 1
    os.truncate(tmp_path / "data" / TABLE_FILE, 0)  # as if that were long ago
    assert (await person.attempt(tmp_path, *trying(1))).returncode != 0
    assert len(moved) == 2
    grow(root / REPO)
    await person(*trying(1 if clones else 2))
    assert len(moved) == 2
    there = await person.copy(tmp_path / ("1" if clones else "2"))
    assert there.state.changesets == (await reference.anew(NEWEST, root / REPO)).state.changesets


async def test_whose_bundle_of_files_did_not_come_clones_without(
    serve: Serve, shelf: Shelf, reference: Reference, tmp_path: Path
) -> None:
    """It is known again although the first bundle is this server's own, and works."""
    async with static(tmp_path / "data" / "store", lacks=b"Compression") as place:
        served = await serve_hg(
            serve,
            shelf.root("linear"),
            targets=[{"type": "http", "name": "cdn", "base_url": place}, {"type": "self"}],
            health=SELDOM,
        )
        await publish(served)
        person, url = reference.person(NEWEST), f"{served.url}/{REPO}"
        plain = await person.attempt(tmp_path, "clone", url, "plain")
        assert (plain.returncode, f"{served.url}/-/blobs/".encode() in plain.stdout) == (0, True)
    os.truncate(tmp_path / "data" / TABLE_FILE, 0)  # as if that were long ago
    failed = await person.attempt(tmp_path, "clone", "--stream", url, "failed")
    assert (failed.returncode, place.encode() in failed.stdout) == (255, True), failed
    copy, _ = await person.clone(url, tmp_path / "again", "--stream")
    assert copy == await reference.expected(NEWEST, shelf.repository("linear"))


# --- how much ------------------------------------------------------------------------------------


@dataclass(slots=True)
class Relay:
    """Passes bytes on between clients and a server, and counts what clients get."""

    url: str = ""
    sent: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)


@asynccontextmanager
async def counting(served: Served, edit: Callable[[bytes], bytes] = bytes) -> AsyncIterator[Relay]:
    """A relay in front of a server; ``edit`` changes what clients say, piece by piece."""
    there = urlsplit(served.url)
    relay = Relay()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, weight: int) -> None:
        try:
            while data := await reader.read(65536):
                relay.sent += weight * len(data)
                writer.write(data if weight else edit(data))
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection(there.hostname, there.port)
        await asyncio.gather(pump(reader, forth, 0), pump(back, writer, 1))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    relay.url = f"http://{host}:{port}"
    async with server:
        yield relay


# In the repository of kind `large`.
CHANGESETS = 400


def append(repository: Path, count: int) -> None:
    """Let the large repository go on as it began."""
    begin = b"# HG changeset patch\n"
    patches = _series(CHANGESETS + count).split(begin)[CHANGESETS + 1 :]
    output(hg(V2), repository, "debugsetparents", "tip")
    output(hg(V2), repository, "import", "--bypass", "-q", "-", stdin=begin + begin.join(patches))


@pytest.mark.parametrize(("mode", "least"), [("off", 0.97), ("on", 0.995)])
async def test_how_much_of_a_clone_comes_from_the_store(
    serve: Serve,
    shelf: Shelf,
    reference: Reference,
    tmp_path: Path,
    *,
    s3: dict[str, Any],
    moved: list[str],
    mode: str,
    least: float,
) -> None:
    """97 % by clone bundles that are as old as they get, 99.5 % if the rest is redirected."""
    root = shelf.own("large")
    served = await serve_hg(serve, root, store=s3, hg={"redirect_getbundle": mode})
    await publish(served)
    await asyncio.to_thread(append, root / REPO, int(served.settings.hg.bundle_growth * CHANGESETS))
    person = reference.person(NEWEST)
    async with counting(served) as relay:
        copy, said = await person.clone(f"{relay.url}/{REPO}", tmp_path / "clone")
    (digest,) = re.findall(r"applying clone bundle from \S+/entities/../([0-9a-f]{64})", said)
    (bundle,) = [
        each
        for each in await served.runtime.catalogs.clone_bundles(REPO)
        if each.entity.digest == digest
    ]
    stored = bundle.entity.size + served.content()["redirected"]
    assert stored / (stored + relay.sent) >= least, (stored, relay.sent)
    assert len(moved) == (mode == "on")
    assert copy == await reference.anew(NEWEST, root / REPO)
