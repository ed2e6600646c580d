# Law of this file: what would show private content to everybody, or protects nothing although it
# looks so, is refused before a server starts; and no message holds a secret.

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from server.settings import Settings, load
from server.settings_upstreams import AccessSettings, UpstreamSettings

SECRET = "hunter2-hunter2-hunter2"
TOKEN = {"token": SECRET, "repositories": ["*"]}
HASHED = {"sha256": "ab" * 32, "repositories": ["*"]}
FORGE = {"prefix": "/forge/", "url": "https://forge.example.org"}
S3 = {"type": "s3", "bucket": "b", "region": "r"}
OWN, CDN = {"type": "self"}, {"type": "http", "base_url": "https://cdn.example.org"}
OPEN_BUCKET = {"type": "s3", "public": True}


def settings(**values: Any) -> Settings:
    """Settings from plain values, as a file holds them."""
    return Settings.model_validate(values)


def upstream(**values: Any) -> UpstreamSettings:
    """An upstream below a prefix, changed."""
    return UpstreamSettings.model_validate({**FORGE, **values})


def refused(match: str, **values: Any) -> None:
    """These settings are refused, with this in the reason."""
    with pytest.raises(ValidationError, match=match) as caught:
        settings(**values)
    assert SECRET not in str(caught.value)


# --- private content and public targets --------------------------------------------------

PRIVATE_ROOT = {"root": ".", "access": {"auth": "token", "tokens": [TOKEN]}}
PRIVATE_UPSTREAMS = [
    {"upstreams": [FORGE]},
    {"upstreams": [{**FORGE, "auth": "none"}]},
    {"upstreams": [{**FORGE, "auth": "token"}], "access": {"tokens": [TOKEN]}},
    {"upstreams": [{**FORGE, "auth": "proxy"}], "access": {"proxies": ["10.0.0.1"]}},
    {"upstreams": [{"repository": "one", "url": "https://forge.example.org/one.git"}]},
    {"upstreams": [{**FORGE, "prefix": "open", "public": True}, FORGE]},
]
PUBLIC_TARGETS = [
    {"targets": [CDN]},
    {"targets": [OWN, CDN]},
    {"store": S3, "targets": [OPEN_BUCKET]},
    {"store": S3, "targets": [OWN, {**OPEN_BUCKET, "name": "open"}]},
]


@pytest.mark.parametrize("targets", PUBLIC_TARGETS)
@pytest.mark.parametrize(
    "private",
    [*PRIVATE_UPSTREAMS, PRIVATE_ROOT, {"access": {"auth": "proxy", "proxies": ["::1"]}}],
)
def test_private_content_on_public_targets(
    private: dict[str, Any], targets: dict[str, Any]
) -> None:
    """Whatever makes it private and whatever makes the target public: together, refused."""
    refused("are not signed", **private, **targets)


@pytest.mark.parametrize("targets", PUBLIC_TARGETS)
@pytest.mark.parametrize("private", PRIVATE_UPSTREAMS)
def test_public_said_so(private: dict[str, Any], targets: dict[str, Any]) -> None:
    """What is said to be public may be on any target."""
    public = [{**one, "public": True} for one in private["upstreams"]]
    settings(**{**private, "upstreams": public}, **targets)
    settings(root=".", access={**PRIVATE_ROOT["access"], "public": True}, **targets)  # type: ignore[dict-item]
    settings(root=".", **targets)


@pytest.mark.parametrize("store", [{}, {"store": S3}])
@pytest.mark.parametrize("private", [*PRIVATE_UPSTREAMS, PRIVATE_ROOT])
def test_default_targets_are_signed(private: dict[str, Any], store: dict[str, Any]) -> None:
    """Without targets in the settings, those there are may name what is private."""
    read = settings(**private, **store)
    assert all(target.signed for target in read.effective_targets())


