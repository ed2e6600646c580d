# Law of this file: how a decision is told to people, step by step; it is made where servers make
# theirs, or by a server that runs.

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click

from cli.errors import Failed, UserError, told_plainly
from cli.options import Given, settings_from, settings_options
from cli.tables import printable, size

if TYPE_CHECKING:
    from server.explaining import Asked
    from server.status_documents import (
        ClientDocument,
        ExplanationDocument,
        MirrorVerdictDocument,
        RedirectDocument,
        SessionDocument,
        VerdictDocument,
    )

# Of one question to a server, which asks nobody else but perhaps its store.
_SECONDS: Final = 20.0
_LONGEST_ANSWER: Final = 1 << 20
_LONGEST_SAID: Final = 300


@click.command()
@click.option(
    "--repo",
    required=True,
    metavar="REPO",
    help="The repository, by the path of its URL; `.git` may be left out.",
)
@click.option(
    "--from",
    "address",
    required=True,
    metavar="ADDRESS",
    help="The IP address from which the client asks.",
)
@click.option(
    "--accepts",
    default="https",
    show_default=True,
    metavar="SCHEMES",
    help="What it accepts, as in fetch.uriProtocols: https, or http,https; empty for nothing.",
)
@click.option("--region", metavar="REGION", help="Where it says itself that it is.")
@click.option(
    "--entity",
    metavar="SHA256",
    help="The content; by default the newest bundle, with which a clone begins.",
)
@click.option(
    "--server",
    metavar="URL",
    help="Ask the server that runs there, which knows since when a target is down. It must hold us"
    " for an operator, and tells URLs without their signatures.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@settings_options(root=False)
def command(
    given: Given,
    *,
    repo: str,
    address: str,
    accepts: str,
    region: str | None,
    entity: str | None,
    server: str | None,
    as_json: bool,
) -> None:
    """Show to which target a client would be sent for content of REPO, and why to no other.

    The decision is made anew, with the settings, lists and catalogs that servers use, and after a
    look at each target; nothing is written. The URL at the end is a key: who has it can read the
    content, until it expires. Where there are mirrors of whole sessions, it is told as well whether
    a session would move to one. Exits with 1 if there is no such content.
    """
    asked = _asked(repo, address, accepts, region, entity)
    document = _made_here(given, asked) if server is None else _told_by(server, asked)
    for note in document.notes:
        click.echo(f"offramp: {note}", err=True)
    if as_json:
        click.echo(document.model_dump_json(indent=2))
        return
    for title, text in _lines(document, accepts):
        click.echo(f"{title:<8}  {text}")


def _asked(repo: str, address: str, accepts: str, region: str | None, entity: str | None) -> Asked:
    from server.explaining import Asked, BadQuestion

    try:
        return Asked.read(repo, address, accepts, region, entity)
    except BadQuestion as error:
        raise UserError(f"--{error.parameter} {error}") from None


def _made_here(given: Given, asked: Asked) -> ExplanationDocument:
    from indexer.catalog import CatalogError
    from server.explaining import NothingToExplain
    from server.explaining_alone import explained_alone
    from server.status_documents import ExplanationDocument

    # What a server would log is part of the explanation here.
    logging.getLogger("offramp").addHandler(logging.NullHandler())
    settings = settings_from(given)
    with told_plainly():
        try:
            explanation = asyncio.run(explained_alone(settings, asked))
        except (NothingToExplain, CatalogError) as error:
            raise Failed(str(error)) from None
    return ExplanationDocument.of(explanation, whole_url=True)


def _told_by(server: str, asked: Asked) -> ExplanationDocument:
    """What a running server says.

    Raises:
        UserError: the URL is none.
        Failed: nothing comes from there, or no explanation.
    """
    from pydantic import TypeAdapter, ValidationError

    from server.setting_types import BaseUrl, without_secrets
    from server.status_documents import ExplanationDocument

    try:
        base: str = TypeAdapter(BaseUrl).validate_python(server)
    except ValidationError:
        raise UserError(
            f"--server {without_secrets(server)}: no base URL; write http(s)://host[:port][/path]"
        ) from None
    status, body = asyncio.run(_fetched(base, asked))
    if status != 200:
        said = " ".join(body.decode(errors="replace").split())[:_LONGEST_SAID]
        raise Failed(f"{base} answers {status}: {printable(said)}")
    try:
        return ExplanationDocument.model_validate_json(body)
    except ValidationError:
        raise Failed(f"{base}: what answers there is no Offramp, or one of another age") from None


async def _fetched(base: str, asked: Asked) -> tuple[int, bytes]:
    import aiohttp

    from server.http_faults import why
    from server.status_api import EXPLAIN_ROUTE

    query = {
        "repo": asked.repository,
        "from": asked.address,
        "accepts": ",".join(sorted(asked.protocols)),
    }
    query |= {} if asked.word is None else {"region": asked.word}
    query |= {} if asked.digest is None else {"entity": asked.digest}
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{base}{EXPLAIN_ROUTE}", params=query, allow_redirects=False) as answer,
        ):
            return answer.status, await answer.content.read(_LONGEST_ANSWER)
    except TimeoutError:
        raise Failed(f"{base}: no answer within {_SECONDS:.0f} s") from None
    except (aiohttp.ClientError, OSError) as error:
        raise Failed(
            f"{base} cannot be asked: {why(error)}; is it where a server listens, or its"
            " admin.listen?"
        ) from None


