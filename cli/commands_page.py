# Law of this file: the page about the commands is made from the commands, so it cannot be wrong.

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Final

import click

from cli.main import offramp

_INTRODUCTION: Final = """\
<!-- Made by `offramp config docs cli > docs/cli.md`; change the commands in cli/ instead. -->

# Commands

Options win over `OFFRAMP_*` variables, these over the file that `--config` names:
[settings.md](settings.md). Every command has `--help`. Where nothing else is said, the exit code is
0 if all is well, 1 if something failed, and 2 if the command or the settings are wrong.
"""

_TABLE: Final = "| option | default | meaning |\n|---|---|---|\n"


def page() -> str:
    """The page, in Markdown."""
    return _INTRODUCTION + "".join(_section(command) for command in commands(offramp, "offramp"))


def commands(command: click.Command, name: str) -> Iterator[click.Context]:
    """Every command that can be run, as the context in which it would be.

    Args:
        command: where to begin: itself, or what it is a group of. Hidden ones are left out.
        name: as it is typed.
    """
    context = click.Context(command, info_name=name)
    if not isinstance(command, click.Group):
        yield context
        return
    for below in command.list_commands(context):
        found = command.get_command(context, below)
        if found is not None and not found.hidden:
            yield from commands(found, f"{name} {below}")


def _section(context: click.Context) -> str:
    command = context.command
    usage = " ".join(command.collect_usage_pieces(context)).replace("[OPTIONS]", "[OPTION...]")
    text = inspect.cleandoc(command.help or "")
    options = [param for param in command.params if isinstance(param, click.Option)]
    table = "\n" + _TABLE + "".join(map(_row, options)) if options else ""
    shown = (command.epilog or "").partition("\n  ")[2]
    example = "".join(f"\n    {line.strip()}" for line in shown.splitlines())
    example = f"\nFor example:\n{example}\n" if example else ""
    return (
        f"\n## {context.info_name}\n\n    {context.info_name} {usage}\n\n{text}\n{example}{table}"
    )


def _row(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    if isinstance(option.type, click.Choice):
        names += " " + " or ".join(f"`{choice}`" for choice in option.type.choices)
    elif not option.is_flag:
        names += f" {option.metavar or option.type.name.upper()}"
    meaning = (option.help or "").replace("|", "\\|").replace("  [env: ", " [variable ")
    return f"| {names} | {_default(option)} | {meaning} |\n"


def _default(option: click.Option) -> str:
    if option.required:
        return "required"
    if option.is_flag and option.secondary_opts and isinstance(option.default, bool):
        return f"`{(option.opts if option.default else option.secondary_opts)[0]}`"
    if isinstance(option.default, str):
        return f"`{option.default}`"
    return "-"
