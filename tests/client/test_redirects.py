# Law of this file: wherever an answer is, what reaches the caller is that answer, whole and
# checked; a target that fails costs a question and never the answer.

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Sequence

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from client import (
    BrokenAnswer,
    Call,
    Limits,
    TooLarge,
    Unreachable,
    Watch,
    connect,
    no_target,
)
from tests.client.scripted import (
    Deed,
    Files,
    Question,
    Scripted,
    Talk,
    answer,
    breaks_after,
    ends_after,
    hangs_up,
    moved,
    never,
    says,
    sequence,
    whole,
    without_ranges,
)
from wire.hg.encodings import Encoding
from wire.hg.handshake import AdvertisedTarget
from wire.hg.messages import Location, Moved, Status
from wire.hg.server import ServerReactor

OBJECTS = [{b"totalitems": 3}, os.urandom(5000), os.urandom(70_000), os.urandom(500)]
CONTENT = sequence(*OBJECTS)
INLINE = answer(*OBJECTS)
PATH = "/entity?signature=s3cret%2Fa+b"

# Nothing is waited for between tries.
QUICK = Limits(pause=0.0)


def target(files: Files, name: str = "cdn") -> AdvertisedTarget:
    """A target as the server advertises it."""
    return AdvertisedTarget(name, "http", (f"{files.url}/",))


def redirecting(server: Scripted, *targets: Files, **changes: object) -> None:
    """Have ``heads`` redirected to the first target that is offered, else answered inline."""
    names = [f"t{number}" for number in range(len(targets))]
    server.advertise(*map(target, targets, names))
    for files in targets:
        files.content = CONTENT

    def reply(question: Question) -> bytes | Status:
        offer = question.request.offer
        for files, name in zip(targets, names, strict=True):
            if offer is not None and name.encode() in offer.targets:
                return moved(files.url + PATH, CONTENT, **changes)
        return INLINE

    server.replies[b"heads"] = reply


# --- what is asked --------------------------------------------------------------------------


async def test_a_redirect_is_followed(server: Scripted, files: Files) -> None:
    """The content of a location is the answer."""
    redirecting(server, files)
    turns: list[tuple[Call, str, str | None]] = []
    watch = Watch(redirected=lambda call, at, name: turns.append((call, at.url, name)))
    async with connect(server.url, watch=watch) as repository:
        assert await repository.call(b"heads") == OBJECTS
        async with repository.stream(b"heads") as objects:
            assert [each async for each in objects] == OBJECTS
    assert turns == [(Call(b"heads"), files.url + PATH, "t0")] * 2
    asked = files.asked[0]
    assert asked.path == PATH
    assert asked.headers["Accept"] == "application/mercurial-cbor"
    assert asked.headers["Accept-Encoding"] == "identity"
    assert server.commands == [(b"heads", (b"t0",))] * 2
    offer = server.questions[0].request.offer
    assert offer is not None
    assert offer.hashes == (b"sha256", b"sha1")


@pytest.mark.parametrize("encoding", list(Encoding))
async def test_redirects_in_every_encoding(
    server: Scripted, files: Files, encoding: Encoding
) -> None:
    """The status that redirects may be encoded, and the content is not."""
    redirecting(server, files)
    server.encoding = encoding
    server.chunk = 1
    async with connect(server.url) as repository:
        assert await repository.call(b"heads") == OBJECTS


async def test_an_empty_answer(server: Scripted, files: Files) -> None:
    """No bytes are no objects."""
    server.advertise(target(files))
    server.replies[b"heads"] = moved(files.url, b"")
    async with connect(server.url) as repository:
        assert await repository.call(b"heads") == []


async def test_secrets_stay_with_the_server(server: Scripted, files: Files) -> None:
    """Neither credentials nor cookies nor headers for the server go to a target."""
    redirecting(server, files)
    jar = aiohttp.CookieJar(unsafe=True)
    jar.update_cookies({"session": "s3cret"}, URL(server.url))
    async with aiohttp.ClientSession(cookie_jar=jar, headers={"X-Token": "s3cret"}) as session:
        url = server.url.replace("//", "//ann:hunter2@")
        async with connect(url, session=session) as repository:
            assert await repository.call(b"heads") == OBJECTS
    for asked in server.asked:
        assert asked.headers["X-Token"] == "s3cret"
        assert asked.headers["Cookie"] == "session=s3cret"
        assert asked.headers["Authorization"].startswith("Basic ")
    (asked,) = files.asked
    assert not {"X-Token", "Cookie", "Authorization"} & set(asked.headers)


