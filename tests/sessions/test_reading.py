# Law of this file: only refs that are whole and come from where a client would get them count;
# whatever else a mirror answers is a reason not to send anybody there.

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

import server.sessions.reading
from redirects.decision import Reason
from redirects.sessions import SessionMirror
from server.sessions.reading import MARK, MAY_MOVE, Reading, Unfit, Unreachable
from server.sessions.refs import Ours, _hg_digest, git_digest
from tests.conformance.repositories import Repository, run_git
from wire.git.capabilities import parse_advertisement as parse_v2
from wire.git.capabilities import service_preface
from wire.git.v0_advertisement import parse_advertisement
from wire.hg.v1.media import MERCURIAL_0_1

ADVERTISEMENT = "application/x-git-upload-pack-advertisement"
RESULT = "application/x-git-upload-pack-result"

OURS = Ours("", "")

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def asking(answer: Answer, *, offramp: bool = False) -> AsyncIterator[Reading]:
    """A mirror that answers everything so, and what asks it."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with aiohttp.ClientSession() as session:
            yield Reading(session, SessionMirror("m", url, offramp=offramp), 60.0, 60.0)
    finally:
        await runner.cleanup()


def saying(
    status: int = 200, content_type: str = ADVERTISEMENT, body: bytes = b"", **headers: str
) -> Answer:
    """The same answer to everything."""

    async def answer(request: web.Request) -> web.StreamResponse:
        del request
        return web.Response(
            status=status, body=body, headers={"Content-Type": content_type, **headers}
        )

    return answer


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (saying(301, Location="https://elsewhere.example"), Reason.MIRROR_REDIRECTS),
        (saying(307, Location="/git/x"), Reason.MIRROR_REDIRECTS),
        (saying(404), Reason.MIRROR_UNREADABLE),
        (saying(401), Reason.MIRROR_UNREADABLE),
        (saying(500), Reason.MIRROR_UNREADABLE),
        (saying(200, "text/html", b"<html>sorry"), Reason.MIRROR_UNREADABLE),
        (saying(200, body=b"<html>sorry"), Reason.MIRROR_UNREADABLE),
        (saying(200, body=b""), Reason.MIRROR_UNREADABLE),
        (saying(200, body=service_preface("git-upload-pack")), Reason.MIRROR_UNREADABLE),
        (saying(**{MARK: MAY_MOVE}), Reason.MIRROR_MOVES_SESSIONS),
    ],
)
@pytest.mark.parametrize("vcs", ["git", "hg"])
async def test_what_is_no_list_of_refs_is_told_apart(
    answer: Answer, reason: Reason, *, vcs: str
) -> None:
    """Each with its reason."""
    async with asking(answer) as reading:
        with pytest.raises(Unfit) as unfit:
            await reading.digest("git" if vcs == "git" else "hg", "app", OURS)
    assert unfit.value.reason is reason


@pytest.mark.parametrize("mark", [{}, {MARK: MAY_MOVE}])
async def test_what_does_not_say_that_sessions_stay_is_no_offramp(mark: dict[str, str]) -> None:
    """Whatever it answers below that path."""
    async with asking(saying(**mark), offramp=True) as reading:
        with pytest.raises(Unfit) as unfit:
            await reading.digest("git", "app", OURS)
    assert unfit.value.reason is Reason.MIRROR_NO_OFFRAMP


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_gateway_that_reaches_nobody_is_a_mirror_that_does_not_answer(status: int) -> None:
    """As one where nobody listens."""
    async with asking(saying(status)) as reading:
        with pytest.raises(Unreachable, match=str(status)):
            await reading.digest("git", "app", OURS)
    async with aiohttp.ClientSession() as session:
        gone = Reading(session, reading.mirror, 60.0, 60.0)
        with pytest.raises(Unreachable):
            await gone.digest("git", "app", OURS)


async def test_who_says_nothing_in_time_does_not_answer() -> None:
    """It is given as long as a probe of a target."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        mirror = SessionMirror("m", f"http://127.0.0.1:{listener.getsockname()[1]}")
        async with aiohttp.ClientSession() as session:
            with pytest.raises(Unreachable, match="no answer within"):
                await Reading(session, mirror, 0.01, 60.0).digest("git", "app", OURS)


