# Law of this file: a store that is another one than it was is taken only when somebody says so, and
# is then known to have nothing until it was read back.

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import click

from cli.errors import Failed, UserError, told_plainly
from cli.options import Given, settings_from, settings_options

if TYPE_CHECKING:
    from server.settings import Settings


@click.group()
def command() -> None:
    """Look after the stores of copies."""


@command.command("renew")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@settings_options(root=False, listen=False)
def renew(given: Given, name: str, *, as_json: bool) -> None:
    """Begin anew with the store NAME, one of `stores` in the settings, as it is found now.

    For one that was emptied, replaced, or has lost a part of its content, and that is refused
    because of it. Nothing is removed. What was noted of its content counts no more: run `offramp
    index` then, which reads back what is there and copies what is not, and restart every server,
    none of which names a target of it before.
    """
    settings = settings_from(given)
    names = [store.name for store in settings.stores]
    if name not in names:
        known = f"there are {', '.join(names)}" if names else "there are none"
        raise UserError(
            f"{name!r} is none of the `stores` in the settings ({known}); the main store, [store],"
            " needs no renewing"
        )
    with told_plainly():
        place, generation = asyncio.run(_renewed(settings, name))
    if as_json:
        told = {"store": name, "place": place, "generation": generation}
        click.echo(json.dumps(told, indent=2))
        return
    click.echo(f"{name} ({place}) begins anew: what was noted of its content counts no more")
    click.echo("now run `offramp index`, then restart every server")


async def _renewed(settings: Settings, name: str) -> tuple[str, str]:
    """Renew a store; what it is called, and its new generation."""
    from server.wiring import build_store, build_stores
    from stores.base import Conflict
    from stores.patient import SECONDS
    from stores.replica import Replica

    main = build_store(settings, patience=SECONDS)
    stores = build_stores(settings, main, patience=SECONDS)
    try:
        store = stores.replicas[name]
        assert isinstance(store, Replica)  # noqa: S101 - as build_stores makes them
        return store.name, await store.renew()
    except Conflict as error:
        raise Failed(f"{error}: somebody else renews it; run the same command again") from error
    finally:
        await stores.close()
