# Law of this file: who reads a Mercurial repository of an upstream is whom the upstream lets read,
# or our own rules do; no cache answers anybody else, and credentials go where they are meant to.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import pytest

from tests.hg.controlled import kept
from tests.hg.v1.raw import bundle_arguments, put
from tests.hg.v1.test_redirects_v1 import static
from tests.server.asking import ask
from tests.upstreams.clients import basic, bearer
from tests.upstreams.conftest import Code
from tests.upstreams.hg_scene import ANN, BOB, CHALLENGE, GETBUNDLE, NAME, PLACE, HgScene

TOKEN: Final = "0123456789abcdef-opens-all"
ROBOT: Final = basic("robot", "the-robots-own-password")
USER: Final = {"X-Forwarded-User": "ann"}
CREDENTIAL: Final = {"username": "robot", "password": "the-robots-own-password"}


async def private(code: Code, **settings: Any) -> HgScene:
    """An upstream that lets ann read, and not bob."""
    at = await code(**settings)
    at.proxy.readers = {ANN: 200, BOB: 403}
    return at


async def by_robot(code: Code, **place: Any) -> HgScene:
    """An upstream that lets this server read, which lets those read who have a token."""
    at = await code(
        place={"auth": "token", "credential": CREDENTIAL, **place},
        access={"tokens": [{"token": TOKEN, "repositories": ["code/*"]}]},
        hg={"push": ["*"]},
    )
    at.proxy.readers = {ROBOT: 200}
    return at


async def test_two_users(code: Code) -> None:
    """Who may read there clones; who may not gets the upstream's no, and nothing from the cache."""
    at = await private(code)
    await at.hg("clone", "--quiet", at.as_user("ann"), at.directory / "ann")
    assert len((await at.state("ann")).changesets) == 6
    assert "403" in await at.fails("clone", at.as_user("bob"), at.directory / "bob")
    for query in (GETBUNDLE, "cmd=heads", "cmd=capabilities", "cmd=batch&cmds=heads%20"):
        reply = await at.ask(query, {"Authorization": BOB})
        assert (reply.status, reply.body) == (403, b"not for you\n"), query


async def test_nobody_is_asked_for_a_password(code: Code) -> None:
    """Without a credential the upstream's challenge comes through, whatever is cached."""
    at = await private(code)
    await at.hg("clone", "--quiet", at.as_user("ann"), at.directory / "ann")
    for query in (GETBUNDLE, "cmd=heads", "cmd=known&nodes=", "cmd=lookup&key=tip"):
        reply = await at.ask(query)
        assert reply.status == 401, query
        assert reply.headers["www-authenticate"] == CHALLENGE


async def test_users_share_what_both_may_read(code: Code) -> None:
    """A second user whom the upstream lets see the same is answered from the record."""
    at = await private(code)
    at.proxy.readers[BOB] = 200
    await at.hg("clone", "--quiet", at.as_user("ann"), at.directory / "ann")
    await at.hg("clone", "--quiet", at.as_user("bob"), at.directory / "bob")
    assert await at.state("bob") == await at.state("ann")
    assert at.proxy.commands["getbundle"] == 1


async def test_withdrawn_access_ends_at_once(code: Code) -> None:
    """With `freshness = "always"`, the next question is refused, and so is what is recorded."""
    at = await private(code)
    await at.hg("clone", "--quiet", at.as_user("ann"), at.directory / "ann")
    at.proxy.readers[ANN] = 403
    for query in (GETBUNDLE, "cmd=heads", "cmd=branchmap"):
        assert (await at.ask(query, {"Authorization": ANN})).status == 403, query


async def test_own_credential_is_shown_and_the_callers_is_not(code: Code) -> None:
    """With tokens of our own, the upstream sees this server's credential and no other."""
    at = await by_robot(code)
    url = at.url.replace("http://", f"http://any:{TOKEN}@")
    await at.hg("clone", "--quiet", url, at.directory / "one")
    await at.ask("cmd=lookup&key=tip", {"Authorization": bearer(TOKEN), "Cookie": "a=b"})
    assert {each.authorization for each in at.proxy.exchanges} == {ROBOT}
    assert not any("Cookie" in each.headers for each in at.proxy.exchanges)
    assert (await at.ask("cmd=heads")).status == 401
    other = await at.ask("cmd=heads", {"Authorization": bearer("x" * 20)})
    assert other.status == 401


async def test_own_credential_pushes_nothing(code: Code) -> None:
    """Who reads by this server's credential cannot write by it, in any wrapping."""
    at = await by_robot(code)
    token = {"Authorization": bearer(TOKEN)}
    for method, query in (
        ("POST", "cmd=unbundle&heads="),
        ("GET", "cmd=pushkey&namespace=bookmarks&key=x&old=&new="),
        ("POST", "cmd=batch&cmds=heads%20%3Bpushkey%20key%3Dx"),
        ("POST", "cmd=putlfile"),
        ("GET", "cmd=getlfile"),
    ):
        reply = await at.ask(query, token, method)
        assert (reply.status, reply.headers["content-type"]) == (200, "application/hg-error")
    # hgweb takes the last command of several.
    await at.ask("cmd=lookup&key=tip&cmd=pushkey", {**token, "X-HTTP-Method-Override": "POST"})
    await at.ask("cmd=lookup&key=tip&%63md=unbundle&access-hidden=1", token)
    assert set(at.proxy.commands) == {"lookup"}
    paths = [each.path for each in at.proxy.exchanges]
    assert paths == ["/?cmd=lookup"] * 2
    assert not any("X-HTTP-Method-Override" in each.headers for each in at.proxy.exchanges)


