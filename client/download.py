# Law of this file: content of a target is fetched whole or not at all. Who has got a part of it
# asks for the rest; who has got nothing gives the target up, for there is another way to the same.

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import aiohttp
from yarl import URL

from client.address import next_hop
from client.errors import TargetFailed, Unreachable, told
from client.link import USER_AGENT, Link
from client.spool import Spool
from wire.hg.messages import CBOR_MEDIA_TYPE, Location

_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))

# That may pass: request timeout, too early, too many requests, and all faults of the server's own.
_PASSING: Final = frozenset((408, 425, 429, *range(500, 600)))

_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)", re.IGNORECASE)


class _Interrupted(Exception):  # noqa: N818 - what happened
    """This try came to no end; the next may."""


async def download(link: Link, location: Location) -> Spool:
    """The content of a location, checked. Whoever gets it closes it.

    Raises:
        TargetFailed: it cannot be had there, or it is not what the location says.
    """
    _check(link, location)
    spool = Spool(location, link.limits)
    try:
        if not spool.checkable:
            raise TargetFailed("the location has no hash by which we could check its content")
        await _Download(link, location, spool).run()
    except BaseException:
        spool.close()
        raise
    return spool


def _check(link: Link, location: Location) -> None:
    if location.media_type != CBOR_MEDIA_TYPE:
        raise TargetFailed(f"{location.media_type!r} lies there, and we read {CBOR_MEDIA_TYPE}")
    if location.size is not None and location.size > link.limits.entity:
        raise TargetFailed(f"{location.size} bytes; we take up to {link.limits.entity}")


class _Download:
    def __init__(self, link: Link, location: Location, spool: Spool) -> None:
        self._link = link
        self._location = location
        self._spool = spool
        self._stitched = False

    async def run(self) -> None:
        limits = self._link.limits
        for number in range(limits.tries):
            if number:
                await asyncio.sleep(limits.pause * 2 ** (number - 1))
            try:
                await self._try()
            except _Interrupted as interrupted:
                reason = str(interrupted)
                if not self._spool.size:
                    raise TargetFailed(reason) from interrupted
            else:
                return
        raise TargetFailed(f"{reason}; so it went {limits.tries} times")

    async def _try(self) -> None:
        """Fetch what lacks, and check the whole."""
        if not self._spool.complete:
            async with self._answer() as response:
                self._begin(response)
                await self._read(response)
        wrong = self._spool.mismatch()
        if wrong is None:
            return
        if self._location.size is not None and self._spool.size < self._location.size:
            raise _Interrupted(wrong)
        if self._stitched:
            # Two answers may have been of two contents; one answer will be of one.
            await self._once_more()
            return
        raise TargetFailed(wrong)

    async def _once_more(self) -> None:
        self._stitched = False
        self._spool.restart()
        await self._try()

    @asynccontextmanager
    async def _answer(self) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """The answer to a GET, after all HTTP redirects."""
        try:
            url = URL(self._location.url, encoded=True)
            usable = url.scheme in {"http", "https"} and bool(url.host)
        except ValueError:
            usable = False
        if not usable:
            raise TargetFailed("its URL is none that can be asked with HTTP")
        for _ in range(self._link.limits.hops + 1):
            response = await self._get(url)
            try:
                if response.status not in _REDIRECTS:
                    yield response
                    return
                after = next_hop(response.url, response.headers.get("Location"))
            finally:
                response.close()
            if after is None:
                raise TargetFailed(f"HTTP {response.status} to where we do not follow")
            url = after
        raise TargetFailed(f"more than {self._link.limits.hops} HTTP redirects, one after another")

    async def _get(self, url: URL) -> aiohttp.ClientResponse:
        headers = {
            "Accept": CBOR_MEDIA_TYPE,
            # Sizes, hashes and offsets are those of the content itself.
            "Accept-Encoding": "identity",
            "User-Agent": USER_AGENT,
            **self._link.address.credentials(url),
        }
        if self._spool.size:
            headers["Range"] = f"bytes={self._spool.size}-"
        limits = self._link.limits
        with _passing():
            return await self._link.downloads.get(
                url,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=limits.connect, sock_read=limits.target_silence
                ),
            )

    def _begin(self, response: aiohttp.ClientResponse) -> None:
        """See what the head of an answer promises."""
        have = self._spool.size
        if response.status == 206 and have:
            self._check_range(response.headers.get("Content-Range", ""), have)
            self._stitched = True
            if self._link.watch.resumed is not None:
                self._link.watch.resumed(self._location, have)
        elif response.status == 200:
            # To one who asked for the rest, that is the whole: from its beginning, then.
            have = 0
            self._stitched = False
            self._spool.restart()
        elif response.status in _PASSING:
            raise _Interrupted(f"HTTP {response.status} {response.reason or ''}".rstrip())
        else:
            raise TargetFailed(f"HTTP {response.status} {response.reason or ''}".rstrip())
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise TargetFailed("it gives the content compressed, which we did not ask for")
        size, length = self._location.size, response.content_length
        if size is not None and length is not None and have + length != size:
            raise TargetFailed(f"it gives {have + length} bytes and not {size}")

    def _check_range(self, told_range: str, have: int) -> None:
        found = _CONTENT_RANGE.fullmatch(told_range.strip())
        size = self._location.size
        if found is None or int(found[1]) != have:
            raise TargetFailed(f"asked for what follows byte {have}, it gives {told_range!r}")
        if size is not None and found[3] not in {"*", str(size)}:
            raise TargetFailed(f"it has {found[3]} bytes and not {size}")

    async def _read(self, response: aiohttp.ClientResponse) -> None:
        while True:
            with _passing():
                chunk = await response.content.readany()
            if not chunk:
                return
            self._spool.write(chunk)


@contextmanager
def _passing() -> Iterator[None]:
    """What breaks a connection may not break the next."""
    try:
        with told("the target"):
            yield
    except Unreachable as error:
        raise _Interrupted(str(error)) from error
