# Law of this file: how often one client may ask is a sum over its own past, in a table of a fixed
# size. No clock: what time it is, is passed in.

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

# Clients that are remembered. Who is forgotten begins anew, and that is the one who was quiet for
# longest. A table of this size takes 12 MB.
REMEMBERED: Final = 65536


@dataclass(frozen=True, slots=True)
class _Bucket:
    """What a client may still ask.

    Attributes:
        left: requests that it may make at once.
        when: that was so, in seconds.
    """

    left: float
    when: float


@dataclass(slots=True)
class Buckets:
    """A token bucket for each client.

    Attributes:
        most: clients that are remembered.
    """

    most: int = REMEMBERED
    _held: dict[str, _Bucket] = field(default_factory=dict)  # who asked last is last

    def take(self, client: str, rate: float, burst: int, now: float) -> float:
        """Take a request off what ``client`` may ask.

        Args:
            client: whoever is to be told apart.
            rate: requests a second for which room comes back, above 0.
            burst: requests for which there is room at most.
            now: in seconds, by a clock that does not go back.

        Returns:
            0.0: it may ask. Else nothing is taken, and it may ask again in so many seconds.
        """
        held = self._held.pop(client, None)
        left = float(burst)
        if held is not None:
            left = min(left, held.left + (now - held.when) * rate)
        allowed = left >= 1.0
        if held is None and len(self._held) >= self.most:
            del self._held[next(iter(self._held))]
        self._held[client] = _Bucket(left - 1.0 if allowed else left, now)
        return 0.0 if allowed else (1.0 - left) / rate

    def __len__(self) -> int:
        return len(self._held)
