# Law of this file: what stands before a store and shares a secret with us can check a URL by
# itself, with what its own configuration language has.
#
#     ?md5=<base64url>&expires=<unix seconds>&key=<key id>            nginx's secure_link
#     ?expires=<unix seconds>&key=<key id>&signature=<hex>            an HMAC, as our blob route's

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, replace
from typing import Self
from urllib.parse import unquote_to_bytes, urlsplit

from redirects.signing import NOBODY, SigningKeys, signed_by_nobody
from stores.entity import entity_key


def _each_key(keys: SigningKeys) -> tuple[tuple[str, SigningKeys], ...]:
    """Each key's id, and that key alone; that which signs is the first."""
    ids = sorted(keys.secrets, key=lambda key: key != keys.current)
    return tuple((key, SigningKeys(key, {key: keys.secrets[key]})) for key in ids)


@dataclass(frozen=True, slots=True)
class _SharedSecret:
    keys: SigningKeys

    @property
    def opens_all(self) -> bool:
        """Whether one signature opens every entity: never."""
        return False

    def by_key(self) -> tuple[tuple[str, Self], ...]:
        """Each key's id, and this signer with that key alone."""
        return tuple((key, replace(self, keys=alone)) for key, alone in _each_key(self.keys))


@dataclass(frozen=True, slots=True)
class SecureLinkSigner(_SharedSecret):
    """Signs for nginx with ``secure_link_md5 "$secure_link_expires$uri <secret>"``.

    Format: nginx.org/en/docs/http/ngx_http_secure_link_module.html. ``key`` is ours: by it, a
    ``map`` finds the secret while there are two.

    Attributes:
        keys: secrets, of which the current one signs.
    """

    @property
    def kind(self) -> str:
        """How URLs are signed, with nothing secret in it; it is hashed into fingerprints."""
        return "secure_link"

    def query(self, base_url: str, digest: str, expires: int) -> str:
        """The query that makes the URL of ``digest`` below ``base_url`` work until ``expires``."""
        key = self.keys.current
        return self._query(base_url, digest, expires, key, self.keys.secrets[key])

    def by_nobody(self, base_url: str, digest: str, expires: int) -> str:
        """The same by a key that there is not: a `map` that knows no such key gives no secret."""
        return self._query(base_url, digest, expires, NOBODY, b"")

    @staticmethod
    def _query(base_url: str, digest: str, expires: int, key: str, secret: bytes) -> str:
        # $uri is the path without its percent-encoding.
        uri = unquote_to_bytes(urlsplit(f"{base_url}/{entity_key(digest)}").path)
        message = b"%d%b %b" % (expires, uri, secret)
        # nginx knows no other hash; that somebody finds two messages of one MD5 opens nothing.
        checksum = hashlib.md5(message, usedforsecurity=False).digest()
        md5 = base64.urlsafe_b64encode(checksum).decode().rstrip("=")
        return f"md5={md5}&expires={expires}&key={key}"


@dataclass(frozen=True, slots=True)
class HmacSigner(_SharedSecret):
    """Signs for an edge that checks the tokens of our blob route; see :mod:`redirects.signing`.

    Attributes:
        keys: secrets, of which the current one signs.
    """

    @property
    def kind(self) -> str:
        """How URLs are signed, with nothing secret in it; it is hashed into fingerprints."""
        return "hmac"

    def query(self, base_url: str, digest: str, expires: int) -> str:
        """The query that makes the URL of ``digest`` below ``base_url`` work until ``expires``."""
        del base_url  # an edge may be reached by several names
        return self.keys.sign(digest, expires)

    def by_nobody(self, base_url: str, digest: str, expires: int) -> str:
        """The same by a key that there is not: an edge that knows no such key has no secret."""
        del base_url
        return signed_by_nobody(digest, expires)
