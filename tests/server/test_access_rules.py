# Law of this file: over the wire, who may not read learns nothing, and nothing is looked up for it.

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from redirects.audience import Audience
from server.access.policies import Allowed, Hidden, Refused, Unauthorised
from server.access.rules import AccessRules, answer, upstream_audience
from server.repositories import Repositories
from server.settings_upstreams import AccessSettings, UpstreamSettings
from tests.conftest import Git, Serve
from tests.server.asking import Reply, ask, listen_to_access, make_repository

TOKEN = "a-token-of-this-server"
ACCESS = {"auth": "token", "tokens": [{"token": TOKEN, "repositories": ["mine*"]}]}


def request(*headers: tuple[str, str]) -> web.Request:
    """A request with headers, which may repeat."""
    return make_mocked_request("GET", "/mine/info/refs", CIMultiDict(headers))


def test_headers_are_read() -> None:
    """A request's own headers and address are what the rules are asked about."""
    rules = AccessRules(AccessSettings.model_validate(ACCESS))
    good = ("authorization", f"Bearer {TOKEN}")
    assert rules.local(request(good), "mine") == Allowed("token 1")
    assert isinstance(rules.local(request(), "mine"), Unauthorised)
    assert isinstance(rules.local(request(good, good), "mine"), Unauthorised)
    assert rules.for_auth("none", request(), "other") == Allowed("")
    assert isinstance(rules.for_auth("proxy", request(good), "mine"), Refused)


def test_the_configured_header_names_the_user() -> None:
    """The header of the settings counts, from a proxy of the settings, and no other."""
    rules = AccessRules(
        AccessSettings.model_validate(
            {"auth": "proxy", "proxies": ["127.0.0.0/8"], "user_header": "X-User"}
        )
    )
    named = request(("x-user", "ann"), ("X-Forwarded-User", "eve")).clone(remote="127.0.0.1")
    assert rules.local(named, "a") == Allowed("ann")
    assert isinstance(rules.local(named.clone(remote="10.0.0.1"), "a"), Refused)
    twice = request(("X-User", "ann"), ("x-user", "eve")).clone(remote="127.0.0.1")
    assert isinstance(rules.local(twice, "a"), Unauthorised)


@pytest.mark.parametrize(
    ("verdict", "status"),
    [(Unauthorised("Basic x", "who?"), 401), (Refused("no"), 403), (Hidden(), 404)],
)
def test_answers(verdict: Unauthorised | Refused | Hidden, status: int) -> None:
    """Each verdict has its status, a text that git shows, and is kept by no cache."""
    said = answer(verdict)
    assert said.status == status
    assert said.text == f"{verdict.message}\n"
    assert said.content_type == "text/plain"
    assert "no-cache" in said.headers["Cache-Control"]
    assert ("WWW-Authenticate" in said.headers) == (status == 401)


def test_audiences() -> None:
    """What is not said to be public is private; an upstream may list its targets."""
    assert AccessRules(AccessSettings()).audience == Audience(private=False)
    private = AccessSettings.model_validate(ACCESS)
    assert AccessRules(private).audience == Audience(private=True)
    assert AccessRules(private.model_copy(update={"public": True})).audience.private is False
    upstream = {"prefix": "x", "url": "https://example.org"}
    assert upstream_audience(UpstreamSettings.model_validate(upstream)) == Audience(private=True)
    public = UpstreamSettings.model_validate({**upstream, "public": True, "targets": ["a"]})
    assert upstream_audience(public) == Audience(private=False, targets=frozenset({"a"}))


# --- the list of bundles -------------------------------------------------------------------


def credential(password: str) -> dict[str, str]:
    """Headers of a caller that shows a token as a password."""
    return {"Authorization": f"Basic {base64.b64encode(f'me:{password}'.encode()).decode()}"}


