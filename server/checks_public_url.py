# Law of this file: public_url is tried from here as a client would take it; that nothing answers
# there is a warning and no failure, since the server need not run yet.

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from server.settings import Settings
from server.verdict import Level, Verdict

# By which it is seen that it is Offramp that answers: the health route, or what the blob route says
# to a name that is no digest. The latter is what clients must reach without a password.
_LIVE: Final = ("/-/livez", "ok")
_BLOBS: Final = ("/-/blobs/doctor", "Blobs are named by a SHA-256")

_SECONDS: Final = 10.0
_READ: Final = 1 << 10


async def check_public_url(
    settings: Settings, session: aiohttp.ClientSession
) -> AsyncGenerator[Verdict, None]:
    """See whether this server, if it runs, is reached at ``public_url``; nothing if it is not set.

    Args:
        settings: of the server.
        session: keeps no cookies.
    """
    url = settings.public_url
    if url is None:
        return
    own = any(target.type == "self" for target in settings.effective_targets())
    path, said = _BLOBS if own else _LIVE
    what = f"public_url {url}{path}"
    try:
        async with session.get(
            url + path, allow_redirects=False, timeout=aiohttp.ClientTimeout(total=_SECONDS)
        ) as answer:
            body = (await answer.content.read(_READ)).decode(errors="replace")
            yield _judged(what, answer, reached=body.startswith(said))
    except (aiohttp.ClientError, OSError) as error:
        yield _out_of_reach(what, url, error)


def _judged(what: str, answer: aiohttp.ClientResponse, *, reached: bool) -> Verdict:
    if reached:
        return Verdict(Level.OK, f"{what}: this server, or another Offramp, answers")
    said = f"{what}: {answer.status} where Offramp was expected"
    if answer.status in {401, 403}:
        return Verdict(
            Level.WARN,
            said,
            "let /-/blobs/ through the proxy without a password: its URLs are signed, and clients"
            " send none with them",
        )
    if 300 <= answer.status < 400:
        return Verdict(
            Level.WARN, said, "write the URL to which it redirects: clients follow no further"
        )
    if answer.status >= 500:
        return Verdict(
            Level.WARN, said, "start the server, or have the proxy there pass on to where it is"
        )
    return Verdict(
        Level.WARN,
        said,
        "have the proxy there pass every path on to this server, or write the URL by which clients"
        " reach it",
    )


def _out_of_reach(what: str, url: str, error: aiohttp.ClientError | OSError) -> Verdict:
    host = urlsplit(url).hostname or ""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, socket.gaierror):
        return Verdict(
            Level.WARN,
            f"{what}: the name {host} leads nowhere from here",
            "write the name by which clients reach this server, or give it an address in DNS",
        )
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        return Verdict(
            Level.WARN,
            f"{what}: its certificate cannot be verified from here",
            "renew it, or let this machine know its authority; clients must know it too",
        )
    if isinstance(error, TimeoutError):
        kind = "nothing within 10 s"
    else:
        kind = (isinstance(cause, OSError) and cause.strerror) or type(error).__name__
    return Verdict(
        Level.WARN,
        f"{what}: no answer ({kind})",
        "start the server, and look whether the port is right and open",
    )
