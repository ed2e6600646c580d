# Law of this file: requests are located by what is in memory. What is known of networks is read
# and looked at again in the background, and put in the old one's place when it is whole.

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Final, Self

import aiohttp
from aiohttp import web

from redirects.locality import (
    REGION_HEADER,
    Locality,
    Whereabouts,
    region_word,
)
from redirects.networks import NetworkTable, Prefix
from server.range_lists import RangeList
from server.settings_regions import RegionSettings

_log = logging.getLogger("offramp.regions")

# How often it is looked whether a list is to be read again. A look is a stat.
LOOK_SECONDS: Final = 30.0

_FORWARDED: Final = "X-Forwarded-For"


@dataclass(slots=True)
class Locator:
    """Tells where the client of a request is.

    Attributes:
        lists: those that clouds publish.
        locality: what is known now.
    """

    lists: tuple[RangeList, ...]
    locality: Locality
    _own: tuple[Prefix, ...]

    @classmethod
    async def open(cls, settings: RegionSettings, data: Path) -> Self:
        """Know what the settings and the copies in the data directory ``data`` say."""
        own = tuple(
            Prefix(ip_network(network), region, "regions.networks")
            for region, networks in settings.networks.items()
            for network in networks
        )
        lists = tuple(RangeList.of(each, data, settings.refresh) for each in settings.lists)
        proxies = tuple(map(ip_network, settings.proxies))
        locator = cls(lists, Locality(proxies=proxies), own)
        for each in lists:
            await each.load()
        await locator._renew()
        return locator

    def find(self, request: web.Request) -> Whereabouts:
        """Where the client of ``request`` is, by its headers and its address."""
        headers = request.headers
        said = headers.get(REGION_HEADER)
        word = None if said is None else region_word(said)
        forwarded: Sequence[str] = ()
        if self.locality.proxies:
            forwarded = headers.getall(_FORWARDED, ())
        return self.locality.find(request.remote or "", forwarded, word)

    async def run(self, session: aiohttp.ClientSession) -> None:
        """Look at the lists again and again, until cancelled."""
        while True:
            await self.look(session, time.time())
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self, session: aiohttp.ClientSession, now: float) -> None:
        """Read the lists that are due; ``now`` is in seconds since the epoch."""
        changed = await asyncio.gather(*(each.look(session, now) for each in self.lists))
        if any(changed):
            await self._renew()
            _log.info("%d networks are known", self.locality.table.size)

    async def _renew(self) -> None:
        prefixes = [*self._own, *(prefix for each in self.lists for prefix in each.prefixes)]
        table = await asyncio.to_thread(NetworkTable.of, prefixes)
        self.locality = Locality(table, self.locality.proxies)
