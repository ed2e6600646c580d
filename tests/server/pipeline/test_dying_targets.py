# Law of this file: where a bundle is, is said when there is nothing more to wait for; a target that
# died meanwhile is not named.

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from indexer.catalog import Bundle
from redirects.decision import Redirect
from server import pipeline
from server.answer import Answer, Locate, Plan, Stored
from tests.server.pipeline.scene import (
    BUNDLE,
    CDN,
    CONTENT,
    COVERING,
    HTTP,
    URL,
    Asked,
    House,
    Running,
    content,
    decisions,
)


@dataclass
class Covered(Asked):
    """Stands in for a command that a bundle covers, but for what is newer.

    Attributes:
        everything: what is run where no bundle can be named.
        chosen: how often it was asked which bundle covers it.
        before: done before it is looked whether the bundle can be named.
        after: done after that.
    """

    everything: Running = field(default_factory=Running)
    chosen: int = 0
    before: Callable[[], None] = lambda: None
    after: Callable[[], None] = lambda: None

    async def plan(self, bundles: Sequence[Bundle], locate: Locate) -> Plan:
        """Take the bundle where it can be named."""
        self.chosen += 1
        self.before()
        decision = locate(BUNDLE.entity, CDN)
        self.after()
        if isinstance(decision, Redirect) and self.chosen <= pipeline._CHOICES:
            return self.answer
        return Plan(None, replace(self.everything.execution(), key="e" * 64))


class Meanwhile(threading.Event):
    """Lets something happen while a run waits for it."""

    def __init__(self, happens: Callable[[], None]) -> None:
        super().__init__()
        self._happens = happens

    def wait(self, timeout: float | None = None) -> bool:
        """Let it happen."""
        self._happens()
        return True


async def test_a_target_that_dies_while_the_rest_is_computed(house: House) -> None:
    """It is not named, nor counted: all of the content comes inline."""

    def dies() -> None:
        house.health.dead = CDN

    rest, everything = Running(gate=Meanwhile(dies), content=CONTENT[:500]), Running()
    command = Covered(Plan(COVERING, rest.execution()), HTTP, everything=everything)
    answer, _ = await house.pipeline().respond(command)
    assert (answer.redirected, await content(answer)) == ((), CONTENT)
    assert ("redirect", "cdn") not in decisions(house)
    assert (command.chosen, everything.runs) == (2, 1)


async def test_a_target_that_dies_before_the_first_byte(house: House) -> None:
    """Whatever else there is to wait for: where the bundle is, is said after that."""
    await content((await house.respond(Running()))[0])  # a record, which is sent from its file
    inline = replace(Running().execution(), inline=True)
    command = Covered(Plan(COVERING, inline), HTTP)
    waited: list[Answer] = []

    async def ready(answer: Answer) -> None:
        waited.append(answer)
        house.health.dead = CDN

    answer, _ = await house.pipeline().respond(command, ready)
    assert (answer.redirected, await content(answer)) == ((), CONTENT)
    assert isinstance(waited[0].inline, Stored)
    assert waited[0].inline.entity.fd == -1  # closed
    assert ("redirect", "cdn") not in decisions(house)


async def test_a_target_that_dies_while_a_command_is_looked_at(house: House) -> None:
    """A bundle that is the whole answer is not named there either."""
    command = Covered(Plan(COVERING, None, b"all"), HTTP)

    def dies() -> None:
        house.health.dead = CDN

    command.after = dies
    answer, _ = await house.pipeline().respond(command)
    assert (answer.redirected, await content(answer)) == ((), CONTENT)


async def test_a_target_that_comes_and_goes(house: House) -> None:
    """A client is not made to wait for it for ever: at last no bundle is looked for."""
    inline = replace(Running().execution(), inline=True)
    command = Covered(Plan(COVERING, inline), HTTP)

    def rises() -> None:
        house.health.dead = frozenset()

    async def ready(answer: Answer) -> None:
        house.health.dead = CDN

    command.before = rises
    answer, _ = await house.pipeline().respond(command, ready)
    assert [named.location.url for named in answer.redirected] == [URL]
    assert command.chosen == pipeline._CHOICES + 1