async def test_a_redirect_to_the_server_itself(server: Scripted) -> None:
    """What lies at the server's own origin may ask for its credentials."""

    async def blob(request: web.Request) -> web.StreamResponse:
        return web.Response(body=CONTENT)

    server.advertise(AdvertisedTarget("own", "http", (server.url,)))
    async with connect(server.url.replace("//", "//ann:hunter2@")) as repository:
        server.greeting = blob
        server.replies[b"heads"] = moved(server.url, CONTENT)
        assert await repository.call(b"heads") == OBJECTS
    assert [asked.method for asked in server.asked] == ["GET", "POST", "GET"]
    assert {asked.headers["Authorization"] for asked in server.asked} == {"Basic YW5uOmh1bnRlcjI="}


async def test_a_target_that_redirects(server: Scripted, files: Files, others: Files) -> None:
    """A few HTTP redirects of a target are followed."""
    redirecting(server, files)
    others.content = CONTENT
    files.deeds = [
        says(302, Location="/elsewhere"),
        says(307, Location=f"{others.url}/there?x=%2F"),
    ]
    async with connect(server.url) as repository:
        assert await repository.call(b"heads") == OBJECTS
    assert [asked.path for asked in files.asked] == [PATH, "/elsewhere"]
    assert [asked.path for asked in others.asked] == ["/there?x=%2F"]
    assert len(server.questions) == 1


async def test_no_targets_wanted(server: Scripted, files: Files) -> None:
    """A caller that accepts no target says so, and gets all inline."""
    redirecting(server, files)
    async with connect(server.url, accept=no_target) as repository:
        assert await repository.call(b"heads") == OBJECTS
    assert server.commands == [(b"heads", ())]


async def test_a_target_that_the_caller_picks(
    server: Scripted, files: Files, others: Files
) -> None:
    """Only the targets that the caller accepts are offered."""
    redirecting(server, files, others)
    async with connect(server.url, accept=lambda target: target.name == "t1") as repository:
        assert await repository.call(b"heads") == OBJECTS
    assert server.commands == [(b"heads", (b"t1",))]
    assert not files.asked


async def test_large_content_is_not_held(server: Scripted, files: Files) -> None:
    """Content of any size is spooled to disk, and handed out object by object."""
    redirecting(server, files)
    async with connect(server.url, limits=Limits(spool=1000)) as repository:
        async with repository.stream(b"heads") as objects:
            assert [each async for each in objects] == OBJECTS
        assert await repository.call(b"heads") == OBJECTS
    async with connect(server.url, limits=Limits(collected=1000)) as repository:
        with pytest.raises(TooLarge):
            await repository.call(b"heads")


# --- targets that fail ----------------------------------------------------------------------


def changed(content: bytes) -> bytes:
    """Content of the same size with one bit that is wrong."""
    return content[:-1] + bytes((content[-1] ^ 1,))


