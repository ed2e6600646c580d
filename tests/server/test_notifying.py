# Law of this file: who supervises a server waits for nothing that is only for people.

from __future__ import annotations

import socket
from pathlib import Path

from server.notifying import notifying


def test_it_is_told_before_anybody_is_greeted(tmp_path: Path) -> None:
    """Of a large ROOT the greeting takes minutes, and systemd has patience for a start."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(tmp_path / "told"))
        told.setblocking(False)
        heard: list[bytes] = []
        environ = {"NOTIFY_SOCKET": str(tmp_path / "told")}
        ready = notifying(lambda: heard.append(told.recv(64)), environ)
        ready()
    assert heard == [b"READY=1"]
    assert not environ
