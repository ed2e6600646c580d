# Law of this file: how a decision is told to people, step by step; it is made where servers make
# theirs.

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click

from cli.errors import Failed, UserError, told_plainly
from cli.options import Given, settings_from, settings_options

if TYPE_CHECKING:
    from redirects.locality import Whereabouts
    from redirects.negotiation import Verdict
    from server.explaining import Asked, Explanation

_SCHEMES: Final = ("http", "https")
_CHOSEN: Final = "chosen"


@click.command()
@click.option("--repo", required=True, metavar="REPO", help="The repository, as it is served.")
@click.option(
    "--from", "address", required=True, metavar="ADDRESS", help="From where the client asks."
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
    as_json: bool,
) -> None:
    """Show to which target a client would be sent for content of REPO, and why to no other.

    The decision is made anew, with the settings, lists and catalogs that servers use, and after a
    probe of each target. The URL at the end is a key: who has it can read the content, until it
    expires. Exits with 1 if there is no such content.
    """
    from indexer.catalog import CatalogError
    from server.explaining import NothingToExplain, explained

    # What a server would log is part of the explanation here.
    logging.getLogger("offramp").addHandler(logging.NullHandler())
    asked = _asked(repo, address, accepts, region, entity)
    settings = settings_from(given)
    with told_plainly():
        try:
            explanation = asyncio.run(explained(settings, asked))
        except (NothingToExplain, CatalogError) as error:
            raise Failed(str(error)) from None
    for fault in explanation.faults:
        click.echo(f"offramp: list of networks not read: {fault}", err=True)
    if as_json:
        click.echo(json.dumps(_values(explanation), indent=2))
        return
    for title, text in _lines(explanation, accepts):
        click.echo(f"{title:<8}  {text}")


def _asked(repo: str, address: str, accepts: str, region: str | None, entity: str | None) -> Asked:
    from redirects.locality import region_word
    from redirects.networks import read_address
    from server.explaining import Asked
    from stores.entity import is_digest

    if read_address(address) is None:
        raise UserError(f"--from {address}: no IP address, such as 192.0.2.7 or 2001:db8::7")
    protocols = frozenset(word.strip() for word in accepts.split(",") if word.strip())
    unknown = sorted(protocols - set(_SCHEMES))
    if unknown:
        raise UserError(f"--accepts {accepts}: {unknown[0]!r} is neither http nor https")
    word = None if region is None else region_word(region)
    if region is not None and word is None:
        raise UserError(f"--region {region}: no name of a region, such as eu-west-1")
    if entity is not None and not is_digest(entity):
        raise UserError(f"--entity {entity}: no SHA-256 in 64 lower-case hex digits")
    return Asked(repo.strip("/"), address, word, protocols, entity)


def _because(where: Whereabouts) -> str:
    """How it is known where a client is."""
    found = where.prefix
    holds = "" if found is None else f"{found.network} is in {found.region} ({found.source})"
    if where.said:
        return f"its own word; by its address, {holds or 'no network that is known holds it'}"
    return holds or "no network that is known holds its address"


def _lines(explanation: Explanation, accepts: str) -> Iterator[tuple[str, str]]:
    from cli.tables import size
    from redirects.decision import Redirect

    where, content = explanation.where, explanation.content
    yield "client", f"{where.address}, spread as {where.network}, accepts {accepts or 'nothing'}"
    yield "region", f"{where.region or 'not known'}: {_because(where)}"
    yield "content", f"{content.title}, {size(content.entity.size)}, {content.entity.digest}"
    for verdict in explanation.verdicts:
        yield "target", f"{_title(explanation, verdict)}: {_told(explanation, verdict)}"
    decision = explanation.decision
    if isinstance(decision, Redirect):
        location = decision.location
        yield "answer", f"a redirect to {location.target}, {_until(location.expires)}"
        yield "url", location.url
    else:
        yield "answer", f"inline: {decision.reason.value}: {decision.reason.text}"


def _word(explanation: Explanation, verdict: Verdict) -> str:
    from redirects.decision import Redirect

    if verdict.reason is not None:
        return str(verdict.reason.value)
    # Where nothing is named whatever the targets, none of them is at fault.
    return _CHOSEN if isinstance(explanation.decision, Redirect) else "would_be_chosen"


def _told(explanation: Explanation, verdict: Verdict) -> str:
    word = _word(explanation, verdict)
    return word if verdict.reason is None else f"{word}: {verdict.reason.text}"


def _title(explanation: Explanation, verdict: Verdict) -> str:
    """A target, and its store where there are several."""
    several = len(set(explanation.reads.values())) > 1
    return f"{verdict.target}{f' of {explanation.reads[verdict.target]}' if several else ''}"


def _until(expires: float | None) -> str:
    if expires is None:
        return "by a URL that does not expire"
    return f"by a URL that works until {datetime.fromtimestamp(expires, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _values(explanation: Explanation) -> dict[str, object]:
    from redirects.decision import Redirect

    where, content, decision = explanation.where, explanation.content, explanation.decision
    prefix = where.prefix
    outcome: dict[str, object]
    if isinstance(decision, Redirect):
        location = decision.location
        named = {"target": location.target, "url": location.url, "expires": location.expires}
        outcome = {"redirect": named, "inline": None}
    else:
        outcome = {"redirect": None, "inline": decision.reason.value}
    return {
        "client": {
            "address": where.address,
            "network": where.network,
            "region": where.region,
            "said": where.said,
            "prefix": None if prefix is None else str(prefix.network),
            "prefix_region": None if prefix is None else prefix.region,
            "source": None if prefix is None else prefix.source,
        },
        "content": {
            "title": content.title,
            "digest": content.entity.digest,
            "size": content.entity.size,
        },
        "targets": [
            {
                "name": verdict.target,
                "store": explanation.reads[verdict.target],
                "verdict": _word(explanation, verdict),
                "text": "" if verdict.reason is None else verdict.reason.text,
            }
            for verdict in explanation.verdicts
        ],
        **outcome,
    }
