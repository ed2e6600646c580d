# Law of this file: a listener of its own for those who run this server is told apart from the one
# of clients by its address alone.

from __future__ import annotations

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
