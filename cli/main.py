# Law of this file: `offramp --help` costs nothing; a subcommand's file is read when it is run.

from __future__ import annotations

import importlib
import signal
import sys
from typing import Final

import click

from cli.ending import for_certain
from cli.examples import with_examples

# Each is the object `command` of the module cli.<name>.
_SUBCOMMANDS: Final = {
    "serve": "Serve every repository under ROOT over HTTP.",
    "index": "Make and publish bundles of every repository.",
    "bundles": "Show what is published.",
    "stores": "Begin anew with a store of copies that was emptied or replaced.",
    "purge": "Take back the content of a repository, or what holds one object.",
    "call": "Send a command to a Mercurial repository, and show the answer.",
    "config": "Check and describe the settings.",
    "explain": "Show to which target or mirror a client would be sent, and why.",
    "doctor": "Check programs, stores, targets and client settings.",
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
        return with_examples(cmd_name, command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(_SUBCOMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="offramp", message="offramp %(version)s")
def offramp() -> None:
    """An index server for version control: clones are answered with where the content is.

    Begin with `offramp demo`, or `offramp serve /srv/git --index`. ROOT is the directory below
    which your repositories are; by default `root` of the settings, or the current directory. REPO
    is the path of one of them as it stands in its URL.

    Exits with 0 if all is well, 1 if something failed, 2 if the command or the settings are wrong.
    """


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] == ["serve"]:
        # Somebody who has just written settings may send it before the server heeds it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    with for_certain():
        offramp(prog_name="offramp")
