# Law of this file: a check leaves nothing behind but the data directory, its key and one small
# document; it never raises, and whoever reads its line knows what to do.

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from itertools import chain

import aiohttp

from repos.git.program import Git
from repos.hg.program import Hg
from server.checks_admin import check_admin_socket
from server.checks_control import check_control, check_placements
from server.checks_hg import check_hg, check_hg_serve
from server.checks_hg_bundles import check_hg_bundles
from server.checks_keys import check_mixed_up
from server.checks_limits import check_limits
from server.checks_machine import check_machine
from server.checks_main_store import check_seal
from server.checks_public_url import check_public_url
from server.checks_regions import check_regions
from server.checks_scopes import check_scopes
from server.checks_sessions import check_session_mirrors
from server.checks_store import check_copies, check_store, check_targets
from server.checks_tracing import check_tracing
from server.checks_upstreams import check_access, check_upstreams
from server.lookups import connector
from server.settings import Settings
from server.verdict import Level, Verdict
from server.wiring import Unusable, build_store, build_stores
from stores.patient import SECONDS

# Of one question to git or hg; a repository on a disk that hangs must not hang us.
_SECONDS = 60.0


async def run_checks(settings: Settings) -> AsyncGenerator[Verdict, None]:
    """Look at programs, directories, upstreams, the store, targets and this user's git settings."""
    for verdict in check_machine(settings, Git(time_limit=_SECONDS)):
        yield verdict
    hg = Hg(_SECONDS, executable=settings.hg.program)
    for verdict in check_hg(settings.local_root, settings.data, hg):
        yield verdict
    async with aclosing(check_hg_serve(settings, hg)) as checks:
        async for verdict in checks:
            yield verdict
    looks = (check_access, check_control, check_placements, check_scopes, check_mixed_up)
    of_settings = (
        *(look(settings) for look in looks),
        check_admin_socket(settings),
        check_limits(settings.limits),
    )
    for verdict in chain.from_iterable(of_settings):
        yield verdict
    async with aiohttp.ClientSession(
        connector=connector(), cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        for asked in (
            check_public_url(settings, session),
            check_upstreams(settings, session),
            check_regions(settings, session),
            check_tracing(settings, session),
            check_session_mirrors(settings, Git(time_limit=_SECONDS), session),
        ):
            async with aclosing(asked) as checks:
                async for verdict in checks:
                    yield verdict
    try:
        main = build_store(settings, patience=SECONDS)
        stores = build_stores(settings, main, writes=False, patience=SECONDS)
    except Unusable as error:
        yield Verdict(Level.FAIL, str(error), "change the store's settings")
        return
    async with AsyncExitStack() as stack:
        stack.push_async_callback(stores.close)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector()))
        for checks in (
            check_seal(stores.main, settings.data),
            check_store(stores.main),
            check_copies(stores),
            check_targets(settings, stores, session),
            check_hg_bundles(settings, stores, session),
        ):
            async with aclosing(checks):
                async for verdict in checks:
                    yield verdict
