# Law of this file: what one connection is told stays on it; and where the question is ours or the
# credential is, a client adds nothing to it that the upstream could heed.

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from multidict import CIMultiDict

from tests.conftest import Serve
from tests.server.asking import Reply, converse
from tests.upstreams.clients import basic, bearer
from tests.upstreams.faults import Answers, Exchange, Proxy
from tests.upstreams.forge import Forge
from tests.upstreams.packed import fetch_v2
from tests.upstreams.private import REPOSITORY, private
from tests.upstreams.scene import NAME, Scene, scene

pytestmark = pytest.mark.nginx

ROBOT: Final = basic("robot", "the-robots-own-password")
TOKEN: Final = "0123456789abcdef-opens-all"
CREDENTIAL: Final = {"username": "robot", "password": "the-robots-own-password"}
FETCH: Final = f"{REPOSITORY}/git-upload-pack"
DISCOVERY: Final = f"{REPOSITORY}/info/refs"
LFS: Final = f"{REPOSITORY}/info/lfs/objects/batch"
CONTENT: Final = "application/x-git-upload-pack-request"
# A forge may take any of these for who asks, what is asked, or where.
HEEDED: Final = {
    "X-HTTP-Method-Override": "DELETE",
    "X-Original-URL": "/admin",
    "X-Rewrite-URL": "/admin",
    "X-Forwarded-User": "root",
    "Private-Token": "mine",
    "PRIVATE-TOKEN-2": "mine",
    "Job-Token": "mine",
    "X-Anything": "else",
    "Cookie": "session=mine",
    "Range": "bytes=0-9",
    "If-None-Match": "x",
    "Referer": "http://127.0.0.1:1/",
}
ALLOWED: Final = {
    "accept",
    "accept-encoding",
    "accept-language",
    "authorization",
    "content-length",
    "content-type",
    "git-protocol",
    "host",
    "user-agent",
}


