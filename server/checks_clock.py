# Law of this file: signatures begin and end by two clocks, ours and that of who checks them; how
# far they are apart is read off any answer, whatever its status.

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import Final

import aiohttp
from yarl import URL

from redirects.acceptance import Client
from redirects.decision import CannotLocate
from redirects.targets import Target
from server.http_faults import why
from server.verdict import Level, Verdict
from stores.base import Store
from stores.entity import Entity
from stores.replica import innermost

# A presigned URL begins to work at its date by S3's clock, and S3 allows 15 minutes at most; it
# refuses our own requests likewise.
SKEW_WARN: Final = 60.0
SKEW_FAIL: Final = 600.0

# Whoever takes longer to answer has no clock that could be read.
_SECONDS: Final = 10.0
_ANYONE: Final = Client("http://127.0.0.1")


async def clock_of_target(
    session: aiohttp.ClientSession, target: Target, entity: Entity
) -> Verdict | None:
    """Compare our clock with that of a target; a warning where it tells none.

    Returns:
        None where nobody answers.
    """
    what = f"target {target.name}"
    try:
        url = target.locate(entity, _ANYONE, time.time()).url
        return skew(what, await _ahead(session, url))
    except (aiohttp.ClientConnectionError, TimeoutError):
        return None
    except (CannotLocate, aiohttp.ClientError, OSError, KeyError, ValueError) as error:
        # The message may hold the URL, and a URL is a key.
        return Verdict(Level.WARN, f"{what}: no clock ({why(error)})")


async def clock_of_store(session: aiohttp.ClientSession, store: Store) -> Verdict | None:
    """Compare our clock with that of an S3 store, which need not let us in for that.

    Returns:
        None for a store that has no clock of its own, or does not answer, which others tell.
    """
    # boto3 takes a fifth of a second to import, which users of other stores need not wait.
    from stores.s3 import S3Store  # noqa: PLC0415

    store = innermost(store)
    if not isinstance(store, S3Store):
        return None
    try:
        return skew(f"store {store.name}", await _ahead(session, store.object_url("")))
    except (aiohttp.ClientError, OSError, KeyError, ValueError):
        return None


async def _ahead(session: aiohttp.ClientSession, url: str) -> float:
    """Seconds by which the clock of who answers is ahead of ours.

    Raises:
        aiohttp.ClientError, OSError: nobody does.
        KeyError, ValueError: no time is told.
    """
    began = time.time()
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    async with session.get(
        URL(url, encoded=True), allow_redirects=False, timeout=timeout
    ) as answer:
        date = parsedate_to_datetime(answer.headers["Date"]).timestamp()
        # A cache keeps the Date of the origin's answer (RFC 9111 section 5.1).
        theirs = date + float(answer.headers.get("Age", "0"))
    return theirs - (began + time.time()) / 2


def skew(whose: str, seconds: float) -> Verdict:
    """Judge how far a clock is ahead of ours; ``whose`` it is, for people."""
    off = abs(seconds)
    if off <= SKEW_WARN:
        return Verdict(Level.OK, f"{whose}: clocks agree")
    which = "ahead of" if seconds > 0 else "behind"
    what = f"{whose}: its clock is {off:.0f} s {which} ours"
    level = Level.FAIL if off > SKEW_FAIL else Level.WARN
    return Verdict(level, what, "run an NTP client here; signed URLs depend on the time")
