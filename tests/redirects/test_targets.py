# Law of this file: each target gives a URL that its server takes, the same one within a window.

from __future__ import annotations

from dataclasses import replace
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest

from redirects.acceptance import Client, scheme
from redirects.decision import CannotLocate, Reason
from redirects.signing import SigningKeys
from redirects.sigv4 import Credentials
from redirects.targets import HttpTarget, S3Target, SelfTarget, Target
from redirects.window import Window
from stores.entity import Entity

NOW = 1_700_000_100.0  # the start of a quarter of an hour
BASE = "https://bucket.s3.eu-west-1.amazonaws.com/p/"
CREDENTIALS = Credentials("AKIATEST", "secret")


@pytest.fixture
def own(keys: SigningKeys, window: Window) -> SelfTarget:
    """This server's own blob route."""
    return SelfTarget("self", "directory /srv/store", keys, window)


@pytest.fixture
def s3(window: Window) -> S3Target:
    """A private bucket."""
    return S3Target("s3", BASE, "eu-west-1", window, lambda: CREDENTIALS)


@pytest.fixture
def public(window: Window) -> S3Target:
    """A bucket that everyone may read."""
    return S3Target("s3", BASE, "eu-west-1", window, None)


@pytest.fixture
def cdn(window: Window) -> HttpTarget:
    """A CDN in front."""
    return HttpTarget("cdn", "http://cdn.example.org/git", window)


def test_self_url(own: SelfTarget, entity: Entity, keys: SigningKeys) -> None:
    """The blob route lies below where the client reaches us, and believes the signature."""
    location = own.locate(entity, Client("https://example.org/git"), NOW + 10)
    url = urlsplit(location.url)
    assert location.url.startswith(f"https://example.org/git/-/blobs/{entity.digest}?expires=")
    assert keys.verify(entity.digest, dict(parse_qsl(url.query)), NOW) == location.expires
    assert location.expires == NOW + 900 + 21600
    assert (location.target, location.protocol) == ("self", "https")


def test_a_demanded_type_is_in_our_own_url_alone(
    own: SelfTarget, s3: S3Target, cdn: HttpTarget, entity: Entity, client: Client
) -> None:
    """Stores and what stands before them keep the type, or are not named; our route is told it.

    No memo gives the URL of one type to those who demand another.
    """
    typed = replace(entity, media_type="application/mercurial-0.2")
    other = replace(entity, media_type="application/mercurial-0.1")
    pack = replace(entity, media_type="application/x-git-packed-objects")
    urls = [own.locate(one, client, NOW).url for one in (entity, typed, other, pack)]
    assert [parse_qs(urlsplit(url).query).get("type") for url in urls] == [
        None,
        ["application/mercurial-0.2"],
        ["application/mercurial-0.1"],
        None,
    ]
    assert urls[3] == urls[0]
    for target in (s3, cdn):
        assert target.locate(typed, client, NOW) == target.locate(entity, client, NOW)


def test_self_protocol_is_the_client_s(own: SelfTarget, client: Client) -> None:
    """A client that reaches us without TLS is named a URL without TLS."""
    assert own.protocol(client) == "https"
    assert own.protocol(Client("http://[::1]:8417")) == "http"


def test_s3_url(s3: S3Target, entity: Entity, client: Client) -> None:
    """The URL is dated at the window's start and lives for the window and the lifetime."""
    location = s3.locate(entity, client, NOW + 10)
    assert location.url.startswith(f"{BASE}entities/ab/{entity.digest}?X-Amz-Algorithm=")
    query = dict(parse_qsl(urlsplit(location.url).query))
    assert query["X-Amz-Date"] == "20231114T221500Z"
    assert query["X-Amz-Expires"] == "22500"
    assert location.expires == NOW + 22500
    assert (location.target, location.protocol) == ("s3", "https")


def test_unsigned_urls(public: S3Target, cdn: HttpTarget, entity: Entity, client: Client) -> None:
    """Public content is named by plain URLs that do not end."""
    for target, url in (
        (public, f"{BASE}entities/ab/{entity.digest}"),
        (cdn, f"http://cdn.example.org/git/entities/ab/{entity.digest}"),
    ):
        location = target.locate(entity, client, NOW)
        assert (location.url, location.expires) == (url, None)
        assert target.protocol(client) == location.protocol == scheme(url)


def test_signed_once_per_window(
    own: SelfTarget, s3: S3Target, entity: Entity, client: Client
) -> None:
    """Within a window a URL is the very same; the next window has another."""
    for target in (own, s3):
        first = target.locate(entity, client, NOW)
        assert target.locate(entity, client, NOW + 899.9) is first
        assert target.locate(entity, client, NOW + 900).url != first.url


