# Law of this file: which URL means what to Mercurial clients. Paths alone decide; whether there is
# such a repository, and who may ask, comes later.

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wire.hg.handshake import API_BASE, API_NAME

_API: Final = API_BASE.strip("/")


@dataclass(frozen=True, slots=True)
class V1:
    """A command of protocol version 1, ``<repository>?cmd=<command>``."""

    repository: str
    command: str


@dataclass(frozen=True, slots=True)
class Apis:
    """The list of APIs, ``<repository>/api/``."""

    repository: str


@dataclass(frozen=True, slots=True)
class CommandUrl:
    """Something below this API.

    Attributes:
        repository: as the client calls it.
        permission: ``ro`` or ``rw`` in URLs that mean something.
        command: its name, or ``multirequest``.
    """

    repository: str
    permission: str
    command: str


@dataclass(frozen=True, slots=True)
class Nothing:
    """Below the API, but none of its URLs."""

    repository: str


Route = V1 | Apis | CommandUrl | Nothing


def route(path: str, command: str | None) -> Route | None:
    """What a URL means, if it is one of a Mercurial client.

    Args:
        path: decoded, with its leading slash.
        command: value of ``cmd`` in the query; None if there is none.
    """
    segments = path.strip("/").split("/")
    # A directory of repositories may be called "api" too: what follows it decides, and the last
    # that fits is meant, since nothing of ours below the API has that name.
    for at in reversed(range(len(segments))):
        if segments[at] != _API:
            continue
        repository, rest = "/".join(segments[:at]), segments[at + 1 :]
        if not rest and command is None:
            return Apis(repository)
        if rest and rest[0] == API_NAME:
            if len(rest) == 3:
                return CommandUrl(repository, rest[1], rest[2])
            return Nothing(repository)
    return None if command is None else V1("/".join(segments), command)
