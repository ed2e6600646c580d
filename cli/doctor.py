# Law of this file: how the findings of the checks are written; what is checked is the server's
# business.

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from cli.errors import Failed
from cli.options import Given, settings_from, settings_options

if TYPE_CHECKING:
    from server.settings import Settings
    from server.verdict import Verdict


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@settings_options(root=True)
def command(given: Given, *, as_json: bool) -> None:
    """Check programs, stores, targets and client settings, and say how to mend each.

    Each is a line: `ok`, `info`, `warn` or `fail`, what was seen, and behind an arrow what to do.
    What it writes into a store to try it, it deletes again.

    Exits with 1 if anything fails.
    """
    found = asyncio.run(_checked(settings_from(given), show=not as_json))
    if as_json:
        click.echo(json.dumps({"checks": [asdict(verdict) for verdict in found]}, indent=2))
    if any(verdict.level == "fail" for verdict in found):
        raise click.exceptions.Exit(Failed.exit_code)


async def _checked(settings: Settings, *, show: bool) -> list[Verdict]:
    from server.checks import run_checks

    found = []
    async for verdict in run_checks(settings):
        found.append(verdict)
        if show:
            remedy = f"  -> {verdict.remedy}" if verdict.remedy else ""
            click.echo(f"{verdict.level:<4}  {verdict.what}{remedy}")
    return found
