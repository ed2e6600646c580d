# Law of this file: nobody outside the upstreams that are listed here is ever contacted, and what is
# not said to be public is private.

from __future__ import annotations

import hashlib
import ipaddress
import math
import re
import string
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from server.setting_types import BaseUrl, Duration, Section, Size, parse_duration

_SEGMENT = re.compile(r"[A-Za-z0-9._~+@-]+")
_HEADER = re.compile(r"[A-Za-z0-9-]+")
_HOST = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Visible ASCII: what fits a header of any scheme, and what no shell has added a line break to.
_TOKEN = re.compile(r"[!-~]+")
_LEAST_TOKEN: Final = 16
# Where mirrors keep what no ref names.
_OUR_REFS: Final = "refs/offramp/"
# Hosts that are known to take names in any case.
_ANY_CASE: Final = frozenset({"github.com", "gitlab.com", "bitbucket.org", "codeberg.org"})
# Forges have no letters beyond ASCII in names, and what is lower case beyond it they may not know.
_LOWER: Final = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
# Headers that hold credentials are no names of users.
_CREDENTIALS: Final = frozenset({"authorization", "proxy-authorization", "cookie"})


def _place(value: object) -> object:
    """A served path: its segments, without slashes around."""
    if not isinstance(value, str):
        return value
    segments = value.strip("/").split("/")
    for segment in segments:
        if segment in {"-", ".", "..", ".git"} or _SEGMENT.fullmatch(segment) is None:
            raise ValueError(
                f"{value!r} is no path to serve at; write segments of A-Z a-z 0-9 . _ ~ + @ -"
                " between slashes; `-` alone is where our own pages are"
            )
    return "/".join(segments)


def _network(value: object) -> object:
    """A network in its one spelling; one of IPv4 in IPv6 (``::ffff:0:0/96``) is of IPv4."""
    if not isinstance(value, str):
        return value
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError(f"{value!r} is no address or network, such as 10.0.0.0/8") from None
    first = network.network_address
    if ipaddress.ip_address(value.partition("/")[0]) != first:
        raise ValueError(
            f"{value!r} is an address within {network}; write that, or the address alone"
        )
    if isinstance(first, ipaddress.IPv6Address) and first.ipv4_mapped and network.prefixlen >= 96:
        return f"{first.ipv4_mapped}/{network.prefixlen - 96}"
    return str(network)


def _pattern(value: str) -> str:
    """A pattern that can match a served name: a ``deny`` that never matches denies nothing."""
    if not value or value.startswith("/") or value.endswith("/"):
        raise ValueError(
            f"{value!r} matches no repository; write a shell pattern without slashes around it,"
            " such as acme/*"
        )
    return value


def _bare_pattern(value: str) -> str:
    if value.endswith(".git"):
        raise ValueError(f"{value!r} matches no repository; write it without .git")
    return _pattern(value)


def _ref_pattern(value: str) -> str:
    if not value.startswith("refs/") or value.startswith(_OUR_REFS):
        raise ValueError(
            f"{value!r} matches no ref of an upstream; write a shell pattern such as refs/heads/*"
        )
    return value


Place = Annotated[str, BeforeValidator(_place)]
Network = Annotated[str, BeforeValidator(_network)]
Pattern = Annotated[str, AfterValidator(_pattern)]
BarePattern = Annotated[str, AfterValidator(_bare_pattern)]
RefPattern = Annotated[str, AfterValidator(_ref_pattern)]


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a name fits one of the shell patterns; ``*`` takes slashes too."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


class TokenSettings(Section):
    """One token of our own, and what it opens."""

    token: SecretStr | None = Field(None, description="The token, at least 16 characters.")
    # Secret as well: who mistakes the two writes the token here.
    sha256: SecretStr | None = Field(
        None,
        description="SHA-256 of the token in hex, in place of the token itself:"
        " `printf %s TOKEN | sha256sum`.",
    )
    repositories: tuple[Pattern, ...] = Field(
        description="Repositories (shell patterns of served paths, with or without `.git`) that it"
        " opens for reading, and for pushing where `git.push` or `hg.push` lists them."
    )

    @model_validator(mode="after")
    def _one(self) -> TokenSettings:
        if (self.token is None) == (self.sha256 is None):
            raise ValueError("a token is given either as `token` or as `sha256`; write one of them")
        if self.token is not None:
            token = self.token.get_secret_value()
            if len(token) < _LEAST_TOKEN or _TOKEN.fullmatch(token) is None:
                raise ValueError(
                    f"a token has at least {_LEAST_TOKEN} characters, of ASCII and without spaces;"
                    " make one with `openssl rand -hex 20`"
                )
        if self.sha256 is not None:
            digest = self.sha256.get_secret_value()
            if _SHA256.fullmatch(digest) is None or digest == hashlib.sha256().hexdigest():
                raise ValueError(
                    "`sha256` is 64 lower-case hex digits, of a token that is not empty; make it"
                    " with `printf %s TOKEN | sha256sum`"
                )
        return self


