# Law of this file: with what URLs are signed for those who stand before a store. A secret is given
# by a file that nobody else may read, or as a value that is never shown.

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, SecretStr, model_validator

from server.setting_types import Section


class CloudFrontKeySettings(Section):
    """A key pair of the distribution's key group. The first one signs."""

    id: str = Field(
        pattern=r"^[A-Za-z0-9]{1,64}$",
        description="Id of the public key at CloudFront, such as `K2JCJMDEHXQW5F`.",
    )
    file: Path = Field(
        description="Its private key, RSA of 2048 bits or ECDSA on P-256, in PEM; nobody else may"
        " read the file."
    )


class SecretKeySettings(Section):
    """A secret that the server in front knows as well. The first one signs."""

    id: str = Field(
        pattern=r"^[A-Za-z0-9_-]{1,32}$", description="Its name; it is visible in URLs, as `key`."
    )
    secret: SecretStr | None = Field(
        None,
        description="At least 32 of `A-Z a-z 0-9 . _ ~ + / = -`; make one with `openssl rand -hex"
        " 32`.",
    )
    file: Path | None = Field(
        None, description="File with the secret, in its place; nobody else may read it."
    )

    @model_validator(mode="after")
    def _one(self) -> SecretKeySettings:
        if (self.secret is None) == (self.file is None):
            raise ValueError("a key is given either as `secret` or as `file`; write one of them")
        return self


def check_ids(keys: Sequence[CloudFrontKeySettings | SecretKeySettings]) -> None:
    """See that no id is given twice.

    Raises:
        ValueError: one is.
    """
    ids = [key.id for key in keys]
    twice = {key for key in ids if ids.count(key) > 1}
    if twice:
        raise ValueError(f"two keys have the id {min(twice)!r}; give each its own")
