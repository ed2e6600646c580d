# Law of this file: a connection that was made is answered. Who comes when there are too many is
# told so, who says nothing is not waited for, and a door that closes lets in who stands before it.

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from aiohttp import web

from server.bad_requests import Handler

# How long one connection too many may take to say its request, which is then refused.
_SURPLUS_SECONDS: Final = 5.0

# Handshakes that have begun are given this time to end before we listen no longer: a round trip
# to the other side of the world, and less than the second after which a client that was not heard
# knocks again.
_HANDSHAKE_SECONDS: Final = 0.3

# Who was let in last is given this time to say a request.
_LAST_SECONDS: Final = 2.0

_LOOK_SECONDS: Final = 0.02

_SO_ATTACH_FILTER: Final = 26  # asm-generic/socket.h; the module socket does not name it

# A classic BPF program (kernel documentation, networking/filter) that sees TCP's header: the
# packet that asks for a connection, SYN (0x02) without ACK (0x10) in byte 13, is dropped, as if it
# had been lost; every other passes.
_NO_SYN: Final = (
    (0x30, 0, 0, 13),  # ldb [13]
    (0x54, 0, 0, 0x12),  # and #0x12
    (0x15, 0, 1, 0x02),  # jeq #0x02, 0, 1
    (0x06, 0, 0, 0),  # ret #0
    (0x06, 0, 0, 0xFFFFFFFF),  # ret #-1
)

# A handler that has no connection so long after it was made has lost it; before, it may be about to
# be told of it.
_MADE_SECONDS: Final = 1.0

# Who went away without a word is looked for when so many are silent, or twice as many as the last
# look left: each look is paid for by the connections that came since.
_FEW: Final = 64


@dataclass(frozen=True, slots=True)
class _Awaited:
    """The first request of a connection.

    Attributes:
        since: when the connection came, by the event loop's clock.
        end: ends it when we are patient no longer.
    """

    since: float
    end: asyncio.TimerHandle


class Room(Enum):
    """What may be answered on a connection, by how many others there are."""

    ENOUGH = auto()
    CONTENT = auto()
    """One too many, but for content, to which we sent them."""
    NONE = auto()
    """What is left is for whoever watches over us, and for refusals, which take no time."""


# Connections on which no request has come yet; each for as long as we are patient with it.
_silent: dict[web.RequestHandler, _Awaited] = {}

# Those of them that are too many.
_surplus: dict[web.RequestHandler, Room] = {}

# Those that were let in and are not connected yet: asyncio lets in all that wait at once.
_coming: set[web.RequestHandler] = set()


def heard(handler: web.RequestHandler) -> Room:
    """A request has come on a connection; what may still be answered there."""
    # The timer would keep all that the connection holds long after its end.
    _await_no_longer(handler)
    return _surplus.pop(handler, Room.ENOUGH)


def _await_no_longer(handler: web.RequestHandler) -> None:
    awaited = _silent.pop(handler, None)
    if awaited is not None:
        awaited.end.cancel()


async def listen(
    runner: web.AppRunner,
    bound: socket.socket,
    patience: float,
    backlog: int,
    most: int | None = None,
    *,
    passed: bool = False,
) -> None:
    """Answer requests that come through ``bound``, until ``runner`` is cleaned up.

    A connection on which no request's head came within ``patience`` seconds is ended; on one that
    had a request, aiohttp's own keep-alive time does that. Of more than ``most`` connections at a
    time, the requests are refused. Where ``bound`` was ``passed`` to us, somebody else goes on
    with it, and whoever waits in it then is for the next server.
    """
    await _Door(runner, bound, patience, backlog, most, passed=passed).start()


