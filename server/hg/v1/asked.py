# Law of this file: what a client asks is read once, whole, and before anybody acts on a part of it.

from __future__ import annotations

import asyncio
import functools
from typing import Final
from urllib.parse import urlencode

from aiohttp import web

from server.git.requests import body_of
from server.hg.v1.getbundle import Asked
from wire.hg.v1.requests import (
    COMMANDS,
    BatchCall,
    client_version,
    posted_length,
    read_arguments,
    read_batch,
    read_protocol,
)

# Bytes of arguments that are read in the event loop; more would stop it for too long.
_QUICK: Final = 64 << 10

# What a header has beside its name and value.
_AROUND: Final = len(": \r\n")


async def read_asked(
    request: web.Request, command: str, request_time: float
) -> tuple[Asked, bytes | None]:
    """Read a request, and its body if there are arguments in it.

    Args:
        request: of the client.
        command: that it names.
        request_time: seconds in which its body must be here.

    Returns:
        What it asks, and its body if that was read.

    Raises:
        BadRequest: it is malformed.
    """
    headers = list(request.headers.items())
    body = None
    if posted_length(headers) is not None:
        body = await body_of(request, request_time)
    query = request.raw_path.partition("?")[2]
    size = len(query) + len(body or b"") + sum(len(name) + len(value) for name, value in headers)
    read = functools.partial(_read, command, query, headers, body or b"")
    return (read() if size <= _QUICK else await asyncio.to_thread(read)), body


def pushes(asked: Asked) -> bool:
    """Whether a command, or one of a batch, changes the repository."""
    return any(
        call.name in COMMANDS and COMMANDS[call.name].permission == "push" for call in asked.calls
    )


def query_of(request: web.Request, command: str, *, without: bytes | None = None) -> str:
    """A query that asks for ``command``, with those of the arguments that are not in headers.

    It is written anew: of a command that is named twice, one server takes the first and another one
    the last.

    Args:
        request: of the client.
        command: that was judged.
        without: an argument that is left out.

    Raises:
        BadRequest: the client's query is malformed.
    """
    found = read_arguments(request.raw_path.partition("?")[2], [], b"")
    if without is not None:
        found.pop(without, None)
    return urlencode([(b"cmd", command.encode()), *found.items()])


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
        "authorization" in names or "cookie" in names,
        calls,
    )
