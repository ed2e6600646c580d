# Law of this file: who may not read learns nothing, and is not told of places that are not for it;
# and the figures tell what was answered to whom, and how.

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Serve, Served
from tests.hg.asking import (
    HEADERS,
    SELF,
    UPGRADE,
    call,
    dag,
    exchange,
    explicit,
    handshake,
    request,
    serve_hg,
    where,
)
from tests.hg.cloning import said, talk
from tests.hg.conftest import Sources
from tests.hg.session import Session
from tests.hg.versions import V2, hg
from tests.server.asking import Reply, ask
from wire.hg.cbor import Value
from wire.hg.client import ClientReactor
from wire.hg.encodings import Encoding
from wire.hg.messages import STATUS_OK, CommandRequest, Moved, Offer

TOKEN = "a-token-of-this-server"
ACCESS = {"auth": "token", "tokens": [{"token": TOKEN, "repositories": ["linear", "absent"]}]}


def basic(token: str) -> dict[str, str]:
    """The header that has a token as hg sends it."""
    return {"Authorization": f"Basic {base64.b64encode(f'me:{token}'.encode()).decode()}"}


async def every(served: Served, name: str, headers: dict[str, str]) -> list[Reply]:
    """What each kind of URL answers."""
    _, body = ClientReactor((Encoding.IDENTITY,)).request(CommandRequest(b"heads"))
    return [
        await ask(served, "GET", f"/{name}?cmd=capabilities", headers={**UPGRADE, **headers}),
        await ask(served, "GET", f"/{name}?cmd=capabilities", headers=headers),
        await ask(served, "GET", f"/{name}?cmd=batch", headers=headers),
        await ask(served, "GET", f"/{name}/api/", headers=headers),
        await ask(served, "POST", where(name, "heads"), body, {**HEADERS, **headers}),
        await ask(served, "POST", where(name, "multirequest"), body, {**HEADERS, **headers}),
        await ask(served, "POST", where(name, "nothing"), body, {**HEADERS, **headers}),
        await ask(served, "GET", where(name, "pushkey", "rw"), headers=headers),
    ]


async def test_authorisation_comes_first(serve: Serve, sources: Sources) -> None:
    """Without a token, what is there and what is not are one; so are they with another's token."""
    sources.path("linear")
    sources.path("merges")
    served = await serve_hg(serve, sources.root, access=ACCESS)
    for headers, status in (({}, 401), (basic("wrong"), 401), (basic(TOKEN), 404)):
        there = await every(served, "merges", headers)
        absent = await every(served, "no-such", headers)
        assert {reply.status for reply in there} == {status}
        assert [(reply.status, reply.body) for reply in there] == [
            (reply.status, reply.body) for reply in absent
        ]
    mine = await every(served, "linear", basic(TOKEN))
    assert [reply.status for reply in mine] == [200, 200, 200, 200, 200, 200, 404, 405]
    assert {reply.status for reply in await every(served, "absent", basic(TOKEN))} == {404}


async def test_a_stock_client_with_a_token(serve: Serve, sources: Sources, tmp_path: Path) -> None:
    """Hg clones with a token as its password, and ends without one."""
    sources.path("linear")
    served = await serve_hg(serve, sources.root, access=ACCESS)
    url = f"{served.url}/linear"
    denied = await talk(tmp_path, "clone", "--noninteractive", url, "none")
    assert denied.returncode == 255
    assert b"Traceback" not in denied.stderr
    auth = [f"auth.x.{key}={value}" for key, value in _credentials(url).items()]
    config = [word for each in auth for word in ("--config", each)]
    await said(tmp_path, *config, "clone", "--quiet", url, "clone")
    assert b"checked 10 changesets" in await said(tmp_path / "clone", "verify")


def _credentials(url: str) -> dict[str, str]:
    return {"prefix": url, "username": "me", "password": TOKEN, "schemes": "http"}


def names(descriptor: Any) -> list[bytes]:
    """The names of the targets that a client is told of."""
    return [target[b"name"] for target in descriptor[b"redirect"][b"targets"]]


async def test_private_content_is_at_signed_places(serve: Serve, sources: Sources) -> None:
    """Who may read what is private is told of signed targets; others do not get it at all."""
    sources.path("linear")
    served = await serve_hg(serve, sources.root, access=ACCESS)
    fields = {**UPGRADE, **basic(TOKEN)}
    reply = await ask(served, "GET", "/linear?cmd=capabilities", headers=fields)
    assert b"self" in reply.body
    asked = request("heads", SELF)
    found = await exchange(served, "linear", asked, headers=basic(TOKEN))
    assert "signature=" in found.answers[0].url


