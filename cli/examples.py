# Law of this file: every command can be seen at work; what is shown here is parsed by the commands
# themselves in a test, so that none of it goes stale.

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import click

EXAMPLES: Final[Mapping[str, tuple[str, ...]]] = {
    "serve": (
        "offramp serve /srv/git --index",
        "offramp serve --config /etc/offramp.toml --workers 4",
    ),
    "index": (
        "offramp index /srv/git",
        "offramp index --config /etc/offramp.toml --json",
    ),
    "bundles": (
        "offramp bundles --config /etc/offramp.toml",
        "offramp bundles team/project.git --json",
    ),
    "stores renew": ("offramp stores renew eu --config /etc/offramp.toml",),
    "purge": (
        "offramp purge team/project /srv/git --dry-run",
        "offramp purge team/project /srv/git --object 8f3c2b6e1d0a49f7b5c8e2d1f6a7b3c4d5e6f708",
    ),
    "call": (
        "offramp call https://hg.example.org/project",
        "offramp call https://hg.example.org/project heads --json",
    ),
    "config check": ("offramp config check --config /etc/offramp.toml",),
    "config schema": ("offramp config schema > offramp.schema.json",),
    "explain": (
        "offramp explain --repo team/project --from 192.0.2.7 --accepts http,https",
        "offramp explain --repo team/project --from 192.0.2.7 --server http://127.0.0.1:8417",
    ),
    "doctor": ("offramp doctor --config /etc/offramp.toml",),
    "demo": ("offramp demo --keep",),
}
"""By what is typed after ``offramp``, lines to paste."""


def with_examples(name: str, command: click.Command) -> click.Command:
    """The command, or the group with its commands, whose help ends with examples.

    ``name`` is what is typed after ``offramp``.
    """
    if isinstance(command, click.Group):
        for below, found in command.commands.items():
            with_examples(f"{name} {below}", found)
        return command
    lines = EXAMPLES.get(name, ())
    if lines:
        word = "Example" if len(lines) == 1 else "Examples"
        # click leaves a paragraph as it is that begins with this character.
        command.epilog = "\b\n" + "\n".join((f"{word}:", *(f"  {line}" for line in lines)))
    return command
