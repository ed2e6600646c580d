# Law of this file: the page about the settings is made from the settings, so it cannot be wrong.

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cli.setting_list import Section, sections

_INTRODUCTION: Final = """\
<!-- Made by `offramp config docs > docs/settings.md`; change server/settings*.py instead. -->

# Settings

Settings are read from the command line, then from `OFFRAMP_*` variables, then from the TOML file
that `--config` (or `OFFRAMP_CONFIG`) names; the first that says something wins. An unknown key is
an error. `offramp config check` says what is wrong with a file, and `offramp config schema` prints
its JSON schema.

The variable of a setting is its name in capitals, with `__` for a dot: `redirect.min_size` is
`OFFRAMP_REDIRECT__MIN_SIZE`. A list, such as `targets`, is written as JSON in a variable.

Sizes are bytes, or text with a unit of 1024: `"64KiB"`, `"20GiB"`. Durations are seconds, or text
with a unit: `"500ms"`, `"10s"`, `"15m"`, `"6h"`, `"7d"`.
"""

_TABLE: Final = "| setting | default | meaning |\n|---|---|---|\n"


def page() -> str:
    """The page, in Markdown."""
    return _INTRODUCTION + "".join(_section(section) for section in sections())


def _section(section: Section) -> str:
    if not section.path:
        return "\n" + _TABLE + "".join(_rows(section))
    table = section.path.replace("[]", "")
    title = f"`[[{table}]]`" if section.path.endswith("[]") else f"`[{table}]`"
    if section.variant:
        title += f' {"of" if "." in table else "with"} `type = "{section.variant}"`'
    rows = _TABLE + "".join(_rows(section)) if section.settings else ""
    return f"\n## {title}\n\n{section.meaning}\n\n{rows}"


def _rows(section: Section) -> Iterator[str]:
    for setting in section.settings:
        default = (
            setting.default if setting.default in {"-", "required"} else f"`{setting.default}`"
        )
        meaning = setting.meaning.replace("|", "\\|")
        yield f"| `{setting.path}` | {default} | {meaning} |\n"