def test_listed_targets_of_an_upstream() -> None:
    """Listing signed targets does not help what is private: the store is one for all."""
    targets = [{**CDN, "name": "cdn"}, OWN]
    assert settings(upstreams=[{**FORGE, "public": True, "targets": ["self"]}], targets=targets)
    refused("'cdn' are not signed", upstreams=[{**FORGE, "targets": ["self"]}], targets=targets)
    refused("'cdn' are not signed", upstreams=[{**FORGE, "targets": ["cdn"]}], targets=targets)
    refused("'cdn' are not", upstreams=[{**FORGE, "targets": ["self", "cdn"]}], targets=targets)
    refused(
        "names the target 'cnd'.*there are cdn, self",
        upstreams=[{**FORGE, "targets": ["cnd"]}],
        targets=targets,
    )


def test_a_listed_target_does_not_help_root() -> None:
    """Repositories below ROOT have no list: an upstream's does not cover them."""
    refused(
        "below ROOT are private",
        **PRIVATE_ROOT,
        upstreams=[{**FORGE, "targets": ["self"]}],
        targets=[CDN, OWN],
    )


def test_root_beside_upstreams() -> None:
    """Where there are upstreams, ROOT is served only if it is named."""
    assert settings().local_root == Path()
    assert settings(upstreams=[FORGE]).local_root is None
    assert settings(upstreams=[FORGE], root="r").local_root == Path("r")


# --- who may read ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"access": {"auth": "token"}}, "access.tokens is empty"),
        ({"access": {"auth": "proxy"}}, "access.proxies is empty"),
        ({"upstreams": [{**FORGE, "auth": "token"}]}, "'forge' has auth = \"token\""),
        ({"upstreams": [{**FORGE, "auth": "proxy"}]}, "'forge' has auth = \"proxy\""),
        ({"access": {"tokens": [TOKEN]}}, "nothing asks for them"),
        ({"access": {"proxies": ["::1"]}}, "nothing asks for them"),
        ({"access": {"auth": "upstream"}}, "'none', 'token' or 'proxy'"),
        ({"access": {"tokenz": [TOKEN]}}, "tokenz"),
        ({"access": {"auth": "token", "tokens": [{**TOKEN, "repositorys": []}]}}, "repositorys"),
    ],
)
def test_policies(values: dict[str, Any], why: str) -> None:
    """A rule has what it needs, and what is given for a rule has the rule."""
    refused(why, **values)


