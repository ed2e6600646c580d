# Law of this file: one run over every repository under ROOT. One that fails does not stop the
# others, and is told.

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import click

from cli.ending import unfinished
from cli.errors import Failed, UserError, told_plainly
from cli.options import Given, settings_from, settings_options, with_root

if TYPE_CHECKING:
    from indexer.report import Progress
    from server.indexing import Indexed
    from server.settings import Settings

_HEADER: Final = ("repository", "bundle", "outcome", "size", "objects", "seconds", "why")
_RIGHT: Final = frozenset({3, 4, 5})


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.option(
    "--gc/--no-gc", default=True, show_default=True, help="Delete what no URL can name any more."
)
@settings_options(root=True, listen=False)
def command(given: Given, *, as_json: bool, gc: bool) -> None:
    """Make and publish bundles of every repository under ROOT that needs them.

    Of Mercurial repositories, the index that answers are made from is made or grown before, and
    their bundles are clone bundles.

    Exits with 1 if one fails, if a store does not answer or hangs, for which it does not wait, or
    if nothing of what was made comes back through a target; each is a line at the end, on standard
    error. A target through which some of it came is told of as it happens, and is no failure.
    """
    settings = with_root(settings_from(given))
    indexed = _indexed(settings, gc=gc)
    if as_json:
        click.echo(json.dumps(_values(indexed), indent=2))
    else:
        _draw(indexed, settings)
    faults = (*indexed.faults, *unfinished())
    for fault in faults:
        UserError(fault).show()
    if faults or any(report.failed for report in indexed.reports):
        raise click.exceptions.Exit(Failed.exit_code)


def _indexed(settings: Settings, *, gc: bool) -> Indexed:
    from server.indexing import index_all
    from server.logs import configure

    with told_plainly(), _progress() as progress:
        # After the bar was begun, which moves aside for what is written to standard error.
        log = settings.log
        if log.level == "info":  # a table says all that; who debugs wants more
            log = log.model_copy(update={"level": "warning"})
        configure(log)
        return asyncio.run(index_all(settings, progress, gc=gc))


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar, if somebody is there to see it."""
    from indexer.report import Silent

    if not sys.stderr.isatty():
        yield Silent()
        return
    from cli.bar import bar

    with bar() as drawn:
        yield drawn


def _draw(indexed: Indexed, settings: Settings) -> None:
    from cli.tables import printable, size, table

    rows = [
        (
            report.repository,
            result.kind,
            str(result.outcome),
            size(result.size) if result.size else "-",
            str(result.objects) if result.objects else "-",
            f"{result.seconds:.1f}",
            " ".join(result.reason.split()),
        )
        for report in indexed.reports
        for result in report.results
    ]
    if rows:
        click.echo(table(_HEADER, rows, _RIGHT), nl=False)
    else:
        root = settings.local_root
        nothing = (
            f"no repository below {root}"
            if root is not None
            else "nothing to index: there is no ROOT, and no upstream has a mirror here yet"
        )
        click.echo(f"offramp: {nothing}", err=True)
    collected = indexed.collected
    if collected is not None and collected.deleted:
        click.echo(f"deleted {len(collected.deleted)} old entities, {size(collected.freed)}")
    for place in indexed.vanished:
        click.echo(printable(f"removed the index of {place.parent}, which is gone"))


def _values(indexed: Indexed) -> dict[str, object]:
    collected = indexed.collected
    repositories = [{**asdict(report), "failed": report.failed} for report in indexed.reports]
    return {
        "repositories": repositories,
        "gc": None if collected is None else asdict(collected),
        "vanished": [str(place.parent) for place in indexed.vanished],
        "faults": list(indexed.faults),
    }
