# Law of this file: a failure is excused only by what was done to this very client: its server was
# killed, its download was cut off, its target died a moment before. Whoever has no excuse counts
# against Offramp, and so does a second try that fails without one.

from __future__ import annotations

import enum
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from benchmarks.soak_clients import Try
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


@dataclass(frozen=True, slots=True)
class Failure:
    """One of them.

    Attributes:
        kind: of the client.
        cause: why.
        again: it was a second try, or a later one.
        same: it failed by the same fault of the same target as the try before.
        said: by the client.
        began: when it did, seconds of :func:`time.time`.
        ended: likewise.
    """

    kind: str
    cause: Cause
    again: bool
    same: bool
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

    def judge(self, tried: Try, before: Try | None = None) -> bool:
        """Count it; whether it is to be tried again. What fails twice for no reason is left.

        ``before``: the try that failed, if this is a second one.
        """
        again = before is not None
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
        fault = self._fault(tried)
        same = before is not None and fault is not None and fault is self._fault(before)
        said = ran.said[-600:]
        self.failures.append(Failure(tried.kind, cause, again, same, said, ran.began, ran.ended))
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
        met = self._met(tried)
        if met is not None:
            return _of_fault(*met)
        if self.troubles.between(What.KILL, ran.began, ran.ended) and _BROKEN.search(ran.said):
            return Cause.KILLED
        return Cause.NONE

    def _fault(self, tried: Try) -> Trouble | None:
        met = self._met(tried)
        return None if met is None else met[0]

    def _met(self, tried: Try) -> tuple[Trouble, float] | None:
        """The fault of a target to which it was sent, and when that was; None: there was none."""
        for named in tried.told:
            what = self.targets.get(named.port)
            if what is not None:
                for fault in self.troubles.between(what, named.when, tried.ran.ended):
                    return fault, named.when
        return None


def _of_fault(fault: Trouble, told: float) -> Cause:
    if fault.began > told:
        return Cause.CUT_OFF
    if fault.unseen:
        return Cause.DECEIVED
    return Cause.JUST_DIED if told - fault.began <= INTERVAL else Cause.DEAD
