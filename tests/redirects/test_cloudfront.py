# Law of this file: what we sign, CloudFront takes: openssl and botocore make the same, and the
# public key agrees. Without chance: the same question has the same answer on every machine.

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs

import pytest
from botocore.signers import CloudFrontSigner as TheirSigner
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from redirects import cloudfront
from redirects.cloudfront import CloudFrontKey, CloudFrontSigner, HashName, Scope, policy

GOLDEN: Final = Path(__file__).parent / "golden"
ID: Final = "K2JCJMDEHXQW5F"
BASE: Final = "https://d111111abcdef8.cloudfront.net/git"
DIGEST: Final = "ab" * 32
URL: Final = f"{BASE}/entities/ab/{DIGEST}"
EXPIRES: Final = 1_700_022_600
RSA: Final = CloudFrontKey.from_pem(ID, (GOLDEN / "cloudfront_rsa.pem").read_bytes())
ECDSA: Final = CloudFrontKey.from_pem("K2EC", (GOLDEN / "cloudfront_ecdsa.pem").read_bytes())
MADE_BY_OPENSSL: Final = [
    line.split()
    for line in (GOLDEN / "cloudfront.txt").read_text().splitlines()
    if not line.startswith("#")
]
SCOPES: Final[tuple[Scope, ...]] = ("entity", "prefix")
HASHES: Final[dict[HashName, hashes.HashAlgorithm]] = {
    "sha1": hashes.SHA1(),  # noqa: S303 - CloudFront's
    "sha256": hashes.SHA256(),
}


def signer(
    *keys: CloudFrontKey, scope: Scope = "entity", algorithm: HashName = "sha256"
) -> CloudFrontSigner:
    """A signer with these keys."""
    return CloudFrontSigner(keys or (RSA,), scope, algorithm)


def unescaped(value: str) -> bytes:
    """What CloudFront's own base64 holds."""
    return base64.b64decode(value.translate(str.maketrans("-_~", "+=/")), validate=True)


def pem(key: serialization.PrivateKeyTypes, password: bytes | None = None) -> bytes:
    """A key as openssl writes it."""
    encryption = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


@pytest.mark.parametrize(("scope", "algorithm", "query"), MADE_BY_OPENSSL)
def test_openssl_makes_the_same(scope: Scope, algorithm: HashName, query: str) -> None:
    """The recipe of the documentation, run by openssl, gives these very queries."""
    assert signer(scope=scope, algorithm=algorithm).query(BASE, DIGEST, EXPIRES) == query


def test_botocore_makes_the_same() -> None:
    """AWS's own library makes the same URL of a canned policy."""

    def sign(message: bytes) -> bytes:
        assert isinstance(RSA.private, rsa.RSAPrivateKey)
        return RSA.private.sign(message, padding.PKCS1v15(), HASHES["sha1"])

    theirs = TheirSigner(ID, sign).generate_presigned_url(
        URL, date_less_than=datetime.fromtimestamp(EXPIRES, UTC)
    )
    assert theirs == f"{URL}?{signer(algorithm='sha1').query(BASE, DIGEST, EXPIRES)}"


def test_a_canned_policy_is_what_cloudfront_makes_of_a_url() -> None:
    """Byte for byte as the documentation shows it: CloudFront hashes its own copy."""
    assert policy("https://d111111abcdef8.cloudfront.net/horizon.jpg", 1_767_290_400) == (
        b'{"Statement":[{"Resource":"https://d111111abcdef8.cloudfront.net/horizon.jpg",'
        b'"Condition":{"DateLessThan":{"AWS:EpochTime":1767290400}}}]}'
    )


@given(
    digest=st.binary(min_size=32, max_size=32).map(bytes.hex),
    expires=st.integers(1, 10**11),
    key=st.sampled_from([RSA, ECDSA]),
    scope=st.sampled_from(SCOPES),
    algorithm=st.sampled_from(list(HASHES)),
)
def test_the_public_key_agrees(
    digest: str, expires: int, key: CloudFrontKey, scope: Scope, algorithm: HashName
) -> None:
    """Whatever is signed, the public half verifies it, and nothing that differs in one byte."""
    query = signer(key, scope=scope, algorithm=algorithm).query(BASE, digest, expires)
    said = {name: values[0] for name, values in parse_qs(query).items()}
    if scope == "prefix":
        signed = unescaped(said.pop("Policy"))
        (statement,) = json.loads(signed)["Statement"]
        assert statement["Resource"] == f"{BASE}/entities/*"
        assert statement["Condition"] == {"DateLessThan": {"AWS:EpochTime": expires}}
    else:
        signed = policy(f"{BASE}/entities/{digest[:2]}/{digest}", int(said.pop("Expires")))
    signature = unescaped(said.pop("Signature"))
    verify(key, signature, signed, algorithm)
    with pytest.raises(InvalidSignature):
        verify(key, signature, signed.replace(b"https", b"httpx"), algorithm)
    told = {"Hash-Algorithm": "SHA256"} if algorithm == "sha256" else {}
    assert said == {"Key-Pair-Id": key.id, **told}


