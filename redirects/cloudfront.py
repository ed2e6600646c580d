# Law of this file: a CloudFront signature is made of a key, a URL and a moment, and nothing else.
# The same three give the same signature, on every machine, so that caches know a URL again.
#
# Formats: "Create a signed URL using a canned policy" and "... using a custom policy" of the
# CloudFront Developer Guide, docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/
# private-content-creating-signed-url-canned-policy.html (and -custom-policy.html):
#
#     ?Expires=<unix seconds>&Signature=<...>&Key-Pair-Id=<id>[&Hash-Algorithm=SHA256]    canned
#     ?Policy=<...>&Signature=<...>&Key-Pair-Id=<id>[&Hash-Algorithm=SHA256]              custom

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final, Literal, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
)
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from stores.entity import entity_key

Scope = Literal["entity", "prefix"]
HashName = Literal["sha1", "sha256"]

_KEY_ID = re.compile(r"[A-Za-z0-9]{1,64}")
# "Specify signers that can create signed URLs", same guide: RSA of 2048 bits or ECDSA of 256.
_RSA_BITS: Final = 2048
# CloudFront's own replacements for what a query cannot hold; they are not those of base64url.
_IN_URLS: Final = str.maketrans("+=/", "-_~")
_HASHES: Final[dict[HashName, Callable[[], hashes.HashAlgorithm]]] = {
    # What CloudFront takes without Hash-Algorithm. Nobody but us chooses what is signed.
    "sha1": hashes.SHA1,
    "sha256": hashes.SHA256,
}
# Signatures for the prefix that are remembered: one a window, and some of windows that ended.
_REMEMBERED: Final = 8


@dataclass(frozen=True, slots=True)
class CloudFrontKey:
    """A private key whose public half is in a key group of the distribution.

    Attributes:
        id: of the public key at CloudFront, such as ``K2JCJMDEHXQW5F``; visible in URLs.
        private: RSA of 2048 bits, or ECDSA on P-256.

    Raises:
        ValueError: the id is none, or CloudFront takes no such key.
    """

    id: str
    private: RSAPrivateKey | EllipticCurvePrivateKey = field(repr=False)

    def __post_init__(self) -> None:
        if _KEY_ID.fullmatch(self.id) is None:
            raise ValueError(f"key id {self.id!r}: write the id of the public key at CloudFront")
        if isinstance(self.private, RSAPrivateKey):
            bits, fits = self.private.key_size, self.private.key_size == _RSA_BITS
            kind = f"an RSA key of {bits} bits"
        else:
            kind = f"an ECDSA key on {self.private.curve.name}"
            fits = isinstance(self.private.curve, SECP256R1)
        if not fits:
            raise ValueError(
                f"key {self.id}: {kind}, where CloudFront takes RSA of {_RSA_BITS} bits or ECDSA on"
                " P-256 (`openssl genpkey -algorithm RSA`, or `openssl ecparam -name prime256v1"
                " -genkey -noout`)"
            )

    @classmethod
    def from_pem(cls, key_id: str, pem: bytes) -> Self:
        """Read a private key without a password, as openssl writes it; nothing of it is told.

        Raises:
            ValueError: it is none, or not one for CloudFront.
        """
        try:
            private = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise ValueError(
                f"key {key_id}: no private key in PEM without a password; it begins with"
                " -----BEGIN PRIVATE KEY-----"
            ) from None
        if not isinstance(private, RSAPrivateKey | EllipticCurvePrivateKey):
            # TRY004 - it is the content of a file
            raise ValueError(f"key {key_id}: neither an RSA nor an ECDSA key")  # noqa: TRY004
        return cls(key_id, private)

    def sign(self, message: bytes, algorithm: HashName) -> bytes:
        """Sign ``message``: PKCS #1 v1.5, or ECDSA in DER."""
        made = _HASHES[algorithm]()
        if isinstance(self.private, RSAPrivateKey):
            return self.private.sign(message, PKCS1v15(), made)
        return self.private.sign(message, _ecdsa(made))


def _ecdsa(algorithm: hashes.HashAlgorithm) -> ECDSA:
    """ECDSA without chance (RFC 6979): workers that share no memory make the same URLs."""
    try:
        return ECDSA(algorithm, deterministic_signing=True)
    except UnsupportedAlgorithm:  # OpenSSL before 3.2; the URL then is one process's own
        return ECDSA(algorithm)


@dataclass(frozen=True, slots=True)
class CloudFrontSigner:
    """Signs URLs of a distribution.

    Attributes:
        keys: the first signs; the others are those that it may be changed for.
        scope: ``entity``, each URL has a signature of its own, by a canned policy. ``prefix``,
            one signature a window opens all entities, by a custom policy.
        algorithm: of the hash that is signed.

    Raises:
        ValueError: there is no key, or two have one id.
    """

    keys: tuple[CloudFrontKey, ...]
    scope: Scope
    algorithm: HashName
    _of_prefix: Callable[[str, int], str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ids = [key.id for key in self.keys]
        if not ids or len(set(ids)) != len(ids):
            raise ValueError("give at least one key, and each id once")
        object.__setattr__(self, "_of_prefix", lru_cache(_REMEMBERED)(self._by_custom_policy))

    @property
    def kind(self) -> str:
        """How URLs are signed, with nothing secret in it; it is hashed into fingerprints."""
        return f"cloudfront {self.scope} {self.algorithm}"

    @property
    def opens_all(self) -> bool:
        """Whether one signature opens every entity, for whoever knows its digest."""
        return self.scope == "prefix"

    def by_key(self) -> tuple[tuple[str, Self], ...]:
        """Each key's id, and this signer with that key alone."""
        return tuple((key.id, replace(self, keys=(key,))) for key in self.keys)

    def query(self, base_url: str, digest: str, expires: int) -> str:
        """The query that makes the URL of ``digest`` below ``base_url`` work until ``expires``."""
        if self.scope == "prefix":
            return self._of_prefix(base_url, expires)
        signed = self._signed(policy(f"{base_url}/{entity_key(digest)}", expires))
        return f"Expires={expires}&{signed}"

    def by_nobody(self, base_url: str, digest: str, expires: int) -> None:
        """Nothing: a signature needs a private key, whatever id it is said to be of."""
        del base_url, digest, expires

    def _by_custom_policy(self, base_url: str, expires: int) -> str:
        document = policy(f"{base_url}/entities/*", expires)
        return f"Policy={_in_url(document)}&{self._signed(document)}"

    def _signed(self, document: bytes) -> str:
        key = self.keys[0]
        signature = _in_url(key.sign(document, self.algorithm))
        told = "&Hash-Algorithm=SHA256" if self.algorithm == "sha256" else ""
        return f"Signature={signature}&Key-Pair-Id={key.id}{told}"


def policy(resource: str, expires: int) -> bytes:
    """The policy that ``resource`` can be read until ``expires`` (unix seconds).

    Of a canned policy CloudFront makes these bytes itself, so order and spacing are its own.
    """
    condition = {"DateLessThan": {"AWS:EpochTime": expires}}
    statement = {"Resource": resource, "Condition": condition}
    return json.dumps({"Statement": [statement]}, separators=(",", ":")).encode()


def _in_url(value: bytes) -> str:
    return base64.b64encode(value).decode().translate(_IN_URLS)
