# Law of this file: what is wrong with a URL, a header or the choice of a command is told in the
# form that its sender must be able to read.

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Serve, Served
from tests.hg.asking import (
    API,
    HEADERS,
    UPGRADE,
    Exchange,
    Told,
    exchange,
    frames,
    read,
    request,
    serve_hg,
    where,
)
from tests.hg.byhand import frame, heads, post
from tests.hg.conftest import Sources
from tests.server.asking import ask
from wire.hg import cbor
from wire.hg.client import ClientReactor
from wire.hg.encodings import Encoding
from wire.hg.frames import (
    REQUEST_NEW,
    FrameType,
)
from wire.hg.messages import (
    FRAMING_MEDIA_TYPE,
    CommandRequest,
)


@pytest.fixture
async def served(serve: Serve, sources: Sources, shared_data: Path) -> Served:
    """A server of the repository in a row."""
    sources.path("linear")
    return await serve_hg(serve, sources.root, data=shared_data, limits={"request_body": 1 << 20})


# --- URLs and headers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", where("linear", "heads"), 405, "POST"),
        ("PUT", where("linear", "heads"), 405, "POST"),
        ("HEAD", where("linear", "heads"), 405, ""),
        ("POST", where("linear", "nothing"), 404, "nothing"),
        ("POST", where("linear", "heads", "wo"), 404, "ro or rw"),
        ("POST", f"/linear/{API}/ro", 404, "ro or rw"),
        ("POST", f"/linear/{API}/", 404, "ro or rw"),
        ("POST", f"/linear/{API}/ro/heads/more", 404, "ro or rw"),
        ("POST", where("nothing", "heads"), 404, ""),
        ("POST", where("linear", "debugreflect"), 404, "debugreflect"),
        ("POST", where("linear", "pushkey"), 403, "Pushing"),
        ("POST", where("linear", "pushkey", "rw"), 403, "Pushing"),
        ("POST", where("../linear", "heads"), 404, ""),
    ],
)
async def test_urls(served: Served, method: str, path: str, status: int, words: str) -> None:
    """What is wrong with a URL or a method is said in HTTP, as text, before frames are read."""
    reply = await ask(served, method, path, heads() if method == "POST" else b"", HEADERS)
    assert reply.status == status
    assert reply.headers["content-type"].startswith("text/plain")
    assert words in reply.body.decode()
    if status == 405:
        assert reply.headers["allow"] == "POST"


@pytest.mark.parametrize("accept", ["", "*/*", "application/mercurial-cbor", "text/html"])
async def test_who_does_not_read_frames(served: Served, accept: str) -> None:
    """An Accept that is not exactly the frames' media type is 406."""
    reply = await post(served, heads(), Accept=accept)
    assert reply.status == 406
    assert FRAMING_MEDIA_TYPE in reply.body.decode()


@pytest.mark.parametrize("sent", ["", "application/octet-stream", "application/mercurial-cbor"])
async def test_bodies_that_are_no_frames(served: Served, sent: str) -> None:
    """A Content-Type that is not exactly the frames' media type is 415."""
    reply = await post(served, heads(), Content_Type=sent)
    assert reply.status == 415
    assert FRAMING_MEDIA_TYPE in reply.body.decode()


async def test_the_other_permission_will_do(served: Served) -> None:
    """What needs only to read may be asked where writing is asked, too."""
    reply = await post(served, heads(), where("linear", "heads", "rw"))
    assert reply.status == 200
    assert frames(reply.body)[-1].kind is FrameType.COMMAND_RESPONSE


async def test_the_list_of_apis(served: Served) -> None:
    """People who look are told which APIs there are."""
    reply = await ask(served, "GET", "/linear/api/")
    assert (reply.status, "exp-http-v2-0003" in reply.body.decode()) == (200, True)


