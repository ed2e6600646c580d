# Law of this file: a mirror is given objects by their exact ids, from the one address that it is
# told, with no configuration but what stands here. What a caller may fetch with is in the
# environment of git alone: never among arguments, in a message or on disk.

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from repos.git.program import Git, GitFailed

PLAIN: Final = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
"""The environment of every git that works on a mirror. Nobody's own settings reach it: one that
rewrites addresses, adds a helper for credentials or unpacks packs would break what we promise."""

_HEADER_VARIABLE: Final = "OFFRAMP_UPSTREAM_HEADER"
_EMPTY_VARIABLE: Final = "OFFRAMP_EMPTY"
_CONTROL: Final = re.compile(r"[\0-\x1f\x7f]")
_SETTINGS: Final = (
    # The objects come as one pack, whose rename into place is atomic: whatever is killed, no
    # history without its beginning is ever visible.
    ("fetch.unpackLimit", "1"),
    # A redirect would take the credentials to another host.
    ("http.followRedirects", "false"),
    # A forge that offers packs elsewhere is asked to send them itself.
    ("fetch.uriProtocols", ""),
    ("transfer.bundleURI", "false"),
    ("credential.helper", ""),
    ("protocol.version", "2"),
    ("protocol.allow", "never"),
    ("protocol.http.allow", "always"),
    ("protocol.https.allow", "always"),
    ("protocol.file.allow", "always"),
)
_FLAGS: Final = (
    "--quiet",
    "--stdin",
    "--no-tags",
    "--no-write-fetch-head",
    "--no-auto-maintenance",
    "--no-recurse-submodules",
)


@dataclass(frozen=True, slots=True)
class Source:
    """Where and how a mirror fetches.

    Attributes:
        url: the final http(s) URL, without credentials; or a path on this machine.
        authorization: the value of the header of that name, or None.
        ca_file: certificates to trust, instead of the system's.
        stall_seconds: a fetch that receives less than a byte a second for so long is ended.
    """

    url: str
    authorization: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    stall_seconds: float = 60.0

    def __post_init__(self) -> None:
        """Refuse what would become a second header; ValueError does not repeat it."""
        if _CONTROL.search(self.authorization or ""):
            raise ValueError("the value of the header Authorization holds control characters")


def fetch_objects(git: Git, path: Path, source: Source, oids: Iterable[str]) -> None:
    """Bring the objects ``oids``, and all that they reach, into the repository at ``path``.

    No ref is changed. Objects that are there, with all that they reach, are not asked for.

    Args:
        git: how programs are run.
        path: the git directory.
        source: where they are.
        oids: object ids in hex, at least one; the source must allow each to be asked for.

    Raises:
        GitFailed: the source is not there, refuses one of them, stopped sending, or sent less
            than they reach.
    """
    words, variables = _scoped(source)
    try:
        git.run(
            *words,
            f"--git-dir={path}",
            "fetch",
            *_FLAGS,
            "--",
            source.url,
            stdin="".join(f"{oid}\n" for oid in sorted(set(oids))).encode("ascii"),
            config=(*_SETTINGS, *_limits(source)),
            env={**PLAIN, **variables},
        )
    except GitFailed as failure:
        raise GitFailed(
            failure.command, failure.status, _without_secrets(failure.stderr, source)
        ) from None


def _scoped(source: Source) -> tuple[list[str], dict[str, str]]:
    """The header, for this URL only: words for git, and the variables that they name.

    ``--config-env`` takes the name of a setting up to the *last* ``=``, so a URL may hold some.
    """
    name = f"http.{source.url}.extraHeader"
    words = [f"--config-env={name}={_EMPTY_VARIABLE}"]  # an empty value forgets all before it
    variables = {_EMPTY_VARIABLE: ""}
    if source.authorization is not None:
        words.append(f"--config-env={name}={_HEADER_VARIABLE}")
        variables[_HEADER_VARIABLE] = f"Authorization: {source.authorization}"
    return words, variables


def _limits(source: Source) -> list[tuple[str, str]]:
    limits = [
        ("http.lowSpeedLimit", "1"),
        ("http.lowSpeedTime", str(max(1, math.ceil(source.stall_seconds)))),
    ]
    if source.ca_file is not None:
        limits.append(("http.sslCAInfo", str(source.ca_file)))
    return limits


def _without_secrets(message: str, source: Source) -> str:
    """What git said; a server may have repeated what it was shown."""
    for secret in filter(None, (source.authorization, *(source.authorization or "").split()[-1:])):
        message = message.replace(secret, "[redacted]")
    return message
