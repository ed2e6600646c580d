# Law of this file: stock git moves to a real mirror with its first request, exactly when the mirror
# has our refs, and clones the same repository wherever it ends up.

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from redirects.health import State
from redirects.suspicion import Asker
from server.sessions.reading import MARK, MAY_MOVE, STAY
from tests.conformance.repositories import Repository, run_git
from tests.conftest import Git, Serve, Served
from tests.nginx import running_nginx
from tests.sessions.conftest import (
    NAME,
    SELDOM,
    Relay,
    compared,
    copied,
    decisions,
    mirror,
    watch_of,
)
from tests.upstreams.forge import Forge

HERE: Final = {"here": True}
TAIL = "/info/refs?service=git-upload-pack"


def fetched_from(forge: Forge) -> int:
    """How many clients fetched from the mirror."""
    return sum(
        request.method == "POST" and request.path.endswith("/git-upload-pack")
        for request in forge.requests()
    )


async def first(served: Served, url: str, **headers: str) -> tuple[int, str, str]:
    """Ask as a client does first: the status, Location and Cache-Control of the answer."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(url + TAIL, headers=headers, allow_redirects=False) as response,
    ):
        said = response.headers
        return response.status, said.get("Location", ""), said.get("Cache-Control", "")


async def test_a_clone_moves_to_a_mirror_with_our_refs(
    serve: Serve, repository: Repository, forge: Forge, git: Git, tmp_path: Path
) -> None:
    """The first stays, since nothing is known; one after a push stays until the mirror has it."""
    served = await serve(repository.root, health=SELDOM, session_mirrors=[mirror(forge.url)])
    url, watch = repository.url(served.url), watch_of(served)
    await git("clone", url, tmp_path / "first")
    assert decisions(served) == {"no_mirror": 1}
    await watch.look()

    before = fetched_from(forge)
    await git("clone", url, tmp_path / "moved")
    assert decisions(served) == {"no_mirror": 1, "near": 1}
    assert fetched_from(forge) == before + 2  # ls-refs and fetch
    assert run_git(tmp_path / "moved", "remote", "get-url", "origin") == url

    pushed = repository.commit("refs/heads/main", 1, file="pushed")
    await git("pull", cwd=tmp_path / "moved")
    assert run_git(tmp_path / "moved", "rev-parse", "origin/main") == pushed
    assert decisions(served) == {"no_mirror": 2, "near": 1}

    run_git(forge.root / NAME, "fetch", repository.path, "+refs/*:refs/*")
    await watch.look()
    await git("clone", url, tmp_path / "again")
    assert run_git(tmp_path / "again", "rev-parse", "origin/main") == pushed
    assert decisions(served) == {"no_mirror": 2, "near": 2}
    made = [each for each in served.runtime.decisions.last() if each.about == "git session"]
    assert [each.target or each.reason for each in made] == [
        "near",
        "no_mirror",
        "near",
        "no_mirror",
    ]


async def test_a_mirror_that_is_ahead_is_not_used(
    serve: Serve, repository: Repository, forge: Forge
) -> None:
    """What it has beside ours may be gone again when it has caught up with us."""
    served = await serve(repository.root, health=SELDOM, session_mirrors=[mirror(forge.url)])
    url = repository.url(served.url)
    await first(served, url)
    ahead = run_git(forge.root / NAME, "rev-parse", "refs/heads/main~0")
    run_git(forge.root / NAME, "update-ref", "refs/heads/ahead", ahead)
    await watch_of(served).look()
    assert (await first(served, url))[0] == 200


async def test_the_redirect_is_the_client_s_alone(
    serve: Serve, repository: Repository, forge: Forge
) -> None:
    """It keeps the tail that git asks for, and no cache may keep it."""
    served = await serve(repository.root, health=SELDOM, session_mirrors=[mirror(forge.url)])
    url = repository.url(served.url)
    assert (await first(served, url))[0] == 200
    await watch_of(served).look()
    expected = (302, f"{forge.url}/{NAME}{TAIL}", "no-store")
    assert await first(served, url) == expected
    # Whatever protocol it speaks.
    assert await first(served, url, **{"Git-Protocol": "version=2"}) == expected


@pytest.mark.parametrize(
    "header",
    [
        "Authorization",
        "Proxy-Authorization",
        "Cookie",
        "Private-Token",
        "X-Forwarded-User",
        "Remote-Email",
        "X-SSL-Client-Cert",
        "Cf-Access-Jwt-Assertion",
        "X-Amzn-Oidc-Data",
        "SSL_CLIENT_S_DN",
    ],
)
async def test_credentials_do_not_go_along(
    serve: Serve, repository: Repository, forge: Forge, *, header: str
) -> None:
    """Stock git sends its `http.extraHeader` to whatever host it is redirected to."""
    served = await serve(repository.root, health=SELDOM, session_mirrors=[mirror(forge.url)])
    url = repository.url(served.url)
    await first(served, url)
    await watch_of(served).look()
    assert (await first(served, url, **{header: "Bearer secret"}))[0] == 200
    assert decisions(served)["carries_credentials"] == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X-Forwarded-Proto": "https"}, 200),
        ({"X-Forwarded-Proto": "http"}, 302),
        # It does not say, or is contradicted.
        ({"X-Forwarded-For": "192.0.2.1"}, 200),
        ({"Forwarded": "for=192.0.2.1"}, 200),
        ({"X-Forwarded-Proto": "http, https"}, 200),
    ],
)
async def test_who_may_have_come_by_https_is_not_sent_to_http(
    serve: Serve, repository: Repository, forge: Forge, headers: dict[str, str], *, status: int
) -> None:
    """Although nobody has said at which URL clients reach us."""
    served = await serve(repository.root, health=SELDOM, session_mirrors=[mirror(forge.url)])
    url = repository.url(served.url)
    await first(served, url)
    await watch_of(served).look()
    assert (await first(served, url, **headers))[0] == status


async def test_a_push_does_not_move(
    serve: Serve, repository: Repository, forge: Forge, git: Git, tmp_path: Path
) -> None:
    """It goes to us, from a clone that came from the mirror."""
    served = await serve(
        repository.root,
        health=SELDOM,
        git={"push": [NAME.removesuffix(".git"), NAME]},
        session_mirrors=[mirror(forge.url)],
    )
    url = repository.url(served.url)
    await first(served, url)
    await watch_of(served).look()
    await git("clone", url, tmp_path / "clone")
    assert decisions(served)["near"] == 1
    await git("push", "origin", "HEAD:refs/heads/pushed", cwd=tmp_path / "clone")
    assert repository.oid("refs/heads/pushed")
    assert not any("receive-pack" in f"{r.path}{r.query}" for r in forge.requests())


async def test_who_lost_its_mirror_is_answered_here_at_once(
    serve: Serve, repository: Repository, forge: Forge, git: Git, tmp_path: Path
) -> None:
    """Stock git fails once; on its next try it succeeds, and the mirror is found to be down."""
    told: list[State] = []
    served = await serve(
        repository.root,
        health={**SELDOM, "suspicion": 600},
        session_mirrors=[mirror(forge.url)],
    )
    url, watch = repository.url(served.url), watch_of(served)
    await first(served, url)
    await compared(watch)
    watch.changed = lambda _, state: told.append(state)
    forge.close()
    failed = await git("clone", url, tmp_path / "failed", check=False)
    assert failed.status
    await git("clone", url, tmp_path / "clone")
    assert decisions(served) == {"no_mirror": 1, "near": 1, "asked_again": 1}
    assert told[0] is State.SUSPECT
    await watch.look()
    assert watch.down() == {"near"}
    assert (await first(served, url))[0] == 200
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{served.url}/-/readyz") as response,
    ):
        assert (await response.text()).startswith("ok; passed over: mirror near (")


async def test_who_polls_has_its_second_tries_left(
    serve: Serve, repository: Repository, forge: Forge
) -> None:
    """An address has a share for sessions, and another one for downloads."""
    served = await serve(repository.root, health=SELDOM, session_mirrors=[mirror(forge.url)])
    assert served.runtime.sessions is not None
    moved, sent = served.runtime.sessions.repeats, served.runtime.repeats
    assert moved.suspicions.table is sent.suspicions.table
    askers = [Asker.of("192.0.2.7", (), "q", secret=each.secret) for each in (moved, sent)]
    assert askers[0].address != askers[1].address


async def test_two_that_name_each_other_do_not_send_a_client_to_and_fro(
    serve: Serve, repository: Repository, relay: Relay, git: Git, tmp_path: Path
) -> None:
    """A session that moved stays where it is, though that server would move others back."""
    other_root = copied(repository.root, tmp_path / "other")
    one = await serve(
        repository.root,
        health=SELDOM,
        sessions=HERE,
        session_mirrors=[mirror(relay.url, offramp=True)],
    )
    other = await serve(
        other_root,
        health=SELDOM,
        sessions=HERE,
        data=tmp_path / "other-data",
        session_mirrors=[mirror(one.url, offramp=True)],
    )
    relay.lead_to(other.url)
    for number, served in enumerate((one, other)):
        url = repository.url(served.url)
        assert (await first(served, url))[0] == 200
        await watch_of(served).look()
        status, location, _ = await first(served, url)
        assert status == 302
        assert "/-/here/" in location
        await git("clone", url, tmp_path / f"clone{number}")
        assert run_git(tmp_path / f"clone{number}", "rev-parse", "HEAD") == repository.oid("HEAD")
    assert [decisions(served)["near"] for served in (one, other)] == [2, 2]
    # Of the other's checks and clones, which came by the path below which sessions stay.
    assert decisions(one)["stays_here"] >= 2
    assert decisions(other)["stays_here"] >= 2


async def test_an_offramp_that_may_move_sessions_on_is_refused_unless_it_is_said_to_be_one(
    serve: Serve, repository: Repository, relay: Relay, tmp_path: Path
) -> None:
    """Else each could send clients to the other."""
    one = await serve(repository.root, health=SELDOM, session_mirrors=[mirror(relay.url)])
    other = await serve(
        copied(repository.root, tmp_path / "other"),
        health=SELDOM,
        data=tmp_path / "other-data",
        session_mirrors=[mirror(one.url)],
    )
    relay.lead_to(other.url)
    for served in (one, other):
        url = repository.url(served.url)
        await first(served, url)
        await watch_of(served).look()
        assert (await first(served, url))[0] == 200


async def test_below_here_everything_is_as_elsewhere_but_pushes(
    serve: Serve, repository: Repository, git: Git, tmp_path: Path
) -> None:
    """Clones are complete, what is not there is not there, and nothing is pushed."""
    served = await serve(repository.root, git={"push": ["*"]}, sessions=HERE)
    here = f"{served.url}/-/here"
    await git("clone", repository.url(here), tmp_path / "clone")
    await git("fsck", "--strict", cwd=tmp_path / "clone")
    pushed = await git("push", "origin", "HEAD:x", cwd=tmp_path / "clone", check=False)
    assert pushed.status
    assert "403" in pushed.stderr
    assert "x" not in repository.git("branch", "--list", "x")
    async with aiohttp.ClientSession() as session:
        for path, status in (
            (f"/-/here/{NAME}{TAIL}", 200),
            (f"/-/here/nothing{TAIL}", 404),
            (f"/-/here//127.0.0.1/{NAME}{TAIL}", 404),
            (f"/-/here/-/here/{NAME}{TAIL}", 404),
            ("/-/here/-/metrics", 404),
            ("/-/here/", 404),
        ):
            async with session.get(served.url + path) as response:
                assert response.status == status, path
        async with session.get(f"{served.url}/-/here/{NAME}{TAIL}") as response:
            assert response.headers[MARK] == STAY
        async with session.get(f"{served.url}/{NAME}{TAIL}") as response:
            assert MARK not in response.headers


async def test_there_is_no_second_path_that_nobody_asked_for(
    serve: Serve, repository: Repository
) -> None:
    """A proxy in front may let clients in by path; it does not know of that one."""
    served = await serve(repository.root)
    async with aiohttp.ClientSession() as session:
        for path in (f"{NAME}{TAIL}", f"{NAME}/git-upload-pack", f"{NAME}?cmd=capabilities"):
            async with session.get(f"{served.url}/-/here/{path}") as response:
                assert response.status == 404
                assert "sessions.here" in await response.text()


async def test_a_server_with_mirrors_says_so(serve: Serve, repository: Repository) -> None:
    """By this, another one sees that it might redirect on."""
    served = await serve(
        repository.root, health=SELDOM, session_mirrors=[mirror("http://127.0.0.1:1")]
    )
    async with (
        aiohttp.ClientSession() as session,
        session.get(repository.url(served.url) + TAIL) as response,
    ):
        assert response.headers[MARK] == MAY_MOVE


async def test_redirects_are_switched_off_for_sessions_too(
    serve: Serve, repository: Repository, forge: Forge
) -> None:
    """By the same settings as for content."""
    served = await serve(
        repository.root,
        health=SELDOM,
        redirect={"min_size": 0, "shadow": True},
        session_mirrors=[mirror(forge.url)],
    )
    url = repository.url(served.url)
    await first(served, url)
    await watch_of(served).look()
    assert (await first(served, url))[0] == 200
    assert decisions(served) == {"no_mirror": 1, "near": 1}
    redirect = served.settings.redirect.model_copy(update={"shadow": False, "enabled": False})
    await served.runtime.adopt(served.settings.model_copy(update={"redirect": redirect}))
    assert (await first(served, url))[0] == 200
    assert decisions(served)["disabled"] == 1


async def test_what_is_asked_for_is_compared_by_itself(
    serve: Serve, repository: Repository, forge: Forge
) -> None:
    """A request is enough; nobody has to wait for the next round."""
    served = await serve(repository.root, health=SELDOM, session_mirrors=[mirror(forge.url)])
    url, watch = repository.url(served.url), watch_of(served)
    assert (await first(served, url))[0] == 200
    await compared(watch)
    assert (await first(served, url))[0] == 302


async def test_a_credential_set_for_our_url_alone_does_not_reach_the_mirror(
    serve: Serve, repository: Repository, forge: Forge, git: Git, tmp_path: Path
) -> None:
    """Stock git would send even that one to the host that it is redirected to."""
    served = await serve(repository.root, health=SELDOM, session_mirrors=[mirror(forge.url)])
    url = repository.url(served.url)
    await first(served, url)
    await compared(watch_of(served))
    header = f"http.{served.url}/.extraHeader=Authorization: Basic dTpw"
    await git("-c", header, "clone", url, tmp_path / "clone")
    assert decisions(served)["carries_credentials"] >= 1
    assert not any(request.user for request in forge.requests())
    assert "near" not in decisions(served)


@pytest.mark.nginx
async def test_a_password_that_a_proxy_keeps_does_not_reach_the_mirror(
    serve: Serve, repository: Repository, forge: Forge, git: Git, tmp_path: Path
) -> None:
    """Stock git shows it to whom it is redirected to: who was let in by a proxy stays."""
    served = await serve(repository.root, health=SELDOM, session_mirrors=[mirror(forge.url)])
    await first(served, repository.url(served.url))
    await compared(watch_of(served))
    (tmp_path / "users").write_text("ann:{PLAIN}sesame\n")
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        login = (
            f"server {{ listen {address}; auth_basic x; auth_basic_user_file {tmp_path}/users;"
            f" location / {{ proxy_pass {served.url}; proxy_set_header Host $http_host;"
            ' proxy_set_header Authorization ""; proxy_set_header X-Forwarded-Proto http;'
            " proxy_set_header X-Forwarded-User $remote_user; }}"
        ).replace("}}", "} }")
        with running_nginx(tmp_path / "login", login, listener):
            before = fetched_from(forge)
            await git("clone", f"http://ann:sesame@{address}/{NAME}", tmp_path / "clone")
    assert decisions(served)["carries_credentials"] >= 1
    assert fetched_from(forge) == before
    assert not any(request.user for request in forge.requests())


async def test_a_mirror_that_is_made_as_the_page_says_has_our_refs(
    serve: Serve, repository: Repository, forge: Forge, git: Git
) -> None:
    """It is cloned, and brought up to date, from below the path where sessions stay."""
    served = await serve(
        repository.root, health=SELDOM, sessions=HERE, session_mirrors=[mirror(forge.url)]
    )
    url, copy = repository.url(served.url), forge.root / NAME
    copy.rename(copy.with_name("old"))
    repository.git("update-ref", "refs/heads/gone", "HEAD")
    await git("clone", "--mirror", repository.url(f"{served.url}/-/here"), copy)
    run_git(copy, "config", "uploadpack.allowFilter", "true")
    assert (await first(served, url))[0] == 200
    await compared(watch_of(served))
    assert (await first(served, url))[0] == 302
    repository.commit("refs/heads/main", 1, file="pushed")
    repository.git("update-ref", "-d", "refs/heads/gone")
    assert (await first(served, url))[0] == 200
    await git("remote", "update", "--prune", cwd=copy)
    await watch_of(served).look()
    assert (await first(served, url))[0] == 302
