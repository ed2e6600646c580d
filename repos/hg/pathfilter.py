# Law of this file: which files a client wants: those that any `include` matches, or all if there is
# none, without those that any `exclude` matches.

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from repos.hg.errors import CommandError
from wire.hg.cbor import Value

_SUBTREE: Final = b"path:"
_FILES_IN: Final = b"rootfilesin:"


@dataclass(frozen=True, slots=True)
class PathFilter:
    """Patterns, each the beginning of a path with slashes and whether it is a directory's files.

    Attributes:
        include: what is wanted; all files if empty.
        exclude: what is not.
    """

    include: tuple[bytes, ...] = ()
    exclude: tuple[bytes, ...] = ()

    def matches(self, path: bytes) -> bool:
        """Whether a file is wanted."""
        if self.include and not any(_matches(pattern, path) for pattern in self.include):
            return False
        return not any(_matches(pattern, path) for pattern in self.exclude)


EVERYTHING: Final = PathFilter()


def parse_pathfilter(value: Value) -> PathFilter:
    """Read the argument ``pathfilter``.

    Raises:
        CommandError: a pattern is neither of the kinds that the protocol has.
    """
    if value is None:
        return EVERYTHING
    if not isinstance(value, dict):
        raise CommandError(b"pathfilter must be a map")
    unknown = sorted(repr(key).encode() for key in value if key not in {b"include", b"exclude"})
    if unknown:
        raise CommandError(b"unknown key in pathfilter: %s", (b", ".join(unknown),))
    return PathFilter(
        _patterns(value.get(b"include"), b"include"), _patterns(value.get(b"exclude"), b"exclude")
    )


def _patterns(value: Value, key: bytes) -> tuple[bytes, ...]:
    if value is None:
        return ()
    if not isinstance(value, list | frozenset):
        raise CommandError(b"%s must be a list of patterns", (key,))
    found = []
    for pattern in value:
        if not isinstance(pattern, bytes) or not pattern.startswith((_SUBTREE, _FILES_IN)):
            raise CommandError(
                b"%s pattern must begin with `path:` or `rootfilesin:`; got %s",
                (key, pattern if isinstance(pattern, bytes) else repr(pattern).encode()),
            )
        kind, _, place = pattern.partition(b":")
        segments = [segment for segment in place.split(b"/") if segment not in {b"", b"."}]
        if b".." in segments:
            raise CommandError(b"%s pattern leaves the repository: %s", (key, pattern))
        found.append(kind + b":" + b"/".join(segments))
    return tuple(found)


def _matches(pattern: bytes, path: bytes) -> bool:
    kind, _, place = pattern.partition(b":")
    if kind == b"path":
        return not place or path == place or path.startswith(place + b"/")
    directory, _, _name = path.rpartition(b"/")
    return directory == place
