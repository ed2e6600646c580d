# Law of this file: where a server listens. A socket is bound here, or it was there before us, and
# then it is whoever passed it who says where that is.

from __future__ import annotations

import socket
from collections.abc import MutableMapping
from contextlib import ExitStack
from typing import Final

from server.setting_types import host_port

# The first descriptor that is passed: sd_listen_fds(3), "The LISTEN_FDS protocol".
_FIRST: Final = 3

_VARIABLES: Final = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


class CannotListen(Exception):  # noqa: N818 - what happened
    """The address cannot be listened on; the message says why."""


def bind(listen: str, *, shared: bool) -> socket.socket:
    """A socket bound to ``listen``; ``shared``: others of ours may bind it too.

    Raises:
        CannotListen: it is taken, not ours, or privileged.
    """
    host, port = host_port(listen)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise CannotListen(f"cannot listen on {listen}: {error.strerror or error}") from None
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise CannotListen(
            f"cannot listen on {listen}: {error.strerror}; choose another with --listen"
        ) from None
    return bound


def address_of(bound: socket.socket) -> str:
    """``HOST:PORT`` of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def inherited(
    environ: MutableMapping[str, str], process: int, first: int = _FIRST
) -> socket.socket | None:
    """The socket that systemd, or who speaks its protocol, passed to this process, if one was.

    It listens already: connections that come while no server runs wait in it, so that none is
    refused while one is restarted. The variables that tell of it are taken out of ``environ``, for
    they are not for the programs that we run.

    Args:
        environ: in which ``LISTEN_FDS`` says how many descriptors there are from 3 on, and
            ``LISTEN_PID`` for whom (sd_listen_fds(3)).
        process: our process id; what is for another process is left alone.
        first: the descriptor that is taken.

    Raises:
        CannotListen: what was passed is not one listening TCP socket.
    """
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(process) or not count:
        return None
    for name in _VARIABLES:
        environ.pop(name, None)
    if count != "1":
        raise CannotListen(
            f"LISTEN_FDS is {count!r}, and this server takes one socket; give the .socket unit one"
            " ListenStream=, such as [::]:8417 for IPv4 and IPv6"
        )
    with ExitStack() as broken:
        try:
            passed = broken.enter_context(socket.socket(fileno=first))
            listens = passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise CannotListen(
                f"descriptor {first}, of which LISTEN_FDS tells, is no socket: {error.strerror};"
                " give the .socket unit a ListenStream="
            ) from None
        if not listens or passed.family not in {socket.AF_INET, socket.AF_INET6}:
            raise CannotListen(
                f"descriptor {first}, of which LISTEN_FDS tells, is no TCP socket that listens;"
                " write ListenStream=HOST:PORT, without Accept=yes, in the .socket unit"
            )
        # Not for the programs that we run; workers are handed it by name.
        passed.set_inheritable(False)
        broken.pop_all()
    return passed
