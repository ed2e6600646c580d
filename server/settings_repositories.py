# Law of this file: how repositories of each kind are served, and who may push to them.

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, field_validator

from server.setting_types import Duration, Section
from server.settings_upstreams import Pattern, matches


class GitSettings(Section):
    """How git repositories are served."""

    push: tuple[str, ...] = Field(
        (), description="Repositories (shell patterns of served paths) that accept pushes."
    )
    allow_filter: bool = Field(
        True,
        description="Partial clones (`--filter`) of repositories whose own configuration does not"
        " set uploadpack.allowFilter.",
    )
    catalog_refresh: Duration = Field(
        15.0, gt=0, description="How often the catalog of a repository is read again."
    )

    def may_push(self, name: str) -> bool:
        """Tell whether the repository served as ``name`` accepts pushes."""
        return matches(name, self.push)


_RELEASE_LINE: Final = re.compile(r"[0-9]{1,2}\.[0-9]{1,2}")


def _release_line(value: str) -> str:
    if _RELEASE_LINE.fullmatch(value) is None:
        raise ValueError(f'{value!r} is no release line of Mercurial; write one such as "7.2"')
    return value


HgVersion = Annotated[str, AfterValidator(_release_line)]
"""A release line of Mercurial, such as ``7.2``."""


HgBundleKind = Literal["zstd-v2", "gzip-v2", "stream-v2"]


class HgSettings(Section):
    """How Mercurial repositories are served."""

    program: str = Field(
        "hg",
        min_length=1,
        description="The Mercurial program that reads repositories: a name that is looked for in"
        " PATH, or an absolute path.",
    )
    streams: int = Field(
        4,
        ge=1,
        le=16,
        description="Large answers that one reply sends side by side, each compressed on a core of"
        " its own.",
    )
    stream_clones: bool = Field(
        True,
        description="Offer the store's own files (`hg clone --stream`), where nothing in them is"
        " secret or hidden.",
    )
    bundles: tuple[HgBundleKind, ...] = Field(
        ("zstd-v2", "gzip-v2", "stream-v2"),
        description="Clone bundles that are made of each repository, in the order in which clients"
        " are told of them; they take the first that they can. `stream-v2` is for `hg clone"
        " --stream`. Of an empty list none are made, and clones come inline.",
    )
    bundle_growth: float = Field(
        0.02,
        ge=0,
        description="A clone bundle is made again when the repository has grown by this share of"
        " its changesets; until then the rest is answered beside it.",
    )
    bundle_level: int = Field(
        10,
        ge=1,
        le=22,
        description="Level of zstd in `zstd-v2` bundles. From 20 on, clients need 32 MiB and more"
        " to read them.",
    )
    min_changesets: int = Field(
        1, ge=1, description="Repositories with fewer changesets get no clone bundles."
    )
    push: tuple[Pattern, ...] = Field(
        (), description="Repositories (shell patterns of served paths) that accept pushes."
    )
    inline_bundles: bool = Field(
        True,
        description="Clone bundles for which no target suits a client are sent by this server to"
        " clients that take them so (Mercurial 6.9 and later).",
    )
    redirect_getbundle: Literal["off", "pulls", "on"] = Field(
        "off",
        description="Answer a `getbundle` by an HTTP redirect to the store. Stock clients follow"
        " one, and then ask that place whatever else they want to know; `pulls`: only where they"
        " ask nothing more. `on`: clones too, of which `hg clone -u NAME` then fails. Never for"
        " clients that log in, since they would show their password there.",
    )
    redirect_getbundle_clients: tuple[HgVersion, ...] = Field(
        ("5.9", "6.9", "7.2"),
        description="Versions of Mercurial that are redirected so: those with which it was tested.",
    )
    silence: Duration = Field(
        120.0,
        gt=0,
        description="Time for which the `hg serve` behind this server may say nothing in an"
        " answer; then it is given up, and started again if it does not answer at all.",
    )

    @field_validator("program")
    @classmethod
    def _is_program(cls, value: str) -> str:
        # hg is started in other directories than this one.
        if "/" in value and not value.startswith("/"):
            raise ValueError(
                f"{value!r} is a relative path; write an absolute one, or a name that is in PATH"
            )
        return value

    @field_validator("bundles")
    @classmethod
    def _are_different(cls, value: tuple[HgBundleKind, ...]) -> tuple[HgBundleKind, ...]:
        twice = [kind for kind in value if value.count(kind) > 1]
        if twice:
            raise ValueError(f"{twice[0]!r} is in it twice; write each kind once, in your order")
        return value

    def may_push(self, name: str) -> bool:
        """Tell whether the repository served as ``name`` accepts pushes."""
        return matches(name, self.push)
