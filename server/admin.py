# Law of this file: the listener for those who run this server is bound once, by the process that
# was started, and shared by all that serve; its socket file goes with whoever made it.

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from server.listening import address_of
from server.settings import Settings
from server.settings_admin import overlap

# Who may open the socket file: the user that the server runs as.
_MODE = 0o600


class CannotListenHere(Exception):  # noqa: N818 - what happened
    """The listener cannot be where the settings say; the message says why."""


Bind = Callable[[str], socket.socket]
"""Bind ``HOST:PORT``."""


@contextmanager
def admin_socket(settings: Settings, bind: Bind) -> Iterator[socket.socket | None]:
    """What ``admin.listen`` names, bound; None where it names nothing.

    Raises:
        CannotListenHere: the socket file cannot be made, or another server listens there.
        Exception: what ``bind`` raises.
    """
    if settings.admin.listen is None:
        yield None
        return
    path = settings.admin.socket_path
    if path is None:
        with bind(settings.admin.listen) as bound:
            yield bound
        return
    with _bind_file(path, shared=settings.reuse_port) as bound:
        made = path.stat()
        try:
            yield bound
        finally:
            _remove(path, made)


def apart(admin: socket.socket | None, bound: socket.socket) -> None:
    """See that no client can come to ``admin`` by the address of ``bound``, which is for clients.

    Names are resolved by now, and a socket that was passed has its own address. Where both may
    share a port (``reuse_port``), the kernel would deal connections out among them.

    Raises:
        CannotListenHere: one could.
    """
    if admin is None or admin.family == socket.AF_UNIX:
        return
    private, public = address_of(admin), address_of(bound)
    if overlap(private, public):
        raise CannotListenHere(
            f"admin.listen is {private}, and clients are answered at {public}; give them ports of"
            " their own"
        )


def name_of(bound: socket.socket) -> str:
    """How people are told where a listener is."""
    name = bound.getsockname()
    if isinstance(name, str):
        return f"unix:{name}"
    host, port = name[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _bind_file(path: Path, *, shared: bool) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _clear(path, shared=shared)
        before = os.umask(0o777 & ~_MODE)
        try:
            bound.bind(str(path))
        finally:
            os.umask(before)
    except OSError as error:
        bound.close()
        remedy = "" if path.parent.is_dir() else f"; there is no directory {path.parent}: make it"
        raise CannotListenHere(f"cannot listen on unix:{path}: {error.strerror}{remedy}") from None
    except CannotListenHere:
        bound.close()
        raise
    return bound


def _clear(path: Path, *, shared: bool) -> None:
    """Remove what a server that is gone left; ``shared``: or one that is to be replaced."""
    if not path.is_socket():
        return  # nothing, or what bind() complains of
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        answered = probe.connect_ex(str(path))
    # EAGAIN: its queue is full, so somebody has it.
    if answered in {0, errno.EAGAIN} and not shared:
        raise CannotListenHere(
            f"cannot listen on unix:{path}: another server does; stop it, or choose another path"
        )
    path.unlink(missing_ok=True)


def _remove(path: Path, made: os.stat_result) -> None:
    """Remove a socket file, unless another server has put its own there."""
    try:
        there = path.stat()
        if (there.st_dev, there.st_ino) == (made.st_dev, made.st_ino):
            path.unlink()
    except FileNotFoundError:
        pass
