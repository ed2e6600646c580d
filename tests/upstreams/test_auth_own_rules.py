# Law of this file: where our own rules say who may read, the upstream is asked with the settings'
# credential alone: it never sees what was shown to us, and nobody else ever uses that credential.

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from tests.conformance.clones import Client
from tests.conftest import Serve
from tests.server.asking import ask, converse
from tests.upstreams.clients import anonymous, basic, bearer, by_header, clone, push
from tests.upstreams.faults import Proxy
from tests.upstreams.forge import Forge
from tests.upstreams.private import (
    LS_REFS,
    REPOSITORY,
    USERS,
    fetch_of,
    mirrored,
    private,
    same,
    upload_pack,
    user,
)
from tests.upstreams.scene import NAME, Scene
from tests.upstreams.traces import in_files, spellings

pytestmark = pytest.mark.nginx

ROBOT: Final = "the-robots-own-password"
SHOWN: Final = basic("robot", ROBOT)
TOKEN: Final = "0123456789abcdef-opens-acme"
OTHER: Final = "0123456789abcdef-opens-else"
CREDENTIAL: Final = {"username": "robot", "password": ROBOT}
RULES: Final[dict[str, dict[str, Any]]] = {
    "token": {
        "tokens": [
            {"token": TOKEN, "repositories": ["up/acme/*"]},
            {"token": OTHER, "repositories": ["up/else/*"]},
        ]
    },
    "proxy": {
        "proxies": ["127.0.0.1"],
        "users": [{"user": "ann", "repositories": ["up/acme/*"]}],
    },
    "none": {},
}
DISCOVERY: Final = f"{REPOSITORY}/info/refs?service=git-upload-pack"

Start = Callable[..., Awaitable[Scene]]


@pytest.fixture
def start(serve: Serve, proxy: Proxy, forge: Forge, tmp_path: Path) -> Start:
    """A private repository behind one of our rules; the robot may read and write it."""

    async def started(auth: str, access: dict[str, Any] | None = None, **upstream: Any) -> Scene:
        rules = RULES[auth] if access is None else access
        settings = {"credential": CREDENTIAL, **upstream}
        at = await private(serve, proxy, forge, tmp_path, access=rules, auth=auth, **settings)
        forge.allow(NAME, "robot", ROBOT)
        return at

    return started


def named(at: Scene, *headers: str) -> Client:
    """A client behind a proxy that adds headers."""
    values = {f"GIT_CONFIG_VALUE_{number}": line for number, line in enumerate(headers)}
    keys = {
        f"GIT_CONFIG_KEY_{number}": f"http.{at.served.url}/.extraHeader"
        for number in range(len(headers))
    }
    client = anonymous(at.directory)
    count = {"GIT_CONFIG_COUNT": f"{len(headers)}"}
    return replace(client, environ={**client.environ, **count, **keys, **values})


def check_only_ours(at: Scene, *secrets: bytes) -> None:
    """See that everything was asked with the robot's credential, and that nothing else came."""
    assert {exchange.authorization for exchange in at.proxy.seen()} == {SHOWN}
    for exchange in at.proxy.seen():
        said = repr((exchange.path, dict(exchange.headers))).encode() + exchange.question
        assert not any(secret in said for secret in secrets)
        assert "X-Forwarded-User" not in exchange.headers


# --- tokens of ours ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "word",
    [bearer(TOKEN), basic("anybody", TOKEN), basic(TOKEN, ""), basic(TOKEN, "x-oauth-basic")],
    ids=["bearer", "password", "user", "user-and-word"],
)
async def test_a_token_opens_its_repositories(start: Start, word: str) -> None:
    """However git shows it: clones come by location, and the upstream never sees it."""
    at = await start("token")
    client = by_header(anonymous(at.directory), at.served.url, word)
    assert (await same(at, client, "first")).well
    await at.upstreams.mirrors.made(at.remote)
    assert (await same(at, client, "second")).packs
    # The comparison went past the proxy; all that came to it is ours.
    check_only_ours(at, TOKEN.encode(), word.partition(" ")[2].encode())
    assert in_files(at.served.settings.data, (*spellings(ROBOT, "robot"), TOKEN.encode())) == []


async def test_without_its_token_nothing_is_asked(start: Start) -> None:
    """No token and a wrong one are told so; one for something else, that there is nothing."""
    at = await start("token")
    await mirrored(at, SHOWN)
    bodies = (LS_REFS, fetch_of(at.repository.oid("main")))
    for word, status in (
        (None, 401),
        (bearer("guess"), 401),
        (basic("ann", USERS["ann"]), 401),
        (SHOWN, 401),
        (bearer(OTHER), 404),
    ):
        headers = {} if word is None else {"Authorization": word}
        replies = [await upload_pack(at, body, headers) for body in bodies]
        replies.append(await ask(at.served, "GET", DISCOVERY, headers=headers))
        replies.append(await ask(at.served, "GET", f"/-/bundles{REPOSITORY}", headers=headers))
        replies.append(await ask(at.served, "GET", f"{REPOSITORY}/HEAD", headers=headers))
        assert {reply.status for reply in replies} == {status}
        for reply in replies:
            assert ("www-authenticate" in reply.headers) == (status == 401)
            assert "Offramp" in reply.headers.get("www-authenticate", "Offramp")
        missing = await upload_pack(at, LS_REFS, headers, "/up/acme/nothing-there")
        assert (missing.status, missing.body) == (status, replies[0].body)
    assert not at.proxy.exchanges


