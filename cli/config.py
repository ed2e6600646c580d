# Law of this file: settings are checked before a server needs them, and their description is made
# from the model that reads them.

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.errors import UserError
from cli.options import Given, config_option, fault_of_root, settings_from

if TYPE_CHECKING:
    from collections.abc import Iterator

    from server.settings import RedirectSettings, Settings
    from server.settings_stores import ReplicaSettings
    from server.settings_targets import StoreSettings, TargetSettings


@click.group()
def command() -> None:
    """Check and describe the settings."""


@command.command()
@config_option
@click.option(
    "--files/--no-files",
    default=True,
    show_default=True,
    help="Look at ROOT, and at the files with keys and credentials that the settings name. Not,"
    " where these are on another machine.",
)
def check(config: Path | None, *, files: bool) -> None:
    """Say whether the settings are right, and what follows from them.

    Every fault is a line on standard error, and the exit code is 2. Nobody is asked; `offramp
    doctor` tries what is written.
    """
    from cli.complaints import unknown_variables
    from server.checks_admin import check_admin_socket
    from server.checks_keys import check_keys
    from server.checks_scopes import check_scopes
    from server.checks_tracing import check_traces_installed
    from server.verdict import Level

    settings = _checked(config)
    for line in unknown_variables(os.environ):
        click.echo(f"offramp: {line}", err=True)
    found = [
        *check_scopes(settings),
        *check_traces_installed(settings),
        *((*check_keys(settings), *check_admin_socket(settings)) if files else ()),
    ]
    for verdict in found:
        kind = "" if verdict.level is Level.FAIL else "warning: "
        click.echo(f"offramp: {kind}{verdict.what}; {verdict.remedy}", err=True)
    root = settings.local_root if files else None
    fault = None if root is None else fault_of_root(root)
    if fault is not None:
        UserError(f"{fault} (root)").show()
    if fault is not None or any(verdict.level is Level.FAIL for verdict in found):
        raise click.exceptions.Exit(UserError.exit_code)
    click.echo(f"{config or 'defaults and environment'}: ok")
    for name, value in _highlights(settings):
        click.echo(f"  {name:<10} {value}")


def _checked(config: Path | None) -> Settings:
    """The settings; unlike for other commands, all faults are told."""
    from pydantic import ValidationError

    from cli.complaints import complaints
    from server.settings import load

    try:
        return load(config)
    except ValidationError as error:
        for line in complaints(error, config, os.environ):
            click.echo(f"offramp: {line}", err=True)
        raise click.exceptions.Exit(UserError.exit_code) from None
    except (ValueError, OSError):
        return settings_from(Given(config))  # tells it


_WHO_MAY_READ = {
    "none": "who reaches this server may read",
    "token": "who shows one of access.tokens may read what it opens",
    "proxy": "whom a proxy of access.proxies names may read what access.users lists",
}


def _highlights(settings: Settings) -> Iterator[tuple[str, str]]:
    """What a person would want to see confirmed; no secret is among it."""
    root = settings.local_root
    yield "root", "none, upstreams only" if root is None else str(root.absolute())
    yield "data", str(settings.data.absolute())
    yield "listen", settings.listen
    yield "public_url", settings.public_url or "as clients write it in Host, over http"
    yield "workers", str(settings.workers)
    yield "store", _store(settings.store, settings.data)
    for replica in settings.stores:
        yield "store", f"{replica.name}: {_store(replica, settings.data)}"
    for placement in settings.placements:
        repositories, stores = ", ".join(placement.repositories), ", ".join(placement.stores)
        yield "placement", f"content of {repositories} is named from {stores} only"
    for target in settings.effective_targets():
        of = f", of {target.store}" if settings.stores else ""
        yield "target", f"{_target(target)}{of}"
    for mirror in settings.session_mirrors:
        where = f" for {', '.join(mirror.regions)}" if mirror.regions else ""
        kind = " (Offramp)" if mirror.offramp else ""
        yield "mirror", f"{mirror.name} {mirror.url}{kind}{where}, of whole sessions"
    for region, networks in settings.regions.networks.items():
        yield "region", f"{region}: {', '.join(networks)}"
    for listed in settings.regions.lists:
        yield "region", f"those of {listed.source} ({listed.format})"
    if root is not None:
        yield "access", _WHO_MAY_READ[settings.access.auth]
    for upstream in settings.upstreams:
        access = "public" if upstream.public else "private"
        yield "upstream", f"/{upstream.title} -> {upstream.url} ({access}, auth {upstream.auth})"
    yield "redirect", _redirected(settings.redirect)


def _store(store: StoreSettings | ReplicaSettings, data: Path) -> str:
    if store.type == "s3":
        place = f"{store.bucket}/{store.prefix}".rstrip("/")
        return f"s3 {place} at {store.endpoint or store.region or 'AWS'}"
    return f"directory {(store.path or data / 'store').absolute()}"


def _redirected(redirect: RedirectSettings) -> str:
    if not redirect.enabled:
        return "never: everything is sent inline"
    if redirect.shadow:
        return "decided and counted, but everything is sent inline"
    limits = []
    if redirect.percentage < 100:
        limits.append(f"to {redirect.percentage:g} % of the networks of clients")
    if redirect.off_networks:
        limits.append(f"not to {', '.join(redirect.off_networks)}")
    if redirect.off_repositories:
        limits.append(f"not of {', '.join(redirect.off_repositories)}")
    least, life = redirect.min_size, f"by URLs that live {redirect.lifetime:.0f} s"
    return ", ".join((f"content of {least} bytes or more", *limits, life))


def _target(target: TargetSettings) -> str:
    where = f" for {', '.join(target.regions)}" if target.regions else ""
    return _described(target) + where


def _described(target: TargetSettings) -> str:
    access = "" if target.signed else ", for everybody"
    shown = f"{target.name} ({target.type}{access})"
    match target.type:
        case "self" | "s3":
            return shown
        case "http":
            return f"{shown} {target.base_url}"
        case "cloudfront" | "secure_link" | "hmac":
            ids = [key.id for key in target.keys]
            others = f" (then {', '.join(ids[1:])})" if ids[1:] else ""
            return f"{shown} {target.base_url}, signed by key {ids[0]}{others}"


@command.command()
def schema() -> None:
    """Print the JSON schema of the settings file."""
    from server.settings import Settings

    click.echo(json.dumps(Settings.model_json_schema(), indent=2))


@command.command(hidden=True)
@click.argument("which", type=click.Choice(["settings", "cli"]), default="settings")
def docs(which: str) -> None:
    """Print docs/settings.md, or docs/cli.md."""
    from cli import commands_page, settings_page

    click.echo((commands_page if which == "cli" else settings_page).page(), nl=False)