def test_the_memo_is_bounded(own: SelfTarget, s3: S3Target, client: Client) -> None:
    """Made-up addresses and many entities do not fill the memory."""
    for number in range(5000):
        entity = Entity(f"{number:064x}", 1)
        own.locate(entity, client, NOW)
        s3.locate(entity, client, NOW)
    assert own._signed.cache_info().currsize == 4096
    assert s3._presigned.cache_info().currsize == 4096


def test_renewed_credentials_sign_at_once(window: Window, entity: Entity, client: Client) -> None:
    """Credentials that were renewed within a window are used, not the memo of the old ones."""
    now = [Credentials("AKIAOLD", "secret"), Credentials("AKIANEW", "secret", "token")]
    target = S3Target("s3", BASE, "eu-west-1", window, lambda: now[0])
    assert "AKIAOLD" in target.locate(entity, client, NOW).url
    del now[0]
    url = target.locate(entity, client, NOW).url
    assert "AKIANEW" in url
    assert "X-Amz-Security-Token=token" in url


def test_a_url_ends_with_its_credentials(window: Window, entity: Entity, client: Client) -> None:
    """The end of temporary credentials is the end of the URL, and is said so."""
    role = Credentials("ASIA", "secret", "token", expires=NOW + 3600)
    target = S3Target("s3", BASE, "eu-west-1", window, lambda: role)
    assert target.locate(entity, client, NOW).expires == NOW + 3600


@pytest.mark.parametrize(
    "credentials", [None, Credentials("ASIA", "secret", "token", expires=NOW + 299)]
)
def test_no_lasting_credentials(
    credentials: Credentials | None, window: Window, entity: Entity, client: Client
) -> None:
    """Without credentials that last, no URL is made that would break a clone."""
    target = S3Target("s3", BASE, "eu-west-1", window, lambda: credentials)
    with pytest.raises(CannotLocate, match="target s3") as caught:
        target.locate(entity, client, NOW)
    assert caught.value.reason is Reason.NO_CREDENTIALS


def test_s3_allows_seven_days() -> None:
    """URLs that S3 would refuse cannot be configured; public ones have no such bound."""
    week = Window(1, 7 * 86400)
    with pytest.raises(ValueError, match="7 days"):
        S3Target("s3", BASE, "eu-west-1", week, lambda: CREDENTIALS)
    assert S3Target("s3", BASE, "eu-west-1", week, None).max_lifetime == 7 * 86400 + 1


def test_max_lifetime(own: SelfTarget, s3: S3Target, cdn: HttpTarget) -> None:
    """No URL lives longer than a window and a lifetime."""
    assert {t.max_lifetime for t in (own, s3, cdn)} == {900 + 21600}


def test_fingerprints_are_stable(own: SelfTarget, s3: S3Target, cdn: HttpTarget) -> None:
    """Fingerprints are written to disk, so they do not change between versions."""
    assert [t.fingerprint for t in (own, s3, cdn)] == [
        "ce5929be65027a89",
        "e45c8ec3c3d53b57",
        "3d790dedd0aaa41a",
    ]


def test_fingerprints_tell_what_a_read_back_depends_on(
    own: SelfTarget, s3: S3Target, public: S3Target, cdn: HttpTarget, window: Window
) -> None:
    """Another store, base, region, access or type is another fingerprint."""
    others: tuple[Target, ...] = (
        SelfTarget("self", "directory /srv/other", own.keys, window),
        S3Target("s3", BASE + "q/", "eu-west-1", window, lambda: CREDENTIALS),
        S3Target("s3", BASE, "eu-west-2", window, lambda: CREDENTIALS),
        HttpTarget("cdn", "https://cdn.example.org/git", window),
        HttpTarget("cdn", BASE, window),
    )
    assert len({t.fingerprint for t in (own, s3, public, cdn, *others)}) == 9


def test_fingerprints_depend_on_no_secret(own: SelfTarget, s3: S3Target, keys: SigningKeys) -> None:
    """A new key, name or window does not ask for everything to be read back again."""
    window = Window(60, 60)
    rotated = SigningKeys("x", {"x": b"x" * 32})
    assert SelfTarget("me", own.store, rotated, window).fingerprint == own.fingerprint
    other = S3Target("b", BASE, "eu-west-1", window, lambda: Credentials("B", "b"))
    assert other.fingerprint == s3.fingerprint


def test_secrets_are_hidden(own: SelfTarget, s3: S3Target) -> None:
    """The repr of a target shows no secret."""
    assert "nnnn" not in repr(own)
    assert "secret" not in repr(s3)


@pytest.mark.parametrize("url", ["ftp://example.org", "cdn.example.org", ""])
def test_only_http(url: str, window: Window) -> None:
    """A base URL of another scheme is refused."""
    with pytest.raises(ValueError, match="http"):
        HttpTarget("cdn", url, window)
