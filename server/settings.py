# Law of this file: every setting has a name, a default, a unit and a reason; a misspelt key is an
# error. Flags win over OFFRAMP_* variables, these over the file.

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from server.setting_types import BaseUrl, Duration, Section, Size
from server.settings_health import HealthSettings
from server.settings_regions import RegionPattern, RegionSettings
from server.settings_signing import CloudFrontKeySettings, SecretKeySettings, check_ids
from server.settings_upstreams import (
    AccessSettings,
    MirrorSettings,
    Network,
    Pattern,
    UpstreamSettings,
    matches,
)


class DirectoryStoreSettings(Section):
    """Entities in a directory of this machine."""

    type: Literal["directory"] = "directory"
    path: Path | None = Field(
        None, description="Where; by default `store` below the data directory."
    )


class S3StoreSettings(Section):
    """Entities in an S3 bucket, or in anything that speaks its protocol."""

    type: Literal["s3"]
    bucket: str = Field(min_length=1, description="The bucket's name; it must exist.")
    prefix: str = Field("", description="Put before every key; no leading slash.")
    region: str | None = Field(
        None, description="Region; by default that of the AWS configuration."
    )
    endpoint: BaseUrl | None = Field(None, description="Base URL of an S3 look-alike.")
    path_style: bool = Field(False, description="Bucket in the path, as most look-alikes want it.")
    access_key_id: str | None = Field(None, description="By default the AWS credential chain.")
    secret_access_key: SecretStr | None = Field(None, description="Goes with access_key_id.")
    session_token: SecretStr | None = Field(None, description="For temporary credentials.")
    part_size: Size = Field(16 << 20, ge=5 << 20, description="Size of a multipart upload's parts.")
    concurrency: int = Field(4, ge=1, le=64, description="Parts that are sent side by side.")
    max_attempts: int = Field(4, ge=1, description="Tries for each request to the store.")
    timeout: Duration = Field(20.0, gt=0, description="Connect and read timeout of one try.")

    @model_validator(mode="after")
    def _pairs(self) -> S3StoreSettings:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key go together")
        if self.prefix.startswith("/"):
            raise ValueError(f"prefix {self.prefix!r} must not begin with a slash")
        return self


StoreSettings = Annotated[DirectoryStoreSettings | S3StoreSettings, Field(discriminator="type")]


TlsVersion = Literal["1.0", "1.1", "1.2", "1.3"]


class TargetSection(Section):
    """For whom a target is, and what clients of Mercurial's protocol v2 are told to judge it by."""

    regions: tuple[RegionPattern, ...] = Field(
        (),
        description="Regions (names, or shell patterns such as `eu-*`) whose clients it serves;"
        " empty: those of everywhere.",
    )
    priority: int | None = Field(
        None,
        description="Of the targets that are equally near, those with a lower one are tried before"
        " those with a higher; by default a target's place in the list, 1 for the first. Targets"
        " with the same one share the load.",
    )
    weight: float = Field(
        1.0,
        ge=0,
        allow_inf_nan=False,
        description="Its share of the load among targets that are equally near and have the same"
        " priority, relative to theirs. 0: nobody is sent there.",
    )
    sni_required: bool = Field(
        True,
        description="Clients must send the host's name in the TLS handshake; told of `https` hosts"
        " that have a name.",
    )
    tls_versions: tuple[TlsVersion, ...] = Field(
        ("1.2", "1.3"),
        description="TLS versions that an `https` target speaks; an empty list says nothing of"
        " them. Mercurial drops a target that lists none that it knows, and 5.9 knows no 1.3.",
    )


class SelfTargetSettings(TargetSection):
    """This server's own blob route, `/-/blobs/...`, with signed URLs that expire."""

    type: Literal["self"]
    name: str = Field("self", pattern=r"^[a-z0-9][a-z0-9._-]*$", description="Name in logs.")

    @property
    def signed(self) -> bool:
        """It gives signed URLs that expire."""
        return True


class S3TargetSettings(TargetSection):
    """The configured S3 store itself."""

    type: Literal["s3"]
    name: str = Field("s3", pattern=r"^[a-z0-9][a-z0-9._-]*$", description="Name in logs.")
    public: bool = Field(
        False,
        description="The bucket's `entities/` are readable by all: do not sign URLs. Refused beside"
        " anything private.",
    )
    endpoint: BaseUrl | None = Field(
        None, description="Base URL that clients reach, if it is not the store's."
    )

    @property
    def signed(self) -> bool:
        """It gives signed URLs that expire, unless the bucket is public."""
        return not self.public


class HttpTargetSettings(TargetSection):
    """A CDN or static server in front of the store: its URL plus `/entities/ab/<sha256>`.

    Its URLs are not signed, so it is refused beside anything private.
    """

    type: Literal["http"]
    name: str = Field("http", pattern=r"^[a-z0-9][a-z0-9._-]*$", description="Name in logs.")
    base_url: BaseUrl = Field(
        description="URL below which the store's `entities/` can be read, and nothing else of it:"
        " `documents/` must not be."
    )

    @property
    def signed(self) -> bool:
        """Whoever knows a digest can read: its URLs are not signed."""
        return False