FAILURES: dict[str, tuple[Deed, str]] = {
    "404": (says(404), "HTTP 404"),
    "403": (says(403), "HTTP 403"),
    "500": (says(500), "HTTP 500"),
    "204": (says(204, b""), "HTTP 204"),
    "hangs up": (hangs_up, "hung up"),
    "silence": (never, "nothing came"),
    "wrong bytes": (says(200, changed(CONTENT)), "another sha256"),
    "too short": (says(200, CONTENT[:-1]), f"{len(CONTENT) - 1} bytes and not"),
    "too long": (says(200, CONTENT + b"x"), f"{len(CONTENT) + 1} bytes and not"),
    "html": (says(200, b"<html>sign in", Content_Type="text/html"), "13 bytes and not"),
    "compressed": (says(200, b"x" * 9, Content_Encoding="br"), "compressed"),
    "redirects": (says(302, Location="/again"), "more than 5 HTTP redirects"),
    "redirect to file": (says(302, Location="file:///etc/passwd"), "do not follow"),
    "redirect to nothing": (says(302), "do not follow"),
    "range unasked": (says(206, CONTENT), "HTTP 206"),
    "breaks at once": (breaks_after(0), "broke before"),
    "never whole": (breaks_after(1), "5 times"),
    "shorter, chunked": (breaks_after(0, length=False), "broke before"),
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_target_that_fails(server: Scripted, files: Files, failure: str) -> None:
    """However a target fails, the answer comes inline, and the target is not asked again."""
    deed, words = FAILURES[failure]
    redirecting(server, files)
    files.deeds = [deed]
    reasons: list[tuple[str | None, str]] = []
    watch = Watch(failed=lambda call, name, reason: reasons.append((name, reason)))
    limits = Limits(pause=0.0, target_silence=0.05) if deed is never else QUICK
    async with connect(server.url, limits=limits, watch=watch) as repository:
        assert await repository.call(b"heads") == OBJECTS
        assert server.commands == [(b"heads", (b"t0",)), (b"heads", ())]
        gets = len(files.asked)
        assert await repository.call(b"heads") == OBJECTS
        assert server.commands[2:] == [(b"heads", ())]
        assert len(files.asked) == gets
        assert [name for name, _ in reasons] == ["t0"]
        assert words in reasons[0][1]
        assert repository.targets.failed == {"t0": reasons[0][1]}
        assert "s3cret" not in reasons[0][1]


LOCATIONS: dict[str, tuple[dict[str, object], str]] = {
    "no hash": ({"hashes": ()}, "no hash"),
    "an unknown hash": ({"hashes": (("md5", bytes(16)),)}, "no hash"),
    "a wrong hash": ({"hashes": (("sha1", bytes(20)),)}, "another sha1"),
    "one of two is wrong": (
        {"hashes": (("sha256", hashlib.sha256(CONTENT).digest()), ("sha1", bytes(20)))},
        "another sha1",
    ),
    "another media type": ({"media_type": "text/html"}, "text/html"),
    "a huge size": ({"size": 1 << 60}, "we take up to"),
    "a smaller size": ({"size": len(CONTENT) - 1}, "and not"),
}


@pytest.mark.parametrize("location", LOCATIONS)
async def test_a_location_that_cannot_be_used(
    server: Scripted, files: Files, location: str
) -> None:
    """What cannot be checked, or is not what its location says, is asked for inline."""
    changes, words = LOCATIONS[location]
    redirecting(server, files, **changes)
    async with connect(server.url, limits=QUICK) as repository:
        assert await repository.call(b"heads") == OBJECTS
        assert words in repository.targets.failed["t0"]


@pytest.mark.parametrize("url", ["ftp://h/x", "http:///x", "http://[", "x", "http://h:port/"])
async def test_a_url_that_is_none(server: Scripted, files: Files, url: str) -> None:
    """A location with a URL that nobody can ask is a failure like others."""
    server.advertise(target(files))
    server.replies[b"heads"] = lambda question: (
        moved(url, CONTENT) if question.request.offer.targets else INLINE  # type: ignore[union-attr]
    )
    async with connect(server.url) as repository:
        assert await repository.call(b"heads") == OBJECTS
        assert list(repository.targets.failed) == ["cdn"]


async def test_no_size_said(server: Scripted, files: Files) -> None:
    """Without a size, the hash alone decides, and the limit of entities holds."""
    redirecting(server, files, size=None)
    async with connect(server.url) as repository:
        assert await repository.call(b"heads") == OBJECTS
    async with connect(server.url, limits=Limits(entity=1000)) as repository:
        assert await repository.call(b"heads") == OBJECTS
        assert "more than 1000 bytes" in repository.targets.failed["t0"]


async def test_nobody_at_the_target(server: Scripted, files: Files, unused_tcp_port: int) -> None:
    """A target that nobody listens at is given up after one attempt."""
    redirecting(server, Files(f"http://127.0.0.1:{unused_tcp_port}"), files)
    async with connect(server.url) as repository:
        assert await repository.call(b"heads") == OBJECTS
        assert list(repository.targets.failed) == ["t0"]
    assert server.commands == [(b"heads", (b"t0", b"t1")), (b"heads", (b"t1",))]
    assert len(files.asked) == 1


async def test_the_next_target(server: Scripted, files: Files, others: Files) -> None:
    """After one target, the next is offered, and inline is the last resort."""
    redirecting(server, files, others)
    files.deeds = [says(404)]
    async with connect(server.url, limits=QUICK) as repository:
        assert await repository.call(b"heads") == OBJECTS
        others.deeds = [says(404)]
        assert await repository.call(b"heads") == OBJECTS
    assert [targets for _, targets in server.commands] == [
        (b"t0", b"t1"),
        (b"t1",),
        (b"t1",),
        (),
    ]


async def test_no_more_targets_than_the_limit(
    server: Scripted, files: Files, others: Files
) -> None:
    """After so many failures, a call is asked inline although there are targets left."""
    redirecting(server, files, others)
    files.deeds = [says(404)]
    async with connect(server.url, limits=Limits(targets=1)) as repository:
        assert await repository.call(b"heads") == OBJECTS
        assert await repository.call(b"heads") == OBJECTS
    assert [targets for _, targets in server.commands] == [(b"t0", b"t1"), (), (b"t1",)]


async def test_a_server_that_only_redirects(server: Scripted, files: Files) -> None:
    """A server that redirects whatever is offered is wrong, and is not asked for ever."""
    server.advertise(target(files))
    files.deeds = [says(404)]
    server.replies[b"heads"] = moved(files.url, CONTENT)
    async with connect(server.url) as repository:
        with pytest.raises(BrokenAnswer, match="no target was offered"):
            await repository.call(b"heads")
    assert len(server.questions) == 2


async def test_content_that_is_no_answer(server: Scripted, files: Files) -> None:
    """Content that is what the server means, and yet no objects, is the server's fault."""
    redirecting(server, files)
    for wrong in (b"\xff", CONTENT[:-1]):
        files.content = wrong
        server.replies[b"heads"] = moved(files.url, wrong)
        async with connect(server.url) as repository:
            with pytest.raises(BrokenAnswer, match="redirected answer to heads"):
                await repository.call(b"heads")


# --- downloads that break -------------------------------------------------------------------


async def test_resuming(server: Scripted, files: Files) -> None:
    """A download that breaks goes on where it broke, as often as it gets further."""
    redirecting(server, files)
    files.deeds = [breaks_after(1000), breaks_after(30_000), says(503), hangs_up, whole]
    offsets: list[int] = []
    watch = Watch(resumed=lambda at, offset: offsets.append(offset))
    async with connect(server.url, limits=QUICK, watch=watch) as repository:
        assert await repository.call(b"heads") == OBJECTS
        assert not repository.targets.failed
    assert files.ranges == [None, "bytes=1000-", *["bytes=31000-"] * 3]
    assert offsets == [1000, 31_000]
    assert len(server.questions) == 1


async def test_resuming_through_redirects(server: Scripted, files: Files) -> None:
    """The rest is asked for at the end of a redirect, too."""
    redirecting(server, files)
    hop = says(302, Location="/there")
    files.deeds = [hop, breaks_after(1000), hop, whole]
    async with connect(server.url, limits=QUICK) as repository:
        assert await repository.call(b"heads") == OBJECTS
    assert files.ranges == [None, None, "bytes=1000-", "bytes=1000-"]


@pytest.mark.parametrize("size", [len(CONTENT), None])
async def test_a_target_without_ranges(server: Scripted, files: Files, size: int | None) -> None:
    """A target that ignores Range sends all again, and that is taken."""
    redirecting(server, files, size=size)
    files.deeds = [breaks_after(1000), without_ranges]
    async with connect(server.url, limits=QUICK) as repository:
        assert await repository.call(b"heads") == OBJECTS
        assert not repository.targets.failed


async def test_all_has_come(server: Scripted, files: Files) -> None:
    """If the connection breaks after the last byte, nothing more is asked for."""
    redirecting(server, files)
    files.deeds = [breaks_after(len(CONTENT), length=False)]
    async with connect(server.url, limits=QUICK) as repository:
        assert await repository.call(b"heads") == OBJECTS
    assert len(files.asked) == 1


async def test_an_end_that_comes_too_early(server: Scripted, files: Files) -> None:
    """An end before the size that the location says is not the end."""
    redirecting(server, files)
    files.deeds = [ends_after(1000), whole]
    async with connect(server.url, limits=QUICK) as repository:
        assert await repository.call(b"heads") == OBJECTS
        assert not repository.targets.failed
    assert files.ranges == [None, "bytes=1000-"]


async def test_halves_of_two_contents(server: Scripted, files: Files) -> None:
    """If the parts do not fit together, the whole is fetched in one piece."""
    redirecting(server, files)

    async def other(request: web.Request, content: bytes) -> web.StreamResponse:
        return await whole(request, changed(content))

    files.deeds = [breaks_after(1000), other, whole]
    async with connect(server.url, limits=QUICK) as repository:
        assert await repository.call(b"heads") == OBJECTS
        assert not repository.targets.failed
    assert files.ranges == [None, "bytes=1000-", None]


@pytest.mark.parametrize(
    ("deed", "words"),
    [
        (says(206, CONTENT[1000:]), "gives ''"),
        (says(206, CONTENT, Content_Range=f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}"), "follows"),
        (says(206, CONTENT[1000:], Content_Range="bytes 1000-1999/2000"), "has 2000 bytes"),
        (says(206, b"x", Content_Range=f"bytes 1000-1000/{len(CONTENT)}"), "gives 1001 bytes"),
        (says(416), "HTTP 416"),
        (says(404), "HTTP 404"),
    ],
)
async def test_wrong_ranges(server: Scripted, files: Files, deed: Deed, words: str) -> None:
    """A rest that is not the one asked for is not taken."""
    redirecting(server, files)
    files.deeds = [breaks_after(1000), deed]
    async with connect(server.url, limits=QUICK) as repository:
        assert await repository.call(b"heads") == OBJECTS
        assert words in repository.targets.failed["t0"]


async def test_cancelling_a_download(server: Scripted, files: Files) -> None:
    """Who is cancelled while content comes leaves nothing behind."""
    redirecting(server, files)
    begun = asyncio.Event()

    async def deed(request: web.Request, content: bytes) -> web.StreamResponse:
        begun.set()
        return await never(request, content)

    files.deeds = [deed]

    async def read() -> None:
        async with connect(server.url) as repository:
            await repository.call(b"heads")

    task = asyncio.create_task(read())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# --- several at a time ----------------------------------------------------------------------


async def test_redirects_among_several(server: Scripted, files: Files) -> None:
    """A redirected answer is handed out when it has come, while others are still sent."""
    server.advertise(target(files))
    files.content = CONTENT
    fetched = asyncio.Event()

    async def script(reactor: ServerReactor, questions: Sequence[Question]) -> AsyncIterator[bytes]:
        talk = Talk(reactor)
        first, second = (each.request_id for each in questions)
        yield talk.say(first, answer(1), end=False)
        yield talk.say(second, answer(status=moved(files.url, CONTENT)), end=True)
        await fetched.wait()
        yield talk.say(first, sequence(2), end=True)

    server.script = script
    calls = [Call(b"heads"), Call(b"branchmap")]
    async with connect(server.url) as repository, repository.many(calls) as answers:
        found = await anext(answers)
        assert (found.index, found.objects) == (1, OBJECTS)
        fetched.set()
        assert [(each.index, each.objects) async for each in answers] == [(0, [1, 2])]


async def test_failing_targets_among_several(server: Scripted, files: Files) -> None:
    """Each of several calls is asked again by itself if its target fails, once it has failed."""
    redirecting(server, files)
    files.deeds = [whole, says(404)]
    calls, limits = [Call(b"heads")] * 3, Limits(downloads=1)
    async with connect(server.url, limits=limits) as repository, repository.many(calls) as answers:
        found = [each async for each in answers]
    assert sorted(each.index for each in found) == [0, 1, 2]
    assert all(each.objects == OBJECTS for each in found)
    assert server.commands == [(b"heads", (b"t0",))] * 3 + [(b"heads", ())] * 2
    assert len(files.asked) == 2


async def test_a_server_that_is_gone_when_asked_again(server: Scripted, files: Files) -> None:
    """If the server cannot be asked again, that call alone fails."""
    redirecting(server, files)
    files.deeds = [says(404)]

    async def responding(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    def reply(question: Question) -> Status:
        server.responding = responding
        return Moved(Location(files.url))

    server.replies = {b"heads": reply, b"branchmap": answer(1)}
    calls = [Call(b"heads"), Call(b"branchmap")]
    async with connect(server.url) as repository, repository.many(calls) as answers:
        found = {each.index: each async for each in answers}
    assert found[1].objects == [1]
    assert isinstance(found[0].error, Unreachable)