async def test_nothing_is_pushed_where_sessions_stay(code: Code) -> None:
    """Below that path, by no command, and none that only the upstream knows is handed on."""
    at = await code(hg={"push": ["*"]}, sessions={"here": True})
    for method, query in (
        ("POST", "cmd=unbundle&heads="),
        ("GET", "cmd=pushkey&namespace=bookmarks&key=x&old=&new="),
        ("POST", "cmd=putlfile"),
    ):
        reply = await ask(at.served, method, f"/-/here{PLACE}?{query}")
        assert (reply.status, reply.headers["content-type"]) == (200, "application/hg-error")
    assert not at.proxy.exchanges


async def test_refused_own_credential_is_no_challenge(code: Code) -> None:
    """That the upstream refuses this server is told in words; clients show no password for it."""
    at = await by_robot(code)
    at.proxy.readers = {ANN: 200}
    for query in ("cmd=heads", "cmd=capabilities", "cmd=lookup&key=tip", GETBUNDLE):
        reply = await at.ask(query, {"Authorization": bearer(TOKEN)})
        assert (reply.status, reply.headers["content-type"]) == (200, "application/hg-error")
        assert b"its operator can mend it" in reply.body
        assert "www-authenticate" not in reply.headers


WRAPPINGS: Final[dict[str, Callable[[str], tuple[dict[str, str], bytes]]]] = {
    "a header": lambda text: ({"X-HgArg_1": text}, b""),
    "a body": lambda text: ({"X-HgArgs_Post": str(len(text))}, text.encode()),
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
async def test_own_credential_pushes_nothing_that_is_wrapped(code: Code, wrapping: str) -> None:
    """Not in a header or body either that we do not read, and a server of WSGI does."""
    at = await code(place={"auth": "none", "credential": CREDENTIAL}, hg={"push": ["*"]})
    at.proxy.readers = {ROBOT: 200}
    node = await at.upstream_hg("log", "-r", "tip", "-T", "{node}")
    words = f"pushkey namespace=bookmarks,key=smuggled,old=,new={node}"
    extra, body = WRAPPINGS[wrapping](urlencode({"cmds": words}))
    fields = {"Content-Type": "application/mercurial-0.1", **extra}
    for query in ("cmd=batch&cmds=hello+", "cmd=branches&nodes=", "cmd=lookup&key=tip"):
        await ask(at.served, "POST", f"{PLACE}?{query}", body, fields)
    assert {each.authorization for each in at.proxy.exchanges} == {ROBOT}
    assert "smuggled" not in await at.upstream_hg("bookmarks")
    # Nearer to the upstream it would be one.
    near = replace(at.served, url=at.proxy.url)
    fields["Authorization"] = ROBOT
    await ask(near, "POST", "/?cmd=batch&cmds=hello+", body, fields)
    assert "smuggled" in await at.upstream_hg("bookmarks")


@pytest.mark.parametrize("auth", ["proxy", "none"])
async def test_who_a_proxy_lets_in_is_not_sent_away(code: Code, auth: str, tmp_path: Path) -> None:
    """Its client would show the password, which we do not see, at the place of the content."""
    access = {"proxies": ["127.0.0.1"]} if auth == "proxy" else {}
    async with static(tmp_path / "data" / "store") as place:
        at = await code(
            place={"auth": auth, "credential": CREDENTIAL, "public": True},
            access=access,
            targets=[{"type": "http", "base_url": place}],
            hg={"redirect_getbundle": "on"},
        )
        head = (await put(at.served, "heads", extra=USER, repository=NAME)).string.decode().strip()
        asked = bundle_arguments(head)
        replies = [
            (await put(at.served, "getbundle", asked, USER, repository=NAME)).reply
            for _ in range(2)
        ]
    assert [reply.status for reply in replies] == [200 if auth == "proxy" else 302] * 2
    assert at.proxy.commands["getbundle"] == 1


async def test_a_bare_changegroup_is_kept_for_nobody(code: Code) -> None:
    """Nothing in it says that it is whole: each is the upstream's own answer."""
    at = await code()
    for count in (1, 2):
        reply = await at.ask("cmd=getbundle")
        assert (reply.status, reply.whole) == (200, True)
        assert at.proxy.commands["getbundle"] == count
    assert not [path for path in kept(at.served) if "records" in path.parts]


async def test_push_by_the_callers_own_credential(code: Code) -> None:
    """Where it is enabled, a push carries the caller's credential, and a no of it comes back."""
    at = await private(code, hg={"push": ["code/*"]})
    query = "cmd=pushkey&namespace=bookmarks&key=x&old=&new="
    reply = await at.ask(query, {"Authorization": ANN}, "POST")
    assert (reply.status, reply.body[:2]) == (200, b"1\n")
    assert (await at.ask(query, {"Authorization": BOB}, "POST")).status == 403
    assert (await at.ask(query, method="POST")).headers["www-authenticate"] == CHALLENGE


async def test_methods(code: Code) -> None:
    """Nothing is asked with another method than those that clients use."""
    at = await code()
    assert (await at.ask("cmd=heads", method="DELETE")).status == 405
    assert not at.proxy.exchanges
    assert at.url.endswith(PLACE)
