# Law of this file: what goes wrong on purpose is written down with its time, because every failure
# is judged by it; what was not written down excuses nobody.

from __future__ import annotations

import enum
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf


class What(enum.StrEnum):
    """What was done to the server and to what it leans on."""

    KILL = "a worker killed"
    STORE = "store fault"
    BUCKET = "target fault, S3"
    FILES = "target stopped, nginx"
    RELOAD = "settings read again"
    RESTART = "restart beside the old one"
    FORCED = "forced push"
    PUSH = "push"


@dataclass(slots=True)
class Trouble:
    """One of them.

    Attributes:
        what: was done.
        began: seconds of :func:`time.time`, as git's traces are.
        ended: likewise; infinite while it goes on.
        how: more of it, for people.
        unseen: small requests, as probes are, come back all the same.
    """

    what: What
    began: float
    ended: float = inf
    how: str = ""
    unseen: bool = False

    def touches(self, began: float, ended: float) -> bool:
        """Whether some of it fell between two moments."""
        return self.began <= ended and self.ended >= began


@dataclass(slots=True)
class Troubles:
    """All that was done, in order."""

    done: list[Trouble] = field(default_factory=list)

    def note(self, what: What, how: str = "") -> Trouble:
        """Something that takes no time."""
        now = time.time()
        self.done.append(Trouble(what, now, now, how))
        return self.done[-1]

    @contextmanager
    def going_on(self, what: What, how: str = "", *, unseen: bool = False) -> Iterator[Trouble]:
        """Something that goes on as long as the block."""
        trouble = Trouble(what, time.time(), how=how, unseen=unseen)
        self.done.append(trouble)
        try:
            yield trouble
        finally:
            trouble.ended = time.time()

    def between(self, what: What, began: float, ended: float) -> list[Trouble]:
        """Those of a kind that fell, in part, between two moments."""
        return [each for each in self.done if each.what is what and each.touches(began, ended)]

    def count(self, what: What) -> int:
        """How many of a kind there were."""
        return sum(each.what is what for each in self.done)
