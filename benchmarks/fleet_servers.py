# Law of this file: servers decide with all that a real one decides with: the watching of targets
# with its probes and breakers, the table of clients that were sent elsewhere, which the processes
# of a machine share, networks, mirrors, choice. In place of sockets there is the calendar.

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from benchmarks.fleet_faults import Manner
from benchmarks.fleet_mirror import LOOK, Refs
from benchmarks.fleet_world import Caller, Content, World
from redirects.acceptance import ACCEPTS_NOTHING, Acceptance, Client, spread_of
from redirects.control import EVERYBODY
from redirects.decision import Decision
from redirects.health import Rules, State
from redirects.locality import Locality
from redirects.negotiation import negotiate
from redirects.sessions import Session, SessionDecision, choose
from redirects.suspicion import Asker, MemoryTable, Suspicions
from redirects.targets import Target
from server.health import Health
from server.probes import probe_of
from server.readback import NotReadable
from stores.entity import Entity
from stores.memory import MemoryStore

BASE_URL: Final = "https://git.example.org"
ACCEPTS: Final = Acceptance(frozenset({"https"}))

# What a virtual second 0 is called, in seconds since the epoch.
_EPOCH: Final = 1_700_000_000.0

# States in which a server knows that a target does not answer, or not yet often enough again.
_KNOWN: Final = frozenset({State.DOWN, State.HALF_OPEN})

# Connections that a process remembers, as in `server.repeats`.
_CONNECTIONS: Final = 4096

# Hides who asks, in a table that nobody reads.
_SECRET: Final = bytes(16)

Risen = Callable[[str], None]
"""Told that a server believes a target again, by its name."""


class Server:
    """One process of a server machine.

    Args:
        world: of which it knows what the settings say, and where addresses are.
        refs: it looks at.
        rules: by which targets are probed.
        suspicions: of all processes of this machine.
        chance: draws when it probes.
        risen: told when it believes a target again.

    Attributes:
        health: of the targets.
    """

    def __init__(
        self,
        world: World,
        refs: Refs,
        rules: Rules,
        *,
        suspicions: Suspicions,
        chance: random.Random,
        risen: Risen,
    ) -> None:
        self._world, self._refs, self._suspicions, self._risen = world, refs, suspicions, risen
        self._clock = asyncio.get_running_loop().time
        self._locality = Locality(world.table)
        self._looks = chance.random() * LOOK
        self._connected: dict[bytes, float] = {}
        targets = world.selection.targets
        self._by_spread = {spread_of(target.name): target for target in targets}
        self._readable = frozenset(target.fingerprint for target in targets)
        self._states: dict[str, State] = {}
        store = MemoryStore(self._clock)
        # Nothing is put in this world: that waits for threads, and they for another clock.
        probe, content = probe_of(0)
        store.entities[probe.digest] = content
        store.modified[probe.digest] = self._clock()
        self.health = Health(
            store,
            targets,
            self._read_back,
            rules,
            self._changed,
            self._clock,
            chance.random,
            lambda: 0.0,
        )

    def knows_down(self, target: str) -> bool:
        """Whether it knows that nobody may be sent there."""
        return self._states[target] in _KNOWN

    def client(self, caller: Caller) -> Client:
        """Who asks, as far as this server can tell."""
        where = self._locality.find(caller.address, (), caller.region if caller.says else None)
        return Client(BASE_URL, where.region, where.network, where.address)

    def session(self, client: Client, content: Content, now: float) -> SessionDecision:
        """Where the whole session of this client goes on."""
        session = Session("git", content.repository, self._refs.ours(content.repository, now))
        return choose(
            session,
            self._world.mirrors,
            client,
            now,
            seen=self._refs.seen(content.repository, now, self._looks),
            held_back=EVERYBODY.held_back(client, content.repository),
        )

    def decide(self, client: Client, content: Content, now: float, *, accepts: bool) -> Decision:
        """How this client gets the content, by what is known at ``now``."""
        return negotiate(
            ACCEPTS if accepts else ACCEPTS_NOTHING,
            content.entity,
            self._world.selection,
            client,
            _EPOCH + now,
            readable=self._readable,
            down=self.health.down(),
            min_size=0,
            enabled=True,
            held_back=EVERYBODY.held_back(client, content.repository),
        )

    def asked_again(self, asker: Asker, now: float) -> bool:
        """As :meth:`server.repeats.Repeats.asked_again`."""
        if self._connected.get(asker.key, -1.0) > now:
            return False  # it downloads still, and this is another one beside it
        found = self._suspicions.asked_again(asker, now, self._has_failed, self._is_suspected)
        for key in found.targets:
            self.health.suspect(self._by_spread[key])
        return found.is_believed

    def sent(self, asker: Asker, target: str, now: float, until: float) -> None:
        """The client is sent to a target, and keeps its connection ``until`` it has it, or not."""
        self._suspicions.sent(asker, (target,), now)
        self._connected.pop(asker.key, None)
        self._connected[asker.key] = until
        if len(self._connected) > _CONNECTIONS:
            del self._connected[next(iter(self._connected))]

    def _has_failed(self, key: int) -> bool:
        return self.health.has_failed(self._by_spread[key])

    def _is_suspected(self, key: int) -> bool:
        return self.health.is_suspected(self._by_spread[key])

    def _changed(self, target: str, state: State) -> None:
        # It is told of each target at first, too.
        if state is State.UP and self._states.get(target) in _KNOWN:
            self._risen(target)
        self._states[target] = state

    async def _read_back(self, target: Target, entity: Entity) -> None:
        """In place of :func:`server.readback.read_back`: what a probe meets at this moment."""
        outage = self._world.calendar.timelines[target.name].at(self._clock())
        if outage is not None:
            if outage.manner is Manner.HANGS:
                await asyncio.sleep(outage.end - self._clock())
            raise NotReadable(
                f"entity {entity.digest}, target {target.name}: {outage.manner.value}"
            )


def asker_of(caller: Caller, content: Content) -> Asker:
    """Who asks what: all machines behind one address are the same."""
    traits = ("", "git/2.39.5")
    return Asker.of(caller.address, traits, content.entity.digest, secret=_SECRET)


@dataclass(slots=True)
class Fleet:
    """All servers.

    Attributes:
        machines: processes of each of them.
    """

    machines: list[list[Server]]

    @property
    def servers(self) -> Iterable[Server]:
        """The processes of all machines."""
        return (server for machine in self.machines for server in machine)

    @classmethod
    def start(
        cls, world: World, refs: Refs, rules: Rules, *, window: float, seed: int, risen: Risen
    ) -> Fleet:
        """Servers that begin now; on the loop that is running, whose time is theirs.

        Args:
            world: in which they are.
            refs: of their repositories.
            rules: by which targets are probed.
            window: seconds within which a client that asks again is suspicious.
            seed: of the jitter.
            risen: told when one believes a target again.
        """

        def machine(number: int) -> list[Server]:
            suspicions = Suspicions(MemoryTable(), window)
            return [
                Server(
                    world,
                    refs,
                    rules,
                    suspicions=suspicions,
                    chance=random.Random(f"{seed} {number} {process}"),
                    risen=risen,
                )
                for process in range(world.effort.processes)
            ]

        return cls([machine(number) for number in range(world.effort.machines)])

    async def begin(self) -> None:
        """Look at every target before anybody asks."""
        await asyncio.gather(*(server.health.begin() for server in self.servers))
