# Law of this file: git-lfs through Offramp: with the caller's own credential unchanged; with the
# settings' credential only downloads, and never the credential itself.

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from aiohttp import web

from server.upstreams.lfs import Repeats, download_request, without_credential
from tests.conftest import Serve, Served
from tests.server.asking import Reply, ask
from tests.upstreams.clients import basic, bearer
from tests.upstreams.private import REPOSITORY
from tests.upstreams.scene import NAME, PREFIX
from tests.upstreams.scripted import Scripted, answer

BATCH: Final = f"{REPOSITORY}/info/lfs/objects/batch"
LFS_JSON: Final = "application/vnd.git-lfs+json"
OBJECT: Final = {"oid": "5" * 64, "size": 7}
DOWNLOAD: Final = json.dumps({"operation": "download", "objects": [OBJECT]}).encode()
UPLOAD: Final = json.dumps({"operation": "upload", "objects": [OBJECT]}).encode()
PASSWORD: Final = "the-robots-own-password"
SHOWN: Final = basic("robot", PASSWORD)
TOKEN: Final = "0123456789abcdef-opens-acme"
OWN: Final[dict[str, Any]] = {
    "upstream": {
        "auth": "token",
        "credential": {"username": "robot", "password": PASSWORD},
    },
    "access": {"tokens": [{"token": TOKEN, "repositories": ["up/acme/*"]}]},
}


def located(header: dict[str, str], **more: Any) -> bytes:
    """What an upstream says to a download."""
    action = {"href": "https://store.example.org/x?sig=1", "header": header, "expires_in": 60}
    objects = [{**OBJECT, "authenticated": True, "actions": {"download": action}, **more}]
    return json.dumps({"transfer": "basic", "objects": objects}).encode()


@pytest.fixture
async def scripted() -> AsyncIterator[Scripted]:
    """An upstream of which nothing is asked but LFS."""
    scripted = await Scripted.start()
    yield scripted
    await scripted.close()


async def start(serve: Serve, scripted: Scripted, settings: dict[str, Any]) -> Served:
    """Offramp before it."""
    upstream = {"prefix": PREFIX, "url": scripted.url, **settings.get("upstream", {})}
    access = settings.get("access", {})
    return await serve(None, upstreams=[upstream], access=access, index={"enabled": False})


async def batch(served: Served, body: bytes, word: str | None) -> Reply:
    """Ask as git-lfs does."""
    headers = {"Content-Type": LFS_JSON, "Accept": LFS_JSON, "Accept-Encoding": "gzip"}
    if word is not None:
        headers["Authorization"] = word
    return await ask(served, "POST", BATCH, body, headers)


# --- with the caller's own credential ------------------------------------------------------------


@pytest.mark.parametrize("auth", ["upstream", "none"])
@pytest.mark.parametrize("body", [DOWNLOAD, UPLOAD, b"no json at all"])
async def test_it_goes_through_as_it_came(
    serve: Serve, scripted: Scripted, auth: str, body: bytes
) -> None:
    """Question and answer are those of client and upstream, byte for byte, whatever they are."""
    served = await start(serve, scripted, {"upstream": {"auth": auth}})
    said = located({"Authorization": "Basic whatever"})
    scripted.said = [answer(said, LFS_JSON, headers={"X-Of-The-Forge": "yes"})]
    reply = await batch(served, body, basic("ann", "hers"))
    assert (reply.status, reply.body) == (200, said)
    assert reply.headers["content-type"] == LFS_JSON
    assert reply.headers["x-of-the-forge"] == "yes"
    (asked,) = scripted.asked
    assert (asked.method, asked.path) == ("POST", f"/{NAME}/info/lfs/objects/batch")
    assert asked.body == body
    assert asked.headers["Authorization"] == basic("ann", "hers")
    assert asked.headers["Accept"] == asked.headers["Content-Type"] == LFS_JSON
    assert asked.headers["Accept-Encoding"] == "gzip"


async def test_the_upstreams_no_comes_through(serve: Serve, scripted: Scripted) -> None:
    """git-lfs is told by the forge itself that it has to log in, and how."""
    served = await start(serve, scripted, {})
    scripted.said = [
        answer(b"{}", LFS_JSON, 401, {"LFS-Authenticate": "Basic x", "WWW-Authenticate": "Basic y"})
    ]
    reply = await batch(served, DOWNLOAD, None)
    assert (reply.status, reply.body) == (401, b"{}")
    assert reply.headers["lfs-authenticate"] == "Basic x"
    assert reply.headers["www-authenticate"] == "Basic y"
    assert "Authorization" not in scripted.asked[0].headers


# --- with the settings' credential ---------------------------------------------------------------


