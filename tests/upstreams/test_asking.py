# Law of this file: only what is exactly git's answer is a yes; a no is handed on as it came; all
# else is nobody's word, in a message that holds no URL and no credential.

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from aiohttp import web

from server.upstreams import asking
from server.upstreams.asking import (
    Down,
    Refused,
    SpeaksV0,
    SpeaksV2,
    read_refs,
)
from tests.conformance.clones import packet
from tests.upstreams.scripted import (
    ADVERTISEMENT,
    FLUSH,
    HERE,
    OID,
    PREFACE,
    REFS,
    RESULT,
    SECRET,
    V0,
    V2,
    Question,
    Upstream,
    answer,
    asked_with,
    cut_short,
    down,
    endless,
)

HTML = "text/html; charset=utf-8"

QUESTIONS: dict[str, Question] = {
    "discover": Upstream.discover,
    "refs": Upstream.refs,
    "may-have": Upstream.may_have,
}


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """It, on a free port."""
    async with Upstream.open() as upstream:
        yield upstream


EACH = pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)


# --- a yes -------------------------------------------------------------------------------------


async def test_a_yes_of_protocol_v2(upstream: Upstream) -> None:
    """What it can do is read, and the caller's credential was shown as it came."""
    upstream.says(answer(V2))
    spoken, refs = await upstream.asking.discover(upstream.scripted.remote(), SECRET)
    assert isinstance(spoken, SpeaksV2)
    assert spoken.object_format == "sha1"
    assert refs is None
    (asked,) = upstream.scripted.asked
    assert (asked.method, asked.path) == ("GET", HERE)
    assert asked.headers["Git-Protocol"] == "version=2"
    assert asked.headers["Authorization"] == SECRET


async def test_nobodys_question_has_no_credential(upstream: Upstream) -> None:
    """Who shows none is asked for as nobody, even after somebody else."""
    upstream.says(answer(V2, headers={"Set-Cookie": "session=1"}))
    await upstream.discover()
    await upstream.asking.discover(upstream.scripted.remote(), None)
    assert "Authorization" not in upstream.scripted.asked[1].headers
    assert "Cookie" not in upstream.scripted.asked[1].headers


async def test_a_yes_of_protocol_v0(upstream: Upstream) -> None:
    """The refs come along, and are asked for in the same way again."""
    upstream.says(answer(V0))
    remote = upstream.scripted.remote()
    spoken, refs = await upstream.asking.discover(remote, SECRET)
    assert isinstance(spoken, SpeaksV0)
    assert refs is not None
    assert refs.oid(b"refs/heads/main") == OID
    again = await upstream.asking.refs(remote, spoken, SECRET)
    assert not isinstance(again, bytes)
    assert again.tips == {OID}
    upstream.says(answer(V2))
    await down(upstream, upstream.asking.refs(remote, spoken, SECRET))


async def test_refs_are_asked_for_and_read(upstream: Upstream) -> None:
    """One question for all refs; an answer is as long as it needs to be."""
    many = b"".join(packet(f"{OID} refs/heads/{n}\n") for n in range(9000)) + FLUSH
    upstream.says(answer(many, RESULT))
    body = await upstream.refs()
    assert body == many
    assert len((await read_refs(many)).refs) == 9000
    assert b"command=ls-refs" in upstream.scripted.asked[0].body


# --- a no --------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize(("status", "told"), [(401, 401), (403, 403), (404, 404), (410, 404)])
async def test_a_no_is_handed_on(
    upstream: Upstream, question: Question, status: int, told: int
) -> None:
    """With what it wants to be shown, and with its words if they are for people."""
    challenge = {"WWW-Authenticate": 'Basic realm="forge"'}
    upstream.says(answer(b"not for you\n", "text/plain", status, challenge))
    with pytest.raises(Refused) as caught:
        await question(upstream)
    refused = caught.value
    assert (refused.status, refused.text) == (told, "not for you")
    assert refused.challenges == ('Basic realm="forge"',)
    upstream.check_words(str(refused))
    upstream.says(answer(b"<h1>No</h1>" * 9999, HTML, status))
    with pytest.raises(Refused) as caught:
        await question(upstream)
    assert (caught.value.text, caught.value.challenges) == ("", ())


