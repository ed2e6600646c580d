# Law of this file: which servers have the repositories that we have, the operator says; that nobody
# could be sent to any of them is an error, not a setting that does nothing.

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from redirects.sessions import HERE, SessionMirror, Vcs
from server.setting_types import BaseUrl, Duration, Section
from server.settings_targets import StandingSection
from server.settings_upstreams import Pattern

_BOTH: frozenset[Vcs] = frozenset({"git", "hg"})


class SessionSettings(Section):
    """What this server is for sessions that others send here."""

    here: bool = Field(
        False,
        description=f"Serve every repository below `{HERE}/` too, where sessions stay and nothing"
        " is pushed: for the server that is the mirror. A proxy whose rules go by path must have"
        f" the same ones for `{HERE}/`.",
    )


class SessionMirrorSettings(StandingSection):
    """Another server with repositories from below ROOT, to which whole sessions may move."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]*$", description="Name in logs and figures; each its own."
    )
    url: BaseUrl = Field(
        description="Base URL below which it serves them by the names by which they are served"
        " here, to everybody."
    )
    repositories: tuple[Pattern, ...] = Field(
        (),
        description="Repositories (shell patterns of served paths, with or without `.git`) that it"
        " has; empty: all.",
    )
    vcs: Literal["both", "git", "hg"] = Field(
        "both", description="Of what kind the repositories are that it has."
    )
    offramp: bool = Field(
        False,
        description=f"It is an Offramp with `sessions.here`: sessions move below its `{HERE}/`,"
        " where it moves none on and takes no pushes. Without this, an Offramp that has"
        " `session_mirrors` is refused.",
    )
    read_only: bool = Field(
        False,
        description="It takes no pushes of Mercurial. A push begins with the same request as a"
        " pull, so that it would go there too: sessions of Mercurial move only to mirrors with this"
        " or `offramp`.",
    )
    max_age: Duration = Field(
        60.0,
        ge=1.0,
        le=3600.0,
        description="How long a comparison of its refs with ours holds. Those of repositories that"
        " clients ask for are compared again after a third of it.",
    )

    @property
    def mirror(self) -> SessionMirror:
        """What decisions are made of."""
        return SessionMirror(
            self.name,
            self.url,
            self.repositories,
            _BOTH if self.vcs == "both" else frozenset({self.vcs}),
            self.offramp,
            self.read_only,
            self.max_age,
        )


def check_session_mirrors(
    mirrors: Sequence[SessionMirrorSettings],
    *,
    public_url: str | None,
    local: bool,
    private: bool,
    behind_login: bool,
) -> None:
    """See that sessions could move.

    Args:
        mirrors: those of the settings.
        public_url: where clients reach this server.
        local: repositories below ROOT are served.
        private: they are not for everybody.
        behind_login: a proxy in front asks clients for passwords, and hands none on.

    Raises:
        ValueError: none could, or two mirrors have one name, or one of them is this server.
    """
    if not mirrors:
        return
    names = [mirror.name for mirror in mirrors]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"two session mirrors are named {min(twice)!r}; give each its own name")
    if not any(mirror.weight for mirror in mirrors):
        raise ValueError(
            "every session mirror has weight = 0, so no session would move; remove session_mirrors"
            " if that is meant"
        )
    if not local:
        raise ValueError(
            "session_mirrors are for repositories below ROOT, and there is none: sessions with"
            " repositories of upstreams stay, since what their refs are depends on the caller"
        )
    if private:
        raise ValueError(
            "session_mirrors are given, and repositories below ROOT are private, so no session"
            " would move; remove session_mirrors, or say access.public = true if everybody may read"
            " what these repositories hold"
        )
    if behind_login:
        raise ValueError(
            'session_mirrors, and access.auth = "proxy": clients show that proxy a password'
            " which is not seen here, and would show it to a mirror as well; remove one of them"
        )
    for mirror in mirrors:
        if mirror.url == public_url:
            raise ValueError(
                f"session mirror {mirror.name!r} has the URL of this server (public_url"
                f" {public_url}); write that of another one"
            )