async def test_bundle_lists(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list is for who may read; others are answered alike, whatever is there, without a look."""
    for name in ("mine.git", "yours.git"):
        make_repository(tmp_path / "root" / name, {"a": b"a"})
    served = await serve(tmp_path / "root", access=ACCESS, log={"access": True})
    log = listen_to_access(served)
    looked_up: list[str] = []
    get = Repositories.get

    def noted(self: Repositories, name: str) -> object:
        looked_up.append(name)
        return get(self, name)

    monkeypatch.setattr(Repositories, "get", noted)

    async def asked(name: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        return without_names(await ask(served, "GET", f"/-/bundles/{name}", headers=headers))

    for name in ("mine", "yours", "nothing"):
        status, headers, _ = await asked(name, {})
        assert (status, headers["www-authenticate"][:5]) == (401, "Basic")
        assert (await asked(name, credential("wrong")))[0] == 401
    hidden = await asked("yours", credential(TOKEN))
    assert hidden[0] == 404
    assert hidden == await asked("nothing", credential(TOKEN))
    assert looked_up == []
    assert hidden == await asked("mine-but-not-there", credential(TOKEN))
    assert (await asked("mine", credential(TOKEN)))[0] == 200
    assert looked_up == ["mine-but-not-there", "mine"]
    written = "".join(await log.until(10))
    assert TOKEN not in written
    assert credential(TOKEN)["Authorization"] not in written


# --- git -----------------------------------------------------------------------------------


def without_names(reply: Reply) -> tuple[int, dict[str, str], bytes]:
    """An answer without what differs between any two."""
    headers = {k: v for k, v in reply.headers.items() if k not in {"x-request-id", "date"}}
    return reply.status, headers, reply.body


async def test_stock_git_with_a_token(serve: Serve, git: Git, tmp_path: Path) -> None:
    """Stock git clones what its token opens, and nothing else; without a token it is asked."""
    for name in ("mine.git", "yours.git"):
        make_repository(tmp_path / "root" / name, {"a": b"a"})
    served = await serve(tmp_path / "root", access=ACCESS)
    shown = credential(TOKEN)["Authorization"]
    header = f"http.{served.url}/.extraHeader=Authorization: {shown}"
    quiet = ("-c", "core.askPass=true", "-c", "credential.helper=")
    await git("-c", header, "clone", "-q", f"{served.url}/mine", tmp_path / "mine")
    assert (tmp_path / "mine" / "a").read_bytes() == b"a"
    hidden = await git(
        *quiet, "-c", header, "clone", f"{served.url}/yours", tmp_path / "yours", check=False
    )
    assert hidden.status != 0
    assert "not found" in hidden.stderr
    asked = await git(*quiet, "clone", f"{served.url}/mine", tmp_path / "again", check=False)
    assert asked.status != 0
    assert "Authentication failed" in asked.stderr


@pytest.mark.parametrize(
    "path", ["yours", "yours.git", "nothing", "mine/../yours", "mine%2F..%2Fyours.git", "mine%00"]
)
@pytest.mark.parametrize(
    ("method", "tail"),
    [
        ("GET", "info/refs?service=git-upload-pack"),
        ("GET", "info/refs?service=git-receive-pack"),
        ("POST", "git-upload-pack"),
        ("POST", "git-receive-pack"),
    ],
)
async def test_what_is_not_for_a_token(
    serve: Serve, tmp_path: Path, path: str, method: str, tail: str
) -> None:
    """By every service and spelling, it is as if it were not there; a wrong token is told so."""
    for name in ("mine.git", "yours.git"):
        make_repository(tmp_path / "root" / name, {"a": b"a"})
    served = await serve(tmp_path / "root", access=ACCESS, git={"push": ["*"]})
    reply = await ask(served, method, f"/{path}/{tail}", headers=credential(TOKEN))
    assert (reply.status, reply.body) == (404, b"There is no such repository here.\n")
    missing = await ask(served, method, f"/mine-not/{tail}", headers=credential(TOKEN))
    assert without_names(reply) == without_names(missing)
    assert (await ask(served, method, f"/{path}/{tail}")).status == 401
    assert (await ask(served, method, f"/mine/{tail}", headers=credential("wrong"))).status == 401


@pytest.mark.parametrize(
    ("private", "operators", "remote", "headers", "seen"),
    [
        (False, (), "192.0.2.1", {}, True),
        (True, (), "192.0.2.1", {}, False),
        # A proxy on this machine, or nobody else: that cannot be told.
        (True, (), "127.0.0.1", {}, False),
        (True, (), "127.0.0.1", {"X-Forwarded-For": "192.0.2.1"}, False),
        (True, ("127.0.0.1",), "127.0.0.1", {}, True),
        (True, ("192.0.2.0/24",), "192.0.2.1", {}, True),
        (True, ("192.0.2.0/24",), "127.0.0.1", {}, False),
        (False, ("192.0.2.0/24",), "127.0.0.1", {}, False),
    ],
)
def test_figures_are_for_operators(
    private: bool, operators: tuple[str, ...], remote: str, headers: dict[str, str], seen: bool
) -> None:
    """Where something private is served, what names it is for who is listed alone."""
    rules = AccessRules(AccessSettings(operators=operators), private=private)
    request = make_mocked_request("GET", "/-/metrics", headers=headers)
    assert rules.is_operator(request.clone(remote=remote)) is seen


@pytest.mark.parametrize(
    ("operators", "remote", "headers", "seen"),
    [
        ((), "192.0.2.1", {"Host": "localhost"}, False),
        # A proxy on this machine that says nothing of whom it asks for, or nobody else.
        ((), "127.0.0.1", {"Host": "127.0.0.1:8417"}, False),
        ((), "::1", {"Host": "localhost:8417"}, False),
        (("127.0.0.1", "::1"), "127.0.0.1", {"Host": "localhost:8417"}, True),
        (("127.0.0.1", "::1"), "::1", {}, True),
        (("192.0.2.0/24",), "192.0.2.1", {}, True),
        (("192.0.2.0/24",), "127.0.0.1", {}, False),
    ],
)
def test_who_asks_for_what_is_never_for_everybody(
    operators: tuple[str, ...], remote: str, headers: dict[str, str], seen: bool
) -> None:
    """Although nothing that is served is private."""
    rules = AccessRules(AccessSettings(operators=operators), private=False)
    request = make_mocked_request("GET", "/-/api/decisions", headers=headers)
    assert rules.sees_clients(request.clone(remote=remote)) is seen
