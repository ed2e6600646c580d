# Law of this file: beside the main store there may be others, which hold entities and nothing else.
# Which repositories go there the operator says, and a store that nobody would read is a mistake.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, field_validator

from server.setting_types import Section
from server.settings_targets import (
    DirectoryStoreSettings,
    S3StoreSettings,
    StoreSettings,
    TargetSettings,
)
from server.settings_upstreams import Pattern

MAIN: Final = "main"
"""Name of the store in ``[store]``."""

_NAME: Final = r"^[a-z0-9][a-z0-9._-]*$"
_NAMED: Final = "By which targets and placements name it; `main` is `[store]`."


class DirectoryReplicaSettings(DirectoryStoreSettings):
    """Copies of entities in another directory."""

    name: str = Field(pattern=_NAME, description=_NAMED)
    path: Path = Field(description="Where.")


class S3ReplicaSettings(S3StoreSettings):
    """Copies of entities in another S3 bucket, or under another prefix."""

    name: str = Field(pattern=_NAME, description=_NAMED)


ReplicaSettings = Annotated[
    DirectoryReplicaSettings | S3ReplicaSettings, Field(discriminator="type")
]


class PlacementSettings(Section):
    """Which stores the content of some repositories is for; the first that matches counts."""

    repositories: tuple[Pattern, ...] = Field(
        min_length=1,
        description="Shell patterns of served paths, with or without `.git`, in upper or lower"
        " case.",
    )
    stores: tuple[str, ...] = Field(
        min_length=1,
        description="Names of stores: content goes to these, and only their targets are named for"
        " it. The main store has everything in any case; name `main` for its targets to be named.",
    )

    @field_validator("stores")
    @classmethod
    def _are_different(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        twice = [name for name in value if value.count(name) > 1]
        if twice:
            raise ValueError(f"{twice[0]!r} is in it twice; write each store once")
        return value


def check_stores(
    main: StoreSettings,
    replicas: Sequence[ReplicaSettings],
    placements: Sequence[PlacementSettings],
    targets: Sequence[TargetSettings],
    data: Path,
) -> None:
    """See that stores, targets and placements fit together.

    Raises:
        ValueError: they do not; the message says what to write.
    """
    names = [MAIN, *(replica.name for replica in replicas)]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(
            f"two stores are named {min(twice)!r}; give each its own name ({MAIN!r} is [store])"
        )
    _check_places({MAIN: main} | {replica.name: replica for replica in replicas}, data)
    for target in targets:
        if target.store not in names:
            raise ValueError(_unknown(f"target {target.name!r}", target.store, names))
        if target.type == "self" and target.store != MAIN:
            raise ValueError(
                f"target {target.name!r} of type self has store = {target.store!r}, and this"
                f" server's own route reads the main store; leave `store` out"
            )
    for placement in placements:
        for unknown in sorted(set(placement.stores) - set(names)):
            of = f"the placement of {', '.join(placement.repositories)}"
            raise ValueError(_unknown(of, unknown, names))
    read = {target.store for target in targets}
    for replica in replicas:
        if replica.name not in read:
            raise ValueError(
                f"no target reads the store {replica.name!r}, so it would be written for nobody;"
                f" write store = {replica.name!r} in a target, or remove the store"
            )


def _unknown(who: str, name: str, names: Sequence[str]) -> str:
    return (
        f"{who} names the store {name!r}, and there is none of that name; there are"
        f" {', '.join(names)}"
    )


def _check_places(stores: dict[str, StoreSettings | ReplicaSettings], data: Path) -> None:
    """Two stores at one place would take their content from each other."""
    known: dict[tuple[str, ...], str] = {}
    for name, store in stores.items():
        place = tuple(_place(store, data))
        other = known.setdefault(place, name)
        if other != name:
            where = " ".join(filter(None, place))
            raise ValueError(
                f"the stores {other!r} and {name!r} are at one place ({where}); give each its own"
            )


def _place(store: StoreSettings | ReplicaSettings, data: Path) -> Iterator[str]:
    yield store.type
    if store.type == "s3":
        yield store.endpoint or ""
        yield f"{store.bucket}/{store.prefix.strip('/')}"
    else:
        yield str((store.path or data / "store").resolve())
