# Law of this file: a list of networks is replaced by a newer one only if that is whole. The last
# good one stays on disk, where the other processes of this machine find it too.
#
#     <data>/regions/<SHA-256 of format and source, 16 digits>.json   as it was published

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp
from yarl import URL

from redirects.networks import Prefix
from redirects.range_files import BadRanges, read_ranges
from repos.stamps import Stamp, stamp
from server.http_faults import why
from server.settings_regions import RangeListSettings

_log = logging.getLogger("offramp.regions")

DIRECTORY: Final = "regions"

LARGEST: Final = 32 << 20
"""Bytes of a list: ten times the largest there is."""

# Of one download: a list of 2 MB by a bad connection.
_SECONDS: Final = 60.0

# After a download that failed, the next is tried so much later.
RETRY_SECONDS: Final = 600.0

_CHUNK: Final = 64 << 10
_NONE: Final[Stamp] = (0, 0, 0)


class Unread(Exception):  # noqa: N818 - what became of it
    """A list could not be read; the message names it and says why."""


@dataclass(slots=True)
class RangeList:
    """One list, from where it is published to its last good copy.

    Attributes:
        settings: which list.
        copy: path of the last good copy.
        refresh: seconds after which a copy is fetched again.
        prefixes: what the list says; empty until it was read once.
        fault: what was wrong with it when it was tried last; None if nothing was.
        keeps: a good one is kept on disk. False: nothing is written.
    """

    settings: RangeListSettings
    copy: Path
    refresh: float
    prefixes: tuple[Prefix, ...] = ()
    fault: str | None = None
    keeps: bool = True
    _seen: Stamp | None = None
    _copied: Stamp = _NONE
    _tried: float = field(default=float("-inf"))
    _fetched: float = field(default=float("-inf"))

    @classmethod
    def of(
        cls, settings: RangeListSettings, data: Path, refresh: float, *, keeps: bool = True
    ) -> RangeList:
        """A list whose last good copy is below the data directory ``data``; nothing is read yet."""
        name = hashlib.sha256(f"{settings.format} {settings.source}".encode()).hexdigest()[:16]
        return cls(settings, data / DIRECTORY / f"{name}.json", refresh, keeps=keeps)

    async def load(self) -> None:
        """Read the last good copy, if there is one; asks nobody."""
        found = await asyncio.to_thread(stamp, str(self.copy))
        if found in {_NONE, self._copied}:
            return
        self._copied = found
        try:
            self.prefixes = await asyncio.to_thread(self._read, self.copy)
        except Unread as error:  # of a disk that lost its power; it is fetched again
            _log.warning("the copy of a list is left alone: %s", error)

    async def look(self, session: aiohttp.ClientSession, now: float) -> bool:
        """Read what is new: of the file, of the copy that another process made, or of the URL.

        Args:
            session: makes the request.
            now: seconds since the epoch.

        Returns:
            Whether the list says anything else than before.
        """
        before = self.prefixes
        try:
            if self.settings.file is not None:
                await self._look_at(self.settings.file)
            else:
                await self.load()
                if self._is_due(now):
                    self._tried = now
                    await self._take(await self._fetch(session))
                    self.fault, self._fetched = None, now
        except Unread as error:
            told = self.settings.file is not None and self.fault == str(error)
            self.fault = str(error)
            kept = f"; the {len(before)} networks of before count on" if before else ""
            level = logging.DEBUG if told else logging.WARNING
            _log.log(level, "list of networks not read: %s%s", error, kept)
        return self.prefixes is not before

    def _is_due(self, now: float) -> bool:
        # A clock that was set back must not make a copy young for ever.
        # One that cannot be kept on disk is as young as its download.
        young = max(self._copied[0] / 1e9, self._fetched)
        fresh = bool(self.prefixes) and 0 <= now - young < self.refresh
        return not fresh and not 0 <= now - self._tried < min(RETRY_SECONDS, self.refresh)

    async def _look_at(self, file: Path) -> None:
        """Read the file again if it was changed; a broken one is told once."""
        found = await asyncio.to_thread(stamp, str(file))
        if found == self._seen:
            return
        if not self.prefixes:
            await self.load()
        body = await asyncio.to_thread(self._bytes, file)
        # One that could not be read is tried again, as it is; one that says nothing is not.
        self._seen = found
        await self._take(body)
        self.fault = None

    async def _take(self, body: bytes) -> None:
        """Make a list the current one, in memory and on disk, if it is good."""
        self.prefixes = await asyncio.to_thread(self._parse, body)
        if not self.keeps:
            return
        try:
            self._copied = await asyncio.to_thread(self._keep, body)
        except OSError as error:
            _log.warning("list of networks not kept for the next start: %s", error)

    def _read(self, path: Path) -> tuple[Prefix, ...]:
        return self._parse(self._bytes(path))

    def _bytes(self, path: Path) -> bytes:
        try:
            with path.open("rb") as file:
                body = file.read(LARGEST + 1)
        except OSError as error:
            raise Unread(f"{path}: {error.strerror}") from None
        return body

    def _check_size(self, size: int) -> None:
        if size > LARGEST:
            raise Unread(f"{self.settings.source}: more than {LARGEST >> 20} MiB")

    def _parse(self, body: bytes) -> tuple[Prefix, ...]:
        self._check_size(len(body))
        try:
            return read_ranges(body, self.settings.format, self.settings.source)
        except BadRanges as error:
            raise Unread(f"{self.settings.source}: {error}") from None

    def _keep(self, body: bytes) -> Stamp:
        """Write the copy; another process may do so at the same time."""
        self.copy.parent.mkdir(parents=True, exist_ok=True)
        staged = self.copy.with_suffix(f".{os.getpid()}.new")
        staged.write_bytes(body)
        staged.replace(self.copy)
        return stamp(str(self.copy))

    async def _fetch(self, session: aiohttp.ClientSession) -> bytes:
        source = self.settings.source
        try:
            async with session.get(
                URL(source, encoded=True),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=_SECONDS),
            ) as answer:
                if answer.status != 200:
                    raise Unread(f"{source}: status {answer.status} where 200 was expected")
                body = bytearray()
                async for chunk in answer.content.iter_chunked(_CHUNK):
                    body += chunk
                    self._check_size(len(body))
                return bytes(body)
        except TimeoutError:
            raise Unread(f"{source}: it did not come within {_SECONDS:.0f} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # A name that is none is a ValueError of its codec.
            words = "its name is none" if isinstance(error, UnicodeError) else why(error)
            raise Unread(f"{source}: {words}") from None
