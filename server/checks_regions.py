# Law of this file: lists of networks are read as the server reads them, and a region that nobody
# can be in is told before somebody wonders why its target has nothing to do.

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator
from typing import Final

import aiohttp

from redirects.selection import Standing
from server.range_lists import RangeList
from server.settings import Settings
from server.verdict import Level, Verdict

_REMEDY: Final = "check its `url` or `file` in [[regions.lists]], and that it is that list"


async def check_regions(
    settings: Settings, session: aiohttp.ClientSession
) -> AsyncGenerator[Verdict, None]:
    """Look at the lists of networks, and at the regions that targets serve."""
    known = set(settings.regions.networks)
    for each in settings.regions.lists:
        ranges = RangeList.of(each, settings.data, settings.regions.refresh)
        await ranges.look(session, time.time())
        regions = {prefix.region for prefix in ranges.prefixes}
        known |= regions
        has = f"{len(ranges.prefixes)} networks in {len(regions)} regions"
        if ranges.fault is None:
            yield Verdict(Level.OK, f"list of networks {each.source}: {has}")
        elif ranges.prefixes:
            what = f"list of networks {ranges.fault}; an earlier copy counts, with {has}"
            yield Verdict(Level.WARN, what, _REMEDY)
        else:
            yield Verdict(Level.FAIL, f"list of networks {ranges.fault}", _REMEDY)
    for verdict in _served(settings, known):
        yield verdict


def _served(settings: Settings, known: set[str]) -> Iterator[Verdict]:
    targets = settings.effective_targets()
    if known and not any(target.regions for target in targets):
        what = "regions: no target names any, so where clients are decides nothing"
        yield Verdict(Level.INFO, what, "write `regions` into [[targets]]")
    for target in targets:
        standing = Standing(target.regions)
        if target.regions and not any(standing.serves(region) for region in known):
            yield Verdict(
                Level.WARN,
                f"target {target.name}: no network that is known is in its regions"
                f" ({', '.join(target.regions)}); only clients that name one themselves are",
                "correct its `regions`, or say in [regions] which networks are in them",
            )
