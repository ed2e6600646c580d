# Law of this file: what `offramp doctor` says of limits that this machine sets to the server.

from __future__ import annotations

from collections.abc import Iterator

from server.open_files import allowed, connections, needed
from server.settings_limits import LimitSettings
from server.verdict import Level, Verdict


def check_limits(limits: LimitSettings) -> Iterator[Verdict]:
    """Whether as many connections can be open as the settings say; nothing if so."""
    wanted, most = needed(limits), allowed()
    if most < wanted:
        yield Verdict(
            Level.WARN,
            f"open files: this user may have {most}, and limits.connections ="
            f" {limits.connections} may need {wanted}; so a process takes"
            f" {connections(limits)} connections",
            f"raise it (LimitNOFILE={wanted} in the service), or lower limits.connections",
        )