def _because(client: ClientDocument) -> str:
    """How it is known where a client is."""
    holds = ""
    if client.prefix is not None:
        holds = f"{client.prefix} is in {client.prefix_region} ({client.source})"
    if client.said:
        return f"its own word; by its address, {holds or 'no network that is known holds it'}"
    return holds or "no network that is known holds its address"


def _lines(document: ExplanationDocument, accepts: str) -> Iterator[tuple[str, str]]:
    client, content, redirect = document.client, document.content, document.redirect
    yield "client", f"{client.address}, spread as {client.network}, accepts {accepts or 'nothing'}"
    yield "region", f"{client.region or 'not known'}: {_because(client)}"
    yield "content", f"{content.title}, {size(content.size)}, {content.digest}"
    several = len({verdict.store for verdict in document.targets}) > 1
    for verdict in document.targets:
        title = f"{verdict.name} of {verdict.store}" if several else verdict.name
        yield "target", f"{title}: {_told(verdict)}"
    if redirect is None:
        yield "answer", f"inline: {document.inline}: {document.inline_text}"
    else:
        yield from _redirect_lines(redirect)
    if document.session is not None:
        yield from _session_lines(document.session)


def _redirect_lines(redirect: RedirectDocument) -> Iterator[tuple[str, str]]:
    until = "that does not expire"
    if redirect.expires is not None:
        until = f"that works until {_moment(redirect.expires)}"
    yield "answer", f"a redirect to {redirect.target}, by a URL {until}"
    yield "url", redirect.url


def _session_lines(session: SessionDocument) -> Iterator[tuple[str, str]]:
    """What becomes of the whole session, before any content is asked for."""
    for verdict in session.mirrors:
        yield "mirror", f"{verdict.name}: {_told(verdict)}"
    if session.mirror is None:
        yield "session", f"stays here: {session.stays}: {session.stays_text}"
        return
    yield "session", f"moves to the mirror {session.mirror}, if it carries no credentials"
    yield "url", session.url or ""


def _told(verdict: VerdictDocument | MirrorVerdictDocument) -> str:
    said = verdict.verdict
    if verdict.since is not None:
        said += f" since {_moment(verdict.since)}"
    if verdict.text:
        said += f": {verdict.text}"
    return said if verdict.seen is None else f"{said} Seen last: {verdict.seen}"


def _moment(when: datetime) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
