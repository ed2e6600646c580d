# Law of this file: however many ask, what costs much is done for all of them together, and rests.

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field

from server.sparing import Sparing


@dataclass
class Work:
    """Something that costs what it is told to.

    Attributes:
        costs: seconds of computing.
        runs: how often it was done.
    """

    costs: float
    runs: int = 0
    spent: float = 0.0
    now: float = 100.0
    begun: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)

    def __call__(self) -> int:
        """Do it, when it is let; how often it was done by then."""
        self.begun.set()
        self.release.wait()
        self.runs += 1
        self.spent += self.costs
        return self.runs

    def sparing(self) -> Sparing[int]:
        """For many; by clocks that go on when we say so."""
        return Sparing(self, lambda: self.now, lambda: self.spent)


async def test_who_asks_meanwhile_gets_what_comes_next() -> None:
    """It is done once for those who ask first, and once more for all who ask while it is done."""
    work = Work(0.0)
    sparing = work.sparing()
    first = asyncio.create_task(sparing.result())
    await asyncio.to_thread(work.begun.wait)
    others = [asyncio.create_task(sparing.result()) for _ in range(10)]
    work.release.set()
    assert await first == 1
    assert set(await asyncio.gather(*others)) == {2}
    assert work.runs == 2


async def test_what_costs_little_is_new_each_time() -> None:
    """Whoever asks later sees what happened since."""
    work = Work(0.0)
    work.release.set()
    sparing = work.sparing()
    assert [await sparing.result() for _ in range(3)] == [1, 2, 3]


async def test_what_costs_much_counts_for_a_while() -> None:
    """After two seconds of computing nothing is done for eighteen."""
    work = Work(2.0)
    work.release.set()
    sparing = work.sparing()
    assert await sparing.result() == 1
    work.now += 17.0
    assert await asyncio.gather(*(sparing.result() for _ in range(5))) == [1] * 5
    work.now += 1.5  # a little is waited for; here nothing is left
    assert await sparing.result() == 2


async def test_one_that_goes_away_ends_it_for_nobody() -> None:
    """Others who wait for it get it all the same."""
    work = Work(0.0)
    sparing = work.sparing()
    gone, stays = (asyncio.create_task(sparing.result()) for _ in range(2))
    await asyncio.to_thread(work.begun.wait)
    gone.cancel()
    work.release.set()
    assert await stays == 1


async def test_a_failure_is_told_and_tried_again() -> None:
    """Whoever waited is told of it, and the next one who asks has it done again."""
    failing = True

    def work() -> int:
        if failing:
            raise OSError("full")
        return 1

    sparing = Sparing(work)
    (failed,) = await asyncio.gather(sparing.result(), return_exceptions=True)
    assert isinstance(failed, OSError)
    failing = False
    assert await sparing.result() == 1
