# Law of this file: an upstream that says what the test put there, when the test lets it, and a
# clock that stands still; so which questions are put, and when, is all that can differ.

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from server.access.credentials import Fingerprints
from server.settings_upstreams import UpstreamSettings
from server.upstreams.asking import Down, Refused, SpeaksV0, SpeaksV2, Spoken
from server.upstreams.routes import Remote, Routes
from server.upstreams.views import View, Views
from tests.conformance.clones import packet
from wire.git.capabilities import Capabilities
from wire.git.refs import Refs, parse_ls_refs

ANN: Final = "Basic YW5uOmE="
BOB: Final = "Basic Ym9iOmI="
A: Final = "a" * 40
B: Final = "b" * 40
V2: Final = SpeaksV2(
    "https://moved.example.org/acme/widget.git", Capabilities((("fetch", None), ("ls-refs", None)))
)


def listed(oid: str) -> bytes:
    """An answer to ``ls-refs``."""
    return packet(f"{oid} refs/heads/main\n") + b"0000"


Said = bytes | Refused | Down | Exception


class Clock:
    """Stands still."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Seconds, by a monotonic clock."""
        return self.now


@dataclass
class Script:
    """In the place of Asking: says what the test put there, when the test lets it.

    Attributes:
        clock: of the test.
        says: by credential; who is not there is refused.
        takes: seconds that a question lasts.
        has: what may be had that no ref names.
        questions: what was asked, with which credential.
        gate: questions wait for it.
        spoken: the protocol.
    """

    clock: Clock
    says: dict[str | None, Said] = field(default_factory=dict)
    takes: float = 0
    has: set[str] = field(default_factory=set)
    questions: list[tuple[str, str | None]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    spoken: Spoken = V2
    arrived: asyncio.Queue[None] = field(default_factory=asyncio.Queue)

    async def discover(
        self, remote: Remote, authorization: str | None
    ) -> tuple[Spoken, Refs | None]:
        """Ask what it speaks."""
        self.questions.append(("discover", authorization))
        refs = await self._said(authorization)
        return self.spoken, parse_ls_refs(refs) if isinstance(self.spoken, SpeaksV0) else None

    async def refs(self, remote: Remote, spoken: Spoken, authorization: str | None) -> bytes:
        """Ask for refs; what is said was decided when the question came."""
        self.questions.append(("refs", authorization))
        said = await self._said(authorization)
        self.arrived.put_nowait(None)
        await self.gate.wait()
        return said

    async def may_have(
        self, remote: Remote, spoken: Spoken, authorization: str | None, oids: Collection[str]
    ) -> str | None:
        """Ask about objects."""
        self.questions.append(("may_have", authorization))
        await self._said(authorization)
        return next((f"not our ref {oid}" for oid in oids if oid not in self.has), None)

    async def _said(self, authorization: str | None) -> bytes:
        self.clock.now += self.takes
        said = self.says.get(authorization, Refused(401, ("Basic realm=x",), "who?"))
        if isinstance(said, bytes):
            return said
        raise said

    def count(self, kind: str = "refs") -> int:
        """How often that was asked."""
        return sum(asked == kind for asked, _ in self.questions)


@dataclass
class Told:
    """Views over a script."""

    script: Script
    clock: Clock
    views: Views

    def remote(self, name: str = "acme/widget", **settings: object) -> Remote:
        """A repository of an upstream with these settings."""
        values = {"prefix": "/up/", "url": "https://forge.example.org", **settings}
        routes = Routes((UpstreamSettings.model_validate(values),))
        routed = routes.route(f"/up/{name}/info/refs", lambda _: False)
        assert routed is not None
        return routed.remote


def told_by_script() -> Told:
    """An upstream that says yes to ann and bob, at once."""
    clock = Clock()
    script = Script(clock, says={ANN: listed(A), BOB: listed(A)})
    script.gate.set()
    return Told(script, clock, Views(script, Fingerprints.random(), clock))  # type: ignore[arg-type]


def main(view: View) -> str | None:
    """Where the branch is."""
    return view.refs.oid(b"refs/heads/main")


async def waiting(*tasks: asyncio.Task[View]) -> None:
    """Let tasks run until all of them wait for something."""
    for _ in range(10):
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)