@pytest.mark.parametrize(
    "token",
    [
        {"repositories": ["*"]},
        {**TOKEN, **HASHED},
        {**TOKEN, "token": SECRET[:15]},
        {**TOKEN, "token": f"{SECRET}\n"},
        {**TOKEN, "token": f" {SECRET}"},
        {**TOKEN, "token": "\u00e9" * 16},
        {**HASHED, "sha256": SECRET},
        {**HASHED, "sha256": "AB" * 32},
        {**HASHED, "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"token": SECRET},
        {**TOKEN, "repositories": ["/team/*"]},
        {**TOKEN, "repositories": ["team/"]},
        {**TOKEN, "repositories": [""]},
        {**TOKEN, "token": [SECRET]},
        {**TOKEN, "toke": SECRET},
    ],
)
def test_tokens(token: dict[str, Any]) -> None:
    """A token is one, is long enough, can be sent, and says what it opens."""
    refused("access.tokens.0", access={"auth": "token", "tokens": [token]})


@pytest.mark.parametrize(
    ("network", "read"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.0.0.1", "10.0.0.1/32"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("::ffff:10.1.0.0/112", "10.1.0.0/16"),
        ("::ffff:10.1.0.1", "10.1.0.1/32"),
    ],
)
def test_networks(network: str, read: str) -> None:
    """Addresses and networks, of either family, have one spelling."""
    assert AccessSettings.model_validate({"proxies": [network]}).proxies == (read,)


@pytest.mark.parametrize(
    ("network", "why"),
    [
        ("10.0.0.1/8", "within 10.0.0.0/8"),
        ("localhost", "no address"),
        ("10.0.0.0/33", "no address"),
        ("", "no address"),
    ],
)
def test_no_networks(network: str, why: str) -> None:
    """What names more than was probably meant, or nothing, is refused."""
    refused(why, access={"auth": "proxy", "proxies": [network]})


@pytest.mark.parametrize("header", ["", "X User", "X:", "Authorization", "cookie"])
def test_user_headers(header: str) -> None:
    """The header that names users is one, and not one that holds credentials."""
    refused("access.user_header", access={"user_header": header})


def test_a_user_header_with_its_value_is_not_repeated() -> None:
    """What stands behind the colon may be a secret."""
    refused(r"'X-User'\.\.\. is no name", access={"user_header": f"X-User: {SECRET}"})


# --- upstreams ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"prefix": None}, "either `prefix` or `repository`"),
        ({"repository": "one"}, "either `prefix` or `repository`"),
        ({"prefix": "/"}, "no path"),
        ({"prefix": "a//b"}, "no path"),
        ({"prefix": "-/a"}, "no path"),
        ({"prefix": "a/.."}, "no path"),
        ({"prefix": "a/.git"}, "no path"),
        ({"prefix": "a b"}, "no path"),
        ({"prefixx": "a"}, "prefixx"),
        ({"url": f"https://me:{SECRET}@forge.example.org"}, r"\*\*\*@forge"),
        ({"url": f"https://me:{SECRET}/x@forge.example.org"}, r"\*\*\*@forge"),
        ({"url": f"https://forge.example.org?token={SECRET}"}, r"\?\*\*\*"),
        ({"url": "https://@forge.example.org"}, "no base URL"),
        ({"url": "https://forge.example.org:99999"}, "no base URL"),
        ({"url": "https://forge.example.org\\@x"}, "no base URL"),
        ({"url": "ssh://forge.example.org"}, "no base URL"),
        ({"url": "https://[forge"}, "no base URL"),
        ({"allow": ["/acme/*"]}, "matches no repository"),
        ({"deny": ["acme/secret.git"]}, "without .git"),
        ({"deny": ["/acme/secret"]}, "matches no repository"),
        ({"mirror": [""]}, "matches no repository"),
        ({"listed": ["acme/a.git"]}, "write it without .git"),
        ({"listed": ["acme/a"], "deny": ["acme/*"]}, "do not let it be"),
        ({"listed": ["Acme/A"], "deny": ["acme/*"]}, "do not let it be"),
        ({"listed": ["acme/a"], "allow": ["other/*"]}, "do not let it be"),
        ({"listed": ["../x"]}, "no path"),
        ({"refs": ["heads/*"]}, "no ref"),
        ({"refs": ["refs/offramp/*"]}, "no ref"),
        ({"stale": "1h"}, "`stale` goes with public"),
        ({"freshness": "2m"}, "longer than auth_ttl"),
        ({"freshness": "now"}, "'now' is no age; write \"always\""),
        ({"freshness": -1}, "no age"),
        ({"freshness": "nan"}, "no age"),
        ({"freshness": []}, "no age"),
        ({"auth_ttl": 0}, "greater than 0"),
        ({"redirect_hosts": ["https://x"]}, "no host"),
        ({"redirect_hosts": ["a/b"]}, "no host"),
        ({"credential": {}}, "either `password` or `file`"),
        ({"credential": {"password": SECRET, "file": "f"}}, "either `password` or `file`"),
        ({"credential": {"password": f"{SECRET}\n"}}, "control characters"),
        ({"credential": {"password": f"{SECRET} x"}}, "no Bearer token"),
        ({"credential": {"password": ""}}, "is empty"),
        ({"credential": {"password": SECRET, "username": "a:b"}}, "colon"),
        ({"credential": {"pasword": SECRET}}, "pasword"),
    ],
)
def test_refused_upstreams(values: dict[str, Any], why: str) -> None:
    """What cannot work, or would not do what it says, is refused with its reason."""
    refused(why, upstreams=[{k: v for k, v in {**FORGE, **values}.items() if v is not None}])


