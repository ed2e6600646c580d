# Law of this file: what befell a request of ours is told in words, and no URL is in them: one may
# be a key, and the messages of libraries hold them.

from __future__ import annotations

import errno
import os
import socket
import ssl

import aiohttp


def why(error: Exception) -> str:
    """Why a request that we made failed, as the end of a sentence; it names no host and no URL.

    Of what no library of ours raises, only the type is told.
    """
    match error:
        case (
            aiohttp.ClientConnectorCertificateError()
            | aiohttp.ClientConnectorSSLError()
            | ssl.SSLError()
        ):
            return "its certificate cannot be verified, or TLS fails"
        case aiohttp.ClientConnectorError():
            return _of_system(error.os_error)
        case aiohttp.ServerDisconnectedError():
            return "it closed the connection without an answer"
        case aiohttp.ClientPayloadError():
            return "its answer breaks off"
        case aiohttp.InvalidURL():
            return "its URL is none"
        case aiohttp.ClientResponseError():
            return "its answer is no HTTP"
        case TimeoutError():
            return "no answer in time"
        case EOFError():
            return "its answer breaks off"
        case OSError():
            return _of_system(error)
    return f"it fails with {type(error).__name__}"


def _of_system(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "its name leads nowhere from here"
    if error.errno in {errno.ECONNRESET, errno.EPIPE}:
        return "it broke the connection off"
    # asyncio's own text names addresses; the system's is what follows from the number.
    if not error.errno:
        return "no connection"
    said = os.strerror(error.errno)
    return f"no connection: {said[:1].lower()}{said[1:]}"
