# Law of this file: whoever starts the server is told where it is and the line to paste.

from __future__ import annotations

import logging
import shlex
import shutil
from functools import partial
from itertools import chain
from threading import Thread
from typing import TYPE_CHECKING

import click

from cli.errors import Failed, UserError, told_plainly
from cli.options import Given, settings_from, settings_options, with_root

if TYPE_CHECKING:
    from pathlib import Path

    from server.settings import Settings

_log = logging.getLogger("offramp")

# More than these are not a list that anybody reads.
_SHOWN = 20


@click.command()
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    metavar="N",
    help="Server processes that share the port; by default `workers` of the settings, or 1.",
)
@click.option(
    "--index/--no-index",
    default=None,
    help="Make bundles in the background: now, at an interval, and after a push. By default as"
    " `index.enabled` of the settings says, or not.",
)
@settings_options(root=True)
def command(given: Given, *, workers: int | None, index: bool | None) -> None:
    """Serve every repository under ROOT over HTTP, until it is stopped by Ctrl-C."""
    settings = _settings(given, workers, index)
    from server.listening import CannotListen
    from server.serving import serve

    with told_plainly():
        try:
            serve(
                settings,
                partial(_greet_aside, settings),
                partial(_read_again, given, workers, index),
            )
        except CannotListen as error:
            raise Failed(str(error)) from None


def _settings(given: Given, workers: int | None, index: bool | None) -> Settings:
    settings = with_root(settings_from(given))
    if workers is not None:
        settings = settings.model_copy(update={"workers": workers})
    if index is not None:
        enabled = settings.index.model_copy(update={"enabled": index})
        settings = settings.model_copy(update={"index": enabled})
    return settings


def _read_again(given: Given, workers: int | None, index: bool | None) -> Settings:
    """The settings as they are written now, and as the command line has them.

    Raises:
        server.reloading.Unreadable: they are wrong.
    """
    from server.reloading import Unreadable

    try:
        return _settings(given, workers, index)
    except UserError as error:
        raise Unreadable(error.message) from None


def _greet_aside(settings: Settings, address: str, admin: str | None = None) -> None:
    """Greet, and keep nobody waiting: to tell of each repository all of ROOT is walked."""

    def greet() -> None:
        try:
            _greet(settings, address, admin)
        except Exception as error:  # noqa: BLE001 - it is served all the same
            _log.warning("the greeting was not printed to its end: %s", error)

    Thread(target=greet, name="greeting", daemon=True).start()


def _greet(settings: Settings, address: str, admin: str | None = None) -> None:
    """Print the address, for each repository how to clone it, and where the status page is.

    ``admin`` is where the listener for those who run this server is; see
    :data:`server.serving.Ready`.
    """
    base = settings.public_url or f"http://{_reachable(address)}"
    root = settings.local_root
    served = [str(root)] if root is not None else []
    served += [upstream.url for upstream in settings.upstreams]
    click.echo(f"Offramp serves {', '.join(served)} at {base}/")
    protocols = uri_protocols(settings, base)
    setting = f"-c fetch.uriProtocols={protocols} " if protocols else ""
    for upstream in settings.upstreams:
        name = f"{upstream.title}/..." if upstream.prefix else upstream.title
        clone = "hg clone" if upstream.vcs == "hg" else f"git {setting}clone"
        click.echo(f"  {clone} {base}/{name}")
    if root is not None:
        _list(settings, root, base, setting)
    page = status_page(settings, address, admin)
    if page is not None:
        click.echo(f"  status page: {page}")


def _list(settings: Settings, root: Path, base: str, setting: str) -> None:
    """Print how to clone each repository below ROOT."""
    from repos.git.discovery import discover as discover_git
    from repos.hg.discovery import discover as discover_hg

    git_names = (found.name for found in discover_git(root, settings.data))
    hg_names = (found.name for found in discover_hg(root, settings.data))
    lines = chain(
        (f"git {setting}clone {clone_url(base, name)}" for name in git_names),
        (f"hg clone {clone_url(base, name)}" for name in hg_names),
    )
    shown = of_hg = 0
    for line in lines:
        of_hg += line.startswith("hg ")
        shown += 1
        if shown <= _SHOWN:
            click.echo(f"  {line}")
    if shown > _SHOWN:
        click.echo(f"  ... and {shown - _SHOWN} more repositories")
    if not shown:
        click.echo("  no repository there yet; one that is added is served at once")
    if of_hg and shutil.which(settings.hg.program) is None:
        click.echo(
            f"offramp: no {settings.hg.program!r} is found, and Mercurial repositories cannot be"
            " served without it: install Mercurial, or say in hg.program where it is",
            err=True,
        )


def status_page(settings: Settings, address: str, admin: str | None) -> str | None:
    """Where the status page is, for people; None where nobody may see it.

    It is that of this machine and not ``public_url``: a proxy in front had better not let it
    through. The rules are those of :meth:`server.access.rules.AccessRules.is_operator`.
    """
    operators = settings.access.operators
    whom = " (for access.operators)" if operators else ""
    if admin is None:
        if settings.private and not operators:
            return None
        return f"http://{_reachable(address)}/-/{whom}"
    if admin.startswith("unix:"):
        # Its file says who may open it, and no address is looked at.
        socket = shlex.quote(admin.removeprefix("unix:"))
        return f"/-/ at {admin}: curl --unix-socket {socket} http://offramp/-/"
    return f"http://{_reachable(admin.removeprefix('http://').rstrip('/'))}/-/{whom}"


def uri_protocols(settings: Settings, base: str) -> str:
    """The value of ``fetch.uriProtocols`` that lets a client use every target."""
    if not settings.redirect.enabled:
        return ""
    schemes = set()
    for target in settings.effective_targets():
        match target.type:
            case "http" | "cloudfront" | "secure_link" | "hmac":
                url = target.base_url
            case "s3":
                store = settings.store_of(target)
                own = store.endpoint if store.type == "s3" else None
                url = target.endpoint or own or "https://"
            case "self":
                url = base
        schemes.add(url.partition(":")[0])
    return "https" if schemes == {"https"} else "http,https"


def clone_url(base: str, name: str) -> str:
    """The URL of a repository, quoted for a shell."""
    from urllib.parse import quote

    return shlex.quote(f"{base}/{quote(name, errors='surrogateescape')}")


def _reachable(address: str) -> str:
    """An address to connect to, for one that means every interface."""
    host, _, port = address.rpartition(":")
    return f"127.0.0.1:{port}" if host in {"0.0.0.0", "[::]"} else address  # noqa: S104 - compared
