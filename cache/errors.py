# Law of this file: who uses the cache can tell a disk that failed from a run that failed.

from __future__ import annotations


class CacheUnavailable(OSError):  # noqa: N818 - a state, not an error, by the field's habit
    """The cache's disk is full, not writable or broken. Answer without the cache."""


class RunFailed(Exception):  # noqa: N818 - what happened
    """A run ended without a result, and its own exception is not known in this process."""