def raw(method: str, target: str, lines: list[tuple[str, str]], body: bytes = b"") -> bytes:
    """A request with header lines as they are; the same name may come again."""
    head = [f"{method} {target} HTTP/1.1", "Host: localhost"]
    head += [f"{name}: {value}" for name, value in lines]
    head += [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join((*head, "", "")).encode() + body


CLOSE: Final = ("Connection", "close")


async def said(at: Scene, method: str, target: str, *lines: tuple[str, str], body: bytes) -> Reply:
    """One request."""
    return await converse(at.served, raw(method, target, [CLOSE, *lines], body))


def check_plain(exchange: Exchange, *more: str) -> None:
    """See that the upstream was told nothing that it could take for more than a fetch."""
    assert {name.lower() for name in exchange.headers} <= ALLOWED | {*more}
    assert "admin" not in exchange.path


# --- of one connection ---------------------------------------------------------------------------


@pytest.fixture
async def at(serve: Serve, proxy: Proxy, forge: Forge, tmp_path: Path) -> Scene:
    """A public repository."""
    return await scene(serve, proxy, forge.make(NAME), tmp_path)


@pytest.mark.parametrize("second", ["X-Second", "x-other, X-SECOND", " X-Second ,"])
async def test_what_a_client_says_of_its_connection_is_dropped(at: Scene, second: str) -> None:
    """In each line of `Connection`, in whatever case; other headers of its own are passed on."""
    lines = (("Connection", "X-First"), ("X-First", "1"), ("X-Kept", "1"), ("X-Second", "2"))
    reply = await said(at, "GET", f"{REPOSITORY}/HEAD", *lines, ("Connection", second), body=b"")
    assert reply.status == 200
    (exchange,) = at.proxy.exchanges
    assert exchange.headers["X-Kept"] == "1"
    assert not {"X-First", "X-Second"} & set(exchange.headers)


async def test_what_is_said_to_us_is_not_passed_on(at: Scene) -> None:
    """Where a client says that it is, and by whom we were asked."""
    lines = (("X-Offramp-Region", "eu-west-1"), ("X-Forwarded-For", "192.0.2.7"), ("X-Kept", "1"))
    reply = await said(at, "GET", f"{REPOSITORY}/HEAD", *lines, body=b"")
    assert reply.status == 200
    (exchange,) = at.proxy.exchanges
    assert exchange.headers["X-Kept"] == "1"
    assert not {"X-Offramp-Region", "X-Forwarded-For"} & set(exchange.headers)


@pytest.mark.parametrize("second", ["X-Second", "x-other, X-SECOND", "X-Second ,"])
async def test_what_an_upstream_says_of_its_connection_is_dropped(at: Scene, second: str) -> None:
    """The same on the way back."""
    headers = CIMultiDict(
        (
            ("Connection", "X-First"),
            ("Connection", second),
            ("X-First", "1"),
            ("X-Second", "2"),
            ("X-Kept", "1"),
        )
    )
    at.proxy.fault("other", Answers(200, headers, b"ref: refs/heads/main\n"))
    reply = await said(at, "GET", f"{REPOSITORY}/HEAD", body=b"")
    assert (reply.status, reply.headers["x-kept"]) == (200, "1")
    assert not {"x-first", "x-second"} & set(reply.headers)


# --- inside a fetch ------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [0, 2])
async def test_a_fetch_that_is_passed_on_is_only_a_fetch(at: Scene, version: int) -> None:
    """Whatever else the client says, and in whatever query; its own words for a fetch arrive."""
    own = {"Accept-Language": "de", "User-Agent": "git/mine", "Content-Type": CONTENT}
    words = {**HEEDED, **own, "Git-Protocol": f"version={version}"}
    discovery = f"{DISCOVERY}?service=git-upload-pack&to=/admin"
    assert (await said(at, "GET", discovery, *words.items(), body=b"")).status == 200
    main = at.repository.oid("main")
    line = f"want {main} ofs-delta\n"
    old = f"{len(line) + 4:04x}{line}00000009done\n".encode()
    body = fetch_v2(f"want {main}") if version == 2 else old
    target = f"{FETCH}?private_token=mine&to=/admin"
    reply = await said(at, "POST", target, *words.items(), body=body)
    assert b"PACK" in reply.body
    fetched = [e for e in at.proxy.seen("fetch") if e.headers.get("User-Agent") == "git/mine"]
    assert len(fetched) == 1
    assert fetched[0].path == f"/{NAME}/git-upload-pack"
    assert fetched[0].headers["Accept-Language"] == "de"
    for exchange in at.proxy.seen("info-refs", "fetch"):
        if exchange.headers.get("User-Agent") == "git/mine":
            check_plain(exchange)
            assert exchange.path in {
                f"/{NAME}/git-upload-pack",
                f"/{NAME}/info/refs?service=git-upload-pack",
            }
    await at.upstreams.mirrors.made(at.remote)


# --- with our own credential ---------------------------------------------------------------------


@pytest.fixture
async def ours(serve: Serve, proxy: Proxy, forge: Forge, tmp_path: Path) -> Scene:
    """A private repository that who has our token reads with the robot's credential."""
    access = {"tokens": [{"token": TOKEN, "repositories": ["up/*"]}]}
    settings = {"access": access, "auth": "token", "credential": CREDENTIAL}
    at = await private(serve, proxy, forge, tmp_path, **settings)
    forge.allow(NAME, "robot", CREDENTIAL["password"])
    return at


async def test_with_our_credential_nothing_else_is_said(ours: Scene) -> None:
    """Fetches and questions to git-lfs carry the robot's name and none of the client's words."""
    shown = ("Authorization", bearer(TOKEN))
    objects = f'[{{"oid": "{"ab" * 32}", "size": 3}}]'
    batch = f'{{"operation": "download", "transfers": ["basic"], "objects": {objects}}}'.encode()
    kind = {"Content-Type": "application/vnd.git-lfs+json"}
    ours.proxy.fault("lfs", Answers(200, kind, b'{"objects": []}'))
    discovery = f"{DISCOVERY}?service=git-upload-pack&to=/admin"
    wanted = fetch_v2(f"want {ours.repository.oid('main')}")
    words = {**HEEDED, "Content-Type": CONTENT, "User-Agent": "git/mine"}
    asked = (
        ("GET", discovery, b"", {"Git-Protocol": "version=0"}),
        ("POST", f"{FETCH}?to=/admin", wanted, {"Git-Protocol": "version=2"}),
        ("POST", f"{LFS}?to=/admin", batch, kind),
    )
    for method, target, body, more in asked:
        reply = await said(ours, method, target, shown, *{**words, **more}.items(), body=body)
        assert reply.status == 200, (target, reply)
    await ours.upstreams.mirrors.made(ours.remote)
    passed = [e for e in ours.proxy.exchanges if e.headers.get("User-Agent") == "git/mine"]
    paths = [exchange.path for exchange in passed]
    here = f"/{NAME}"
    assert paths[0] == f"{here}/info/refs?service=git-upload-pack"
    assert paths[1:] == [f"{here}/git-upload-pack", f"{here}/info/lfs/objects/batch"]
    for exchange in passed:
        assert exchange.authorization == ROBOT
        check_plain(exchange)
    for exchange in ours.proxy.exchanges:
        told = repr((exchange.path, dict(exchange.headers))).encode() + exchange.question
        assert TOKEN.encode() not in told
