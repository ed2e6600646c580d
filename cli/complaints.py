# Law of this file: each fault of the settings is one line that names the place, the value and the
# remedy; the value of a secret is in none of them.

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cli.complaint_words import words
from cli.setting_list import Setting, in_units, sections
from server.setting_types import without_secrets

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails
    from pydantic_settings import SettingsError

_PREFIX: Final = "OFFRAMP_"
_FIELD_OF_MESSAGE: Final = re.compile(r'for field "(\w+)"')

# Not settings themselves.
_OTHER_VARIABLES: Final = frozenset({"OFFRAMP_CONFIG"})

Place = tuple[str | int, ...]


def complaints(
    error: ValidationError, file: Path | None, environ: Mapping[str, str]
) -> tuple[str, ...]:
    """One line for each fault, the unknown keys first: they are why others are missing."""
    faults = sorted(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
    return tuple(dict.fromkeys(_line(fault, file, environ) for fault in faults))


def unparsable_variable(error: SettingsError, environ: Mapping[str, str]) -> str:
    """What is wrong with a variable that holds a whole section or list: it must be JSON."""
    match = _FIELD_OF_MESSAGE.search(str(error))
    name = match[1] if match else ""
    variable = _variable((name,), environ) or _PREFIX + name.upper()
    return (
        f"{variable}: not JSON, which the variable of a whole section or list must be; a file is"
        " easier to write"
    )


def unknown_variables(environ: Mapping[str, str]) -> Iterator[str]:
    """One line for each ``OFFRAMP_*`` variable that names no setting.

    They are no errors: container platforms set variables named after their services.
    """
    known = sorted({setting.path.partition(".")[0].removesuffix("[]") for setting in _settings()})
    for variable in sorted(environ):
        name = variable.upper()
        if not name.startswith(_PREFIX) or name in _OTHER_VARIABLES:
            continue
        first = name.removeprefix(_PREFIX).partition("__")[0]
        if first.lower() not in known:
            close = difflib.get_close_matches(first.lower(), known, n=1)
            hint = f"; did you mean {_PREFIX}{close[0].upper()}?" if close else ""
            yield f"{variable}: names no setting and is ignored{hint}"


def _line(fault: ErrorDetails, file: Path | None, environ: Mapping[str, str]) -> str:
    place = _without_tags(fault["loc"])
    given = fault["input"]
    what = fault["msg"].removeprefix("Value error, ")
    if isinstance(given, str):
        what = what.removeprefix(f"{without_secrets(given)!r} is ")
    if not place:  # of several settings together, which the message names
        return what
    variable = _variable(place, environ)
    name = variable or _path(place)
    source = f"{file}: " if file is not None and variable is None else ""
    match fault["type"]:
        case "extra_forbidden":
            return (
                f"{source}{name}: unknown setting{_hint(place, like_variable=variable is not None)}"
            )
        case "missing":
            return f"{source}{name}: not set, and it has no default"
        case "tuple_type":
            return f"{source}{name}{_shown(place, given)}: {_list_wanted(place, given)}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{source}{name}: {_table_wanted(place)}"
        case "union_tag_not_found":
            return f"{source}{name}.type: not set; write one of {', '.join(_tags(place))}"
        case "union_tag_invalid":
            given = json.dumps(str(fault.get("ctx", {}).get("tag")))
            return f"{source}{name}.type = {given}: write one of {', '.join(_tags(place))}"
    value = _shown(place, given)
    said = words(fault, _setting_at(place), value) or f"{what[:1].lower()}{what[1:]}"
    return f"{source}{name}{value}: {said}"


def _hint(place: Place, *, like_variable: bool) -> str:
    """What may have been meant by a setting that there is not."""
    close = _closest(place)
    if close:
        return f"; did you mean {_spelt(close, like_variable=like_variable)}?"
    section, _, _ = _general(place).rpartition(".")
    names = [
        each.path.rpartition(".")[2]
        for known in sections()
        if section and known.path == section
        for each in known.settings
    ]
    if not names:
        return "; `offramp config schema` lists what there is"
    return f"; there {'is' if len(names) == 1 else 'are'} {', '.join(dict.fromkeys(names))}"


def _list_wanted(place: Place, given: object) -> str:
    path = _general(place)
    if any(section.path == f"{path}[]" for section in sections()):
        above = f"[[{path}]], and the settings of each below it" if len(place) == 1 else "[{ ... }]"
        return f"a list of tables is wanted; write {above}"
    if isinstance(given, str) and _shown(place, given):
        return f"a list is wanted; write [{json.dumps(without_secrets(given))}]"
    return "a list is wanted; write [...]"


def _table_wanted(place: Place) -> str:
    path = _general(place)
    names = [
        each.path.rpartition(".")[2]
        for section in sections()
        if section.path == path
        for each in section.settings
    ]
    if "[]" in path:
        return f"a table is wanted; write {{ ... }}, with {', '.join(dict.fromkeys(names))}"
    return f"a table is wanted; write [{path}], and its settings below it"


def _settings() -> Iterator[Setting]:
    for section in sections():
        yield from section.settings


def _without_tags(place: Place) -> Place:
    """Pydantic puts the chosen ``type`` into the place, after ``store`` and ``targets[0]``."""
    tagged = {s.path.removesuffix("[]"): "[]" in s.path for s in sections() if s.variant}
    if not place or place[0] not in tagged:
        return place
    at = 2 if tagged[str(place[0])] else 1
    return place[:at] + place[at + 1 :]


def _path(place: Place) -> str:
    """``("targets", 0, "name")`` as ``targets[0].name``."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _general(place: Place) -> str:
    return re.sub(r"\[\d+\]", "[]", _path(place))


def _variable(place: Place, environ: Mapping[str, str]) -> str | None:
    """The environment variable that this value came from, if it came from one."""
    wanted = _PREFIX + "__".join(map(str, place)).upper()
    return next((name for name in environ if name.upper() == wanted), None)


def _spelt(path: str, *, like_variable: bool) -> str:
    return _PREFIX + path.replace(".", "__").upper() if like_variable else path


def _closest(place: Place) -> str:
    """The setting that was probably meant: of the same section, or of the same name elsewhere."""
    section, _, name = _general(place).rpartition(".")
    names: dict[str, str] = {}
    for known in sections():
        if known.path == section:
            names |= {s.path.rpartition(".")[2]: s.path for s in known.settings}
        elif known.path.rpartition(".")[0] == section:
            names[known.path.rpartition(".")[2].removesuffix("[]")] = known.path.removesuffix("[]")
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return names[close[0]]
    if "[]" in section:
        return ""  # what stands in another list is another thing of that name
    return next((s.path for s in _settings() if s.path.rpartition(".")[2] == name), "")


def _tags(place: Place) -> tuple[str, ...]:
    path = _general(place)
    return tuple(json.dumps(s.variant) for s in sections() if s.path == path)


# Where a whole header may stand in place of its name.
_MAY_HOLD_SECRETS: Final = frozenset({"access.user_header"})


def _shown(place: Place, value: object) -> str:
    """`` = <value>`` if it is short, simple and no secret."""
    path = _general(place).removesuffix("[]")
    known = {setting.path: setting for setting in _settings()}
    secret = path not in known or known[path].secret or path in _MAY_HOLD_SECRETS
    if secret or not isinstance(value, str | int | float) or len(str(value)) > 100:
        return ""
    if isinstance(value, str):
        return f" = {json.dumps(without_secrets(value))}"
    # What was read of "2d" is seconds already.
    return f" = {in_units(value, known[path].unit if isinstance(value, float) else '')}"


def _setting_at(place: Place) -> Setting | None:
    path = _general(place).removesuffix("[]")
    return next((setting for setting in _settings() if setting.path == path), None)
