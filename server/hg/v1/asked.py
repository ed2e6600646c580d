# Law of this file: what a client asks is read once, whole, and before anybody acts on a part of it.

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from aiohttp import web

from server.git.requests import body_of
from wire.hg.v1.requests import (
    COMMANDS,
    BadRequest,
    BatchCall,
    ClientProtocol,
    client_version,
    posted_length,
    read_arguments,
    read_batch,
    read_protocol,
)

# Bytes of arguments that are read in the event loop; more would stop it for too long.
_QUICK: Final = 64 << 10

# What a client says of how it takes an answer, and of a push that follows.
PASSED: Final = frozenset(("accept", "content-type", "user-agent"))
_PROTOCOL: Final = re.compile(r"X-HgProto-[1-9][0-9]?", re.IGNORECASE)

_CREDENTIALS: Final = frozenset(("authorization", "cookie", "proxy-authorization"))

# What a header has beside its name and value.
_AROUND: Final = len(": \r\n")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client asks.

    Attributes:
        command: its name.
        arguments: by name, decoded.
        protocol: how it takes answers.
        version: of Mercurial; None if it does not say.
        repeated: bytes of headers that it would repeat to a place it is sent to.
        credentials: some of them are for this server alone.
        calls: the small commands in it: itself, or those of a batch.
    """

    command: str
    arguments: dict[bytes, bytes]
    protocol: ClientProtocol
    version: tuple[int, int] | None
    repeated: int
    credentials: bool
    calls: tuple[BatchCall, ...]


async def read_asked(request: web.Request, command: str, request_time: float) -> Asked:
    """Read a request, and its body if there are arguments in it; then nothing else is.

    Args:
        request: of the client.
        command: that it names.
        request_time: seconds in which its body must be here.

    Raises:
        BadRequest: it is malformed.
    """
    headers = list(request.headers.items())
    body = None
    if posted_length(headers) is not None:
        if command in COMMANDS and COMMANDS[command].permission == "push":
            raise BadRequest("the arguments of a push come in headers")
        body = await body_of(request, request_time)
    query = request.raw_path.partition("?")[2]
    size = len(query) + len(body or b"") + sum(len(name) + len(value) for name, value in headers)
    read = functools.partial(_read, command, query, headers, body or b"")
    return read() if size <= _QUICK else await asyncio.to_thread(read)


def writes(request: web.Request, asked: Asked) -> bool:
    """Whether a command, or one of a batch, changes the repository, or may.

    What a command of an extension does, hg alone knows: what reads is asked for with GET.
    """
    unknown = any(call.name not in COMMANDS for call in asked.calls)
    return (unknown and request.method == "POST") or any(
        call.name in COMMANDS and COMMANDS[call.name].permission == "push" for call in asked.calls
    )


HIDDEN: Final = b"access-hidden"
"""By this argument, in the query alone, a client asks for changesets that are hidden."""


def headers_of(
    request: web.Request,
    arguments: Mapping[bytes, bytes],
    length: int,
    others: Collection[str] = PASSED,
) -> dict[str, str]:
    """Headers by which somebody else is asked what was judged here, and nothing else.

    Arguments are written anew: servers take more names for a header of arguments than we read (for
    WSGI, ``_`` is ``-``), and one that nobody judged could be a push.

    Args:
        request: of the client.
        arguments: that were judged.
        length: bytes that one line of arguments may have.
        others: names of headers, in lower case, that are handed on as they are.
    """
    found = {name: value for name, value in request.headers.items() if name.lower() in others}
    found |= {
        name: value
        for name, value in request.headers.items()
        if _PROTOCOL.fullmatch(name) is not None
    }
    said = urlencode(sorted(arguments.items()))
    size = max(length - len("X-HgArg-000: \r\n"), 1)
    for number, start in enumerate(range(0, len(said), size), 1):
        found[f"X-HgArg-{number}"] = said[start : start + size]
    return found


def _read(command: str, query: str, headers: list[tuple[str, str]], body: bytes) -> Asked:
    arguments = read_arguments(query, headers, body)
    agents = [value for name, value in headers if name.lower() == "user-agent"]
    names = {name.lower() for name, _ in headers}
    alone = command != "batch"
    calls = (BatchCall(command, arguments),) if alone else read_batch(arguments.get(b"cmds", b""))
    return Asked(
        command,
        arguments,
        read_protocol(headers),
        client_version(agents[0] if agents else ""),
        sum(len(name) + len(value) + _AROUND for name, value in headers),
        bool(names & _CREDENTIALS),
        calls,
    )
