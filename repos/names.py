# Law of this file: what part of a path can be part of a served name, and which places lie inside
# ROOT. No `..`, no NUL, no symbolic link that leaves ROOT gets through.

from __future__ import annotations

from pathlib import Path


def servable(segment: str, own: frozenset[str]) -> bool:
    """A path segment that can be part of a served name; ``-`` is where our own routes live.

    Args:
        segment: between two slashes.
        own: names that belong to the insides of repositories, such as ``.git``.
    """
    return segment not in {"", ".", "..", "-", *own} and not any(
        character < " " or character == "\x7f" for character in segment
    )


def inside(root: Path, place: Path, apart: Path | None) -> Path | None:
    """``place`` with all links resolved, if it is then below ``root`` and not in ``apart``."""
    resolved = place.resolve()
    if apart is not None and resolved.is_relative_to(apart):
        return None
    return resolved if resolved.is_relative_to(root) else None
