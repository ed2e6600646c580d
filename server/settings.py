# Law of this file: every setting has a name, a default, a unit and a reason; a misspelt key is an
# error. Flags win over OFFRAMP_* variables, these over the file.

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from server.setting_types import BaseUrl, Duration, Section, Size, host_port
from server.settings_admin import AdminSettings, overlap
from server.settings_health import HealthSettings
from server.settings_letter_case import check_patterns
from server.settings_limits import LimitSettings
from server.settings_regions import RegionSettings
from server.settings_repositories import GitSettings, HgSettings
from server.settings_sessions import SessionMirrorSettings, SessionSettings, check_session_mirrors
from server.settings_stores import MAIN, PlacementSettings, ReplicaSettings, check_stores
from server.settings_targets import (
    DirectoryStoreSettings,
    S3TargetSettings,
    SelfTargetSettings,
    StoreSettings,
    TargetSettings,
)
from server.settings_tracing import TracingSettings
from server.settings_upstreams import (
    AccessSettings,
    MirrorSettings,
    Network,
    Pattern,
    UpstreamSettings,
)


class RedirectSettings(Section):
    """When content is named by a location instead of being sent."""

    enabled: bool = Field(True, description="False: everything inline.")
    off_repositories: tuple[Pattern, ...] = Field(
        (),
        description="Repositories (shell patterns of served paths, with or without `.git`) whose"
        " content goes inline.",
    )
    off_networks: tuple[Network, ...] = Field(
        (), description="Addresses and networks whose clients get everything inline."
    )
    percentage: float = Field(
        100.0,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="How many of the clients that accept locations are redirected: of each"
        " repository, this share of the networks (/24, of IPv6 /56). Each network stays on its"
        " side, on every server; raising it only adds some.",
    )
    shadow: bool = Field(
        False,
        description="Choose locations, publish and count as always, and send everything inline all"
        " the same: to see in the figures what would happen.",
    )
    min_size: Size = Field(
        64 << 10,
        description="Smaller packs go inline: a download of its own costs more than it saves, and"
        " git keeps every redirected pack as a pack.",
    )
    max_wait: Duration = Field(
        10.0,
        description="How long a client that accepts locations waits for a pack that is being made"
        " before it is fed inline.",
    )
    lifetime: Duration = Field(
        6 * 3600.0,
        gt=0,
        le=6 * 86400.0,
        description="How long a signed URL lives at least; it must outlive the whole download."
        " S3 allows 7 days.",
    )
    window: Duration = Field(
        900.0,
        gt=0,
        le=86400.0,
        description="Signed URLs are the same within a window, so that caches in front can keep"
        " them and signing costs nothing.",
    )
    other_regions: bool = Field(
        True,
        description="Clients for whom there is neither a target of their region nor one for"
        " everywhere, or whose region is not known, are sent to targets of other regions. False:"
        " they get everything inline.",
    )


class CacheSettings(Section):
    """Answers that were computed once."""

    max_size: Size = Field(20 << 30, description="Entities and records on disk, together.")


class RetentionSettings(Section):
    """How long the store keeps what no catalog names any more."""

    keep: Duration = Field(
        7 * 86400.0,
        description="Age at which an entity that no bundle names is deleted from the store. It is"
        " never named to clients when it could be deleted before its URL expires.",
    )


class IndexSettings(Section):
    """Bundles that are made in advance."""

    enabled: bool = Field(False, description="`serve` indexes by itself.")
    interval: Duration = Field(900.0, ge=1, description="Time between two runs of `serve`.")
    growth: float = Field(
        0.05,
        ge=0,
        description="A bundle is made again when the repository has grown by this share of its"
        " objects; until then the rest is answered by a small pack beside it.",
    )
    min_objects: int = Field(1, ge=1, description="Repositories with fewer objects get no bundles.")
    blobless: bool = Field(True, description="Make a bundle for `--filter=blob:none` too.")
    bundle_uri: bool = Field(
        True, description="Publish each bundle as a git bundle file as well, for bundle-uri."
    )


class LogSettings(Section):
    """What is written to standard error."""

    format: Literal["console", "json"] = Field(
        "console", description="For people, or one JSON object a line."
    )
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level.")
    access: bool = Field(True, description="A line for each request.")
    decisions: float = Field(
        0.01,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Share of the decisions on who is sent where that get a line with all that was"
        " passed over, drawn by chance: 0 none, 1 all.",
    )


