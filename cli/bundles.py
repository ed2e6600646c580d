# Law of this file: what is published is read from the catalogs in the store, which is all that
# servers go by.

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from cli.errors import Failed, UserError, told_plainly
from cli.options import Given, settings_from, settings_options

if TYPE_CHECKING:
    from indexer.catalog import Bundle, Catalog, CatalogError
    from server.settings import Settings
    from stores.base import Store

_HEADER: Final = ("repository", "filter", "size", "objects", "age", "targets", "id")
_RIGHT: Final = frozenset({2, 3, 4})


@click.command()
@click.argument("repo", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    metavar="ROOT",
    help="Where repositories of Mercurial are, to say how far bundles are behind.",
)
@settings_options(
    root=False, listen=False
)  # which takes --root as it takes the argument ROOT of others
def command(given: Given, repo: str | None, *, as_json: bool) -> None:
    """Show what is published of REPO, or of all repositories.

    Targets are those through which a bundle was read back. Of Mercurial's it is told how many
    changesets they were behind when a server or `offramp index` on this machine last looked at the
    repository below ROOT (by default that of the settings, or the current directory); `-` where
    none did. `withheld` in place of targets: it holds what was stripped, hidden or made secret,
    and no client is told of it.

    Exits with 1 if REPO has no catalog, or one cannot be read.
    """
    from cli.clone_bundles import drawn, values

    settings = settings_from(given)
    with told_plainly():
        catalogs, names, faults = asyncio.run(_read(settings, repo))
    if repo is not None and not catalogs and not faults:
        faults = (_nothing_of(settings, repo),)
    now = time.time()
    if as_json:
        bundles = [
            _values(catalog, bundle, names, now)
            for catalog in catalogs
            for bundle in catalog.bundles
        ]
        clones = values(settings, catalogs, names, now)
        click.echo(json.dumps({"bundles": bundles, "clone_bundles": clones}, indent=2))
    elif catalogs:
        tables = (_drawn(catalogs, names, now), drawn(settings, catalogs, names, now))
        click.echo("\n".join(filter(None, tables)), nl=False)
    elif not faults:
        click.echo("offramp: no bundles are published; `offramp index` makes them", err=True)
    for fault in faults:
        UserError(fault).show()
    if faults:
        raise click.exceptions.Exit(Failed.exit_code)


def _nothing_of(settings: Settings, repo: str) -> str:
    """Why nothing is shown of one repository, and what to do."""
    from server.served_names import did_you_mean, served_name

    name = repo.strip("/")
    if served_name(settings, name) is None:
        meant = did_you_mean(settings, name)
        if meant:
            return f"{name}: nothing is published of it, and there is no such repository{meant}"
    return f"{name}: nothing is published of it; run `offramp index`"


async def _read(
    settings: Settings, repo: str | None
) -> tuple[tuple[Catalog, ...], Mapping[str, str], tuple[str, ...]]:
    """The catalogs by name, names of targets by fingerprint, and what could not be read."""
    from indexer.catalog import CatalogError
    from server.wiring import build_store, build_stores, build_targets, signing_keys
    from stores.patient import SECONDS

    store = build_store(settings, patience=SECONDS)
    stores = build_stores(settings, store, writes=False, patience=SECONDS)
    try:
        targets = await build_targets(settings, stores, signing_keys(settings.data))
        found: list[Catalog] = []
        faults: list[str] = []
        async with aclosing(_catalogs(settings, store, repo)) as catalogs:
            async for catalog in catalogs:
                if isinstance(catalog, CatalogError):
                    faults.append(str(catalog))
                else:
                    found.append(catalog)
    finally:
        await stores.close()
    found.sort(key=lambda catalog: catalog.repository)
    return tuple(found), {t.fingerprint: t.name for t in targets}, tuple(faults)


async def _catalogs(
    settings: Settings, store: Store, repo: str | None
) -> AsyncGenerator[Catalog | CatalogError, None]:
    from indexer.catalog import PREFIX, CatalogError, load, parse
    from server.served_names import served_name, spellings

    if repo is not None:
        name = repo.strip("/")
        served = served_name(settings, name)
        for candidate in spellings(name) if served is None else (served,):
            try:
                loaded = await load(store, candidate)
            except CatalogError as error:
                yield error
                return
            if loaded is not None:
                yield loaded[0]
                return
        return
    names = [name async for name in store.list_documents(PREFIX)]
    for name in names:
        document = await store.read_document(name)
        if document is None:
            continue
        try:
            yield parse(document.body)
        except CatalogError as error:
            yield CatalogError(f"{store.name}, {name}: {error}")


def _readable(bundle: Bundle, names: Mapping[str, str]) -> list[str]:
    """Names of the targets; those that are no longer configured are left out."""
    return [name for fingerprint, name in names.items() if fingerprint in bundle.readable]


def _drawn(catalogs: Sequence[Catalog], names: Mapping[str, str], now: float) -> str:
    """A table; empty if there are none but clone bundles."""
    from cli.tables import age, size, table

    rows = [
        (
            catalog.repository,
            bundle.filter or "-",
            size(bundle.pack.entity.size),
            str(bundle.objects),
            age(now - bundle.created),
            ",".join(_readable(bundle, names)) or "none",
            bundle.id,
        )
        for catalog in catalogs
        for bundle in catalog.bundles
    ]
    if not rows and any(catalog.clone_bundles for catalog in catalogs):
        return ""
    return table(_HEADER, rows, _RIGHT)


def _values(
    catalog: Catalog, bundle: Bundle, names: Mapping[str, str], now: float
) -> dict[str, object]:
    file = bundle.bundle_file
    return {
        "repository": catalog.repository,
        "id": bundle.id,
        "filter": bundle.filter,
        "size": bundle.pack.entity.size,
        "objects": bundle.objects,
        "tips": len(bundle.tips),
        "created": bundle.created,
        "age": now - bundle.created,
        "targets": _readable(bundle, names),
        "pack": bundle.pack.entity.digest,
        "bundle_file": None if file is None else file.digest,
    }
