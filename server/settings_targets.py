# Law of this file: where content lives, and by which ways clients read it, the operator says; what
# names content that is private is signed.

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from server.setting_types import BaseUrl, Duration, Section, Size
from server.settings_regions import RegionPattern
from server.settings_signing import CloudFrontKeySettings, SecretKeySettings, check_ids


class DirectoryStoreSettings(Section):
    """Entities in a directory of this machine."""

    type: Literal["directory"] = "directory"
    path: Path | None = Field(
        None, description="Where; by default `store` below the data directory."
    )


_BUCKET: Final = re.compile(r"[A-Za-z0-9._-]{1,255}|arn:\S+")
_REGION: Final = re.compile(r"(?![0-9]+$)(?!-)[A-Za-z0-9-]{1,63}(?<!-)")


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

    @field_validator("bucket")
    @classmethod
    def _bucket(cls, value: str) -> str:
        # What botocore lets through; of an ARN it judges itself.
        if not _BUCKET.fullmatch(value):
            raise ValueError(
                f"{value!r} is no name of a bucket; write letters, digits, `.`, `-` and `_`, or the"
                " ARN of an access point"
            )
        return value

    @field_validator("region")
    @classmethod
    def _region(cls, value: str | None) -> str | None:
        if value is not None and not _REGION.fullmatch(value):
            raise ValueError(f"{value!r} is no name of a region; write one such as eu-west-1")
        return value

    @model_validator(mode="after")
    def _pairs(self) -> S3StoreSettings:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key go together")
        if self.prefix.startswith("/"):
            raise ValueError(f"prefix {self.prefix!r} must not begin with a slash")
        return self


StoreSettings = Annotated[DirectoryStoreSettings | S3StoreSettings, Field(discriminator="type")]


TlsVersion = Literal["1.0", "1.1", "1.2", "1.3"]


class StandingSection(Section):
    """For whom a target is, or a mirror, and how large its share of the load."""

    regions: tuple[RegionPattern, ...] = Field(
        (),
        description="Regions (names, or shell patterns such as `eu-*`) whose clients it serves;"
        " empty: those of everywhere.",
    )
    priority: int | None = Field(
        None,
        description="Of those that are equally near, those with a lower one are tried before those"
        " with a higher; by default the place in the list, 1 for the first. Those with the same one"
        " share the load.",
    )
    weight: float = Field(
        1.0,
        ge=0,
        allow_inf_nan=False,
        description="Its share of the load among those that are equally near and have the same"
        " priority, relative to theirs. 0: nobody is sent there.",
    )


class TargetSection(StandingSection):
    """What a target reads, and what clients of Mercurial's protocol v2 are told of it."""

    store: str = Field(
        "main",
        description="The store that it reads: `main`, which is `[store]`, or the name of one of"
        " `[[stores]]`. `self` reads the main store.",
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
    """An S3 store itself."""

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
