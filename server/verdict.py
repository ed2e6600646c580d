# Law of this file: what a check found is a value: how bad it is, what was seen, and the remedy.

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    INFO = "info"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one check found.

    Attributes:
        level: how bad it is.
        what: what was looked at, and what was seen.
        remedy: what to do about it; empty if there is nothing to do.
    """

    level: Level
    what: str
    remedy: str = ""
