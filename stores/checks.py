# Law of this file: what is given to a store is checked here, by the same rules for every store,
# and before anything becomes visible.

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from stores.base import Corrupt, StoreUnavailable
from stores.entity import Entity, entity_key, is_digest

# Longest chunk that `Store.open` yields, and the step in which files are hashed.
CHUNK: Final = 1 << 20

# A segment is a file name (255 bytes on every usual file system); a name with a bucket's prefix
# must fit into S3's 1024 bytes for a key.
_SEGMENT_LIMIT: Final = 255
_NAME_LIMIT: Final = 900


def verify_size(entity: Entity, path: Path, *, given: Path | None = None) -> None:
    """Check that the file at ``path`` is as long as ``entity``.

    Args:
        entity: what the file should hold.
        path: the file.
        given: the path to name in errors, where ``path`` is a copy made of it.

    Raises:
        Corrupt: it is not, or is no file.
        StoreUnavailable: it cannot be read.
    """
    try:
        size = path.stat().st_size if path.is_file() else None
    except OSError as error:
        raise _unreadable(given or path, error) from error
    if size is None:
        raise Corrupt(f"{given or path}: no such file, where entity {entity.digest} was promised")
    if size != entity.size:
        raise Corrupt(
            f"{given or path}: {size} bytes, where entity {entity.digest} has {entity.size}"
        )


def verify_file(entity: Entity, path: Path, *, given: Path | None = None) -> None:
    """Check by reading it that the file at ``path`` is ``entity``; blocks.

    Arguments and errors are those of :func:`verify_size`.
    """
    part_digests(entity, path, max(entity.size, 1), given=given)


def part_digests(
    entity: Entity, path: Path, part_size: int, *, given: Path | None = None
) -> tuple[bytes, ...]:
    """Verify as :func:`verify_file` does, and return the SHA-256 of each part of the file.

    Parts are ``part_size`` bytes long, the last one shorter; an empty file is one empty part. Who
    then sends a part with its digest sends what was verified, or is refused.
    """
    verify_size(entity, path, given=given)
    whole = hashlib.sha256()
    parts = []
    one = entity.size <= part_size
    try:
        with path.open("rb", buffering=0) as file:
            for start in range(0, entity.size, part_size):
                part = hashlib.sha256()
                left = min(part_size, entity.size - start)
                while left and (chunk := file.read(min(CHUNK, left))):
                    whole.update(chunk)
                    if not one:
                        part.update(chunk)
                    left -= len(chunk)
                parts.append(part.digest())
    except OSError as error:
        raise _unreadable(given or path, error) from error
    if whole.hexdigest() != entity.digest:
        raise Corrupt(
            f"{given or path}: its SHA-256 is {whole.hexdigest()},"
            f" where entity {entity.digest} was promised"
        )
    return (whole.digest(),) if one else tuple(parts)


def _unreadable(path: Path, error: OSError) -> StoreUnavailable:
    return StoreUnavailable(f"cannot read {path}: {error.strerror or error}")


def checked_key(digest: str) -> str:
    """The key of the entity ``digest`` (see :func:`stores.entity.entity_key`).

    Raises:
        ValueError: it is not a digest, and might lead out of the store.
    """
    if not is_digest(digest):
        raise ValueError(f"not a SHA-256 in lower-case hex: {digest!r}")
    return entity_key(digest)


def check_range(start: int, end: int | None) -> None:
    """Refuse positions that count from the end; they mean other things to other stores.

    Raises:
        ValueError: a position is negative.
    """
    if start < 0 or (end is not None and end < 0):
        raise ValueError(f"negative range: {start} to {end}")


def is_document_name(name: str) -> bool:
    """Tell whether every store can hold a document called ``name``.

    It is slash-separated, without empty, ``.`` or ``..`` segments, without NUL and backslash, at
    most 900 bytes of UTF-8, each segment at most 255.
    """
    try:
        segments = name.encode().split(b"/")
    except UnicodeEncodeError:
        return False
    return (
        not any(segment in {b"", b".", b".."} for segment in segments)
        and not any(forbidden in name for forbidden in "\0\\")
        and max(map(len, segments)) <= _SEGMENT_LIMIT
        and sum(map(len, segments)) + len(segments) - 1 <= _NAME_LIMIT
    )


def check_document_name(name: str) -> str:
    """Return ``name`` if it is one (see :func:`is_document_name`).

    Raises:
        ValueError: it is not.
    """
    if not is_document_name(name):
        raise ValueError(
            f"{name!r} cannot name a document: write segments of at most 255 bytes (900 in all)"
            " between single slashes, none of them empty, '.' or '..', no NUL, no backslash"
        )
    return name