# --- nobody asks, or a proxy in front does -------------------------------------------------------


async def test_with_auth_none_everybody_reads(start: Start) -> None:
    """Who reaches this server reads with the settings' credential, whatever they show."""
    at = await start("none")
    await mirrored(at, SHOWN)
    for name, client in (
        ("nobody", anonymous(at.directory)),
        ("eve", user(at, "eve", "anything")),
    ):
        assert (await same(at, client, name)).packs
    check_only_ours(at, b"anything")


async def test_whom_a_proxy_names_reads(start: Start) -> None:
    """A user whom a listed proxy names, by the rule for that user; the upstream sees no name."""
    at = await start("proxy")
    await mirrored(at, SHOWN)
    ann = named(at, "X-Forwarded-User: ann", f"Authorization: {basic('ann', USERS['ann'])}")
    assert (await same(at, ann, "ann")).packs
    check_only_ours(at, USERS["ann"].encode(), basic("ann", USERS["ann"])[6:].encode())
    at.proxy.forget()
    for headers, status in (
        ("", 401),
        ("X-Forwarded-User: bob\r\n", 404),
        ("X-Forwarded-User: ann\r\nX-Forwarded-User: ann\r\n", 401),
        ("X-Forwarded-User: eve, ann\r\n", 401),
        ("X-Forwarded-User:\r\n", 401),
    ):
        said = f"GET {DISCOVERY} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{headers}\r\n"
        reply = await converse(at.served, said.encode())
        assert (reply.status, headers) == (status, headers)
    assert not at.proxy.exchanges


async def test_nobody_but_a_listed_proxy_is_believed(start: Start) -> None:
    """From another address the header says nothing."""
    at = await start("proxy", {**RULES["proxy"], "proxies": ["192.0.2.1"]})
    done = await clone(named(at, "X-Forwarded-User: ann"), at.url, at.directory / "ann")
    assert not done.well
    assert "403" in done.finished.stderr
    assert not at.proxy.exchanges


# --- what the settings' credential is for --------------------------------------------------------


@pytest.mark.parametrize("auth", ["token", "proxy"])
async def test_readers_cannot_push(start: Start, auth: str) -> None:
    """The robot may write, and nobody through it: a push is refused, with where to push to."""
    at = await start(auth)
    await mirrored(at, SHOWN)
    client = {
        "token": by_header(anonymous(at.directory), at.served.url, bearer(TOKEN)),
        "proxy": named(at, "X-Forwarded-User: ann"),
    }[auth]
    assert (await same(at, client, "work")).packs
    at.proxy.forget()
    before = at.repository.git("for-each-ref")
    pushed = await push(client, at.directory / "work", at.url, "main:refs/heads/pushed")
    assert pushed.status != 0
    assert f"can only be read. Push to {at.proxy.url}/{NAME}" in pushed.stderr
    headers = {"token": {"Authorization": bearer(TOKEN)}, "proxy": {"X-Forwarded-User": "ann"}}
    kind = {"Content-Type": "application/x-git-receive-pack-request"}
    for method, path in (
        ("POST", f"{REPOSITORY}/git-receive-pack"),
        ("POST", f"{REPOSITORY}/info/refs?service=git-receive-pack"),
        ("DELETE", f"{REPOSITORY}/"),
        ("PUT", f"{REPOSITORY}/info/lfs/objects/0"),
        ("GET", f"{REPOSITORY}/HEAD"),
    ):
        reply = await ask(at.served, method, path, b"0000", {**headers[auth], **kind})
        assert reply.status == 403
    assert not at.proxy.exchanges
    assert at.repository.git("for-each-ref") == before


async def test_with_auth_none_a_push_is_the_callers_own(start: Start) -> None:
    """It reaches the upstream with the caller's credential; without one the upstream asks."""
    at = await start("none")
    await mirrored(at, SHOWN)
    work = at.directory / "work"
    assert (await same(at, anonymous(at.directory), "work")).packs
    at.proxy.forget()
    refused = await push(anonymous(at.directory), work, at.url, "main:refs/heads/pushed")
    assert refused.status != 0
    assert {exchange.authorization for exchange in at.proxy.seen()} == {None}
    pushed = await push(user(at, "ann"), work, at.url, "main:refs/heads/pushed")
    assert pushed.status == 0, pushed.stderr
    words = {exchange.authorization for exchange in at.proxy.seen("receive-pack")}
    assert words == {basic("ann", USERS["ann"])}
    assert at.repository.oid("pushed") == at.repository.oid("main")


@pytest.mark.parametrize("auth", ["token", "none"])
async def test_a_no_to_our_credential_is_not_the_callers_fault(
    start: Start, forge: Forge, auth: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Who may read is told 502, not to log in; the log says what to mend, and no secret."""
    at = await start(auth)
    later = at.tell_time()
    await mirrored(at, SHOWN)
    later(1)
    forge.revoke(NAME, "robot")
    reply = await upload_pack(at, LS_REFS, {"Authorization": bearer(TOKEN)})
    assert reply.status == 502
    assert "www-authenticate" not in reply.headers
    assert "see upstreams.credential" in caplog.text
    for said in (caplog.text.encode(), reply.body):
        assert not any(secret in said for secret in spellings(ROBOT, "robot"))
