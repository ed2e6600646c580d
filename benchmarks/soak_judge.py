# Law of this file: a failure is excused only by what was done to this very client: its server was
# killed, its download was cut off, its target died a moment before. Whoever has no excuse counts
# against Offramp, and so does a second try that fails without one.

from __future__ import annotations

import enum
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from benchmarks.soak_clients import Told, Try
from benchmarks.soak_programs import HUNG
from benchmarks.soak_troubles import Trouble, Troubles, What

# Of health.interval: when a dead target must be known at the latest.
INTERVAL: Final = 10.0

# What programs say whose server goes away: git, curl below it, and Mercurial.
_BROKEN: Final = re.compile(
    r"RPC failed|early EOF|hung up|unexpected disconnect|[Cc]onnection reset|Failed to connect"
    r"|Empty reply|transfer closed|[Rr]ecv failure|[Ss]end failure|Connection refused"
    r"|stream ended unexpectedly|connection ended unexpectedly|BadStatusLine|IncompleteRead"
    r"|premature EOF|response expected|Remote end closed|Broken pipe|error in the HTTP2 framing"
    r"|HTTP request error|bad HTTP status line|invalid index-pack output"
    r"|error: 104|unable to access"
)


class Cause(enum.StrEnum):
    """Why a client failed."""

    KILLED = "the worker that answered it was killed"
    MOVED = "protocol v0, and a forced push between its requests"
    CUT_OFF = "its target failed while it downloaded"
    DECEIVED = "its target cuts off large answers, which no probe sees"
    JUST_DIED = "its target had died, less than health.interval ago"
    DEAD = "sent to a target that was dead for longer"
    HUNG = "it did not end"
    NONE = "nothing explains it"

    @property
    def is_excused(self) -> bool:
        """Stock git, with its content at a CDN, would have failed as well."""
        return self not in {Cause.DEAD, Cause.HUNG, Cause.NONE}

    @property
    def is_of_target(self) -> bool:
        """It happened at a target; who tries again must not meet it again."""
        return self in {Cause.CUT_OFF, Cause.DECEIVED, Cause.JUST_DIED, Cause.DEAD}


@dataclass(frozen=True, slots=True)
class Failure:
    """One of them.

    Attributes:
        kind: of the client.
        cause: why.
        again: it was a second try, or a later one.
        said: by the client.
        began: when it did, seconds of :func:`time.time`.
        ended: likewise.
    """

    kind: str
    cause: Cause
    again: bool
    said: str
    began: float
    ended: float


@dataclass(slots=True)
class Tally:
    """What came of all clients.

    Attributes:
        troubles: what was done meanwhile.
        targets: which trouble a target of that port has.
        runs: by kind.
        redirected: runs that were told of a location, by kind.
        failures: in order.
        wrong: results that are wrong, with the kind of their client.
        rescued: second tries that came through.
    """

    troubles: Troubles
    targets: dict[int, What]
    runs: Counter[str] = field(default_factory=Counter)
    redirected: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    rescued: int = 0

    def judge(self, tried: Try, again: bool) -> bool:
        """Count it; whether it is to be tried again. What fails twice for no reason is left."""
        self.runs[tried.kind] += 1
        self.redirected[tried.kind] += bool(tried.told)
        if tried.wrong:
            self.wrong.append(f"{tried.kind}: {tried.wrong}")
            return False
        if not tried.ran.status:
            self.rescued += again
            return False
        cause = self._cause(tried)
        ran = tried.ran
        failure = Failure(tried.kind, cause, again, ran.said[-600:], ran.began, ran.ended)
        self.failures.append(failure)
        return cause.is_excused or not again

    def count(self, cause: Cause, *, again: bool = False) -> int:
        """How many first, or later, tries failed so."""
        return sum(each.cause is cause and each.again == again for each in self.failures)

    def _cause(self, tried: Try) -> Cause:
        ran = tried.ran
        if ran.status == HUNG:
            return Cause.HUNG
        if tried.old and "not our ref" in ran.said:
            forced = self.troubles.between(What.FORCED, ran.began, ran.ended)
            return Cause.MOVED if forced else Cause.NONE
        by_target = [cause for each in tried.told if (cause := self._of_target(each, ran.ended))]
        if by_target:
            return by_target[0]
        if self.troubles.between(What.KILL, ran.began, ran.ended) and _BROKEN.search(ran.said):
            return Cause.KILLED
        return Cause.NONE

    def _of_target(self, named: Told, ended: float) -> Cause | None:
        what = self.targets.get(named.port)
        if what is None:
            return None
        faults = self.troubles.between(what, named.when, ended)
        return _of_fault(faults[0], named.when) if faults else None


def _of_fault(fault: Trouble, told: float) -> Cause:
    if fault.began > told:
        return Cause.CUT_OFF
    if fault.unseen:
        return Cause.DECEIVED
    return Cause.JUST_DIED if told - fault.began <= INTERVAL else Cause.DEAD