class _Door(web.SockSite):
    """Where connections come in."""

    def __init__(
        self,
        runner: web.AppRunner,
        bound: socket.socket,
        patience: float,
        backlog: int,
        most: int | None,
        *,
        passed: bool,
    ) -> None:
        super().__init__(runner, bound, backlog=backlog)
        self._patience = patience
        self._most = most
        self._passed = passed
        self._look_at = _FEW

    async def start(self) -> None:
        await web.BaseSite.start(self)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._connected, sock=self._sock, backlog=self._backlog
        )

    async def stop(self) -> None:
        """Listen no longer, once all who were let in or wait to be are heard."""
        loop = asyncio.get_running_loop()
        if self._passed:
            await super().stop()
        else:
            await self._take_in(loop)
        await self._hear_out()

    async def _take_in(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close the door, and let in who stood before it."""
        # Where others listen at the same port, the kernel goes on to give us our share until we
        # close, and breaks off what it gave us and we did not take.
        if self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) and _deaf_to_syn(
            self._sock
        ):
            await asyncio.sleep(_HANDSHAKE_SECONDS)
        loop.remove_reader(self._sock)
        waiting = []
        with suppress(OSError):  # BlockingIOError: there are no more
            while True:
                waiting.append(self._sock.accept()[0])
        await super().stop()
        for connection in waiting:
            connection.setblocking(False)
            with suppress(OSError):
                await loop.connect_accepted_socket(self._connected, connection)

    async def _hear_out(self) -> None:
        """Give those who were let in last time to say what they want."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_SECONDS):
                await asyncio.sleep(_LOOK_SECONDS)  # those just let in become connections
                # Who goes away tells no event.
                while any(each.transport is not None for each in _silent):  # noqa: ASYNC110 - see above
                    await asyncio.sleep(_LOOK_SECONDS)

    def _connected(self) -> asyncio.Protocol:
        serve = self._runner.server
        if serve is None:  # cleaned up, as somebody was just let in
            return _Turned()
        patience = self._patience
        room = Room.ENOUGH
        if self._most is not None:
            there = len(serve.connections) + len(_coming)
            # To be told that there are too many takes a connection, too.
            spare = self._most // 8 + 8
            if there >= self._most + spare:
                return _Turned()
            if there >= self._most:
                room = Room.CONTENT if there < self._most + spare // 2 else Room.NONE
        handler = serve()
        # aiohttp makes its own, and has no place for another's.
        handler.__class__ = _Guest
        _coming.add(handler)
        if room is not Room.ENOUGH:
            _surplus[handler] = room
            patience = min(patience, _SURPLUS_SECONDS)
        loop = asyncio.get_running_loop()
        now = loop.time()
        if len(_silent) >= self._look_at:
            _forget_gone(now)
            self._look_at = max(_FEW, 2 * len(_silent))
        _silent[handler] = _Awaited(now, loop.call_at(now + patience, _end_if_silent, handler))
        return handler


class _Guest(Handler):
    """A handler that is not counted twice."""

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See aiohttp."""
        _coming.discard(self)
        super().connection_made(transport)


class _Turned(asyncio.Protocol):
    """A connection that is ended at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - sockets have no other
        transport.abort()


def _end_if_silent(handler: web.RequestHandler) -> None:
    _surplus.pop(handler, None)
    if _silent.pop(handler, None) is not None:
        handler.force_close()


def _forget_gone(now: float) -> None:
    """Let go of connections that ended without a request; who goes away tells no event."""
    gone = [
        handler
        for handler, awaited in _silent.items()
        if handler.transport is None and now - awaited.since > _MADE_SECONDS
    ]
    for handler in gone:
        _await_no_longer(handler)
        _surplus.pop(handler, None)


def _deaf_to_syn(listening: socket.socket) -> bool:
    """Have the kernel pass us over when connections are asked for; whether it does.

    Each such packet is as one that was lost: a client sends it again after a second (RFC 6298),
    and by then somebody else hears it.
    """
    program = b"".join(struct.pack("=HBBI", *instruction) for instruction in _NO_SYN)
    held = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: how many instructions, and where they are.
    described = struct.pack("HP", len(_NO_SYN), ctypes.addressof(held))
    try:
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)
    except OSError:
        return False  # another kernel than Linux's
    return True
