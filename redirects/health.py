# Law of this file: whether a target may be named follows from what was seen of it, by a table. Time
# and chance are passed in; nobody is asked.
#
# A target is in one of five states:
#
#     unseen      nothing is known of it, or not any more; not named
#     up          it answers; named
#     suspect     a client has shown that it may not, and it is named until a probe says so too; or
#                 a probe failed, and it is not named until the next one, which follows at once; or
#                 a probe is late, and it is not named until that one has come back
#     down        `down_after` probes failed, one after another; not named
#     half-open   it answers again, and is not named before it has done so `up_after` times; nor,
#                 if it fell again and again, before it is no longer held: see redirects/damping.py
#
# Stock git fails when a URL does, so nobody is sent to a target to see whether it works.

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from math import inf
from typing import Final

from redirects.damping import HALF_LIFE, Damping

# Seconds between two probes of a target that is in doubt.
SOON: Final = 0.5

# A target that fails again within this many seconds after it rose is one that flaps. It is down at
# once, also if every second probe comes back.
_STEADY: Final = HALF_LIFE

# A probe that takes this many seconds more than twice what the last one took is late. A packet of a
# handshake that was lost is sent again after one second (RFC 6298), which is no reason to doubt.
_LATE: Final = 1.5


class State(Enum):
    """What is thought of a target; the value is the word for logs and figures."""

    UNSEEN = "unseen"
    UP = "up"
    SUSPECT = "suspect"
    DOWN = "down"
    HALF_OPEN = "half-open"


class Seen(Enum):
    """What happened to a target."""

    ANSWERED = "a probe came back"
    FAILED = "a probe did not come back"
    ASKED_AGAIN = "a client that was sent there asked the same again"
    LATE = "a probe has not come back yet, which takes longer than it used to"


# From a state, by what was seen, to another; and to which one where it was seen often enough.
_TABLE: Final[dict[tuple[State, Seen], tuple[State, State]]] = {
    (State.UNSEEN, Seen.ANSWERED): (State.UP, State.UP),
    (State.UNSEEN, Seen.FAILED): (State.SUSPECT, State.DOWN),
    (State.UNSEEN, Seen.ASKED_AGAIN): (State.UNSEEN, State.UNSEEN),
    (State.UNSEEN, Seen.LATE): (State.UNSEEN, State.UNSEEN),
    (State.UP, Seen.ANSWERED): (State.UP, State.UP),
    (State.UP, Seen.FAILED): (State.SUSPECT, State.DOWN),
    (State.UP, Seen.ASKED_AGAIN): (State.SUSPECT, State.SUSPECT),
    (State.UP, Seen.LATE): (State.SUSPECT, State.SUSPECT),
    (State.SUSPECT, Seen.ANSWERED): (State.UP, State.UP),
    (State.SUSPECT, Seen.FAILED): (State.SUSPECT, State.DOWN),
    (State.SUSPECT, Seen.ASKED_AGAIN): (State.SUSPECT, State.SUSPECT),
    (State.SUSPECT, Seen.LATE): (State.SUSPECT, State.SUSPECT),
    (State.DOWN, Seen.ANSWERED): (State.HALF_OPEN, State.UP),
    (State.DOWN, Seen.FAILED): (State.DOWN, State.DOWN),
    (State.DOWN, Seen.ASKED_AGAIN): (State.DOWN, State.DOWN),
    (State.DOWN, Seen.LATE): (State.DOWN, State.DOWN),
    (State.HALF_OPEN, Seen.ANSWERED): (State.HALF_OPEN, State.UP),
    (State.HALF_OPEN, Seen.FAILED): (State.DOWN, State.DOWN),
    (State.HALF_OPEN, Seen.ASKED_AGAIN): (State.HALF_OPEN, State.HALF_OPEN),
    (State.HALF_OPEN, Seen.LATE): (State.HALF_OPEN, State.HALF_OPEN),
}


