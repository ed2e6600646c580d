# Law of this file: who reads Git LFS objects with this server's credential gets to know where they
# are, and never the credential; and what is asked with it is a download in every reader's eyes.
# The API is that of git-lfs, docs/api/batch.md.

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, Final

# Longest batch request and answer that are looked into; git-lfs asks for 100 objects at once.
LONGEST_REQUEST: Final = 1 << 20
LONGEST_ANSWER: Final = 8 << 20

_FIELDS: Final = ("transfers", "ref", "objects", "hash_algo")


def download_request(body: bytes) -> bytes | None:
    """The same request in our words, if it asks for downloads; None for all others.

    Upstreams read JSON in ways of their own: of a name that comes twice some take the first, and to
    some ``Operation`` is ``operation``. So they get nothing but what was understood here.
    """
    if len(body) > LONGEST_REQUEST:
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


def without_credential(answer: bytes, authorization: str) -> bytes:
    """A batch answer without the ``Authorization`` that it was asked with.

    Some forges tell clients to download with the very header that they were asked with. A client
    that is not told so downloads with what it has itself.

    Raises:
        Repeats: the credential is elsewhere in it.
    """
    secrets = _secrets(authorization)
    try:
        said = json.loads(answer)
    except (ValueError, RecursionError):
        said = None
    if isinstance(said, dict) and isinstance(said.get("objects"), list):
        changed = [_strip(item, secrets) for item in said["objects"] if isinstance(item, dict)]
        if any(changed):
            answer = json.dumps(said).encode()
    text = answer.decode(errors="replace")
    # As it is, and as JSON may write it.
    unescaped = text if said is None else json.dumps(said, ensure_ascii=False)
    if any(
        secret in where or json.dumps(secret, ensure_ascii=False)[1:-1] in where
        for secret in secrets
        for where in (text, unescaped)
    ):
        raise Repeats
    return answer


def _strip(item: dict[str, Any], secrets: tuple[str, ...]) -> bool:
    """Take headers with a secret out of one object's actions; whether there were any."""
    found = False
    actions = item.get("actions")
    for action in actions.values() if isinstance(actions, dict) else ():
        header = action.get("header") if isinstance(action, dict) else None
        if not isinstance(header, dict):
            continue
        for name, value in tuple(header.items()):
            if isinstance(value, str) and any(secret in value for secret in secrets):
                del header[name]
                found = True
    if found:
        item.pop("authenticated", None)  # the client has to authenticate itself
    return found


def _secrets(authorization: str) -> tuple[str, ...]:
    """What of a header must not be repeated: what follows the scheme, and a password in it."""
    scheme, _, value = authorization.partition(" ")
    secrets = [value]
    if scheme.lower() == "basic":
        try:
            decoded = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            decoded = ""
        secrets.append(decoded.partition(":")[2])
    return tuple(secret for secret in secrets if secret)
