# Law of this file: the page and its figures are for operators, and that is settled before anything
# is read. Every figure of the page is told here as JSON, too.

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Final

from aiohttp import web
from pydantic import BaseModel

from server.access.rules import AccessRules
from server.blobs import Handler
from server.git import answers
from server.status.page import HEADERS, part, render
from server.status.published import Shelf
from server.status.spans import SPANS, Span
from server.status.status import Status

PAGE: Final = "/-/"
API: Final = "/-/api/"

_Values = Callable[[web.Request], Awaitable[Mapping[str, object]]]

_REFUSED: Final = "This page is for access.operators, and at admin.listen for whoever reaches it."

# Whoever loads a page faster than that wants a program for it.
_REFRESH: Final = (10, 3600)
# As many as the files hold, or nearly.
_ERRORS: Final = 200
_JSON: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


@dataclass(frozen=True, slots=True)
class StatusRoutes:
    """The page, and what it shows as JSON.

    Attributes:
        status: what there is to show.
        rules: who may see it.
    """

    status: Status
    rules: AccessRules

    def listed(self) -> tuple[tuple[str, Handler], ...]:
        """Paths, and who answers them."""
        return (
            (PAGE, self._guarded(self._page)),
            (f"{API}status", self._guarded(_as_json(self._status))),
            (f"{API}history", self._guarded(_as_json(self._history))),
            (f"{API}repositories", self._guarded(_as_json(self._repositories))),
            (f"{API}errors", self._guarded(_as_json(self._errors))),
        )

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            if not self.rules.is_operator(request):
                return answers.text(403, _REFUSED)
            return await handler(request)

        return guarded

    async def _page(self, request: web.Request) -> web.StreamResponse:
        """The page."""
        span, page = _span(request, "day"), _number(request, "page", 1, (1, 1_000_000))
        refresh = _number(request, "refresh", 0, _REFRESH)
        report = await self.status.report(span)
        report = replace(report, shelf=self._shown(request, report.shelf))
        return web.Response(
            body=render(report, page=page, refresh=refresh),
            headers={**HEADERS, "Content-Type": "text/html; charset=utf-8"},
        )

    async def _status(self, request: web.Request) -> Mapping[str, object]:
        """What is so now."""
        report = await self.status.report(_span(request, "day"))
        return {
            "at": report.at,
            "concerns": report.concerns(),
            "shares": report.shares,
            "saved": report.saved,
            "targets": report.targets,
            "mirrors": report.mirrors,
            "store_down": report.store_down,
            "indexing": {
                "enabled": report.indexes,
                "running": report.indexing,
                "last_run": report.last_run,
            },
            "fault": report.fault,
        }

    async def _history(self, request: web.Request) -> Mapping[str, object]:
        """Figures over time."""
        span = _span(request, "day")
        figures = await self.status.figures(span)
        return {
            "span": span.name,
            "step": span.step,
            "points": [{"at": point.at, **point.figures} for point in figures.points],
            "fault": figures.fault,
        }

    async def _repositories(self, request: web.Request) -> Mapping[str, object]:
        """What is published, by repository."""
        page = _number(request, "page", 1, (1, 1_000_000))
        shelf = self._shown(request, await self.status.shelves.look())
        shown = part(shelf, page)
        return {
            "read": None if shelf is None else shelf.read,
            "fault": "" if shelf is None else shelf.fault,
            "page": shown.page,
            "pages": shown.pages,
            "total": shown.total,
            "repositories": shown.repositories,
        }

    def _shown(self, request: web.Request, shelf: Shelf | None) -> Shelf | None:
        """What is published, as far as this caller may know of it.

        A store may hold what other servers have, and these may ask who reads.
        """
        if shelf is None or self.rules.sees_clients(request):
            return shelf
        here = tuple(each for each in shelf.repositories if each.kind != "elsewhere")
        return replace(shelf, repositories=here)

    async def _errors(self, request: web.Request) -> Mapping[str, object]:
        """The last warnings and errors."""
        del request
        return {"errors": await asyncio.to_thread(self.status.troubles.last, _ERRORS)}


def _as_json(values: _Values) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        # Names of files need not be Unicode; as ASCII, JSON can hold them all the same.
        body = json.dumps(await values(request), default=_plain, indent=2) + "\n"
        return web.Response(
            body=body.encode("ascii"), headers={**_JSON, "Content-Type": "application/json"}
        )

    return handler


def _plain(value: object) -> object:
    """What JSON has no word for, as what it has."""
    match value:
        case BaseModel():
            return value.model_dump()
        case Enum():
            return value.value
    return asdict(value)  # type: ignore[call-overload]


def _span(request: web.Request, default: str) -> Span:
    asked = request.query.get("span", default)
    span = SPANS.get(asked)
    if span is None:
        known = ", ".join(SPANS)
        raise web.HTTPBadRequest(text=f"There is no such span; there are {known}.\n")
    return span


def _number(request: web.Request, name: str, default: int, bounds: tuple[int, int]) -> int:
    """A number of the query; what is out of bounds is brought to the nearest that is not."""
    asked = request.query.get(name)
    if asked is None:
        return default
    if not asked.isascii() or not asked.isdigit() or len(asked) > 9:
        raise web.HTTPBadRequest(text=f"{name} must be a number.\n")
    return min(max(int(asked), bounds[0]), bounds[1])
