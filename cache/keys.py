# Law of this file: equal questions have equal keys, and no two different questions share one.

from __future__ import annotations

import hashlib


def record_key(dialect: str, repository: str, *parts: bytes) -> str:
    """Name the record of a question: 64 hex digits of a SHA-256.

    What is hashed is each part's length in bytes (64 bits, big-endian) and then the part, so that
    no two lists of parts are hashed alike. Who calls brings the parts into a canonical order.

    Args:
        dialect: whose wire, such as ``git-v2``.
        repository: what names the repository, and changes when it becomes another one.
        parts: the question itself, whatever changes its answer and nothing else.
    """
    hasher = hashlib.sha256()
    for part in (_encoded(dialect), _encoded(repository), *parts):
        hasher.update(len(part).to_bytes(8, "big"))
        hasher.update(part)
    return hasher.hexdigest()


def _encoded(name: str) -> bytes:
    """A name as bytes; paths that are not UTF-8 reach us with surrogates."""
    return name.encode("utf-8", "surrogateescape")
