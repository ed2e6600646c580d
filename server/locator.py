# Law of this file: requests are located by what is in memory. What is known of networks is read
# and looked at again in the background, and put in the old one's place when it is whole.

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
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
from redirects.networks import IPNetwork, NetworkTable, Prefix
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
    _renewing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    async def open(cls, settings: RegionSettings, data: Path, *, keeps: bool = True) -> Self:
        """Know what the settings and the copies in the data directory ``data`` say.

        ``keeps``: lists that are fetched are kept there. False: nothing is written.
        """
        lists = tuple(
            RangeList.of(each, data, settings.refresh, keeps=keeps) for each in settings.lists
        )
        locator = cls(lists, Locality(proxies=_proxies(settings)), _prefixes(settings))
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
            try:
                await self.look(session, time.time())
            except Exception:  # noqa: BLE001 - what is known counts on, and the log says why
                _log.exception("lists of networks cannot be looked at")
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self, session: aiohttp.ClientSession, now: float) -> None:
        """Read the lists that are due; ``now`` is in seconds since the epoch."""
        changed = await asyncio.gather(*(each.look(session, now) for each in self.lists))
        if any(changed):
            await self._renew()
            _log.info("%d networks are known", self.locality.table.size)

    async def adopt(self, settings: RegionSettings) -> None:
        """Know other networks and proxies from now on; the lists stay those that they are."""
        self._own = _prefixes(settings)
        await self._renew(_proxies(settings))

    async def _renew(self, proxies: Sequence[IPNetwork] | None = None) -> None:
        # One after the other: what is known last counts, not what took longest to put in order.
        async with self._renewing:
            prefixes = [*self._own, *(prefix for each in self.lists for prefix in each.prefixes)]
            table = await asyncio.to_thread(NetworkTable.of, prefixes)
            self.locality = Locality(table, self.locality.proxies if proxies is None else proxies)


def _prefixes(settings: RegionSettings) -> tuple[Prefix, ...]:
    return tuple(
        Prefix(ip_network(network), region, "regions.networks")
        for region, networks in settings.networks.items()
        for network in networks
    )


def _proxies(settings: RegionSettings) -> tuple[IPNetwork, ...]:
    return tuple(map(ip_network, settings.proxies))
