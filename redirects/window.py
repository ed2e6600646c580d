# Law of this file: signed URLs are the same for everybody within a window of time, and live for
# at least `lifetime` from any moment of it. The clock is whoever asks.

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """How long URLs stay the same, and how long they live.

    Times are whole seconds, as signature formats have them; fractions are rounded so that a URL
    lives longer rather than shorter.

    Attributes:
        width: seconds within which the same URL is given out.
        lifetime: seconds that a URL lives at least, when it is given out.
    """

    width: float
    lifetime: float

    def __post_init__(self) -> None:
        if self.width <= 0 or self.lifetime <= 0:
            raise ValueError(
                f"a window of {self.width} s and a lifetime of {self.lifetime} s:"
                " both must be above zero"
            )

    @property
    def longest(self) -> int:
        """Seconds that a URL lives from the start of its window: no URL lives longer."""
        return math.ceil(self.width) + math.ceil(self.lifetime)

    def start(self, now: float) -> int:
        """Start of the window that holds ``now``, in seconds since the epoch, never after it."""
        return int(now - now % math.ceil(self.width))

    def end(self, start: int) -> int:
        """When the URLs of the window that began at ``start`` stop working."""
        return start + self.longest
