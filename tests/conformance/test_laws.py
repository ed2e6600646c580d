# Law of this file: each law of the architecture, exercised on the whole product.

from __future__ import annotations

import ast
import asyncio
import gzip
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from pydantic import BaseModel

import redirects
import wire
from cache.records import decode_record
from indexer.catalog import load
from indexer.report import Silent
from redirects.decision import Decision, Inline, PassedOver, Reason, Redirect
from redirects.negotiation import negotiate
from server import settings as settings_module
from server.indexing import index_all
from stores.base import StoreUnavailable
from stores.directory import DirectoryStore
from tests.conformance.clones import (
    V2_HEADERS,
    Client,
    accepting,
    declining,
    locations,
    state,
    stock,
    v2_request,
)
from tests.conformance.faults import Fault, Wrapper
from tests.conformance.processes import Offramp
from tests.conformance.repositories import Repository
from tests.conftest import Serve

CLIENTS = [accepting, declining]
SPOILS = ["missing", "other-bytes", "cut-short", "no-ranges", "moved", "encoded"]


def fetch_body(repository: Repository, *, accept: bool) -> bytes:
    """A full fetch of main, as stock git asks for it."""
    uris = ["packfile-uris http,https"] if accept else []
    want = f"want {repository.oid('main')}"
    return v2_request("fetch", "thin-pack", "no-progress", "ofs-delta", *uris, want, "done")