def verify(key: CloudFrontKey, signature: bytes, signed: bytes, algorithm: HashName) -> None:
    """What CloudFront does.

    Raises:
        InvalidSignature: it is not of this key.
    """
    public = key.private.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        public.verify(signature, signed, padding.PKCS1v15(), HASHES[algorithm])
    else:
        public.verify(signature, signed, ec.ECDSA(HASHES[algorithm]))


@pytest.mark.parametrize("key", [RSA, ECDSA])
@pytest.mark.parametrize("scope", SCOPES)
def test_every_machine_makes_the_same(key: CloudFrontKey, scope: Scope) -> None:
    """Signers that share no memory agree, ECDSA too: caches keep one copy."""
    first, second = (signer(key, scope=scope).query(BASE, DIGEST, EXPIRES) for _ in range(2))
    assert first == second


def test_an_old_openssl_signs_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ECDSA needs chance, it takes it, and the signature holds."""

    def old(algorithm: hashes.HashAlgorithm, *, deterministic_signing: bool = False) -> ec.ECDSA:
        if deterministic_signing:
            raise UnsupportedAlgorithm("OpenSSL is too old")
        return ec.ECDSA(algorithm)

    monkeypatch.setattr(cloudfront, "ECDSA", old)
    signature = ECDSA.sign(b"message", "sha256")
    verify(ECDSA, signature, b"message", "sha256")
    assert ECDSA.sign(b"message", "sha256") != signature


def test_one_signature_serves_a_prefix() -> None:
    """For the prefix, a window costs one signature, whatever is asked for."""
    of_prefix = signer(scope="prefix")
    queries = {of_prefix.query(BASE, f"{number:064x}", EXPIRES) for number in range(50)}
    assert len(queries) == 1
    assert of_prefix._of_prefix.cache_info().misses == 1  # type: ignore[attr-defined]
    assert of_prefix.query(BASE, DIGEST, EXPIRES + 900) not in queries
    assert (of_prefix.opens_all, signer().opens_all) == (True, False)


def test_the_first_key_signs() -> None:
    """Keys are changed by adding one, making it first, and removing the old one."""
    both = signer(ECDSA, RSA)
    assert "Key-Pair-Id=K2EC&" in both.query(BASE, DIGEST, EXPIRES)
    assert [key for key, _ in both.by_key()] == ["K2EC", ID]
    for key, alone in both.by_key():
        assert f"Key-Pair-Id={key}&" in alone.query(BASE, DIGEST, EXPIRES)
        assert alone.kind == both.kind
    assert dict(both.by_key())[ID].query(BASE, DIGEST, EXPIRES) == signer(RSA).query(
        BASE, DIGEST, EXPIRES
    )


@pytest.mark.parametrize("keys", [(), (RSA, replace(ECDSA, id=ID))])
def test_keys_have_ids_of_their_own(keys: tuple[CloudFrontKey, ...]) -> None:
    """No key, or two of one id, are refused."""
    with pytest.raises(ValueError, match="each id once"):
        CloudFrontSigner(keys, "entity", "sha1")


@pytest.mark.parametrize("key_id", ["", "K 2", "K&Signature=x", "K\n", "x" * 65])
def test_ids_that_are_none(key_id: str) -> None:
    """An id that could say something else in a URL is refused."""
    with pytest.raises(ValueError, match="id of the public key"):
        replace(RSA, id=key_id)


def test_keys_that_cloudfront_does_not_take() -> None:
    """Other sizes, curves and kinds are refused with what would be right."""
    small = rsa.generate_private_key(65537, 1024)  # noqa: S505 - that is what is refused
    for key, why in (
        (small, "RSA key of 1024 bits, where CloudFront takes RSA of 2048"),
        (ec.generate_private_key(ec.SECP384R1()), "ECDSA key on secp384r1"),
        (ed25519.Ed25519PrivateKey.generate(), "neither an RSA nor an ECDSA"),
    ):
        with pytest.raises(ValueError, match=why):
            CloudFrontKey.from_pem(ID, pem(key))


def test_a_key_with_a_password() -> None:
    """It is refused: nobody is there to type it."""
    with pytest.raises(ValueError, match="without a password"):
        CloudFrontKey.from_pem(ID, pem(ECDSA.private, b"hunter2"))


@given(st.binary() | st.binary().map(lambda noise: b"-----BEGIN PRIVATE KEY-----\n" + noise))
def test_any_bytes_are_a_key_or_refused(content: bytes) -> None:
    """What is no key is one error that tells nothing of it."""
    with pytest.raises(ValueError, match=r"^key K2JCJMDEHXQW5F: no private key in PEM"):
        CloudFrontKey.from_pem(ID, content)


def test_nothing_of_a_key_is_shown() -> None:
    """No repr holds what could sign."""
    shown = repr(signer(RSA, ECDSA))
    assert "PrivateKey" not in shown
    assert ID in shown
