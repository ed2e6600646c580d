# Law of this file: who reads Git LFS objects with this server's credential gets to know where they
# are, and never the credential; and what is asked with it is a download in every reader's eyes.
# The API is that of git-lfs, docs/api/batch.md.

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from typing import Final

# Longest batch request that is read; git-lfs asks for 100 objects at once.
_LONGEST: Final = 1 << 20

_LEAST_PASSWORD: Final = 6
_FIELDS: Final = ("transfers", "ref", "objects", "hash_algo")


def download_request(body: bytes) -> bytes | None:
    """The same request in our words, if it asks for downloads; None for all others.

    Upstreams read JSON in ways of their own: of a name that comes twice some take the first, and to
    some ``Operation`` is ``operation``. So they get nothing but what was understood here.
    """
    if len(body) > _LONGEST:
        return None
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(asked, dict) or asked.get("operation") != "download":
        return None
    known = {name: asked[name] for name in _FIELDS if name in asked}
    return json.dumps({"operation": "download", **known}).encode()


class Repeats(Exception):  # noqa: N818 - what the answer does
    """An answer holds the credential where it cannot be taken out."""


def without_credential(answer: bytes, shown: str) -> bytes:
    """A batch answer without the ``Authorization`` (``shown``) that it was asked with.

    Some forges tell clients to download with the very header that they were asked with. A client
    that is not told so downloads with what it has itself.

    Raises:
        Repeats: the credential is elsewhere in it.
    """
    secrets = _secrets(shown)
    try:
        said = json.loads(answer)
    except (ValueError, RecursionError):
        said = answer.decode(errors="replace")
    else:
        if isinstance(said, dict) and isinstance(said.get("objects"), list):
            for item in said["objects"]:
                _strip(item, secrets)
        answer = json.dumps(said).encode()  # without names that come twice
    if any(secret in text for text in _texts(said) for secret in secrets):
        raise Repeats
    return answer


def _texts(said: object) -> Iterator[str]:
    """All that is text in JSON."""
    left = [said]
    while left:
        match left.pop():
            case str() as text:
                yield text
            case list() as items:
                left += items
            case dict() as fields:
                left += [*fields, *fields.values()]


def _strip(item: object, secrets: tuple[str, ...]) -> None:
    """Take headers with a secret out of one object's actions."""
    if not isinstance(item, dict) or not isinstance(item.get("actions"), dict):
        return
    for action in item["actions"].values():
        header = action.get("header") if isinstance(action, dict) else None
        if not isinstance(header, dict):
            continue
        for name, value in tuple(header.items()):
            if isinstance(value, str) and any(secret in value for secret in secrets):
                del header[name]
                item["authenticated"] = False  # the client has to do that itself


def _secrets(authorization: str) -> tuple[str, ...]:
    """What of a header must not be repeated: what follows the scheme, and a password in it.

    A password that is too short to be one is a part of many a word.
    """
    scheme, _, value = authorization.partition(" ")
    secrets = [value or scheme]
    if scheme.lower() == "basic":
        try:
            decoded = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            decoded = ""
        secrets += [word for word in [decoded.partition(":")[2]] if len(word) >= _LEAST_PASSWORD]
    return tuple(secrets)
