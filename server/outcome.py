# Law of this file: how an answer came about is one of these words, in the figures and in the log;
# and so is what an upstream was asked for it, and how that ended.

from __future__ import annotations

from enum import StrEnum
from typing import Literal


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


Question = Literal["discovery", "refs", "probe", "mirror", "passthrough"]
"""What an upstream is asked: what it speaks, its refs, whether somebody may have an object, the
objects that a mirror lacks, or what a client wants to know itself."""

Reply = Literal["yes", "no", "down"]
"""How that ends: with what was wanted, with a refusal, or with neither."""
