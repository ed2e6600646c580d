# Law of this file: the page is made here of values alone. Whatever comes from outside is escaped by
# the template, and the page can load nothing and run nothing, whatever gets into it.

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import jinja2
from markupsafe import Markup

from server.quantities import age, count, duration, percent, size
from server.status.history import DAY, HOUR, MINUTE
from server.status.pictures import FOOT, HEIGHT, LAYERS, chart, utc
from server.status.places import ShownMirror, ShownTarget
from server.status.published import Published, Shelf, Shown
from server.status.report import Report
from server.status.spans import SPANS, Saved, Share, total

REPOSITORIES_SHOWN: Final = 100
"""How many repositories are on one page."""

COMPARED_SHOWN: Final = 20
"""Of how many repositories at a mirror it is shown whether they are fresh, the last asked first."""

_TEMPLATES: Final = Path(__file__).with_name("templates")
_CSS: Final = (_TEMPLATES / "status.css").read_text(encoding="utf-8")
_CSS_HASH: Final = base64.b64encode(hashlib.sha256(_CSS.encode()).digest()).decode()

HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_CSS_HASH}'; img-src data:;"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""With which the page is sent."""

_MEANINGS: Final = {
    "redirect": "known, and named elsewhere",
    "hit": "known, and sent from here",
    "follow": "was being computed already",
    "miss": "computed for this client",
    "passthrough": "by git or hg, for one client",
    "error": "refused, or failed",
}
_KINDS: Final = {
    "git": "git",
    "hg": "Mercurial",
    "mirror": "mirror",
    "elsewhere": "not served by this machine",
}
_TIMES: Final = {"hour": "%H:%M", "day": "%H:%M", "week": "%a %H:%M", "year": "%Y-%m-%d"}
_AXIS: Final = {"hour": "%H:%M", "day": "%H:%M", "week": "%a %d", "year": "%b %d"}


@dataclass(frozen=True, slots=True)
class Layer:
    """An outcome, how often it was, and what it means."""

    name: str
    count: float
    meaning: str


@dataclass(frozen=True, slots=True)
class Part:
    """A page of the list of repositories.

    Attributes:
        repositories: that are on it.
        page, pages: its number, from 1 on, and how many there are.
        first, last, total: numbers of its repositories, from 1 on, and how many there are.
        bundles: something is published of some repository.
    """

    repositories: Sequence[Shown]
    page: int
    pages: int
    first: int
    last: int
    total: int
    bundles: bool


def part(shelf: Shelf | None, page: int) -> Part:
    """The page of that number, or the one that is nearest."""
    every = () if shelf is None else shelf.repositories
    pages = max(-(-len(every) // REPOSITORIES_SHOWN), 1)
    page = min(max(page, 1), pages)
    begin = (page - 1) * REPOSITORIES_SHOWN
    shown = every[begin : begin + REPOSITORIES_SHOWN]
    first = begin + 1 if shown else 0
    bundles = any(each.bundles for each in every)
    return Part(shown, page, pages, first, begin + len(shown), len(every), bundles)


def render(report: Report, *, page: int = 1, refresh: int = 0) -> bytes:
    """The page, in UTF-8.

    Args:
        report: what it shows.
        page: which page of the repositories.
        refresh: seconds after which it loads itself anew; 0: never.
    """
    sums = total(report.points)
    verdict = _verdict(report.shares, report.saved)
    concerns = report.concerns()
    said = _PAGE.render(
        report=report,
        css=Markup(_CSS),  # noqa: S704 - a file of ours, whose hash is in the policy
        refresh=refresh,
        concerns=concerns,
        headline=concerns[0] if concerns else verdict,
        verdict=verdict,
        spans=SPANS.values(),
        step=_step(report.span.step),
        chart=chart(report.points, report.span.step, _AXIS[report.span.name]),
        layers=[Layer(name, sums[name], _MEANINGS[name]) for name in LAYERS],
        height=HEIGHT,
        foot_y=HEIGHT - FOOT,
        time_word=_TIMES[report.span.name],
        shown=part(report.shelf, page),
        kinds=_KINDS,
        process=os.getpid(),
        compared_shown=COMPARED_SHOWN,
    )
    # Names of files need not be Unicode.
    return said.encode(errors="backslashreplace")


def _verdict(shares: Sequence[Share], saved: Sequence[Saved]) -> str:
    """The whole page in a sentence: of the shortest of hour, day and week that says something."""
    for share, spared in zip(shares[1:], saved, strict=True):
        if share.share is not None:
            what = (
                f"In the {share.title}, clients were sent to targets for {percent(share.share)}"
                f"\N{NARROW NO-BREAK SPACE}% of {size(share.redirected + share.inline)}"
            )
            if not spared.saved:
                return f"{what}."
            runs = f"{count(spared.saved)} run{'s' if spared.saved > 1 else ''}"
            worth = f", about {duration(spared.saved_cpu)} of CPU" if spared.saved_cpu else ""
            needed = "were" if spared.saved > 1 else "was"
            return f"{what}, and {runs} of a program {needed} not needed{worth}."
    return "No content was asked for in the last 7 days."


# --- how values are written --------------------------------------------------------------------


def cover(bundle: Published) -> str:
    """How much of its repository a bundle holds."""
    if bundle.withheld:
        return "withheld: holds what is not offered"
    if bundle.behind is not None:
        changesets = "changeset" if bundle.behind == 1 else "changesets"
        return f"all but {count(bundle.behind)} {changesets}" if bundle.behind else "everything"
    if bundle.covered is None or bundle.tips is None:
        return "not known here"
    if bundle.covered == bundle.tips:
        return "all refs"
    return f"{count(bundle.covered)} of {count(bundle.tips)} tips"


def standing(place: ShownTarget | ShownMirror) -> str:
    """What the settings say of which clients are sent there before others."""
    regions = ", ".join(place.regions)
    whom = f"for {regions}" if regions else "for everywhere"
    weight = f"weight {place.weight:g}" if place.weight else "weight 0: nobody is sent there"
    return f"{whom}, priority {place.priority}, {weight}"


def _step(seconds: int) -> str:
    for unit, name in ((7 * DAY, "week"), (HOUR, "hour"), (MINUTE, "minute")):
        if seconds % unit == 0:
            number = seconds // unit
            return f"{number} {name}{'s' if number > 1 else ''}"
    return f"{seconds} s"


def _link(span: str, refresh: int, page: int = 1) -> str:
    """The address of the page, with what was chosen."""
    query: dict[str, str] = {"span": span}
    if refresh:
        query["refresh"] = str(refresh)
    if page > 1:
        query["page"] = str(page)
    return f"/-/?{urlencode(query)}"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        age=age,
        count=count,
        cover=cover,
        duration=duration,
        link=_link,
        percent=percent,
        size=size,
        standing=standing,
        utc=utc,
    )
    return environment


_PAGE: Final = _environment().get_template("status.html")
