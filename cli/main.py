# Law of this file: `offramp --help` costs nothing; a subcommand's file is read when it is run.

from __future__ import annotations

import importlib
import signal
import sys
from typing import Final

import click

# Each is the object `command` of the module cli.<name>.
_SUBCOMMANDS: Final = {
    "serve": "Serve every repository under ROOT.",
    "index": "Make and publish bundles of every repository.",
    "bundles": "Show what is published.",
    "stores": "Look after the stores of copies.",
    "purge": "Take a repository's content, or what holds one object, back.",
    "call": "Send a command to a Mercurial repository, and show the answer.",
    "config": "Check and describe the settings.",
    "explain": "Show to which target a client would be sent, and why.",
    "doctor": "Check programs, store, targets and client settings.",
    "demo": "Show the whole way on this machine, with figures.",
}


class _Lazy(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _SUBCOMMANDS:
            return None
        command = importlib.import_module(f"cli.{cmd_name}").command
        assert isinstance(command, click.Command)  # noqa: S101 - see _SUBCOMMANDS
        command.name = cmd_name
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(_SUBCOMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="offramp", message="offramp %(version)s")
def offramp() -> None:
    """An index server for version control: clones are answered with where the content is."""


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] == ["serve"]:
        # Somebody who has just written settings may send it before the server heeds it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    offramp(prog_name="offramp")