async def test_an_answer_that_breaks_off_is_none() -> None:
    """What came of it is not looked at."""

    async def broken(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": ADVERTISEMENT})
        response.content_length = 1000
        await response.prepare(request)
        await response.write(b"001e# service=git-upload-pack\n")
        assert request.transport is not None
        request.transport.close()
        return response

    async with asking(broken) as reading:
        with pytest.raises(Unreachable, match="broke off"):
            await reading.digest("git", "app", OURS)


async def test_an_answer_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror cannot fill our memory."""
    monkeypatch.setattr(server.sessions.reading, "_LONGEST", 1000)
    async with asking(saying(body=bytes(1001))) as reading:
        with pytest.raises(Unfit, match="longer than"):
            await reading.digest("git", "app", OURS)


async def test_a_mirror_that_gives_markers_of_what_is_obsolete_is_none() -> None:
    """Clients would hide by them what is shown here; that it could give some is no harm."""
    markers = b""
    said = {
        "capabilities": b"batch getbundle",
        "batch": b"%b;;;namespaces\t\nobsolete\t;publishing\tTrue" % (b"0" * 40),
    }

    async def answer(request: web.Request) -> web.StreamResponse:
        body = said.get(request.query["cmd"], markers)
        return web.Response(body=body, headers={"Content-Type": MERCURIAL_0_1})

    async with asking(answer) as reading:
        await reading.digest("hg", "app", OURS)
        markers = b"dump0\tabc"
        with pytest.raises(Unfit) as unfit:
            await reading.digest("hg", "app", OURS)
        assert unfit.value.reason is Reason.HAS_MARKERS


async def test_no_credential_is_sent_and_no_cookie_kept() -> None:
    """Who asks is a program, which says so."""
    seen: list[web.Request] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        response = web.Response(status=404)
        response.set_cookie("a", "b")
        return response

    async with asking(answer) as reading:
        for vcs in ("git", "hg"):
            with pytest.raises(Unfit):
                await reading.digest("git" if vcs == "git" else "hg", "app", OURS)
    assert [request.headers["User-Agent"] for request in seen] == [
        "git/offramp",
        "mercurial/proto-1.0 (Offramp)",
    ]
    assert not any("Authorization" in request.headers for request in seen)


def advertised(
    repository: Repository,
    *options: str,
    protocol: str = "",
    body: bytes = b"",
    settings: Sequence[str] = (),
) -> bytes:
    """What stock upload-pack says."""
    return subprocess.run(
        ["git", *settings, "upload-pack", "--stateless-rpc", *options, str(repository.git_dir)],
        input=body,
        env={**os.environ, "GIT_PROTOCOL": protocol},
        capture_output=True,
        check=True,
    ).stdout


def said_to_git(config: Mapping[str, str]) -> list[str]:
    """Settings of `uploadpack`, as arguments of git."""
    return [word for key in config for word in ("-c", f"uploadpack.{key}={config[key]}")]


def backend(repository: Repository, *, v2: bool = True, **config: str) -> Answer:
    """A mirror that is stock git, with some settings of its own."""
    settings = [
        word for key, value in config.items() for word in ("-c", f"uploadpack.{key}={value}")
    ]

    async def answer(request: web.Request) -> web.StreamResponse:
        protocol = request.headers.get("Git-Protocol", "") if v2 else ""
        if request.method == "GET":
            said = service_preface("git-upload-pack") + advertised(
                repository, "--advertise-refs", protocol=protocol, settings=settings
            )
            return web.Response(body=said, headers={"Content-Type": ADVERTISEMENT})
        body = await request.read()
        said = advertised(repository, protocol=protocol, settings=settings, body=body)
        return web.Response(body=said, headers={"Content-Type": RESULT})

    return answer


async def own(repository: Repository, **config: str) -> Ours:
    """What stock git says of a repository here."""
    settings = [
        word for key, value in config.items() for word in ("-c", f"uploadpack.{key}={value}")
    ]
    said = advertised(repository, "--advertise-refs", protocol="version=2", settings=settings)
    async with asking(backend(repository)) as reading:
        digest = await reading.digest("git", "app", OURS)
    return Ours("", digest, parse_v2(said))


async def test_a_mirror_offers_what_is_offered_here(repository: Repository) -> None:
    """Else clients that have a part of it, or fetch by ids, are told that they ask in vain."""
    ours = await own(repository, allowFilter="true")
    async with asking(backend(repository, allowFilter="true")) as reading:
        assert await reading.digest("git", "app", ours) == ours.digest
    for less, words in (
        (backend(repository, allowFilter="false"), "fetch=filter"),
        (backend(repository, v2=False), "protocol v0 alone"),
    ):
        async with asking(less) as reading:
            with pytest.raises(Unfit, match=words) as unfit:
                await reading.digest("git", "app", ours)
            assert unfit.value.reason is Reason.MIRROR_LACKS
    # What it offers beside that is no harm.
    async with asking(backend(repository, allowFilter="true")) as reading:
        await reading.digest("git", "app", await own(repository))


async def test_a_repository_without_commits_is_compared_too(tmp_path: Path) -> None:
    """By the branch that HEAD names and by the hash that names objects: clones begin with both."""

    def empty(name: str, *options: str) -> Repository:
        run_git(tmp_path, "init", "--quiet", "--bare", *options, name)
        return Repository(tmp_path, name)

    ours = await own(empty("ours.git", "--initial-branch=trunk"))
    async with asking(backend(empty("same.git", "--initial-branch=trunk"))) as reading:
        assert await reading.digest("git", "app", ours) == ours.digest
    async with asking(backend(empty("other.git", "--initial-branch=other"))) as reading:
        assert await reading.digest("git", "app", ours) != ours.digest
    longer = empty("longer.git", "--initial-branch=trunk", "--object-format=sha256")
    async with asking(backend(longer)) as reading:
        with pytest.raises(Unfit, match="object-format=sha1"):
            await reading.digest("git", "app", ours)


async def test_a_shallow_mirror_is_none(repository: Repository, tmp_path: Path) -> None:
    """Its refs are ours, and clones of it would be cut off; it is looked at once."""
    ours = await own(repository)
    posted: list[bytes] = []

    def noting(answer: Answer) -> Answer:
        async def noted(request: web.Request) -> web.StreamResponse:
            posted.append(await request.read())
            return await answer(request)

        return noted

    all_of_it = ("--no-single-branch", repository.stock_url, "cut.git")
    run_git(tmp_path, "clone", "--quiet", "--mirror", "--depth=1", *all_of_it)
    cut = Repository(tmp_path, "cut.git")
    async with asking(noting(backend(cut))) as reading:
        for _ in range(2):
            with pytest.raises(Unfit) as unfit:
                await reading.digest("git", "app", ours)
            assert unfit.value.reason is Reason.MIRROR_CUT_OFF
        run_git(cut.path, "fetch", "--quiet", "--unshallow")
        posted.clear()
        for _ in range(2):
            assert await reading.digest("git", "app", ours) == ours.digest
    assert sum(b"command=fetch" in body for body in posted) == 1


async def test_a_digest_is_of_what_head_stands_for_too(repository: Repository) -> None:
    """A clone checks that branch out."""

    async def digest() -> str:
        whole = service_preface("git-upload-pack") + advertised(repository, "--advertise-refs")
        return await git_digest(parse_advertisement(whole).refs)

    run_git(repository.git_dir, "update-ref", "refs/heads/same", "HEAD")
    before = await digest()
    run_git(repository.git_dir, "symbolic-ref", "HEAD", "refs/heads/same")
    assert await digest() != before


def test_mercurial_is_compared_by_what_clients_see() -> None:
    """In whatever order it is said; of a publishing server, drafts make no difference."""
    one = _hg_digest(b"aa bb\n", b"default aa bb\nx cc", b"m\taa\nn\tbb", b"publishing\tTrue")
    assert one == _hg_digest(
        b"bb aa", b"x cc\ndefault bb aa", b"n\tbb\nm\taa", b"cc\t1\npublishing\tTrue"
    )
    for changed in (
        (b"aa", b"default aa bb\nx cc", b"m\taa\nn\tbb", b"publishing\tTrue"),
        (b"aa bb", b"default aa bb", b"m\taa\nn\tbb", b"publishing\tTrue"),
        (b"aa bb", b"default aa bb\nx cc", b"m\taa", b"publishing\tTrue"),
        (b"aa bb", b"default aa bb\nx cc", b"m\taa\nn\tbb", b"cc\t1"),
    ):
        assert _hg_digest(*changed) != one