async def test_a_token_of_ours_finds_what_to_download(serve: Serve, scripted: Scripted) -> None:
    """The upstream is asked with the settings' credential; it never sees the token."""
    served = await start(serve, scripted, OWN)
    said = located({"X-Store": "a-word-for-the-store"})
    scripted.said = [answer(said, LFS_JSON)]
    reply = await batch(served, DOWNLOAD, bearer(TOKEN))
    assert reply.status == 200
    assert json.loads(reply.body) == json.loads(said)
    (asked,) = scripted.asked
    assert asked.headers["Authorization"] == SHOWN
    assert json.loads(asked.body) == json.loads(DOWNLOAD)
    assert TOKEN not in repr(dict(asked.headers)) + asked.path


async def test_an_upstream_that_repeats_the_credential_does_not_give_it_away(
    serve: Serve, scripted: Scripted
) -> None:
    """Some forges tell git-lfs to download with the header that they were shown: it is not ours."""
    served = await start(serve, scripted, OWN)

    async def echo(request: web.Request) -> web.Response:
        word = request.headers["Authorization"]
        body = located({"Authorization": word, "X-Other": "kept"})
        return web.Response(body=body, content_type=LFS_JSON)

    scripted.said = [echo]
    reply = await batch(served, DOWNLOAD, bearer(TOKEN))
    assert reply.status == 200
    for secret in (PASSWORD, SHOWN.partition(" ")[2]):
        assert secret not in repr(reply)
    (item,) = json.loads(reply.body)["objects"]
    assert item["actions"]["download"]["header"] == {"X-Other": "kept"}
    assert item["authenticated"] is False

    async def elsewhere(request: web.Request) -> web.Response:
        word = request.headers["Authorization"]
        return web.Response(body=located({}, note=f"you said {word}"), content_type=LFS_JSON)

    scripted.said = [elsewhere]
    reply = await batch(served, DOWNLOAD, bearer(TOKEN))
    assert reply.status == 503
    assert SHOWN.partition(" ")[2] not in repr(reply)


@pytest.mark.parametrize(
    "body",
    [
        UPLOAD,
        b"{}",
        b"[]",
        b"not json",
        b'{"operation": ["download"]}',
        b'{"Operation": "download"}',
        b'{"operation": "download", "operation": "upload"}',
        b"[" * 100_000,
        DOWNLOAD + b" " * (1 << 20),
    ],
)
async def test_what_is_no_download_is_refused(
    serve: Serve, scripted: Scripted, body: bytes
) -> None:
    """Nothing else is asked with the settings' credential; nor anything without a token."""
    served = await start(serve, scripted, OWN)
    assert (await batch(served, body, bearer(TOKEN))).status == 403
    assert (await batch(served, DOWNLOAD, None)).status == 401
    assert (await batch(served, DOWNLOAD, SHOWN)).status == 401
    assert not scripted.asked


@pytest.mark.parametrize(
    "body",
    [
        b'{"operation": "upload", "operation": "download", "objects": []}',
        b'{"operation": "download", "Operation": "upload", "objects": []}',
        b'{"OPERATION": "upload", "operation": "download", "objects": [], "x": 1}',
        '{"operation": "download", "objects": []}'.encode("utf-16"),
    ],
)
def test_what_others_might_read_otherwise_is_said_again(body: bytes) -> None:
    """Readers of JSON differ; what is sent to the upstream all of them read as a download."""
    said = download_request(body)
    assert said == b'{"operation": "download", "objects": []}'


@pytest.mark.parametrize("shown", [SHOWN, bearer("a-token-0123456789"), "Token-without-scheme"])
def test_a_credential_is_taken_out_of_headers_only(shown: str) -> None:
    """By any header and spelling; where it is anywhere else there is no answer."""
    secret = shown.partition(" ")[2] or shown
    header = {"Authorization": shown, "x-copy": f"was {secret}", "Accept": "x"}
    clean = without_credential(located(header), shown)
    (item,) = json.loads(clean)["objects"]
    assert item["actions"]["download"]["header"] == {"Accept": "x"}
    escaped = located({}).replace(b"sig=1", f"sig=\\u{ord(secret[0]):04x}{secret[1:]}".encode())
    twice = b'{"message": "' + secret.encode() + b'", "message": "x"}'
    for said in (escaped, secret.encode(), json.dumps([{secret: 1}]).encode()):
        with pytest.raises(Repeats):
            without_credential(said, shown)
    assert secret.encode() not in without_credential(twice, shown)


def test_the_password_alone_is_a_secret_too() -> None:
    """Decoded, it is as good as its header; one that is a common word cannot be told from text."""
    with pytest.raises(Repeats):
        without_credential(json.dumps({"message": f"no {PASSWORD}"}).encode(), SHOWN)
    short = "Basic " + base64.b64encode(b"robot:a").decode()
    assert without_credential(b'{"message": "a"}', short) == b'{"message": "a"}'
