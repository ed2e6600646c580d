# Law of this file: whoever supervises us and asked to be told is told when we serve, once, and by
# the process that it started.

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, MutableMapping
from typing import Final, ParamSpec

_log = logging.getLogger("offramp.notifying")

_Where = ParamSpec("_Where")

# sd_notify(3): the address of a datagram socket; one that begins with @ is abstract.
_VARIABLE: Final = "NOTIFY_SOCKET"

_READY: Final = b"READY=1"


def notifying(
    ready: Callable[_Where, None], environ: MutableMapping[str, str]
) -> Callable[_Where, None]:
    """``ready``, and before it systemd is told, or who speaks its protocol, that we are.

    Without ``NOTIFY_SOCKET`` in ``environ`` nobody is. It is taken out: what we start has nothing
    to tell.
    """
    address = environ.pop(_VARIABLE, "")
    if not address:
        return ready

    def told(*args: _Where.args, **kwargs: _Where.kwargs) -> None:
        # First: what is printed for people may take as long as ROOT is large.
        _tell(address)
        ready(*args, **kwargs)

    return told


def _tell(address: str) -> None:
    """Say that we are ready; whoever does not hear it decides what that means."""
    name = f"\0{address[1:]}" if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as teller:
            teller.connect(name)
            teller.sendall(_READY)
    except OSError as error:
        _log.warning("%s %s cannot be told that we serve: %s", _VARIABLE, address, error.strerror)