@pytest.mark.parametrize(
    "values", [{"listed": ["a"]}, {"deny": ["a"]}, {"allow": ["a"]}, {"mirror": ["a"]}]
)
def test_lists_are_of_prefixes(values: dict[str, Any]) -> None:
    """One repository needs no lists, so none that does nothing is taken."""
    one = {"repository": "one", "url": "https://forge.example.org/one"}
    refused("goes with `prefix`", upstreams=[{**one, **values}])


def test_two_at_one_place() -> None:
    """Equal places are refused, also by their other spelling; one below another is fine."""
    one = {"repository": "forge/one.git", "url": "https://forge.example.org/one"}
    assert settings(upstreams=[FORGE, one])
    refused("two upstreams are served at 'forge'", upstreams=[FORGE, {**FORGE, "prefix": "forge"}])
    refused("two upstreams", upstreams=[one, {**one, "repository": "forge/one"}])


def test_allow_and_deny() -> None:
    """What a pattern allows may be asked for, unless another denies it, in whatever case."""
    some = upstream(allow=["acme/*", "x"], deny=["acme/secret*", "ACME/Hidden"])
    asked = ["acme/a", "acme/a/b", "x", "y", "xx", "acme/secret", "Acme/secret", "acme/SECRETS"]
    assert [name for name in asked if some.allows(name)] == ["acme/a", "acme/a/b", "x"]
    assert not some.allows("acme/hidden")


def test_what_is_mirrored() -> None:
    """What a pattern names or the list holds is mirrored, the rest passed through."""
    some = upstream(mirror=["acme/*"], listed=["other/one"])
    assert [n for n in ("acme/a", "other/one", "other/two") if some.mirrors(n)] == [
        "acme/a",
        "other/one",
    ]


def test_freshness() -> None:
    """An age has a unit, and is bounded only where a caller could have lost its right meanwhile."""
    assert upstream().freshness == "always"
    assert upstream(freshness="30s").freshness == 30.0
    assert upstream(freshness="0").freshness == 0.0
    assert upstream(freshness="1h", public=True).freshness == 3600.0
    assert upstream(freshness="5m", auth_ttl="5m").freshness == 300.0


# --- secrets -----------------------------------------------------------------------------

FILE = f"""\
[access]
auth = "token"
tokens = [{{ token = "{SECRET}", repositories = ["*"] }}]
[[upstreams]]
prefix = "forge"
url = "https://forge.example.org"
credential = {{ username = "me", password = "{SECRET}" }}
"""


def sent(read: Settings) -> Settings:
    """What a worker process gets."""
    got: Settings = pickle.loads(pickle.dumps(read))  # noqa: S301 - our own
    return got


def test_secrets_survive(tmp_path: Path) -> None:
    """They are what the file says after it was read, and in another process, and are not shown."""
    file = tmp_path / "offramp.toml"
    file.write_text(FILE)
    for read in (load(file), sent(load(file))):
        (token,) = read.access.tokens
        assert isinstance(token.token, SecretStr)
        assert token.token.get_secret_value() == SECRET
        (forge,) = read.upstreams
        assert forge.credential.password.get_secret_value() == SECRET
        assert read == load(file)
        for shown in (repr(read), str(read), read.model_dump_json(), str(read.model_dump())):
            assert SECRET not in shown


def test_secrets_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list in a variable is JSON, secrets and all; a fault in it is told without them."""
    monkeypatch.setenv("OFFRAMP_ACCESS__TOKENS", json.dumps([TOKEN]))
    monkeypatch.setenv("OFFRAMP_ACCESS__AUTH", "token")
    (token,) = load(None).access.tokens
    assert token.token is not None
    assert token.token.get_secret_value() == SECRET
    monkeypatch.setenv("OFFRAMP_ACCESS__TOKENS", f'[{{"token": "{SECRET}"}}]')
    with pytest.raises(ValidationError) as caught:
        load(None)
    assert SECRET not in str(caught.value)
