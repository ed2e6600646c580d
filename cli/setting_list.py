# Law of this file: the one walk over the settings model. What it finds is what the documentation
# lists and what a misspelt key is compared with.

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from server.setting_types import parse_size, read_duration
from server.settings import Settings

Unit = Literal["", "size", "duration"]


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting.

    Attributes:
        path: such as ``redirect.min_size``; ``targets[].base_url`` for one in a list.
        variant: the ``type`` that its section must have for it to exist, or empty.
        default: as it would be written in TOML; ``required``, or ``-`` for none.
        meaning: its description; empty if it has none.
        secret: its value must not be shown.
        unit: ``size`` in bytes or ``duration`` in seconds, which can be written as text with a
            unit; else empty.
    """

    path: str
    variant: str
    default: str
    meaning: str
    secret: bool
    unit: Unit = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A table of the settings file.

    Attributes:
        path: such as ``redirect``; ``targets[]`` for a list of them; empty for the top.
        variant: the ``type`` that selects it, or the table in which it is; or empty.
        meaning: its description.
        settings: those directly in it.
    """

    path: str
    variant: str
    meaning: str
    settings: tuple[Setting, ...]


@cache
def sections() -> tuple[Section, ...]:
    """Every section, the top one first, in the order of the model."""
    return tuple(_walk(Settings, "", ""))


_UNITS: Final[dict[Unit, tuple[tuple[int, str], ...]]] = {
    "": (),
    "size": ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")),
    "duration": ((86400, "d"), (3600, "h"), (60, "m"), (1, "s")),
}


def _walk(model: type[BaseModel], path: str, variant: str) -> Iterator[Section]:
    own: list[Setting] = []
    below: list[tuple[type[BaseModel], str, str]] = []
    for name, field in model.model_fields.items():
        where = f"{path}.{name}" if path else name
        models = list(_models(field.annotation))
        if models:
            where += "[]" if _is_list(field.annotation) else ""
            variants = len(models) > 1
            below += [(inner, where, _tag(inner) if variants else variant) for inner in models]
        elif not (variant and name == "type"):
            own.append(_setting(field, where, variant))
    yield Section(path, variant, _first_line(model), tuple(own))
    for inner, where, tag in below:
        yield from _walk(inner, where, tag)


def _setting(field: FieldInfo, path: str, variant: str) -> Setting:
    return Setting(
        path,
        variant,
        _default(field),
        field.description or "",
        SecretStr in _flat(field.annotation),
        _unit(field),
    )


def _flat(annotation: Any) -> Iterator[Any]:
    """The types that ``annotation`` is made of."""
    origin = get_origin(annotation)
    if origin in {Union, UnionType, tuple}:
        for inner in get_args(annotation):
            yield from _flat(inner)
    elif origin is Annotated:
        yield from _flat(get_args(annotation)[0])
    else:
        yield annotation


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    for inner in _flat(annotation):
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield inner


def _is_list(annotation: object) -> bool:
    return get_origin(annotation) is tuple


def _tag(model: type[BaseModel]) -> str:
    return str(get_args(model.model_fields["type"].annotation)[0])


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().partition("\n")[0]


def _default(field: FieldInfo) -> str:
    """The default of ``field`` as a person would write it in TOML."""
    value = field.default
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "-"
    unit = _unit(field)
    if unit:
        return in_units(value, unit)
    if isinstance(value, Path):
        value = str(value)
    return json.dumps(value)


def _unit(field: FieldInfo) -> Unit:
    readers = [m.func for m in field.metadata if isinstance(m, BeforeValidator)]
    if parse_size in readers:
        return "size"
    return "duration" if read_duration in readers else ""


def in_units(value: float, unit: Unit) -> str:
    """``value`` as a person would write it in TOML: in the largest unit that leaves no fraction.

    As a number, if none does.
    """
    for size, name in _UNITS[unit]:
        if value and value % size == 0:
            return json.dumps(f"{value / size:.0f}{name}")
    return json.dumps(value)
