# Law of this file: that the socket of those who run the server can be made is seen before it is.
# Nothing is made here, and nobody is asked.

from __future__ import annotations

import os
from collections.abc import Iterator

from server.settings import Settings
from server.settings_admin import UNIX
from server.verdict import Level, Verdict


def check_admin_socket(settings: Settings) -> Iterator[Verdict]:
    """Look at the directory that ``admin.listen`` wants a socket file in; what is well is not said.

    A service may have a directory only while it runs (systemd's ``RuntimeDirectory=``), so that
    this is no fault of the settings.
    """
    path = settings.admin.socket_path
    if path is None:
        return
    what = f"admin.listen {UNIX}{path}"
    directory = path.parent
    if not directory.is_dir():
        yield Verdict(
            Level.WARN,
            f"{what}: there is no directory {directory}, and the server does not start without it",
            "make it, for the server's user alone, unless a service has it made"
            f" (RuntimeDirectory={directory.name} of systemd)",
        )
    elif not os.access(directory, os.W_OK | os.X_OK):
        yield Verdict(
            Level.WARN,
            f"{what}: no file can be made in {directory} by this user, and the server does not"
            " start without it",
            "let the server's user write there, or name another directory",
        )
