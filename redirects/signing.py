# Law of this file: whoever shows a signature of ours that has not ended may read that one entity,
# and nobody else. The format of blob URLs is defined here, for the writer and the reader of them.
#
#     <base URL>/-/blobs/<sha256>?expires=<unix seconds>&key=<key id>&signature=<hex HMAC-SHA256>
#
# Where clients demand a Content-Type, `&type=<media type>` stands before the signature.

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

from stores.entity import DEMANDED_TYPES

BLOBS_PATH: Final = "/-/blobs/"

# RFC 2104 section 3: keys shorter than the hash's output weaken it.
_LEAST_SECRET: Final = 32
NOBODY: Final = "nobody"
"""The id of no key."""

_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")
_EXPIRES = re.compile(r"[1-9][0-9]{0,11}")
_SIGNATURE = re.compile(r"[0-9a-f]{64}")


class Forged(Exception):  # noqa: N818 - what the URL is
    """The URL does not carry a signature of ours; the message is fit to be shown to anyone."""


class Expired(Exception):  # noqa: N818 - what the URL is
    """The URL was ours and has ended; the message is fit to be shown to anyone."""


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """Secrets that sign blob URLs: one that signs, and all that are still believed.

    To change the key, add the new one everywhere, then make it current, then, when no URL of the
    old one lives, remove the old one.

    Attributes:
        current: id of the key that signs.
        secrets: id (letters, digits, ``_``, ``-``; it is visible in URLs) -> secret of at least
            32 bytes.

    Raises:
        ValueError: an id or a secret is not of that form, or the current key is not there.
    """

    current: str
    secrets: Mapping[str, bytes] = field(repr=False)

    def __post_init__(self) -> None:
        for key, secret in self.secrets.items():
            if _KEY_ID.fullmatch(key) is None:
                raise ValueError(f"signing key id {key!r}: write 1 to 32 of A-Z a-z 0-9 _ -")
            if len(secret) < _LEAST_SECRET:
                raise ValueError(
                    f"the secret of signing key {key!r} has {len(secret)} bytes;"
                    f" it needs at least {_LEAST_SECRET}"
                )
        if self.current not in self.secrets:
            raise ValueError(f"the current signing key {self.current!r} has no secret")

    def derived(self, use: str) -> bytes:
        """A secret of 32 bytes for another ``use`` than URLs, which tells nothing of the others.

        It is another one after the current key has changed.
        """
        # No message that is signed for a URL has a first line of this kind; see `_signature`.
        message = f"offramp secret 1\n{use}".encode()
        return hmac.new(self.secrets[self.current], message, hashlib.sha256).digest()

    def sign(self, digest: str, expires: int, demanded_type: str | None = None) -> str:
        """The query that makes the blob URL of ``digest`` work until ``expires`` (unix seconds).

        ``demanded_type`` is the Content-Type of the answer (``Entity.demanded_type``).
        """
        signature = _signature(
            self.secrets[self.current], self.current, digest, expires, demanded_type
        )
        typed = "" if demanded_type is None else f"&type={quote(demanded_type, safe='')}"
        return f"expires={expires}&key={self.current}{typed}&signature={signature}"

    def verify(self, digest: str, query: Mapping[str, str], now: float) -> int:
        """Check the query of a request for ``digest``.

        The signature is checked before the time, so that only what was ours is said to have
        ended. Other parameters are ignored: some proxies add their own. Of these, ``type`` is
        none: what it says afterwards is what was signed, and if it is missing, so it was.

        Returns:
            When the URL ends, in seconds since the epoch.

        Raises:
            Forged: something is missing, malformed, or does not fit the signature.
            Expired: it ended before ``now``.
        """
        expires = query.get("expires", "")
        key = query.get("key", "")
        signature = query.get("signature", "")
        demanded_type = query.get("type")
        secret = self.secrets.get(key)
        if (
            secret is None
            or (demanded_type is not None and demanded_type not in DEMANDED_TYPES)
            or _EXPIRES.fullmatch(expires) is None
            or _SIGNATURE.fullmatch(signature) is None
            or not hmac.compare_digest(
                _signature(secret, key, digest, int(expires), demanded_type), signature
            )
        ):
            raise Forged(
                "This URL is not signed by this server. Fetch from the repository again to get"
                " a new one."
            )
        if now >= int(expires):
            raise Expired("This URL has expired. Fetch from the repository again to get a new one.")
        return int(expires)


def signed_by_nobody(digest: str, expires: int) -> str:
    """A query as by a key that there is not, with an empty secret: no check may take it."""
    signature = _signature(b"", NOBODY, digest, expires, None)
    return f"expires={expires}&key={NOBODY}&signature={signature}"


def _signature(
    secret: bytes, key: str, digest: str, expires: int, demanded_type: str | None
) -> str:
    """Bind everything that a URL says, under a name that no other use of a secret has.

    The digest comes from a request and may be any text; it is last, and no other part can hold a
    line break, so no two different URLs give the same message.
    """
    use = "offramp blob 1" if demanded_type is None else f"offramp typed blob 1\n{demanded_type}"
    message = f"{use}\n{key}\n{expires}\n{digest}".encode(errors="surrogatepass")
    return hmac.new(secret, message, hashlib.sha256).hexdigest()