async def test_targets_are_advertised_as_the_settings_say(serve: Serve, sources: Sources) -> None:
    """Names, protocols and places of all targets; none where redirects are switched off."""
    sources.path("linear")
    served = await serve_hg(serve, sources.root)
    descriptor: Any = await handshake(served, "linear")
    (target,) = descriptor[b"redirect"][b"targets"]
    assert target[b"protocol"] == b"http"
    assert target[b"uris"] == [f"{served.url}/-/blobs/".encode()]
    assert descriptor[b"redirect"][b"hashes"] == [b"sha256", b"sha1"]
    off = await serve_hg(serve, sources.root, redirect={"enabled": False})
    descriptor = await handshake(off, "linear")
    assert b"redirect" not in descriptor


@pytest.mark.parametrize(
    ("offer", "moved"),
    [
        (None, False),
        (Offer(()), False),
        (Offer((b"other",)), False),
        (Offer((b"other", b"self")), True),
        (SELF, True),
    ],
)
async def test_who_is_redirected(
    serve: Serve, sources: Sources, offer: Offer | None, *, moved: bool
) -> None:
    """A client that lists a target of ours is sent there, and no other."""
    sources.path("linear")
    served = await serve_hg(serve, sources.root)
    told = await call(served, "linear", "heads", offer)
    assert isinstance(told.status, Moved) == moved


async def test_a_location_says_what_is_there(serve: Serve, sources: Sources) -> None:
    """Its size and the hashes that the client lists; none to who would warn of them."""
    sources.path("linear")
    served = await serve_hg(serve, sources.root)

    async def location(*hashes: bytes, agent: str = "") -> Any:
        headers = {"User-Agent": agent} if agent else None
        asked = request("heads", Offer((b"self",), hashes))
        (told,) = (await exchange(served, "linear", asked, headers=headers)).answers
        assert isinstance(told.status, Moved)
        return told.status.location

    assert (await location()).hashes == ()
    both = await location(b"sha1", b"sha256")
    assert [name for name, _ in both.hashes] == ["sha256", "sha1"]
    assert both.hashes[0][1].hex() in both.url
    assert both.size == 22
    assert (await location(b"sha256", agent="mercurial/proto-1.0 (Mercurial 5.9.3)")).hashes == ()


async def test_small_answers_stay_where_they_are(serve: Serve, sources: Sources) -> None:
    """What is smaller than redirect.min_size is sent inline, whatever the client accepts."""
    with Session(hg(V2), sources.path("large")) as session:
        tip = bytes.fromhex(session("log", "-r", "tip", "-T", "{node}").decode())
    served = await serve_hg(serve, sources.root, redirect={"min_size": "64KiB"})
    assert (await call(served, "large", "heads", SELF)).objects == [[tip]]
    one = await call(served, "large", "changesetdata", SELF, revisions=[explicit(tip)])
    assert len(one.objects) == 2
    fields = frozenset({b"revision"})
    all_of: dict[str, Value] = {"revisions": [dag([], [tip])], "fields": fields}
    assert (await call(served, "large", "filesdata", SELF, **all_of)).url


async def test_the_figures(serve: Serve, sources: Sources) -> None:
    """Each command is counted once, by what became of it; bytes by the way they took."""
    with Session(hg(V2), sources.path("merges")) as session:
        tip = bytes.fromhex(session("log", "-r", "tip", "-T", "{node}").decode())
    served = await serve_hg(serve, sources.root)
    fields = frozenset({b"revision"})
    bulk = request("changesetdata", revisions=[dag([], [tip])], fields=fields)
    moved = CommandRequest(bulk.name, bulk.args, SELF)
    first = await exchange(served, "merges", bulk)
    await exchange(served, "merges", bulk)
    await exchange(served, "merges", moved)
    await settled(served)
    assert served.outcomes("changesetdata") == {"miss": 1, "hit": 1, "redirect": 1}
    size = len(first.answers[0].data) - len(STATUS_OK)
    assert served.content()["redirected"] == size
    sent = served.content()["inline"]
    await exchange(served, "merges", bulk, moved, request("heads"), request("lookup"))
    await call(served, "merges", "lookup", key=b"no-such")
    await settled(served)
    assert served.outcomes("changesetdata") == {"miss": 1, "hit": 2, "redirect": 2}
    assert served.outcomes("heads") == {"hit": 1}
    assert served.outcomes("lookup") == {"error": 1}
    assert served.outcomes("multirequest") == {"error": 1}
    assert served.content()["redirected"] == 2 * size
    assert served.content()["inline"] > sent + size
    assert served.executions() == 1


async def settled(served: Served) -> None:
    """What was answered has been counted once the next request is answered."""
    assert (await ask(served, "GET", "/-/livez")).status == 200
