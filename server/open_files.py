# Law of this file: a limit on connections that the system's limit on open files would undercut is
# no limit but a fault: the latter is raised as far as we may, and else the former is lowered, and
# somebody is told. Who cannot be let in because no file can be opened is not refused but left to
# wait, and the event loop listens to nobody for a second after each.

from __future__ import annotations

import resource
from typing import Final

from server.settings_limits import LimitSettings

# A connection that is being sent to holds its socket and what is sent.
_EACH: Final = 2

# Beside them: pipes of programs, the store's connections, logs, SQLite.
_OTHERS: Final = 512

# Of what is allowed, connections get this share at least, however little that is.
_LEAST_SHARE: Final = 4

_ENDLESS: Final = 1 << 62


def needed(limits: LimitSettings) -> int:
    """How many files one server process may have open at most."""
    return _EACH * limits.connections * 9 // 8 + _beside(limits)


def connections(limits: LimitSettings) -> int:
    """How many connections one server process may have: what was set, or what files allow."""
    most = allowed()
    left = max(most - _beside(limits), most // _LEAST_SHARE)
    return max(1, min(limits.connections, left * 8 // (_EACH * 9)))


def _beside(limits: LimitSettings) -> int:
    """How many files are open beside connections at most."""
    return 4 * limits.programs + _OTHERS


def allowed() -> int:
    """How many it may be allowed without anybody's help: the hard limit (setrlimit(2))."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return _ENDLESS if hard == resource.RLIM_INFINITY else hard


def allow(limits: LimitSettings) -> int:
    """Raise this process' limit, and so that of processes that it starts, to what may be needed.

    Returns:
        How many connections there may be; see :func:`connections`.
    """
    wanted = needed(limits)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = allowed()
    if soft != resource.RLIM_INFINITY and soft < min(wanted, most):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, most), hard))
    return connections(limits)