async def test_an_error_of_git_in_place_of_refs_is_a_no(upstream: Upstream) -> None:
    """A forge that says ERR where the refs would be gives its reason."""
    upstream.says(answer(packet("ERR this repository is archived\n"), RESULT))
    with pytest.raises(Refused) as caught:
        await upstream.refs()
    assert (caught.value.status, caught.value.text) == (403, "this repository is archived")


# --- neither -----------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize(
    "status", [201, 204, 206, 300, 304, 400, 402, 405, 407, 418, 429, 451, 500, 502, 503, 504]
)
async def test_any_other_status_is_neither(
    upstream: Upstream, question: Question, status: int
) -> None:
    """Whatever its body says: git's own server has nothing to say with it."""
    upstream.says(answer(b"" if status in {204, 304} else V2, status=status))
    error = await down(upstream, question(upstream))
    assert str(status) in str(error)
    assert error.retry_after is None


@pytest.mark.parametrize(
    ("said", "least", "most"),
    [
        ("7", 7, 7),
        (" 120 ", 120, 120),
        ("0", 0, 0),
        (format_datetime(datetime(2001, 2, 3, tzinfo=UTC), usegmt=True), 0, 0),
    ],
    ids=["seconds", "spaces", "zero", "past-date"],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_when_to_come_again_is_read(
    upstream: Upstream, status: int, said: str, least: float, most: float
) -> None:
    """In both forms: so many seconds, or a date."""
    upstream.says(answer(status=status, headers={"Retry-After": said}))
    error = await down(upstream, upstream.refs())
    assert error.retry_after is not None
    assert least <= error.retry_after <= most


async def test_a_date_to_come_again_is_read(upstream: Upstream) -> None:
    """One that is yet to come is so many seconds from now."""
    said = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    upstream.says(answer(status=429, headers={"Retry-After": said}))
    error = await down(upstream, upstream.refs())
    assert error.retry_after is not None
    assert 3000 <= error.retry_after <= 3601


@pytest.mark.parametrize("said", ["", "soon", "-3", "1.5", "Mon, 99 Foo 2026", "9" * 400])
async def test_nonsense_about_when_is_harmless(upstream: Upstream, said: str) -> None:
    """It is no number, or not a huge one."""
    upstream.says(answer(status=429, headers={"Retry-After": said}))
    error = await down(upstream, upstream.refs())
    assert error.retry_after is None or 0 <= error.retry_after < 1e9


@EACH
@pytest.mark.parametrize("content_type", [HTML, "text/plain", "application/json", "x"])
async def test_a_page_with_200_is_no_yes(
    upstream: Upstream, question: Question, content_type: str
) -> None:
    """Not even with a body that git could read."""
    body = V2 if question is Upstream.discover else REFS
    upstream.says(answer(body, content_type))
    await down(upstream, question(upstream))


async def test_an_advertisement_is_no_result(upstream: Upstream) -> None:
    """Nor the other way round."""
    upstream.says(answer(V2, RESULT))
    await down(upstream, upstream.discover())
    upstream.says(answer(REFS, ADVERTISEMENT))
    await down(upstream, upstream.refs())
    await down(upstream, upstream.may_have())


BROKEN_ADVERTISEMENTS = {
    "empty": b"",
    "preface-only": PREFACE,
    "half": V2[: len(V2) // 2],
    "without-flush": V2[:-4],
    "half-v0": V0[:-10],
    "no-packets": b"hello, world\n",
    "page": b"<!DOCTYPE html><title>Sign in</title>",
    "err": packet("ERR access denied\n"),
    "v3": PREFACE + packet("version 3\n") + FLUSH,
}


@pytest.mark.parametrize("body", BROKEN_ADVERTISEMENTS.values(), ids=BROKEN_ADVERTISEMENTS)
async def test_half_an_advertisement_is_none(upstream: Upstream, body: bytes) -> None:
    """With the right type and status it still has to be whole."""
    upstream.says(answer(body))
    await down(upstream, upstream.discover())


@pytest.mark.parametrize(
    "body", [b"", REFS[:-4], REFS[:20], b"nothing", packet("x y z\n") + FLUSH, REFS + REFS]
)
async def test_half_a_list_of_refs_is_none(body: bytes) -> None:
    """A list that stops early would say that refs are gone."""
    with pytest.raises(Down):
        await read_refs(body)


@pytest.mark.parametrize("body", [V2, V2[:30], b""], ids=["all", "half", "nothing"])
async def test_a_connection_that_breaks_is_no_end(upstream: Upstream, body: bytes) -> None:
    """Even if what came reads as whole."""
    upstream.says(cut_short(body))
    await down(upstream, upstream.discover())
    upstream.says(cut_short(REFS, RESULT))
    await down(upstream, upstream.refs())


async def test_a_list_without_end_is_not_read_to_it(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the bound the connection is dropped."""
    monkeypatch.setattr(asking, "_LONGEST_LIST", 1 << 20)
    upstream.says(endless(b"", REFS[:-4] * 1000))
    error = await down(upstream, upstream.refs())
    assert "longer than 1 MiB" in str(error)


async def test_a_server_that_is_not_there(upstream: Upstream) -> None:
    """Nobody listens at its address."""
    await upstream.scripted.close()
    for question in QUESTIONS.values():
        await down(upstream, question(upstream))


@EACH
async def test_silence_has_an_end(upstream: Upstream, question: Question) -> None:
    """After `timeout` it is down, whether it said nothing or half."""

    async def hangs(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async def half(request: web.Request) -> web.StreamResponse:
        kind = ADVERTISEMENT if request.method == "GET" else RESULT
        response = web.StreamResponse(headers={"Content-Type": kind})
        await response.prepare(request)
        await response.write(b"00")
        return await hangs(request)

    for said in (hangs, half):
        upstream.says(said)
        asked = asked_with(question, upstream, timeout="0.2s")
        error = await down(upstream, asked)
        assert "in time" in str(error)


# --- whether one object may be had ---------------------------------------------------------------


async def test_the_beginning_of_a_pack_is_a_yes(upstream: Upstream) -> None:
    """The rest is not read."""
    shallow = packet("shallow-info\n") + packet(f"shallow {OID}\n") + b"0001"
    begin = shallow + packet("packfile\n")
    upstream.says(endless(begin, packet(b"\x01" + bytes(60000))))
    assert await upstream.may_have() is None
    (asked,) = upstream.scripted.asked
    for line in (b"command=fetch", f"want {OID}".encode(), b"deepen 1", b"filter tree:0"):
        assert line in asked.body
    assert b"done" in asked.body


async def test_its_words_are_the_answer_to_what_may_not_be_had(upstream: Upstream) -> None:
    """As they came."""
    words = f"upload-pack: not our ref {OID}"
    upstream.says(answer(packet(f"ERR {words}"), RESULT))
    assert await upstream.may_have() == words


@pytest.mark.parametrize(
    "body",
    [b"", FLUSH, packet("packfile\n")[:6], packet("hello\n"), b"zzzz", packet("x" * 999) * 99],
)
async def test_what_is_no_answer_to_a_fetch_is_neither(upstream: Upstream, body: bytes) -> None:
    """Nobody may have anything because of it."""
    upstream.says(answer(body, RESULT))
    await down(upstream, upstream.may_have())
    upstream.says(cut_short(body, RESULT))
    await down(upstream, upstream.may_have())
