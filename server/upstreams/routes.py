# Law of this file: a path from outside leads to a repository of an upstream in the settings, or to
# nothing. The host that is contacted is never made from what a client wrote.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, unquote

from server.settings_upstreams import UpstreamSettings

_SUFFIX: Final = ".git"
# What may follow a repository in a path, longest first; git's own, and that of LFS.
_SERVICES: Final = (
    ("info", "refs"),
    ("info", "lfs"),
    ("git-upload-pack",),
    ("git-receive-pack",),
)
# Longer than any forge allows; a bound for what becomes a label, a key and a file's name.
_LONGEST: Final = 1024
# Segments that no forge has in a repository's name: `-` is where pages are, ours and GitLab's.
_IMPOSSIBLE: Final = frozenset({"", ".", "..", "-", _SUFFIX})


@dataclass(frozen=True, slots=True)
class Remote:
    """One repository at an upstream.

    Attributes:
        name: the path at which it is served; one for all spellings.
        below: its name at the upstream; of git without ``.git``.
        url: its URL there, without a trailing slash.
        upstream: the settings.
    """

    name: str
    below: str
    url: str
    upstream: UpstreamSettings = field(repr=False)

    @property
    def mirrored(self) -> bool:
        """It may be mirrored; if not, everything is passed through."""
        return self.upstream.repository is not None or self.upstream.mirrors(self.below)


@dataclass(frozen=True, slots=True)
class Routed:
    """Where a request goes.

    Attributes:
        remote: the repository.
        rest: what follows it in the path, percent-encoded, with a leading slash; or empty.
    """

    remote: Remote
    rest: str


@dataclass(frozen=True, slots=True)
class Routes:
    """The upstreams by the paths at which they are served."""

    upstreams: Sequence[UpstreamSettings]

    def route(self, raw_path: str, known: Callable[[str], bool]) -> Routed | None:
        """Where a request for ``raw_path`` goes; None: to no upstream, or to nothing it has.

        Args:
            raw_path: as in the request line, percent-encoded, without a query.
            known: says of a served name whether it is known to be a repository; asked where the
                path alone does not say where the repository's name ends, and of public upstreams
                only: whether something private is there, the answer must not tell.
        """
        segments = _segments(raw_path)
        if segments is None:
            return None
        for upstream in self._by_length():
            title = upstream.title.split("/")
            if upstream.repository is not None:
                rest = _after(segments, title, git_suffix=upstream.same_with_suffix)
                if rest is not None and upstream.vcs == "git":
                    return Routed(_single(upstream), _path(rest))
            elif segments[: len(title)] == title:
                if upstream.vcs != "git":
                    return None
                return self._below(upstream, segments[len(title) :], known)
        return None

    def hg(self, raw_path: str) -> Remote | None:
        """The repository of Mercurial that a client of its protocol asks for at ``raw_path``.

        All of the path is its name: what is asked of it is in the query. None: no upstream's.
        """
        segments = _segments(raw_path)
        if segments is None:
            return None
        for upstream in self._by_length():
            title = upstream.title.split("/")
            if upstream.repository is not None:
                if segments == title and upstream.vcs == "hg":
                    return _single(upstream)
            elif segments[: len(title)] == title:
                return _remote(upstream, segments[len(title) :]) if upstream.vcs == "hg" else None
        return None

    def named(self, name: str) -> Remote | None:
        """The repository served as ``name`` that is mirrored, if the settings still let it be."""
        for upstream in self._by_length():
            if upstream.vcs != "git":
                continue
            if upstream.repository == name:
                return _single(upstream)
            if upstream.prefix is not None and name.startswith(f"{upstream.prefix}/"):
                return _remote(upstream, name.removeprefix(f"{upstream.prefix}/").split("/"))
        return None

    def listed(self) -> tuple[Remote, ...]:
        """The repositories that are mirrored from the start."""
        mirrored = [u for u in self.upstreams if u.vcs == "git"]
        found = [_single(u) for u in mirrored if u.repository is not None]
        for upstream in mirrored:
            remotes = (_remote(upstream, below.split("/")) for below in upstream.listed)
            found += [remote for remote in remotes if remote is not None]
        return tuple(found)

    def _by_length(self) -> list[UpstreamSettings]:
        """The longest path first, so that a repository may lie below another's prefix."""
        return sorted(self.upstreams, key=lambda u: u.title.count("/"), reverse=True)

    def _below(
        self, upstream: UpstreamSettings, segments: list[str], known: Callable[[str], bool]
    ) -> Routed | None:
        end = _end_of_name(segments)
        if end is None:
            if not upstream.public:
                return None
            for length in range(len(segments), 0, -1):
                remote = _remote(upstream, segments[:length])
                if remote is not None and known(remote.name):
                    return Routed(remote, _path(segments[length:]))
            return None
        remote = _remote(upstream, segments[:end])
        return None if remote is None else Routed(remote, _path(segments[end:]))


def _segments(raw_path: str) -> list[str] | None:
    """The decoded segments of a path; None if one could be taken for something else."""
    if not raw_path.startswith("/") or len(raw_path) > _LONGEST:
        return None
    try:
        segments = [unquote(s, errors="strict") for s in raw_path[1:].split("/")]
    except UnicodeDecodeError:
        return None
    if segments and not segments[-1]:
        segments.pop()
    for segment in segments:
        if segment in {"", ".", ".."} or "/" in segment or "\\" in segment:
            return None
        if not segment.isprintable():
            return None
    return segments


def _end_of_name(segments: list[str]) -> int | None:
    """How many segments are the repository's name, if the path says so."""
    for index in range(1, len(segments) + 1):
        if segments[index - 1].endswith(_SUFFIX):
            return index
        rest = tuple(segments[index:])
        if any(rest[: len(service)] == service for service in _SERVICES):
            return index
    return None


def _after(segments: list[str], title: list[str], *, git_suffix: bool) -> list[str] | None:
    """What follows ``title`` in a path; None if the path does not begin with it."""
    size = len(title)
    if len(segments) < size or segments[: size - 1] != title[:-1]:
        return None
    last = segments[size - 1]
    same = last == title[-1] or (
        git_suffix and last.removesuffix(_SUFFIX) == title[-1].removesuffix(_SUFFIX)
    )
    return segments[size:] if same else None


def _single(upstream: UpstreamSettings) -> Remote:
    return Remote(upstream.title, upstream.title, upstream.url, upstream)


def _remote(upstream: UpstreamSettings, segments: list[str]) -> Remote | None:
    """The repository of a prefix with this name; None if it can be none, or may not be asked."""
    if not segments:
        return None
    segments = [upstream.canonical(segment) for segment in segments]
    if upstream.same_with_suffix:
        segments = [*segments[:-1], segments[-1].removesuffix(_SUFFIX)]
        if segments[-1].endswith(_SUFFIX):
            return None  # `x.git.git` would be served as `x.git`, which is `x`
    if _IMPOSSIBLE.intersection(segments):
        return None
    below = "/".join(segments)
    if not upstream.allows(below.removesuffix(_SUFFIX)):
        return None
    at_upstream = below + (_SUFFIX if upstream.same_with_suffix else "")
    url = f"{upstream.url}/{quote(at_upstream)}"
    return Remote(f"{upstream.prefix}/{below}", below, url, upstream)


def _path(segments: list[str]) -> str:
    return "".join(f"/{quote(segment, safe='')}" for segment in segments)
