# Law of this file: what is offered can be used, has not failed, and keeps the server's order.

from __future__ import annotations

import ssl

import pytest

from client.targets import Targets, unusable
from wire.hg.handshake import AdvertisedTarget, ServerApi
from wire.hg.messages import Offer

S3 = AdvertisedTarget("s3", "https", ("https://s3.example.org/bucket/",))
CDN = AdvertisedTarget("cdn", "https", ("https://s3.example.org/bucket/cdn/",))
NEAR = AdvertisedTarget("near", "http", ("http://near.example.org/a/", "http://[bad"))
ALL = Offer((b"s3", b"cdn", b"near"), (b"sha256",))


def targets(*listed: AdvertisedTarget, hashes: tuple[bytes, ...] = (b"sha1", b"sha256")) -> Targets:
    """The targets of a server."""
    return Targets(ServerApi("api", {}, listed, hashes))


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (S3, None),
        (NEAR, None),
        (AdvertisedTarget("x", "https", (), tls_versions=("1.2", "1.3")), None),
        (AdvertisedTarget("x", "https", (), tls_versions=("1.3",)), None),
        (AdvertisedTarget("x", "https", (), tls_versions=("1.0", "1.1")), "1.0, 1.1 only"),
        (AdvertisedTarget("x", "http", (), tls_versions=("1.0",)), None),
        (AdvertisedTarget("x", "ssh", ()), "'ssh'"),
        (AdvertisedTarget("x", "https", (), sni_required=True), None),
    ],
)
def test_usable(target: AdvertisedTarget, reason: str | None) -> None:
    """A target can be used if we speak its protocol and its TLS."""
    found = unusable(target)
    assert found is None if reason is None else found is not None and reason in found


def test_sni(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that needs SNI cannot be used without."""
    monkeypatch.setattr(ssl, "HAS_SNI", False)
    assert "SNI" in (unusable(AdvertisedTarget("x", "https", (), sni_required=True)) or "")


def test_the_offer() -> None:
    """The server's order is kept, and the best hash is named first."""
    ssh = AdvertisedTarget("git", "ssh", ())
    found = targets(S3, ssh, NEAR)
    assert found.offer() == Offer((b"s3", b"near"), (b"sha256", b"sha1"))
    assert found.offer(inline=True) == Offer((), (b"sha256", b"sha1"))


def test_nothing_to_offer() -> None:
    """A server without redirects is told nothing of them; without a hash nothing is accepted."""
    assert targets(hashes=()).offer() is None
    assert targets(S3, hashes=(b"blake3",)).offer() == Offer((), ())


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://s3.example.org/bucket/x", "s3"),
        ("https://s3.example.org/bucket/cdn/x", "cdn"),
        ("http://near.example.org/a/x", "near"),
        ("http://near.example.org/b/x", "near"),
        ("https://s3.example.org/other/x", None),
        ("https://elsewhere.example.org/x", None),
        ("no url", None),
    ],
)
def test_whose_location(url: str, name: str | None) -> None:
    """The target with the longest URI that fits is meant, else the only one on that host."""
    assert targets(S3, CDN, NEAR).name_of(url, ALL) == name


def test_only_offered_targets_are_meant() -> None:
    """What was not offered is not what failed."""
    assert targets(S3, CDN).name_of("https://s3.example.org/bucket/cdn/x", Offer((b"s3",))) == "s3"


def test_failures() -> None:
    """A target that failed is not offered again; one that nobody can tell costs the first."""
    found = targets(S3, CDN, NEAR)
    found.fail("http://near.example.org/a/x", ALL, "404")
    assert found.offer() == Offer((b"s3", b"cdn"), (b"sha256", b"sha1"))
    found.fail("http://near.example.org/a/x", ALL, "again")
    assert found.failed == {"near": "404"}
    found.fail("https://elsewhere.example.org/x", ALL, "403")
    assert found.offer() == Offer((b"cdn",), (b"sha256", b"sha1"))
    found.fail("https://elsewhere.example.org/x", Offer(()), "403")
    assert found.failed == {"near": "404", "s3": "403"}