class Settings(BaseSettings):
    """All settings of Offramp."""

    model_config = SettingsConfigDict(
        env_prefix="OFFRAMP_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    root: Path | None = Field(
        None,
        description="Every repository below this directory is served; by default the current"
        " directory, or none where there are upstreams.",
    )
    data: Path = Field(Path("offramp-data"), description="Cache, and the embedded store.")
    listen: str = Field(
        "127.0.0.1:8417",
        description="HOST:PORT; port 0 takes a free one. A socket that systemd passes is listened"
        " on in its place.",
    )
    public_url: BaseUrl | None = Field(
        None,
        description="How clients reach this server; by default what they wrote in their request's"
        " Host header, over http. Set it behind a proxy that speaks TLS.",
    )
    workers: int = Field(1, ge=1, le=256, description="Server processes that share the port.")
    reuse_port: bool = Field(
        False,
        description="Let another server of the same user, with this setting too, listen at the same"
        " port: one is started beside the one that is to be stopped, and nobody is refused"
        " meanwhile. By default a port that somebody has is not shared.",
    )
    admin: AdminSettings = AdminSettings()
    store: StoreSettings = Field(DirectoryStoreSettings(), description="Where entities live.")
    stores: tuple[ReplicaSettings, ...] = Field(
        (), description="More places for copies of entities, each with targets of its own."
    )
    placements: tuple[PlacementSettings, ...] = Field(
        (), description="Which stores the content of which repositories goes to; by default all."
    )
    targets: tuple[TargetSettings, ...] = Field(
        (),
        description="Ways for clients to read a store, in order of preference; by default"
        " `self`, and `s3` before it when the store is S3.",
    )
    regions: RegionSettings = RegionSettings()
    access: AccessSettings = AccessSettings()
    upstreams: tuple[UpstreamSettings, ...] = Field(
        (), description="Forges and servers whose repositories are mirrored and served."
    )
    mirrors: MirrorSettings = MirrorSettings()
    sessions: SessionSettings = SessionSettings()
    session_mirrors: tuple[SessionMirrorSettings, ...] = Field(
        (),
        description="Other servers of the same repositories, to which clients may be redirected"
        " with their first request.",
    )
    redirect: RedirectSettings = RedirectSettings()
    health: HealthSettings = HealthSettings()
    cache: CacheSettings = CacheSettings()
    retention: RetentionSettings = RetentionSettings()
    index: IndexSettings = IndexSettings()
    git: GitSettings = GitSettings()
    hg: HgSettings = HgSettings()
    limits: LimitSettings = LimitSettings()
    log: LogSettings = LogSettings()
    tracing: TracingSettings = TracingSettings()

    @model_validator(mode="after")
    def _whole(self) -> Settings:
        host_port(self.listen)
        private = self.admin.listen if self.admin.socket_path is None else None
        if private is not None and overlap(private, self.listen):
            raise ValueError(
                f"admin.listen is {private} and listen {self.listen}: who connects to one may come"
                " to the other; give them ports of their own"
            )
        names = [target.name for target in self.targets]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"two targets are named {min(twice)!r}; give each its own name")
        targets = self.effective_targets()
        check_stores(self.store, self.stores, self.placements, targets, self.data)
        for target in self.targets:
            if target.type == "s3" and self.store_of(target).type != "s3":
                raise ValueError(
                    f"target {target.name!r}: a target of type s3 needs a store of type s3, and"
                    f' {target.store!r} is a directory; write type = "self", or name another store'
                )
        if self.targets and not any(target.weight for target in self.targets):
            raise ValueError(
                "every target has weight = 0, so nobody would be sent anywhere; write"
                " redirect.enabled = false if that is meant"
            )
        longest = self.redirect.lifetime + self.redirect.window
        if self.retention.keep < 2 * longest:
            raise ValueError(
                f"retention.keep ({self.retention.keep:.0f} s) must be at least twice"
                f" redirect.lifetime + redirect.window ({longest:.0f} s), or URLs outlive content"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then the environment, then the file named by ``load`` (if any)."""
        del dotenv_settings, file_secret_settings
        file = settings_cls.model_config.get("toml_file")
        toml = (TomlConfigSettingsSource(settings_cls),) if file else ()
        return (init_settings, env_settings, *toml)

    @model_validator(mode="after")
    def _guarded(self) -> Settings:
        """What is private is named by signed URLs only, and every policy has what it needs."""
        self._check_policies()
        self._check_places()
        check_patterns(
            self.upstreams,
            {
                **{
                    f"access.tokens[{number}].repositories": token.repositories
                    for number, token in enumerate(self.access.tokens)
                },
                **{
                    f"access.users[{number}].repositories": user.repositories
                    for number, user in enumerate(self.access.users)
                },
                "hg.push": self.hg.push,
            },
        )
        check_session_mirrors(
            self.session_mirrors,
            public_url=self.public_url,
            local=self.local_root is not None,
            private=self.access.private,
            behind_login=self.access.auth == "proxy",
        )
        names = {target.name for target in self.effective_targets()}
        for upstream in self.upstreams:
            unknown = set(upstream.targets) - names
            if unknown:
                raise ValueError(
                    f"upstream {upstream.title!r} names the target {min(unknown)!r}, and there is"
                    f" none of that name; there are {', '.join(sorted(names))}"
                )
        self._check_scopes()
        unsigned = {target.name for target in self.effective_targets() if not target.signed}
        if not unsigned:
            return self
        # Not only where it would be named: whoever may read a store without a signature may read
        # all of it, its catalogs too, which name everything else.
        if self.local_root is not None and self.access.private:
            raise ValueError(
                f"repositories below ROOT are private (access.auth = {self.access.auth!r}), and the"
                f" URLs of target {min(unsigned)!r} are not signed; remove the target, or say"
                " access.public = true if everybody may read what these repositories hold"
            )
        for upstream in self.upstreams:
            if not upstream.public:
                raise ValueError(
                    f"upstream {upstream.title!r} is private, and the URLs of target"
                    f" {min(unsigned)!r} are not signed; remove the target, serve what is private"
                    " by a server and a store of their own, or say public = true if everybody may"
                    " read all of its repositories"
                )
        return self

    def _check_scopes(self) -> None:
        """A signature that opens everything is not given to everybody, beside what is private."""
        local = self.local_root is not None and not self.access.private
        if not self.private or not (local or any(upstream.public for upstream in self.upstreams)):
            return
        for target in self.targets:
            if target.type == "cloudfront" and target.scope == "prefix":
                raise ValueError(
                    f'target {target.name!r} has scope = "prefix": what everybody gets for a public'
                    " repository would open the content of private ones too, for whoever knows its"
                    ' SHA-256; write scope = "entity", or serve what is private by a server and a'
                    " store of their own"
                )

    def _check_places(self) -> None:
        root, data = self.local_root, self.data.resolve()
        if root is not None and root.resolve().is_relative_to(data):
            raise ValueError(
                f"ROOT {root} lies in the data directory {self.data}, in which nothing is served;"
                " give them places of their own"
            )

    def _check_policies(self) -> None:
        policies: list[tuple[str, str]] = [("access", self.access.auth)]
        policies += [(f"upstream {u.title!r}", u.auth) for u in self.upstreams]
        for where, auth in policies:
            if auth == "token" and not self.access.tokens:
                raise ValueError(f'{where} has auth = "token", and access.tokens is empty')
            if auth == "proxy" and not self.access.proxies:
                raise ValueError(f'{where} has auth = "proxy", and access.proxies is empty')
        asked = {auth for _, auth in policies}
        for auth, given in (("token", self.access.tokens), ("proxy", self.access.proxies)):
            # Whoever lists tokens believes that they are asked for.
            if given and auth not in asked:
                raise ValueError(
                    f"access.{'tokens' if auth == 'token' else 'proxies'} are given, and nothing"
                    f' asks for them; write access.auth = "{auth}", or `auth` of an upstream'
                )
        titles = [upstream.title.removesuffix(".git") for upstream in self.upstreams]
        twice = {title for title in titles if titles.count(title) > 1}
        if twice:
            raise ValueError(f"two upstreams are served at {min(twice)!r}")

    @property
    def private(self) -> bool:
        """Something that is served is not for everybody."""
        local = self.local_root is not None and self.access.private
        return local or any(not upstream.public for upstream in self.upstreams)

    @property
    def local_root(self) -> Path | None:
        """Below which repositories of this machine are served; None for upstreams alone."""
        if self.root is None and self.upstreams:
            return None
        return self.root or Path()

    def effective_targets(self) -> tuple[TargetSettings, ...]:
        """The configured targets, or the defaults that go with the store."""
        if self.targets:
            return self.targets
        own = SelfTargetSettings(type="self")
        return (S3TargetSettings(type="s3"), own) if self.store.type == "s3" else (own,)

    def store_of(self, target: TargetSettings) -> StoreSettings | ReplicaSettings:
        """The store that a target reads."""
        if target.store == MAIN:
            return self.store
        return next(store for store in self.stores if store.name == target.store)


def load(file: Path | None, **flags: object) -> Settings:
    """Read settings from ``file`` (TOML), the environment and ``flags``, the last winning.

    Raises:
        pydantic.ValidationError: a key is unknown or a value is out of bounds.
        tomllib.TOMLDecodeError, OSError: the file cannot be read.
    """
    if file is None:
        return Settings(**flags)  # type: ignore[arg-type]
    file.open("rb").close()

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    # As a plain value, which can be handed to another process.
    return Settings(**FromFile(**flags).model_dump())  # type: ignore[arg-type]