@pytest.mark.parametrize("permission", ["ro", "rw"])
async def test_a_push_among_other_commands(served: Served, permission: str) -> None:
    """A push is refused wherever it stands, and nothing else of its exchange is answered."""
    client = ClientReactor((Encoding.IDENTITY,), extra_frames=False)
    push = {b"namespace": b"bookmarks", b"key": b"x", b"old": b"", b"new": b""}
    _, first = client.request(CommandRequest(b"heads"))
    _, second = client.request(CommandRequest(b"pushkey", {**push}))
    reply = await post(served, first + second, where("linear", "multirequest", permission))
    assert reply.status == 403
    # A frame that says something else than its URL is no way around that.
    client = ClientReactor((Encoding.IDENTITY,), extra_frames=False)
    _, body = client.request(CommandRequest(b"pushkey", {**push}))
    told = await post(served, body, where("linear", "heads", permission))
    assert told.status in {200, 403}
    assert b"pushkey" in told.body or told.status == 403


# --- commands where they do not belong ----------------------------------------------------------


async def test_a_command_that_is_not_of_its_url(served: Served) -> None:
    """Frames that say another command than their URL get a status that names both."""
    found = await exchange(served, "linear", request("known"), command="heads")
    assert found.answers[0].failure == "command known in the frame, and heads in the URL"


async def test_two_commands_on_the_url_of_one(served: Served) -> None:
    """Several commands belong to `multirequest`, and each is told so."""
    found = await exchange(served, "linear", request("heads"), request("heads"), command="heads")
    assert all("multirequest" in told.failure for told in found.answers)


async def test_one_bad_command_among_others(served: Served) -> None:
    """In a multirequest each command has its own answer, whatever is wrong with the others."""
    found = await exchange(
        served, "linear", request("heads"), request("pull"), request("lookup"), request("heads")
    )
    good, unknown, bad, again = found.answers
    assert good.objects == again.objects
    assert unknown.failure == "unknown command: pull"
    assert bad.failure == "missing required arguments: key"


async def test_a_multirequest_of_one(served: Served) -> None:
    """One command may use the URL of several."""
    found = await exchange(served, "linear", request("heads"), command="multirequest")
    assert found.answers[0].objects


async def test_a_bad_request_among_good_ones(served: Served) -> None:
    """A request whose map is none is told so as its status; the others are answered."""
    body = heads() + frame(FrameType.COMMAND_REQUEST, b"\xa0", REQUEST_NEW, 3, stream_flags=0)
    reply = await post(served, body, where("linear", "multirequest"))
    client = ClientReactor((Encoding.IDENTITY,), extra_frames=False)
    client.request(CommandRequest(b"heads"))
    client.request(CommandRequest(b"heads"))
    found = Exchange(reply, {1: Told(), 3: Told()})
    read(found, client)
    assert found.answers[0].objects
    assert "name of a command" in found.answers[1].failure


# --- the handshake ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-HgUpgrade-1": "exp-http-v2-0003"},
        {"X-HgProto-1": "cbor"},
    ],
)
async def test_handshakes_that_say_too_little(served: Served, headers: dict[str, str]) -> None:
    """Who asks for no upgrade, or does not read CBOR, is answered by version 1."""
    reply = await ask(served, "GET", "/linear?cmd=capabilities", headers=headers)
    assert reply.headers["content-type"] == "application/mercurial-0.1"
    assert {b"batch", b"getbundle", b"known"} <= set(reply.body.split())
    other = await ask(served, "GET", "/linear?cmd=batch&cmds=heads+", headers=UPGRADE)
    assert other.headers["content-type"] == "application/mercurial-0.1"


async def test_a_handshake_for_another_api(served: Served) -> None:
    """Who asks for an API that there is not gets a list without one."""
    asked = {"X-HgUpgrade-1": "exp-http-v9", "X-HgProto-1": "cbor"}
    reply = await ask(served, "GET", "/linear?cmd=capabilities", headers=asked)
    said = cbor.decode_one(reply.body)
    assert isinstance(said, dict)
    assert said[b"apis"] == {}
