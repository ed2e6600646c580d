# Law of this file: where clients are is said by networks, each in one region; what is contradicted
# or misspelt is refused before anybody is sent to the wrong end of the world.

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from redirects.locality import REGION_NAME
from server.setting_types import BaseUrl, Duration, Section
from server.settings_upstreams import Network

_PATTERN: Final = re.compile(r"[a-z0-9*?\[\]!._-]{1,63}")


def _region(value: str) -> str:
    if REGION_NAME.fullmatch(value) is None:
        raise ValueError(
            f"{value!r} is no name of a region; write up to 63 of a-z 0-9 . _ - such as eu-west-1"
        )
    return value


def _region_pattern(value: str) -> str:
    if _PATTERN.fullmatch(value) is None:
        raise ValueError(
            f"{value!r} matches no region; write a name such as eu-west-1, or a shell pattern such"
            " as eu-*"
        )
    return value


Region = Annotated[str, AfterValidator(_region)]
RegionPattern = Annotated[str, AfterValidator(_region_pattern)]


class RangeListSettings(Section):
    """A list of networks and their regions that a cloud publishes."""

    format: Literal["aws", "google"] = Field(
        description="Whose list: `aws` (ip-ranges.json) or `google` (cloud.json of Google Cloud)."
    )
    url: BaseUrl | None = Field(
        None, description="Where it is fetched. Redirects are not followed."
    )
    file: Path | None = Field(
        None, description="A file that somebody else keeps fresh, in place of a URL."
    )

    @model_validator(mode="after")
    def _one(self) -> RangeListSettings:
        if (self.url is None) == (self.file is None):
            raise ValueError("a list is given either by `url` or by `file`")
        return self

    @property
    def source(self) -> str:
        """Where it is from, for people."""
        return self.url or str(self.file)


class RegionSettings(Section):
    """Where clients are, so that they are sent to targets of their own region."""

    proxies: tuple[Network, ...] = Field(
        (),
        description="Addresses and networks of the proxies in front whose `X-Forwarded-For` is"
        " believed. Without them a client's address is that of its connection. They must hold no"
        " client: it could name any other address as its own.",
    )
    networks: dict[Region, tuple[Network, ...]] = Field(
        {},
        description="Networks of each region. They win over lists; among all, the smallest network"
        " that holds an address counts.",
    )
    lists: tuple[RangeListSettings, ...] = Field(
        (), description="Lists that clouds publish; of the same network, the first counts."
    )
    refresh: Duration = Field(
        86400.0, ge=60, description="Age at which a list is fetched again from its URL."
    )

    @model_validator(mode="after")
    def _apart(self) -> RegionSettings:
        known: dict[str, str] = {}
        for region, networks in self.networks.items():
            for network in networks:
                other = known.setdefault(network, region)
                if other != region:
                    raise ValueError(
                        f"network {network} is in the regions {other!r} and {region!r}; write it"
                        " once (a smaller network in it may be in another region)"
                    )
        return self