async def ask(url: str, body: bytes) -> tuple[int, bytes]:
    """POST to git-upload-pack; status and body of the answer."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/git-upload-pack", data=body, headers=V2_HEADERS) as answer,
    ):
        return answer.status, await answer.read()


def check_whole(data: Path) -> None:
    """Everything that has a name below a data directory is what its name says."""
    for folder in (data / "entities", data / "store" / "entities"):
        for path in (path for path in folder.rglob("*") if path.is_file()):
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    for path in records(data):
        for part in decode_record(path.read_bytes()).parts:
            entity = data / "entities" / part.entity.digest[:2] / part.entity.digest
            assert entity.stat().st_size == part.entity.size


def records(data: Path) -> list[Path]:
    """The records of a data directory."""
    return [path for path in (data / "records").rglob("*") if path.is_file()]


async def same_as_stock(repository: Repository, url: str, directory: Path) -> None:
    """Clone with both kinds of clients, and compare with stock git."""
    here = directory / "same"
    here.mkdir()
    await stock(here)("clone", "--bare", repository.stock_url, "stock")
    expected = await state(stock(here), here / "stock")
    for number, kind in enumerate(CLIENTS):
        await kind(here)("clone", "--bare", url, str(number))
        assert await state(kind(here), here / str(number)) == expected


# --- 1 -------------------------------------------------------------------------------------------


@asynccontextmanager
async def spoiling(store: Path, spoil: str) -> AsyncIterator[str]:
    """A static server in front of a directory store that gives no client what it asked for."""

    async def get(request: web.Request) -> web.StreamResponse:
        content = (store / request.path.lstrip("/")).read_bytes()
        match spoil:
            case "missing":
                return web.Response(status=404)
            case "other-bytes":
                return web.Response(body=bytes([content[0] ^ 1]) + content[1:])
            case "cut-short":
                return web.Response(body=content[:-1])
            case "no-ranges":
                return web.Response(body=content)
            case "moved":
                raise web.HTTPFound(f"{request.path}?again")
            case _:
                packed = gzip.compress(content)
                return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    app = web.Application()
    app.router.add_get("/{path:.*}", get)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("beside", [True, False], ids=["beside-self", "alone"])
@pytest.mark.parametrize("spoil", SPOILS)
async def test_law_1_nothing_is_advertised_that_cannot_be_read(
    serve: Serve, repository: Repository, tmp_path: Path, spoil: str, beside: bool
) -> None:
    """A target that does not give the content back is named neither to clients nor in a catalog."""
    store = tmp_path / "data" / "store"
    async with spoiling(store, spoil) as base_url:
        targets: list[dict[str, str]] = [{"type": "http", "base_url": base_url}]
        targets += [{"type": "self"}] if beside else []
        served = await serve(repository.root, targets=targets)
        url = repository.url(served.url)
        said = await accepting(tmp_path).traced()("clone", url, "clone")
        named = list(locations(said).values())
        assert all(location.startswith(served.url) for location in named)
        assert len(named) == beside
        await index_all(served.settings, Silent(), gc=True)
    catalog = await load(served.runtime.store, repository.name)
    spoilt = served.runtime.targets[0].fingerprint
    if not beside:
        assert catalog is None
        return
    assert catalog is not None
    own = served.runtime.targets[1].fingerprint
    for bundle in catalog[0].bundles:
        assert set(bundle.readable) == set(bundle.bundle_readable) == {own} != {spoilt}


# --- 2 -------------------------------------------------------------------------------------------


async def test_law_2_content_is_immutable_and_named_by_its_digest(
    serve: Serve, repository: Repository, tmp_path: Path
) -> None:
    """What has a name keeps its bytes, whatever is pushed, made again or indexed."""
    served = await serve(repository.root)
    data = served.settings.data
    url = repository.url(served.url)
    seen: dict[str, bytes] = {}
    for number in range(3):
        repository.commit("refs/heads/main", 20 + number)
        await accepting(tmp_path)("clone", url, f"clone-{number}")
        await index_all(served.settings, Silent(), gc=True)
        for path in records(data):
            path.unlink()  # the same answer is computed, and written, again
        await accepting(tmp_path)("clone", url, f"again-{number}")
        check_whole(data)
        for folder in (data / "entities", data / "store" / "entities"):
            for path in (path for path in folder.rglob("*") if path.is_file()):
                content = path.read_bytes()
                assert seen.setdefault(path.name, content) == content


# --- 3 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["exits", "ends-badly", "is-truncated", "is-killed"])
@pytest.mark.parametrize("how", ["redirects", "inline", "v0"])
async def test_law_3_a_broken_response_is_never_recorded(  # noqa: PLR0917 - fixtures
    serve: Serve,
    repository: Repository,
    tmp_path: Path,
    wrapper: Wrapper,
    fault: Fault,
    how: str,
) -> None:
    """Whatever way a run goes wrong: no record, an error for its client, and the next try works."""
    with wrapper.on_path():
        served = await serve(repository.root)
    url = repository.url(served.url)
    old = Client(tmp_path, ("protocol.version=0",))
    client = {"redirects": accepting(tmp_path), "inline": declining(tmp_path), "v0": old}[how]
    wrapper.fault(fault)
    said = await client("clone", url, "broken", check=False)
    assert wrapper.runs() == 1
    assert said.status != 0
    assert "fatal:" in said.stderr or "error:" in said.stderr
    assert not records(served.settings.data)
    assert not list((served.settings.data / "entities").rglob("*/*"))
    wrapper.fault("")
    await client("clone", url, "whole")
    await same_as_stock(repository, url, tmp_path)
    check_whole(served.settings.data)


# --- 4 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [0, 1, 2])
async def test_law_4_a_client_that_accepts_nothing_gets_everything_inline(
    serve: Serve, repository: Repository, tmp_path: Path, version: int
) -> None:
    """Cold, warm and indexed; and what it gets is what stock git gives."""
    await stock(tmp_path)("clone", "--bare", repository.stock_url, "stock")
    expected = await state(stock(tmp_path), tmp_path / "stock")
    client = Client(tmp_path, (f"protocol.version={version}",))
    served = await serve(repository.root)
    for name in ("cold", "warm", "indexed"):
        if name == "indexed":
            await index_all(served.settings, Silent(), gc=True)
            await served.runtime.catalogs.refresh_all()
        said = await client.traced()("clone", "--bare", repository.url(served.url), name)
        assert not locations(said)
        assert await state(client, tmp_path / name) == expected
    assert served.content()["redirected"] == 0


# --- 5 -------------------------------------------------------------------------------------------


class Untouchable:
    """Stands where nobody may look."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"{name} was looked up for somebody who may not ask")


async def test_law_5_authorisation_comes_before_the_lookup(
    serve: Serve, repository: Repository, tmp_path: Path
) -> None:
    """A repository that may not be read any more is refused before its record is looked up."""
    served = await serve(repository.root)
    body = fetch_body(repository, accept=True)
    status, answer = await ask(repository.url(served.url), body)
    assert (status, b"packfile-uris" in answer) == (200, True)
    assert records(served.settings.data)
    repository.git("config", "http.uploadpack", "false")
    again = await serve(repository.root)
    again.runtime.pipeline = Untouchable()  # type: ignore[assignment]
    again.runtime.catalogs = Untouchable()  # type: ignore[assignment]
    for accept in (True, False):
        body = fetch_body(repository, accept=accept)
        status, answer = await ask(repository.url(again.url), body)
        assert (status, b"switched off" in answer) == (403, True)


