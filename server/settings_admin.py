# Law of this file: a listener of its own for those who run this server is told apart from the one
# of clients by its address alone.

from __future__ import annotations

import ipaddress
from contextlib import suppress
from pathlib import Path
from typing import Final

from pydantic import Field, model_validator

from server.setting_types import Section, host_port

UNIX: Final = "unix:"

# What the kernel takes (sun_path, unix(7)), without the byte that ends it.
_LONGEST: Final = 107


class AdminSettings(Section):
    """Routes for those who run this server, on a listener of their own."""

    listen: str | None = Field(
        None,
        description="HOST:PORT, or unix:/PATH of a socket that only the server's user may open, for"
        " /-/metrics and all else that is not for clients; at `listen` it is then 404. By default"
        " it is served there. Without `access.operators` whoever reaches this listener may see it.",
    )

    @model_validator(mode="after")
    def _address(self) -> AdminSettings:
        if self.listen is None:
            return self
        path = self.socket_path
        if path is None:
            host_port(self.listen)
        elif not path.is_absolute() or len(bytes(path)) > _LONGEST:
            raise ValueError(
                f"admin.listen {self.listen!r} names no socket; write unix: and an absolute path of"
                f" at most {_LONGEST} bytes, such as unix:/run/offramp/admin.sock"
            )
        return self

    @property
    def socket_path(self) -> Path | None:
        """Of the Unix socket; None where it is a port, or nothing."""
        if self.listen is None or not self.listen.startswith(UNIX):
            return None
        return Path(self.listen.removeprefix(UNIX))


def overlap(one: str, other: str) -> bool:
    """Whether somebody who connects to one HOST:PORT may come to the other.

    Of names only ``localhost`` is known; :func:`server.admin.apart` looks again when all are
    resolved. Port 0 is any that is free.
    """
    (host, port), (host_2, port_2) = host_port(one), host_port(other)
    if port != port_2 or not port:
        return False
    return host == host_2 or any(
        _covers(here, there) or _covers(there, here)
        for here in _addresses(host)
        for there in _addresses(host_2)
    )


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _addresses(host: str) -> tuple[_Address, ...]:
    if host == "localhost":
        return ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1")
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return (mapped or address,)
    return ()


def _covers(one: _Address, other: _Address) -> bool:
    """Whether who listens at ``one`` may hear who connects to ``other``; [::] is for IPv4, too."""
    return one == other or (one.is_unspecified and one.version >= other.version)