class UserSettings(Section):
    """What a user whom the proxy names may read."""

    user: str = Field(min_length=1, description="Shell pattern of user names.")
    repositories: tuple[Pattern, ...] = Field(
        description="Repositories (shell patterns of served paths, with or without `.git`) that"
        " they may read."
    )


class AccessSettings(Section):
    """Who may read; `auth` and `public` here are those of repositories below ROOT."""

    auth: Literal["none", "token", "proxy"] = Field(
        "none",
        description="`none`: who reaches this server may read. `token`: who shows one of"
        " `access.tokens`. `proxy`: whom a proxy in front has named in `user_header`.",
    )
    public: bool = Field(
        False,
        description="Everybody may read the content of repositories below ROOT, so that unsigned"
        ' URLs may name it. With `auth = "none"` that is so anyway.',
    )
    tokens: tuple[TokenSettings, ...] = Field(
        (),
        description="Tokens of our own. A client shows one as Bearer token, or as the password of"
        " any user.",
    )
    proxies: tuple[Network, ...] = Field(
        (), description="Addresses and networks of the proxies whose `user_header` is believed."
    )
    user_header: str = Field(
        "X-Forwarded-User",
        description="Header in which such a proxy names the user. The proxy must replace what the"
        " client wrote there: a header that comes twice, or holds a comma, names nobody.",
    )
    operators: tuple[Network, ...] = Field(
        (),
        description="Addresses and networks that may see the status page, its figures and"
        " `/-/metrics`, which name repositories, and the status API. By default everybody, but for"
        " the status API; and nobody where something private is served. `admin.listen` is another"
        " way.",
    )
    users: tuple[UserSettings, ...] = Field(
        (UserSettings(user="*", repositories=("*",)),),
        description="What users whom a proxy names may read; by default everything.",
    )

    @field_validator("user_header")
    @classmethod
    def _is_header(cls, value: str) -> str:
        if _HEADER.fullmatch(value) is None:
            # It may be a whole header, with a secret behind its name.
            name = re.split(r"[^A-Za-z0-9_-]", value, maxsplit=1)[0]
            raise ValueError(
                f"{name!r}{'...' if name != value else ''} is no name of a header; write one such"
                " as X-Forwarded-User"
            )
        if value.lower() in _CREDENTIALS:
            raise ValueError(f"{value!r} holds credentials, not the name of a user")
        return value

    @property
    def private(self) -> bool:
        """Repositories below ROOT are not for everybody."""
        return self.auth != "none" and not self.public


def fault_of_secret(secret: str, username: str | None) -> str:
    """Why ``secret`` can be no password of ``username``, or no token without one; empty if it can.

    The secret is not in it.
    """
    if not secret:
        return "is empty; write it, or leave `credential` out"
    if not secret.isprintable():
        return "holds control characters"
    if username is None and _TOKEN.fullmatch(secret) is None:
        return "holds what no Bearer token holds; if it is a password, write its `username` too"
    return ""


class CredentialSettings(Section):
    """What the server itself shows to an upstream."""

    username: str | None = Field(
        None,
        description="User name, for Basic; without it, Bearer. Forges that take a token as password"
        " want a name with it: any at GitHub (`x-access-token`), `oauth2` at GitLab.",
    )
    password: SecretStr | None = Field(None, description="Password, or token.")
    file: Path | None = Field(
        None, description="A file whose first line is the password or token, in its place."
    )

    @model_validator(mode="after")
    def _one(self) -> CredentialSettings:
        if (self.password is None) == (self.file is None):
            raise ValueError("a credential has either `password` or `file`; write one of them")
        if self.username is not None and (":" in self.username or not self.username.isprintable()):
            raise ValueError("a user name holds neither a colon nor control characters")
        if self.password is not None:
            fault = fault_of_secret(self.password.get_secret_value(), self.username)
            if fault:
                raise ValueError(f"the password {fault}")
        return self


# What only a mirror has use for. Repositories of Mercurial are not mirrored: what their upstream
# answers is kept, and asked for by the names that clients write.
_FOR_GIT: Final = ("mirror", "listed", "git_suffix", "refs", "redirect_hosts", "max_wait")


