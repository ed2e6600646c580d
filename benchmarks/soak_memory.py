# Law of this file: what a process takes is read from the kernel at even intervals, and whether it
# grows is said of one that lived through the second half of the soak, caches warm.

from __future__ import annotations

import statistics
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Final

MEBIBYTE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Sample:
    """One process at one moment.

    Attributes:
        at: seconds since the soak began.
        memory: bytes of its own (anonymous ones). What it shares is left out: its share of a
            library grows whenever a neighbour dies.
        files: open descriptors.
    """

    at: float
    memory: int
    files: int


@dataclass(slots=True)
class Samples:
    """All samples, by process."""

    of: dict[int, list[Sample]] = field(default_factory=dict)

    def take(self, pids: list[int], at: float) -> None:
        """Sample these processes; one that has ended meanwhile is left out."""
        for pid in pids:
            sample = read(pid, at)
            if sample is not None:
                self.of.setdefault(pid, []).append(sample)

    def growth(self, pid: int, since: float) -> float:
        """Bytes a minute by which a process grew, after a moment.

        The median of the slopes between any two samples (Theil and Sen): a moment in which it held
        a large answer does not count.
        """
        points = [(each.at, float(each.memory)) for each in self.of.get(pid, ())]
        return 60 * slope([point for point in points if point[0] >= since])

    def risen(self, pid: int) -> float:
        """Bytes that a process had more in the last tenth of its time than in the first.

        Of each tenth the median counts. What comes in a few steps has no slope by :meth:`growth`,
        and is found here.
        """
        memory = [each.memory for each in self.of.get(pid, ())]
        tenth = max(1, len(memory) // 10)
        if not memory:
            return 0.0
        return statistics.median(memory[-tenth:]) - statistics.median(memory[:tenth])

    def grown_files(self, pid: int, since: float) -> float:
        """Descriptors a minute, likewise."""
        points = [(each.at, float(each.files)) for each in self.of.get(pid, ())]
        return 60 * slope([point for point in points if point[0] >= since])


def slope(points: list[tuple[float, float]]) -> float:
    """The median of the slopes between any two of the points; 0 for fewer than two."""
    slopes = [
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for earlier, later in combinations(points, 2)
        if later[0] > earlier[0]
    ]
    return statistics.median(slopes) if slopes else 0.0


def read(pid: int, at: float) -> Sample | None:
    """What a process takes now; None: it has ended."""
    with suppress(OSError, ValueError, StopIteration):
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        memory = next(int(line.split()[1]) for line in rollup if line.startswith("Anonymous:"))
        return Sample(at, memory << 10, sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()))
    return None
