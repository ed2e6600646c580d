# Law of this file: what a library found wrong with a value is said in our words: what is wanted,
# and what to write. What the library says itself is for programmers.

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from cli.setting_list import Setting, in_units

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

PATTERNS: Final[Mapping[str, str]] = {
    r"^[a-z0-9][a-z0-9._-]*$": (
        "write lower-case letters, digits, `.`, `_` and `-`, a letter or a digit first"
    ),
    r"^[A-Za-z0-9]{1,64}$": "write letters and digits, at most 64",
    r"^[A-Za-z0-9_-]{1,32}$": "write letters, digits, `_` and `-`, at most 32",
}
"""What to write where a setting must match one of these."""

_SIZE: Final = '"64KiB"'
_DURATION: Final = '"90s"'

_Context = Mapping[str, Any]


def words(fault: ErrorDetails, setting: Setting | None, shown: str) -> str | None:
    """What is wrong and what to write; None where the fault is one that our own code told of.

    Args:
        fault: of one value.
        setting: which setting it is of; None if of none.
        shown: `` = <value>``, as it will stand before the words; empty if it must not be shown.
    """
    kind, context = fault["type"], fault.get("ctx", {})
    example = _example(setting)
    match kind:
        case "int_type" | "int_parsing" | "int_from_float" | "int_parsing_size":
            if setting is not None and setting.unit == "size":
                return f"no size; write whole bytes, or text such as {example or _SIZE}"
            return f"no whole number; write digits alone{_such_as(example)}"
        case "float_type" | "float_parsing" if setting is not None and setting.unit == "duration":
            return f"no duration; write seconds, or text such as {example or _DURATION}"
        case "float_type" | "float_parsing" | "finite_number":
            return f"no number; write digits{_such_as(example)}"
        case "bool_type" | "bool_parsing":
            return "neither true nor false; write one of them, without quotes"
        case "string_type":
            quoted = f": {json.dumps(shown.removeprefix(' = '))}" if shown else ""
            return f"no text; write it in quotes{quoted}"
        case "path_type":
            return 'no path; write it in quotes, such as "/srv/offramp"'
        case "literal_error":
            return f"write one of {_listed(context)}"
        case "string_pattern_mismatch":
            pattern = str(context.get("pattern"))
            return PATTERNS.get(pattern, f"it does not match {pattern}")
        case "too_short":
            return "empty; write at least one"
        case "string_too_short":
            return "empty; write something"
    bound = _BOUNDS.get(kind)
    return None if bound is None else bound(context, setting)


def _example(setting: Setting | None) -> str:
    """A value that would be right, as it is written in the file; empty if none is known."""
    if setting is None or setting.default in {"required", "-"}:
        return ""
    return setting.default


def _such_as(example: str) -> str:
    return f", such as {example}" if example else ""


def _listed(context: _Context) -> str:
    """``'a', 'b' or 'c'`` as ``"a", "b", "c"``."""
    expected = str(context.get("expected", "")).replace(" or ", ", ")
    return expected.replace("'", '"')


def _bound(word: str, key: str, instead: str) -> Callable[[_Context, Setting | None], str]:
    def said(context: _Context, setting: Setting | None) -> str:
        number = context.get(key, 0)
        unit = "" if setting is None else setting.unit
        limit = in_units(number, unit) if unit else f"{number:g}"
        return f"too {word}; write {instead.format(limit)}"

    return said


_BOUNDS: Final = {
    "greater_than": _bound("small", "gt", "more than {}"),
    "greater_than_equal": _bound("small", "ge", "{} or more"),
    "less_than": _bound("large", "lt", "less than {}"),
    "less_than_equal": _bound("large", "le", "{} or less"),
}
