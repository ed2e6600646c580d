# Law of this file: a signed target gives the same URL within a window, another in the next, and no
# URL that lives shorter than it must.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redirects.acceptance import Acceptance, Client
from redirects.audience import Audience
from redirects.decision import Redirect
from redirects.negotiation import negotiate
from redirects.selection import Selection
from redirects.shared_secret import HmacSigner, SecureLinkSigner
from redirects.signing import SigningKeys
from redirects.targets import HttpTarget, SignedHttpTarget, UrlSigner
from redirects.window import Window
from stores.entity import Entity

NOW = 1_700_000_100.0  # the start of a quarter of an hour
BASE = "https://cdn.example.org/git"


@dataclass
class Counting:
    """A signer that counts."""

    kind: str = "counting"
    opens_all: bool = False
    signed: list[tuple[str, str, int]] = field(default_factory=list)

    def query(self, base_url: str, digest: str, expires: int) -> str:
        """Count, and sign."""
        self.signed.append((base_url, digest, expires))
        return f"signed={len(self.signed)}"

    def by_key(self) -> Sequence[tuple[str, UrlSigner]]:
        """No key."""
        return ()


@pytest.fixture
def cdn(keys: SigningKeys, window: Window) -> SignedHttpTarget:
    """A CDN that demands a signature."""
    return SignedHttpTarget("cdn", BASE, window, HmacSigner(keys))


def test_signed_url(cdn: SignedHttpTarget, entity: Entity, client: Client) -> None:
    """The URL is that of an unsigned target, with a query that ends when the location says so."""
    location = cdn.locate(entity, client, NOW + 10)
    url = urlsplit(location.url)
    assert location.url.startswith(f"{BASE}/entities/ab/{entity.digest}?")
    assert location.url.startswith(cdn.prefix(client))
    assert parse_qs(url.query)["expires"] == [str(int(NOW) + 900 + 21600)]
    assert location.expires == NOW + 900 + 21600
    assert (location.target, location.protocol, cdn.protocol(client)) == ("cdn", "https", "https")
    assert cdn.max_lifetime == 900 + 21600


def test_signed_once_per_window(window: Window, entity: Entity) -> None:
    """Within a window one signature serves every client; the next window has another."""
    signer = Counting()
    target = SignedHttpTarget("cdn", BASE, window, signer)
    clients = [Client(f"https://host{number}.example.org") for number in range(20)]
    urls = [target.locate(entity, client, NOW + number) for number, client in enumerate(clients)]
    assert len(set(urls)) == 1
    assert signer.signed == [(BASE, entity.digest, int(NOW) + 22500)]
    assert target.locate(entity, clients[0], NOW + 900).url != urls[0].url
    assert len(signer.signed) == 2


def test_the_memo_is_bounded(window: Window, client: Client) -> None:
    """Many entities do not fill the memory."""
    target = SignedHttpTarget("cdn", BASE, window, Counting())
    for number in range(5000):
        target.locate(Entity(f"{number:064x}", 1), client, NOW)
    assert target._signed.cache_info().currsize == 4096  # type: ignore[attr-defined]


@given(
    now=st.floats(0, 4e9),
    width=st.integers(1, 86400),
    lifetime=st.integers(1, 7 * 86400),
)
def test_no_url_lives_shorter(now: float, width: int, lifetime: int) -> None:
    """Whenever it is asked for, a URL lives at least the lifetime, and at most a window more."""
    signer = Counting()
    target = SignedHttpTarget("cdn", BASE, Window(width, lifetime), signer)
    location = target.locate(Entity("ab" * 32, 1), Client("http://a"), now)
    assert location.expires == signer.signed[0][2]
    assert lifetime <= location.expires - now <= target.max_lifetime


def test_it_may_name_what_is_private(
    cdn: SignedHttpTarget, window: Window, entity: Entity, client: Client
) -> None:
    """An unsigned target is passed over for private content, and a signed one named."""
    plain = HttpTarget("plain", BASE, window)
    decision = negotiate(
        Acceptance(frozenset({"https"})),
        entity,
        Selection.of(plain, cdn),
        client,
        NOW,
        readable={plain.fingerprint, cdn.fingerprint},
        min_size=0,
        enabled=True,
        audience=Audience(private=True),
    )
    assert isinstance(decision, Redirect)
    assert decision.location.target == "cdn"
    assert [passed.reason.value for passed in decision.passed_over] == ["public_target"]


def test_fingerprints(cdn: SignedHttpTarget, keys: SigningKeys, window: Window) -> None:
    """Another base or way of signing is read back again; another key, name or window is not."""
    rotated = HmacSigner(replace(keys, current="old"))
    assert SignedHttpTarget("x", BASE, Window(1, 1), rotated).fingerprint == cdn.fingerprint
    others: list[SignedHttpTarget | HttpTarget] = [
        SignedHttpTarget("cdn", BASE, window, SecureLinkSigner(keys)),
        SignedHttpTarget("cdn", BASE + "x", window, HmacSigner(keys)),
        HttpTarget("cdn", BASE, window),
        *(
            SignedHttpTarget("cdn", BASE, window, Counting(f"cloudfront {scope} {algorithm}"))
            for scope in ("entity", "prefix")
            for algorithm in ("sha1", "sha256")
        ),
    ]
    assert len({cdn.fingerprint, *(other.fingerprint for other in others)}) == 8


def test_the_fingerprint_is_stable(cdn: SignedHttpTarget) -> None:
    """Fingerprints are written to disk, so they do not change between versions."""
    assert cdn.fingerprint == "377f320adc344fe4"


@pytest.mark.parametrize(
    "url", ["ftp://a", "", "https://a/*", "https://\N{LATIN SMALL LETTER U WITH DIAERESIS}/x"]
)
def test_urls_that_cannot_be_signed(url: str, window: Window) -> None:
    """What is signed is what clients send, and means itself alone."""
    with pytest.raises(ValueError, match=r"http|ASCII"):
        SignedHttpTarget("cdn", url, window, Counting())


@pytest.mark.parametrize("kind", [SecureLinkSigner, HmacSigner])
def test_no_secret_is_shown(
    kind: Callable[[SigningKeys], UrlSigner], keys: SigningKeys, window: Window
) -> None:
    """The repr of a target shows no secret."""
    assert "nnnn" not in repr(SignedHttpTarget("cdn", BASE, window, kind(keys)))