class UpstreamSettings(Section):
    """A forge, a server, or one repository of it, that is mirrored or cached, and served."""

    vcs: Literal["git", "hg"] = Field(
        "git",
        description="What it serves. Repositories of `git` are mirrored; of `hg`, Mercurial, the"
        " upstream's answers are kept, and `mirror`, `listed`, `git_suffix`, `refs`,"
        " `redirect_hosts` and `max_wait` are refused.",
    )
    prefix: Place | None = Field(
        None,
        description="Path below which the upstream's repositories are served: with `/github/`,"
        " `/github/acme/widget` is `acme/widget` at `url`.",
    )
    repository: Place | None = Field(
        None, description="Path at which one repository is served; `url` is then that repository."
    )
    url: BaseUrl = Field(description="Base URL of the upstream, or URL of the one repository.")
    allow: tuple[BarePattern, ...] = Field(
        ("*",),
        description="Repositories (shell patterns of names below the prefix, without `.git`) that"
        " may be asked for.",
    )
    deny: tuple[BarePattern, ...] = Field(
        (),
        description="Exceptions from `allow`. Upper and lower case are the same here, as they are"
        " to most forges.",
    )
    mirror: tuple[BarePattern, ...] = Field(
        ("*",),
        description="Repositories (patterns as in `allow`) that are mirrored when they are first"
        " asked for. The others are passed through to the upstream.",
    )
    listed: tuple[Place, ...] = Field(
        (),
        description="Repositories (names below the prefix) that are mirrored from the start and"
        " kept, whether or not `mirror` matches them. It needs a credential where they are not"
        " public.",
    )
    git_suffix: bool = Field(
        True,
        description="`x` and `x.git` are one repository, asked for as `x.git`: true of GitHub,"
        " GitLab, Gitea, Gerrit. False: names are asked for as clients write them.",
    )
    ignore_case: bool | None = Field(
        None,
        description="The upstream takes names in upper and lower case alike, as GitHub, GitLab,"
        " Gitea and Forgejo do: all spellings are one repository, asked for, mirrored and counted"
        " in lower case. By default true at github.com, gitlab.com, bitbucket.org and codeberg.org,"
        " else false. Say it of your own forge: each spelling is a mirror there otherwise.",
    )
    refs: tuple[RefPattern, ...] = Field(
        ("refs/heads/*", "refs/tags/*"),
        description="Refs that the mirror keeps and bundles. What other refs name is fetched when"
        " it is wanted.",
    )
    auth: Literal["upstream", "token", "proxy", "none"] = Field(
        "upstream",
        description="Who may read. `upstream`: whom the upstream lets, asked with the caller's own"
        " credentials. `token`, `proxy`, `none`: as in `access.auth`.",
    )
    auth_ttl: Duration = Field(
        60.0,
        gt=0,
        le=3600,
        description="How long the upstream's yes or no to a credential is remembered.",
    )
    public: bool = Field(
        False,
        description="Everybody may read all of its repositories, so that unsigned URLs may name"
        " their content.",
    )
    freshness: Literal["always"] | Duration = Field(
        "always",
        description="How old the refs (of Mercurial: heads, bookmarks, phases) may be that clients"
        " are told: `always` asks the upstream for each who asks (once for all who ask at the same"
        " time). No longer than `auth_ttl` where the upstream says who may read what is private.",
    )
    stale: Duration = Field(
        0.0,
        le=7 * 86400.0,
        description="How old the refs may be that clients are told while the upstream is down;"
        " public upstreams only. 0: they are told that it is down.",
    )
    credential: CredentialSettings | None = Field(
        None,
        description="What the mirror shows when it fetches, and, unless auth is `upstream`, when it"
        " asks for refs. Without it, the mirror fetches with that of the caller who waits for it."
        " With `hg` it goes with any other `auth` than `upstream`.",
    )
    targets: tuple[str, ...] = Field(
        (),
        description="Names of the targets that may serve its content; by default all. It makes"
        " nothing private: beside anything private, a target whose URLs are not signed is refused,"
        " whether or not it is listed here.",
    )
    redirect_hosts: tuple[str, ...] = Field(
        (),
        description="Hosts (with port, if it is not the usual one) to which the upstream may"
        " redirect us. Its own host may always be.",
    )
    ca_file: Path | None = Field(
        None, description="Certificates (PEM) of the authorities that its TLS is checked with."
    )
    timeout: Duration = Field(30.0, gt=0, description="Longest wait for its answer to a question.")
    stall_time: Duration = Field(
        60.0, gt=0, description="A fetch from it that gets no byte for this long is ended."
    )
    max_wait: Duration = Field(
        30.0,
        description="How long a client waits while the mirror fetches what it wants, before its"
        " request is passed through to the upstream.",
    )

    @field_validator("freshness", mode="before")
    @classmethod
    def _is_age(cls, value: object) -> object:
        """One fault for one value; the two types by themselves make two."""
        seconds = parse_duration(value)
        if seconds == "always":
            return seconds
        try:
            age = float(seconds) if isinstance(seconds, int | float | str) else math.nan
        except ValueError:
            age = math.nan
        if not 0 <= age < math.inf:
            raise ValueError(f'{value!r} is no age; write "always", or a duration such as "30s"')
        return age

    @field_validator("redirect_hosts")
    @classmethod
    def _are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            if _HOST.fullmatch(host) is None:
                raise ValueError(f"{host!r} is no host; write host or host:port")
        return tuple(host.lower() for host in value)

    @model_validator(mode="after")
    def _whole(self) -> UpstreamSettings:
        if (self.prefix is None) == (self.repository is None):
            raise ValueError("an upstream has either `prefix` or `repository`; write one of them")
        if self.vcs == "hg":
            self._check_hg()
        if self.repository is not None:
            self._check_single()
        for name in self.listed:
            bare = name.removesuffix(".git")
            if self.git_suffix and bare != name:
                raise ValueError(f"`listed` names {name!r}; write it without .git")
            if not self.allows(bare):
                raise ValueError(f"{name!r} is listed, and `allow` and `deny` do not let it be")
        if self.stale and not self.public:
            raise ValueError(
                "`stale` goes with public = true: only the upstream can say who may read what is"
                " private, and while it is down nobody can"
            )
        asked = self.auth == "upstream" and not self.public
        if asked and self.freshness != "always" and self.freshness > self.auth_ttl:
            raise ValueError(
                f"freshness ({self.freshness:.0f} s) is longer than auth_ttl"
                f" ({self.auth_ttl:.0f} s): who may no longer read would be told refs that long"
            )
        return self

    def _check_hg(self) -> None:
        fields = type(self).model_fields
        for name in _FOR_GIT:
            if getattr(self, name) != fields[name].default:
                raise ValueError(
                    f'`{name}` goes with vcs = "git"; an upstream of Mercurial is not mirrored, and'
                    " its repositories are asked for as clients write their names"
                )
        if self.credential is not None and self.auth == "upstream":
            raise ValueError(
                'with vcs = "hg" and auth = "upstream" the upstream is asked with the callers\' own'
                " credentials only; remove `credential`, or choose another `auth`"
            )

    def _check_single(self) -> None:
        fields = type(self).model_fields
        for name in ("allow", "deny", "mirror", "listed", "ignore_case"):
            if getattr(self, name) != fields[name].default:
                raise ValueError(
                    f"`{name}` goes with `prefix`; a single repository is always mirrored"
                )

    @property
    def title(self) -> str:
        """The path at which it is served."""
        return self.prefix or self.repository or ""

    @property
    def same_with_suffix(self) -> bool:
        """``x`` and ``x.git`` are one repository."""
        return self.git_suffix and self.vcs == "git"

    @property
    def any_case(self) -> bool:
        """It takes names in upper and lower case alike; of one repository there is one name."""
        if self.prefix is None:
            return False
        if self.ignore_case is None:
            return (urlsplit(self.url).hostname or "") in _ANY_CASE
        return self.ignore_case

    def allows(self, name: str) -> bool:
        """Whether the repository ``name`` (below the prefix) may be asked for at all."""
        # Most forges take a name in any case: an exception must hold for all of them.
        denied = tuple(pattern.casefold() for pattern in self.deny)
        return self._named(name, self.allow) and not matches(name.casefold(), denied)

    def mirrors(self, name: str) -> bool:
        """Whether the repository ``name`` (below the prefix) may be mirrored."""
        listed = {self.canonical(each) for each in self.listed}
        return self.canonical(name) in listed or self._named(name, self.mirror)

    def canonical(self, name: str) -> str:
        """The one spelling of a name (below the prefix), or of a part of one."""
        return name.translate(_LOWER) if self.any_case else name

    def _named(self, name: str, patterns: tuple[str, ...]) -> bool:
        return matches(self.canonical(name), tuple(map(self.canonical, patterns)))


class MirrorSettings(Section):
    """The mirrors of upstream repositories on this machine, below the data directory."""

    max_size: Size = Field(
        200 << 30,
        description="Bytes of all mirrors together; beyond, the longest unused are dropped.",
    )
    unused: Duration = Field(
        30 * 86400.0, gt=0, description="A mirror that nobody used for this long is dropped."
    )
    idle: Duration = Field(
        600.0,
        gt=0,
        description="A mirror is repacked after it was left alone for this long; packs that serve"
        " clients are not made at the same time.",
    )
    interval: Duration = Field(
        300.0, ge=1, description="How often it is looked what is to be repacked or dropped."
    )
    fetches: int = Field(
        4, ge=1, description="Mirrors that fetch side by side in one server process."
    )