class CloudFrontTargetSettings(TargetSection):
    """A CloudFront distribution whose viewers must show signed URLs, in front of the store."""

    type: Literal["cloudfront"]
    name: str = Field("cloudfront", pattern=r"^[a-z0-9][a-z0-9._-]*$", description="Name in logs.")
    base_url: BaseUrl = Field(
        description="URL of the distribution below which the store's `entities/` can be read, and"
        " nothing else of it."
    )
    keys: tuple[CloudFrontKeySettings, ...] = Field(min_length=1)
    scope: Literal["entity", "prefix"] = Field(
        "entity",
        description="What one signature opens. `entity`: the one that its URL names (canned"
        " policy). `prefix`: everything below `entities/`, for whoever knows its SHA-256, so one"
        " signature a window serves all (custom policy); refused where something private is served"
        " beside something public.",
    )
    algorithm: Literal["sha1", "sha256"] = Field(
        "sha256", description="Hash of the signature; CloudFront is told of `sha256`."
    )

    @model_validator(mode="after")
    def _ids(self) -> CloudFrontTargetSettings:
        check_ids(self.keys)
        return self

    @property
    def signed(self) -> bool:
        """It gives signed URLs that expire."""
        return True


class _SharedSecretTarget(TargetSection):
    base_url: BaseUrl = Field(
        description="URL below which the store's `entities/` can be read, and nothing else of it."
    )
    keys: tuple[SecretKeySettings, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _ids(self) -> Self:
        check_ids(self.keys)
        return self

    @property
    def signed(self) -> bool:
        """It gives signed URLs that expire."""
        return True


class SecureLinkTargetSettings(_SharedSecretTarget):
    """An nginx that checks URLs by its `secure_link_md5`, in front of the store."""

    type: Literal["secure_link"]
    name: str = Field("secure_link", pattern=r"^[a-z0-9][a-z0-9._-]*$", description="Name in logs.")


class HmacTargetSettings(_SharedSecretTarget):
    """A CDN whose edge checks an HMAC, as this server does for its own blob route."""

    type: Literal["hmac"]
    name: str = Field("hmac", pattern=r"^[a-z0-9][a-z0-9._-]*$", description="Name in logs.")


TargetSettings = Annotated[
    SelfTargetSettings
    | S3TargetSettings
    | HttpTargetSettings
    | CloudFrontTargetSettings
    | SecureLinkTargetSettings
    | HmacTargetSettings,
    Field(discriminator="type"),
]


class RedirectSettings(Section):
    """When content is named by a location instead of being sent."""

    enabled: bool = Field(True, description="False: everything inline.")
    off_repositories: tuple[Pattern, ...] = Field(
        (),
        description="Repositories (shell patterns of served paths) whose content goes inline.",
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


class LimitSettings(Section):
    """Bounds on what a client can make this server do."""

    request_body: Size = Field(
        16 << 20,
        description="Bytes of one fetch request after decompression: 300,000 wants and haves,"
        " or 700,000 nodes of Mercurial.",
    )
    push_body: Size = Field(4 << 30, description="Bytes of one push after decompression.")
    programs: int = Field(
        8, ge=1, description="Programs and runs side by side in one server process."
    )
    program_time: Duration = Field(
        3600.0, gt=0, description="Longest run of one program; then it is ended."
    )
    request_time: Duration = Field(
        60.0, gt=0, description="Time in which a client must have sent its request."
    )
    stall_time: Duration = Field(
        300.0, gt=0, description="Time for which a client may take no byte of an answer."
    )


class LogSettings(Section):
    """What is written to standard error."""

    format: Literal["console", "json"] = Field(
        "console", description="For people, or one JSON object a line."
    )
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level.")
    access: bool = Field(True, description="A line for each request.")


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
    listen: str = Field("127.0.0.1:8417", description="HOST:PORT; port 0 takes a free one.")
    public_url: BaseUrl | None = Field(
        None,
        description="How clients reach this server; by default what they wrote in their request's"
        " Host header, over http. Set it behind a proxy that speaks TLS.",
    )
    workers: int = Field(1, ge=1, le=256, description="Server processes that share the port.")
    store: StoreSettings = Field(DirectoryStoreSettings(), description="Where entities live.")
    targets: tuple[TargetSettings, ...] = Field(
        (),
        description="Ways for clients to read the store, in order of preference; by default"
        " `self`, and `s3` before it when the store is S3.",
    )
    regions: RegionSettings = RegionSettings()
    access: AccessSettings = AccessSettings()
    upstreams: tuple[UpstreamSettings, ...] = Field(
        (), description="Forges and servers whose repositories are mirrored and served."
    )
    mirrors: MirrorSettings = MirrorSettings()
    redirect: RedirectSettings = RedirectSettings()
    health: HealthSettings = HealthSettings()
    cache: CacheSettings = CacheSettings()
    retention: RetentionSettings = RetentionSettings()
    index: IndexSettings = IndexSettings()
    git: GitSettings = GitSettings()
    hg: HgSettings = HgSettings()
    limits: LimitSettings = LimitSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _whole(self) -> Settings:
        host_port(self.listen)
        names = [target.name for target in self.targets]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"two targets are named {min(twice)!r}; give each its own name")
        if any(t.type == "s3" for t in self.targets) and self.store.type != "s3":
            raise ValueError("a target of type s3 needs a store of type s3")
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


def host_port(listen: str) -> tuple[str, int]:
    """Split ``HOST:PORT`` (``[::1]:8417`` for IPv6).

    Raises:
        ValueError: it is not of that form.
    """
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"listen {listen!r} is not HOST:PORT, such as 127.0.0.1:8417")
    return host, int(port)
