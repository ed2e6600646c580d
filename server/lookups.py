# Law of this file: a name server that does not answer keeps nobody waiting but who asks for its
# names. A lookup cannot be ended, and lasts for as long as the system's resolver is patient: so
# each has a thread of its own, never one of those that serve clients, and whoever asks for a name
# that is being looked up waits for that lookup.

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from concurrent.futures import Future
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

# Lookups at a time, of this process: more hosts than settings name.
_LIMIT: Final = 256

_Asked = tuple[str, int, socket.AddressFamily]


class _Lookups:
    """What is being looked up, of all event loops of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[_Asked, Future[list[ResolveResult]]] = {}

    def ask(self, asked: _Asked) -> Future[list[ResolveResult]]:
        """The lookup of it that is under way, or a new one.

        Raises:
            OSError: too many are under way.
        """
        with self._lock:
            found = self._running.get(asked)
            if found is not None:
                return found
            if len(self._running) >= _LIMIT:
                raise OSError(errno.EAGAIN, f"{_LIMIT} names are being looked up already")
            made: Future[list[ResolveResult]] = Future()
            # Who waits may go, and cannot take it from others.
            made.set_running_or_notify_cancel()
            # A process that ends does not wait for it.
            thread = threading.Thread(target=self._look, args=(asked, made), daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # so many threads are there already
                raise OSError(errno.EAGAIN, str(error)) from None
            self._running[asked] = made
            return made

    def _look(self, asked: _Asked, told: Future[list[ResolveResult]]) -> None:
        try:
            found = _addresses(*asked)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is for who waits
            self._forget(asked)
            told.set_exception(error)
        else:
            self._forget(asked)
            told.set_result(found)

    def _forget(self, asked: _Asked) -> None:
        with self._lock:
            del self._running[asked]


_LOOKUPS: Final = _Lookups()


class Resolver(AbstractResolver):
    """Looks names up as the system does, on threads that nobody else needs."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Addresses of a host.

        Raises:
            OSError: there is none, or nobody can say.
        """
        lookup = _LOOKUPS.ask((host, port, family))
        found: list[ResolveResult] = await asyncio.wrap_future(lookup)
        return list(found)

    async def close(self) -> None:
        """Nothing is held."""


def connector(*, limit: int = 100, limit_per_host: int = 0) -> aiohttp.TCPConnector:
    """What every session of a server connects by; its session closes it.

    Args:
        limit: connections at a time; 0: as many as there are.
        limit_per_host: of these, to one host.
    """
    return aiohttp.TCPConnector(resolver=Resolver(), limit=limit, limit_per_host=limit_per_host)


def _addresses(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    """What the system says; blocks, for as long as it takes."""
    found: list[ResolveResult] = []
    for kind, _, protocol, _, address in socket.getaddrinfo(
        host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
    ):
        # With the scope of an address that is of one link only; no name is asked for.
        numeric, _ = socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
        found.append(
            ResolveResult(
                hostname=host,
                host=numeric,
                port=port,
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
        )
    return found
