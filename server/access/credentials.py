# Law of this file: what a caller says of itself is read strictly, is never shown again, and is
# remembered only as a keyed hash. What is not understood opens nothing here.

from __future__ import annotations

import base64
import binascii
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Self

# Longer than any ticket that fits the 8 KiB which HTTP servers take for one header.
LONGEST_HEADER: Final = 8 << 10

_SENDABLE: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?")
# RFC 9110 section 11.4: a scheme, spaces, and token68.
_SCHEME: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+) +([A-Za-z0-9._~+/-]+=*)")


class Malformed(ValueError):  # noqa: N818 - what the header is
    """An ``Authorization`` header that nobody may be asked with; the message does not hold it."""


@dataclass(frozen=True, slots=True)
class Basic:
    """RFC 7617: a user and a password. A token may be in either place."""

    user: str = field(repr=False)
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Bearer:
    """RFC 6750: a token."""

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Opaque:
    """Anything else: Negotiate, Digest, a scheme of a forge's own, or a Basic that is none.

    It is no nothing: who shows it wants to be somebody, so it is never taken for a caller without
    a credential. It opens nothing here; an upstream gets it as it is and judges for itself.
    """

    header: str = field(repr=False)


Credential = Basic | Bearer | Opaque


def sole(values: Sequence[str]) -> str | None:
    """The one ``Authorization`` header of a request, fit to be sent on; None if there is none.

    Raises:
        Malformed: there are several (those behind us might believe another one than we do), or it
            is longer than :data:`LONGEST_HEADER`, or holds more than printable ASCII.
    """
    if not values:
        return None
    if len(values) > 1:
        raise Malformed("There are several Authorization headers; send one.")
    value = values[0]
    if len(value) > LONGEST_HEADER or _SENDABLE.fullmatch(value) is None:
        raise Malformed("The Authorization header cannot be read.")
    return value


def parse(header: str) -> Credential:
    """What a value that :func:`sole` let pass says."""
    match = _SCHEME.fullmatch(header)
    if match is None:
        return Opaque(header)
    scheme, value = match[1].lower(), match[2]
    if scheme == "bearer":
        return Bearer(value)
    if scheme == "basic":
        return _basic(value) or Opaque(header)
    return Opaque(header)


def _basic(value: str) -> Basic | None:
    """Canonical base64 of UTF-8 with a colon and without control characters; None for others."""
    try:
        decoded = base64.b64decode(value, validate=True)
        text = decoded.decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    user, colon, password = text.partition(":")
    canonical = base64.b64encode(decoded).decode() == value
    if not colon or not canonical or _CONTROL.search(text):
        return None
    return Basic(user, password)


_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """Names credentials, so that what is known of one can be remembered without it.

    Attributes:
        key: of HMAC-SHA256; without it a fingerprint says nothing, not even of a weak password.
    """

    key: bytes = field(repr=False)

    @classmethod
    def random(cls) -> Self:
        """With a key that nobody else has and that ends with this process."""
        return cls(secrets.token_bytes(32))

    def of(self, header: str | None) -> str:
        """64 hex digits that are the same for the same header; :data:`NOBODY` for none."""
        if header is None:
            return NOBODY
        return hmac.digest(self.key, header.encode("utf-8", "surrogateescape"), "sha256").hex()


NOBODY: Final = "-"
"""The fingerprint of no credential."""
