# Law of this file: URLs that a shared secret signs are what nginx and openssl make of it.

from __future__ import annotations

import base64
import hashlib
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redirects.shared_secret import HmacSigner, SecureLinkSigner
from redirects.signing import Forged, SigningKeys

DIGEST = "ab" * 32
BASE = "https://cdn.example.org/git"
EXPIRES = 1_700_022_600


def test_openssl_makes_the_same_link(keys: SigningKeys) -> None:
    """The recipe of nginx's documentation, run by openssl, gives this query.

    echo -n "EXPIRES URI SECRET" | openssl md5 -binary | openssl base64 | tr +/ -_ | tr -d =
    """
    query = SecureLinkSigner(keys).query(BASE, DIGEST, EXPIRES)
    assert query == "md5=DuGphOy7hVoofpIUMW_i6g&expires=1700022600&key=new"


def test_openssl_makes_the_same_hmac(keys: SigningKeys) -> None:
    """The documented message, hashed by `openssl dgst -sha256 -hmac SECRET`, gives this query."""
    assert HmacSigner(keys).query(BASE, DIGEST, EXPIRES) == (
        "expires=1700022600&key=new"
        "&signature=ba2bb4bbf6475f1092b10c48e93cd03bd4490558d0b63dbae6bfa6da0c6b3a03"
    )


@given(
    digest=st.binary(min_size=32, max_size=32).map(bytes.hex),
    expires=st.integers(1, 10**11),
    secret=st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=32),
)
def test_nginx_can_check_every_link(digest: str, expires: int, secret: str) -> None:
    """What nginx computes from the request is what the request says."""
    signer = SecureLinkSigner(SigningKeys("k", {"k": secret.encode()}))
    said = {name: value for name, (value,) in parse_qs(signer.query(BASE, digest, expires)).items()}
    uri = f"/git/entities/{digest[:2]}/{digest}"
    message = f"{said['expires']}{uri} {secret}".encode()
    checksum = hashlib.md5(message, usedforsecurity=False).digest()
    assert base64.urlsafe_b64decode(said["md5"] + "==") == checksum
    assert int(said["expires"]) == expires


def test_a_link_is_of_the_decoded_path(keys: SigningKeys) -> None:
    """The $uri of nginx has no percent-encoding, so what is signed has none; nor a host."""
    signer = SecureLinkSigner(keys)
    assert signer.query("http://a/x%20%C3%BC", DIGEST, EXPIRES) == signer.query(
        "https://b:1/x \N{LATIN SMALL LETTER U WITH DIAERESIS}", DIGEST, EXPIRES
    )
    assert signer.query("http://a/x", DIGEST, 1) != signer.query("http://a/y", DIGEST, 1)


def test_an_hmac_is_a_token_of_our_blob_route(keys: SigningKeys) -> None:
    """Whoever can check those can check these, by the digest at the end of the path."""
    query = parse_qs(HmacSigner(keys).query(BASE, DIGEST, EXPIRES))
    said = {name: value for name, (value,) in query.items()}
    assert keys.verify(DIGEST, said, EXPIRES - 1) == EXPIRES
    with pytest.raises(Forged):
        keys.verify("cd" * 32, said, EXPIRES - 1)


@pytest.mark.parametrize("kind", [SecureLinkSigner, HmacSigner])
def test_the_current_key_signs(
    kind: type[SecureLinkSigner | HmacSigner], keys: SigningKeys
) -> None:
    """Keys are changed by adding one, making it current, and removing the old one."""
    both = kind(keys)
    assert "key=new" in both.query(BASE, DIGEST, EXPIRES)
    assert [key for key, _ in both.by_key()] == ["new", "old"]
    for key, alone in both.by_key():
        assert f"key={key}" in alone.query(BASE, DIGEST, EXPIRES)
        assert list(alone.keys.secrets) == [key]
    assert dict(both.by_key())["new"].query(BASE, DIGEST, 9) == both.query(BASE, DIGEST, 9)


@pytest.mark.parametrize("kind", [SecureLinkSigner, HmacSigner])
def test_no_secret_is_shown(kind: type[SecureLinkSigner | HmacSigner], keys: SigningKeys) -> None:
    """The repr of a signer shows no secret, nor does what is hashed into fingerprints."""
    assert "nnnn" not in repr(kind(keys)) + kind(keys).kind
    assert not kind(keys).opens_all