@dataclass(frozen=True, slots=True)
class Rules:
    """When targets are probed, and what follows from it.

    From the moment a target dies, ``interval`` passes at most before it is not named any more: the
    next probe begins ``interval - timeout`` after the last one at the latest.

    Attributes:
        interval: that promise, in seconds.
        timeout: seconds within which a probe comes back, or has failed.
        jitter: share by which pauses are shortened at most, by chance, so that many servers do not
            ask a target all at once; below 1.
        down_after: failed probes, one after another, after which a target is down.
        up_after: probes that came back, one after another, after which it is up again.

    Raises:
        ValueError: that cannot be kept.
    """

    interval: float = 10.0
    timeout: float = 4.0
    jitter: float = 0.25
    down_after: int = 2
    up_after: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.timeout <= self.interval / 2:
            raise ValueError(
                f"a probe that may take {self.timeout} s, where targets are probed within"
                f" {self.interval} s: it must be above 0, and half of that at most"
            )
        if not 0 <= self.jitter < 1 or self.down_after < 1 or self.up_after < 1:
            raise ValueError(
                "jitter is 0 or more and below 1; down_after and up_after are 1 or more"
            )

    @property
    def longest_pause(self) -> float:
        """Seconds from the beginning of one probe to that of the next, at most."""
        return self.interval - self.timeout

    def patience(self, latency: float) -> float | None:
        """Seconds after which a probe is late; None: not before it has failed.

        ``latency``: seconds that the last one took which came back.
        """
        late = _LATE + 2 * latency
        return late if late < self.timeout else None


@dataclass(frozen=True, slots=True)
class Breaker:
    """One target, as it stands.

    Attributes:
        state: what is thought of it.
        since: when that began, in seconds of any clock that never jumps.
        failures, successes: probes of that kind, one after another up to now; one of them is 0.
        late: a probe of it has not come back as soon as it should, nor has it failed yet.
        rose: when it was last named again, after a probe had failed.
        damping: how often it fell lately.
    """

    state: State = State.UP
    since: float = 0.0
    failures: int = 0
    successes: int = 0
    late: bool = False
    rose: float = -inf
    damping: Damping = field(default_factory=Damping)

    @property
    def is_named(self) -> bool:
        """Clients may be sent there."""
        if self.state is State.SUSPECT:
            return not self.failures and not self.late
        return self.state is State.UP

    def seen(self, what: Seen, now: float, rules: Rules) -> Breaker:
        """The same target, after something was seen of it at ``now``."""
        failures, successes, late = {
            Seen.ANSWERED: (0, self.successes + 1, False),
            Seen.FAILED: (self.failures + 1, 0, False),
            Seen.ASKED_AGAIN: (self.failures, self.successes, self.late),
            Seen.LATE: (self.failures, self.successes, self.state is not State.UNSEEN),
        }[what]
        flaps = what is Seen.FAILED and not self._has_failed and now - self.rose < _STEADY
        answers = successes >= rules.up_after and now >= self.damping.until
        state = _TABLE[self.state, what][failures >= rules.down_after or answers or flaps]
        since = self.since if state is self.state else now
        rose = now if state is State.UP and self._has_failed else self.rose
        damping = self._damped(state, now) if what is Seen.FAILED else self.damping
        return Breaker(state, since, failures, successes, late, rose, damping)

    def _damped(self, state: State, now: float) -> Damping:
        """What is known of its falls, after a probe failed and it is in ``state``."""
        if self._is_down:
            return self.damping.stays_down(now)
        return self.damping.fell(now) if state is State.DOWN else self.damping.stumbled(now)

    @property
    def has_failed(self) -> bool:
        """We know by a probe that it does not work, or not yet often enough again."""
        return self.late or self._has_failed

    @property
    def _has_failed(self) -> bool:
        return self.failures > 0 or self._is_down

    @property
    def _is_down(self) -> bool:
        return self.state in {State.DOWN, State.HALF_OPEN}

    def held(self, now: float) -> float:
        """Seconds for which it is still held down, if it answers from now on; 0 if it is not."""
        return max(self.damping.until - now, 0.0) if self._is_down else 0.0

    def told(self, why: str, now: float) -> str:
        """What was seen of it last, for people, and for how long it is held if it is."""
        held = self.held(now)
        if not held:
            return why
        return f"{why}; it fell again and again, and is held down for {held:.0f} s more"

    def forgotten(self, now: float) -> Breaker:
        """The same target, when what was seen of it says nothing any more.

        One that is down stays so: it has to answer as often, and as long, as it would have.
        """
        state = State.DOWN if self._is_down else State.UNSEEN
        since = self.since if state is self.state else now
        damping = self.damping.stays_down(now) if self._is_down else self.damping
        return replace(
            self, state=state, since=since, failures=0, successes=0, late=False, damping=damping
        )

    def pause(self, rules: Rules, chance: float) -> float:
        """Seconds from the beginning of the last probe to that of the next.

        ``chance``: anything from 0 to 1.
        """
        if self.state in {State.SUSPECT, State.UNSEEN}:
            return min(SOON, rules.longest_pause)
        return rules.longest_pause * (1 - rules.jitter * chance)
