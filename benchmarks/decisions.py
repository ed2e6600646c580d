# Law of this file: decisions are measured by themselves, in one thread, without a server around
# them: from the text of an address to the URL, with nothing remembered of the client.

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

from benchmarks.table import Figure, Goal, Report
from redirects.acceptance import Acceptance, Client
from redirects.decision import Redirect
from redirects.locality import Locality
from redirects.negotiation import negotiate
from redirects.networks import NetworkTable, Prefix
from redirects.selection import Selection, Standing
from redirects.targets import HttpTarget, Target
from redirects.window import Window
from stores.entity import Entity

PREFIXES: Final = 20_000
TARGETS: Final = 20

# As in the lists of clouds: most are of IPv4, and of these most are /24 to /20.
_V4_SHARE: Final = 0.8
_V4_LENGTHS: Final = (16, 20, 20, 22, 22, 24, 24, 24)
_V6_LENGTHS: Final = (36, 40, 44, 48)

_REGIONS: Final = tuple(f"region-{number}" for number in range(6))
_EVERYWHERE: Final = 2
_ENTITIES: Final = 1_000
_ACCEPTS: Final = Acceptance(frozenset({"https"}))
_NOW: Final = 1_700_000_100.0
_ROUNDS: Final = 5


@dataclass(frozen=True, slots=True)
class World:
    """Networks, addresses, targets and contents, the same each time.

    Attributes:
        table: of the networks.
        addresses: of clients, as text; each is in one of the networks.
        targets: as many as there are.
        entities: that are asked for.
    """

    table: NetworkTable
    addresses: Sequence[str]
    targets: tuple[Target, ...]
    entities: Sequence[Entity]

    @classmethod
    def make(cls, clients: int) -> World:
        """A world with so many clients."""
        chance = random.Random(6)
        networks: dict[IPv4Network | IPv6Network, str] = {}
        while len(networks) < PREFIXES:
            if chance.random() < _V4_SHARE:
                drawn = (chance.getrandbits(32), chance.choice(_V4_LENGTHS))
            else:
                drawn = (0x2600 << 112 | chance.getrandbits(112), chance.choice(_V6_LENGTHS))
            networks[ip_network(drawn, strict=False)] = chance.choice(_REGIONS)
        held = list(networks)
        within = (chance.choice(held) for _ in range(clients))
        addresses = [
            str(ip_address(int(n.network_address) + chance.randrange(n.num_addresses)))
            if n.version == 4
            else str(n[chance.getrandbits(64)])
            for n in within
        ]
        window = Window(900, 6 * 3600)
        return cls(
            NetworkTable.of(Prefix(n, region, "bench") for n, region in networks.items()),
            addresses,
            tuple(
                HttpTarget(f"t{place}", f"https://t{place}.example.org", window)
                for place in range(TARGETS)
            ),
            [Entity(chance.randbytes(32).hex(), 1 << 20) for _ in range(_ENTITIES)],
        )

    def selection(self, *, equal: bool) -> Selection[Target]:
        """Three targets in each region and two for everywhere; or all equal, everywhere."""
        standings = {
            target.name: Standing(
                () if equal or place < _EVERYWHERE else (_REGIONS[place % len(_REGIONS)],),
                weight=1 + place % 3,
            )
            for place, target in enumerate(self.targets)
        }
        return Selection(self.targets, standings)

    def decide(self, addresses: Sequence[str], selection: Selection[Target]) -> None:
        """One decision for each address."""
        locality, entities = Locality(self.table), self.entities
        readable = frozenset(target.fingerprint for target in self.targets)
        for number, address in enumerate(addresses):
            where = locality.find(address)
            client = Client("https://git.example.org", where.region, where.network)
            entity = entities[number % _ENTITIES]
            decision = negotiate(
                _ACCEPTS, entity, selection, client, _NOW, readable=readable, min_size=0,
                enabled=True,
            )  # fmt: skip
            assert isinstance(decision, Redirect)  # noqa: S101 - or nothing was measured


def _seconds(run: Callable[[], None], times: int) -> float:
    """CPU seconds of one of ``times`` in the quickest of some rounds."""
    best = float("inf")
    for _ in range(_ROUNDS):
        began = time.process_time()
        run()
        best = min(best, time.process_time() - began)
    return best / times


def measure(report: Report, say: Callable[[str], None], clients: int = 50_000) -> None:
    """Measure how long decisions and look-ups take."""
    say("decisions alone")
    world = World.make(clients)
    addresses = world.addresses
    fleet = tuple(addresses[:100]) * (clients // 100)
    known = [ip_address(text) for text in addresses]
    regional, equal = world.selection(equal=False), world.selection(equal=True)

    def look_up() -> None:
        for address in known:
            world.table.find(address)

    def parse() -> None:
        for text in addresses:
            ip_address(text)

    lookup, parsed = _seconds(look_up, clients), _seconds(parse, clients)
    cold = _seconds(lambda: world.decide(addresses, regional), clients)
    warm = _seconds(lambda: world.decide(fleet, regional), clients)
    alike = _seconds(lambda: world.decide(addresses, equal), clients)
    title = f"{TARGETS} targets, {PREFIXES:,} networks"
    report.figures += [
        Figure("an address looked up", "µs", parsed * 1e6, lookup * 1e6, "its text parsed"),
        Figure(f"decisions, {title}: 100 clients", "/s", 1 / cold, 1 / warm, "all clients new"),
        Figure(f"decisions, {title}: all equal", "/s", 1 / cold, 1 / alike, "by region"),
    ]
    report.goals += [
        Goal("an address looked up, µs", lookup * 1e6, 5.0),
        Goal(f"decisions per second, {title}", 1 / cold, 50_000, at_least=True),
        Goal(f"decisions per second, {title}, all equal", 1 / alike, 50_000, at_least=True),
    ]


if __name__ == "__main__":
    from rich.console import Console

    alone = Report()
    measure(alone, print)
    alone.draw(Console(width=118))