# --- 6 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indexed", [False, True], ids=["record", "bundle"])
async def test_law_6_the_request_path_asks_the_network_for_nothing(
    serve: Serve,
    repository: Repository,
    monkeypatch: pytest.MonkeyPatch,
    indexed: bool,
) -> None:
    """Once warm, a redirect is answered while the store and every session refuse to work."""
    served = await serve(repository.root)
    url = repository.url(served.url)
    body = fetch_body(repository, accept=True)
    if indexed:
        wants = [line.split()[0] for line in repository.git("show-ref").splitlines()]
        lines = [f"want {want}" for want in sorted(set(wants))]
        body = v2_request("fetch", "ofs-delta", "packfile-uris http", *lines, "done")
        await index_all(served.settings, Silent(), gc=True)
    warm = await ask(url, body)
    assert warm == await ask(url, body)
    assert b"packfile-uris" in warm[1]
    executed = served.executions()
    assert executed == (0 if indexed else 1)

    for task in served.runtime.background:  # what they ask, no request waits for
        task.cancel()
    await asyncio.gather(*served.runtime.background, return_exceptions=True)
    asked: list[str] = []

    def refusing(name: str) -> Callable[..., Any]:
        def refuse(*args: object, **kwargs: object) -> None:
            asked.append(name)
            raise StoreUnavailable(f"{name} may not be asked now")

        return refuse

    for name in ("put", "stat", "open", "delete", "list", "read_document", "write_document"):
        monkeypatch.setattr(DirectoryStore, name, refusing(name))
    await served.runtime.http.close()  # whoever uses it now fails
    assert await ask(url, body) == warm
    assert not asked
    assert served.executions() == executed


# --- 7 -------------------------------------------------------------------------------------------

# What would let in sockets, files, clocks, threads or chance.
IMPURE = frozenset(
    {
        "aiohttp",
        "asyncio",
        "boto3",
        "botocore",
        "concurrent",
        "fcntl",
        "glob",
        "http",
        "io",
        "mmap",
        "multiprocessing",
        "os",
        "pathlib",
        "random",
        "requests",
        "secrets",
        "select",
        "selectors",
        "shutil",
        "signal",
        "socket",
        "socketserver",
        "sqlite3",
        "ssl",
        "subprocess",
        "sys",
        "tempfile",
        "threading",
        "time",
        "urllib.request",
        "uuid",
    }
)


def pure_files() -> Iterator[Path]:
    """The files of the rooms that are pure."""
    for room in (wire, redirects):
        for place in room.__path__:
            yield from Path(place).rglob("*.py")


@pytest.mark.parametrize(
    "file", sorted(pure_files()), ids=lambda file: f"{file.parent.name}/{file.stem}"
)
def test_law_7_wire_and_redirects_are_pure(file: Path) -> None:
    """Time, randomness and addresses are passed in: nothing is imported that could fetch them."""
    imported: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        match node:
            case ast.Import(names):
                imported |= {name.name for name in names}
            case ast.ImportFrom(module="io", names=[ast.alias("BytesIO")]):
                pass  # a buffer in memory
            case ast.ImportFrom(module=str(module)):
                imported.add(module)
            case ast.Call(func=ast.Name(id=called)):
                assert called not in {"open", "print", "input", "exec", "eval", "__import__"}
            case ast.Attribute(attr=called):
                assert called not in {"now", "utcnow", "today"}  # of datetime, which only formats
            case _:
                pass
    imported |= {name.partition(".")[0] for name in imported if name != "urllib.parse"}
    assert not imported & IMPURE


# --- 8 -------------------------------------------------------------------------------------------

LIMITS = [
    "RedirectSettings",
    "CacheSettings",
    "RetentionSettings",
    "IndexSettings",
    "LimitSettings",
]


@pytest.mark.parametrize("section", LIMITS)
def test_law_8_every_limit_has_a_name_a_default_and_a_reason(section: str) -> None:
    """Each can be left out, and says what it bounds."""
    model: type[BaseModel] = getattr(settings_module, section)
    assert model.__doc__
    for name, field in model.model_fields.items():
        assert not field.is_required(), f"{section}.{name} has no default"
        assert field.description, f"{section}.{name} does not say why"
        assert field.description.endswith("."), f"{section}.{name}: not a sentence"


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
async def test_law_8_a_request_is_bounded_before_and_after_decompression(
    serve: Serve, repository: Repository, tmp_path: Path, packed: bool
) -> None:
    """More than limits.request_body is refused by status, and the server goes on."""
    served = await serve(repository.root, limits={"request_body": "64KiB"})
    body = v2_request("fetch", *(f"have {number:040x}" for number in range(4000)), "done")
    headers = {**V2_HEADERS, **({"Content-Encoding": "gzip"} if packed else {})}
    url = repository.url(served.url)
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{url}/git-upload-pack", data=gzip.compress(body) if packed else body, headers=headers
        ) as answer,
    ):
        assert answer.status == 413
    await accepting(tmp_path)("clone", url, "clone")


