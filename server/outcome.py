# Law of this file: how an answer came about is one of these words, in the figures and in the log.

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """How a command was answered.

    ``redirect``: the bulk was named by a location. ``hit``: from a record or from memory.
    ``miss``: it was computed for this request. ``follow``: it was being computed already.
    ``passthrough``: a program answered this client alone. ``error``: it was refused or failed.
    """

    REDIRECT = "redirect"
    HIT = "hit"
    FOLLOW = "follow"
    MISS = "miss"
    PASSTHROUGH = "passthrough"
    ERROR = "error"
