# Law of this file: what operators may ask of a running process. Whether somebody may is decided
# before anything else is looked at; nothing is changed here, and no answer holds a key.

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web
from pydantic import BaseModel

from server.explaining import Asked, BadQuestion, NothingToExplain
from server.explaining_live import explained_live
from server.git import answers
from server.git.answers import NO_CACHE
from server.runtime import Runtime
from server.status.places import shown_mirrors
from server.status_documents import (
    DecisionDocument,
    DecisionsDocument,
    ExplanationDocument,
    MirrorDocument,
    MirrorsDocument,
    TargetsDocument,
)
from stores.base import StoreError

EXPLAIN_ROUTE: Final = "/-/api/explain"

_REFUSED: Final = (
    "This is for access.operators, and this address is none of them: list it there, or ask at"
    " admin.listen."
)

_Told = Callable[[Runtime, web.Request], Awaitable[web.Response]]


def add_status_api(router: web.UrlDispatcher, runtime: Runtime) -> None:
    """Answer ``GET /-/api/...``."""
    for route, told in (
        (EXPLAIN_ROUTE, _explain),
        ("/-/api/decisions", _decisions),
        ("/-/api/targets", _targets),
        ("/-/api/mirrors", _mirrors),
    ):
        router.add_get(route, _guarded(runtime, told))


def _guarded(runtime: Runtime, told: _Told) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        if not runtime.access_rules.sees_clients(request):
            return answers.text(403, _REFUSED)
        return await told(runtime, request)

    return handle


async def _explain(runtime: Runtime, request: web.Request) -> web.Response:
    query = request.query
    for name in ("repo", "from"):
        if name not in query:
            return answers.text(400, f"Which {name}? Write ?repo=REPO&from=ADDRESS.")
    try:
        asked = Asked.read(
            query["repo"],
            query["from"],
            query.get("accepts", "https"),
            query.get("region"),
            query.get("entity"),
        )
        explanation = await explained_live(runtime, asked)
    except BadQuestion as error:
        return answers.text(400, f"{error.parameter}={error}")
    except NothingToExplain as error:
        return answers.text(404, str(error))
    except StoreError as error:
        return answers.text(503, f"The store does not answer: {error}")
    return _json(ExplanationDocument.of(explanation, whole_url=False))


async def _decisions(runtime: Runtime, request: web.Request) -> web.Response:
    del request
    made = tuple(map(DecisionDocument.of, runtime.decisions.last()))
    return _json(DecisionsDocument(process=os.getpid(), decisions=made))


async def _targets(runtime: Runtime, request: web.Request) -> web.Response:
    del request
    settings = runtime.settings.effective_targets()
    return _json(TargetsDocument.of(os.getpid(), runtime.health, settings, time.time()))


async def _mirrors(runtime: Runtime, request: web.Request) -> web.Response:
    del request
    now = time.time()
    shown = shown_mirrors(runtime.sessions, runtime.settings.session_mirrors)
    mirrors = tuple(MirrorDocument.of(each, now) for each in shown)
    return _json(MirrorsDocument(process=os.getpid(), mirrors=mirrors))


def _json(document: BaseModel) -> web.Response:
    return web.Response(
        text=document.model_dump_json(indent=2) + "\n",
        content_type="application/json",
        headers=NO_CACHE,
    )