# --- 9 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CLIENTS)
async def test_law_9_a_crash_while_recording_loses_nothing_but_work(
    offramp: Offramp,
    repository: Repository,
    tmp_path: Path,
    wrapper: Wrapper,
    kind: Callable[[Path], Client],
) -> None:
    """Kill -9 in the middle of an answer: nothing half-written is seen, and clones work again."""
    environ = {"PATH": wrapper.path}
    server = await offramp.serve(repository.root, environ=environ)
    wrapper.fault("holds")
    cloning = asyncio.create_task(
        kind(tmp_path)("clone", repository.url(server.url), "broken", check=False)
    )
    await wrapper.held()
    await server.kill()
    assert (await cloning).status != 0
    check_whole(offramp.data)
    assert not records(offramp.data)
    wrapper.fault("")
    with wrapper.released():
        server = await offramp.serve(repository.root, environ=environ)
        await same_as_stock(repository, repository.url(server.url), tmp_path)
    check_whole(offramp.data)
    assert wrapper.runs() == 2
    assert await server.stop() == 0


async def test_law_9_a_crash_while_indexing_loses_nothing_but_work(
    offramp: Offramp, repository: Repository, tmp_path: Path, wrapper: Wrapper
) -> None:
    """Kill -9 in the middle of a bundle: no catalog names it, and the next run makes it."""
    wrapper.fault("holds")
    indexing = await offramp.start("index", repository.root, environ={"PATH": wrapper.path})
    await wrapper.held()
    indexing.kill()
    await indexing.communicate()
    check_whole(offramp.data)
    assert not list((offramp.data / "store").rglob("catalogs/*"))
    server = await offramp.serve(repository.root)
    with wrapper.released():
        await same_as_stock(repository, repository.url(server.url), tmp_path)
    before = await server.figure("offramp_executions_total")
    assert await server.stop() == 0

    assert await offramp.index(repository.root) == 0
    check_whole(offramp.data)
    repository.git("tag", "-a", "-m", "not in any record", "later", "main~1")
    server = await offramp.serve(repository.root)
    said = await accepting(tmp_path).traced()("clone", repository.url(server.url), "clone")
    assert len(locations(said)) == 2
    assert (before, await server.figure("offramp_executions_total")) == (1, 1)


# --- 10 ------------------------------------------------------------------------------------------


async def test_law_10_each_redirect_can_be_explained(
    serve: Serve, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every decision says which targets were passed over, in order, and why."""
    decisions: list[Decision] = []

    def listening(*args: Any, **kwargs: Any) -> Decision:
        decisions.append(negotiate(*args, **kwargs))
        return decisions[-1]

    monkeypatch.setattr("server.pipeline.negotiate", listening)
    async with spoiling(tmp_path / "data" / "store", "missing") as base_url:
        served = await serve(
            repository.root,
            targets=[
                {"type": "http", "name": "tls", "base_url": "https://127.0.0.1:1"},
                {"type": "http", "name": "broken", "base_url": base_url},
                {"type": "self"},
            ],
        )
        url = repository.url(served.url)
        passed = (
            PassedOver("tls", Reason.PROTOCOL_NOT_ACCEPTED),
            PassedOver("broken", Reason.DOWN),
        )
        await served.runtime.health.probe()
        await Client(tmp_path, ("fetch.uriProtocols=http",))("clone", url, "http")
        first, second = decisions
        whole = (*passed, PassedOver("self", Reason.NOT_PUBLISHED))
        assert first == Inline(Reason.NO_TARGET, whole)
        assert isinstance(second, Redirect)
        assert (second.location.target, second.passed_over) == ("self", passed)

        decisions.clear()
        await Client(tmp_path, ("fetch.uriProtocols=https",))("clone", url, "https")
        assert decisions
        assert all(
            isinstance(decision, Inline)
            and [(p.target, p.reason) for p in decision.passed_over]
            == [
                ("tls", Reason.DOWN),
                ("broken", Reason.PROTOCOL_NOT_ACCEPTED),
                ("self", Reason.PROTOCOL_NOT_ACCEPTED),
            ]
            for decision in decisions
        )
        decisions.clear()
        await declining(tmp_path)("clone", url, "inline")
        assert set(decisions) <= {Inline(Reason.CLIENT_ACCEPTS_NONE)}
        assert all(reason.text.endswith(".") for reason in Reason)
