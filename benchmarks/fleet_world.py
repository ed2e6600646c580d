# Law of this file: the world in which a fleet lives a day: regions and networks, clients, and what
# they ask for and when. It is drawn once, from a seed, before anybody decides anything, and no
# server changes it.

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import accumulate
from math import pi, sin
from typing import Final, NamedTuple, Self

from benchmarks.fleet_faults import Calendar
from redirects.networks import NetworkTable, Prefix
from redirects.selection import Selection, Standing
from redirects.sessions import SessionMirror
from redirects.targets import HttpTarget, Target
from redirects.window import Window
from stores.entity import Entity

# Clients by region, and the hours by which clocks there are ahead of UTC.
REGIONS: Final = {
    "us-east": (0.25, -5.0), "us-west": (0.15, -8.0), "eu-west": (0.2, 0.0),
    "eu-central": (0.2, 1.0), "ap-south": (0.1, 5.5), "ap-northeast": (0.1, 9.0),
}  # fmt: skip

STANDINGS: Final = {
    "us-a": Standing(("us-*",), weight=3), "us-b": Standing(("us-*",), weight=2),
    "eu-a": Standing(("eu-*",)), "eu-b": Standing(("eu-*",)), "eu-c": Standing(("eu-*",)),
    "ap-a": Standing(("ap-*",), weight=2), "ap-b": Standing(("ap-*",)),
    "cdn": Standing(),
}  # fmt: skip
"""The eight targets: of each continent, and one for everywhere, which is nobody's first."""

MIRROR: Final = SessionMirror(
    "mirror-ap", "https://mirror-ap.example.org", ("mirrored/*",), frozenset({"git"}), offramp=True
)
MIRRORED_FOR: Final = Standing(("ap-*",))

_NETWORKS: Final = 2_000
_LENGTHS: Final = (16, 18, 20, 20, 22, 22)
_V6_SHARE: Final = 0.1

# A share of the sites is one address, behind which machines build the same at the same time.
_SHARED: Final = 0.05
_MACHINES: Final = 10
_BUILDS: Final = 0.1
_BUILD_SECONDS: Final = 20.0

_REPOSITORIES: Final = 200
_CONTENTS: Final = 2_000
_SLOTS: Final = 96

# Clients that say where they are, and that accept no location.
_SAYING: Final = 0.05
_UNWILLING: Final = 0.05


def continent(region: str) -> str:
    """The group of regions to which targets belong."""
    return region.partition("-")[0]


@dataclass(frozen=True, slots=True)
class Effort:
    """How much of a day is lived.

    Attributes:
        clients: how many there are.
        jobs: downloads that they begin, failed ones that they try again not counted.
        seconds: length of the day.
        machines: that serve.
        processes: on each of them.
    """

    clients: int = 100_000
    jobs: int = 1_000_000
    seconds: float = 86_400.0
    machines: int = 3
    processes: int = 2


QUICK: Final = Effort(10_000, 40_000, 7_200.0, machines=2, processes=2)


class Caller(NamedTuple):
    """A client.

    Attributes:
        address: as text.
        region: in which it is.
        says: it tells the servers so; else they must know its network.
        accepts: it takes locations.
    """

    address: str
    region: str
    says: bool
    accepts: bool


class Content(NamedTuple):
    """What can be asked for: an entity of a repository."""

    entity: Entity
    repository: str


class Job(NamedTuple):
    """A client wants a content.

    Attributes:
        at: seconds of the day.
        caller: place of the client.
        content: place of the content.
    """

    at: float
    caller: int
    content: int


@dataclass(frozen=True, slots=True)
class World:
    """All that is so whatever servers do.

    Attributes:
        effort: that it was made for.
        table: networks and their regions.
        callers: the clients.
        contents: that are asked for.
        jobs: in the order of time.
        selection: the targets.
        mirrors: of whole sessions.
        calendar: what befalls them.
    """

    effort: Effort
    table: NetworkTable
    callers: Sequence[Caller]
    contents: Sequence[Content]
    jobs: Sequence[Job]
    selection: Selection[Target]
    mirrors: Selection[SessionMirror]
    calendar: Calendar

    @classmethod
    def draw(cls, effort: Effort, seed: int) -> Self:
        """The world of this seed."""
        chance = random.Random(seed)
        window = Window(900, 6 * 3600)
        targets = tuple(
            HttpTarget(name, f"https://{name}.example.org", window) for name in STANDINGS
        )
        calendar = Calendar.draw(STANDINGS, effort.seconds, chance)
        networks = _networks(chance)
        table = NetworkTable.of(Prefix(n, region, "fleet") for n, region in networks)
        callers = _callers(effort.clients, networks, table, chance)
        contents = [
            Content(Entity(chance.randbytes(32).hex(), 1 << 20), _repository(number))
            for number in range(_CONTENTS)
        ]
        return cls(
            effort,
            table,
            callers,
            contents,
            _jobs(effort, callers, chance),
            Selection(targets, STANDINGS),
            Selection((MIRROR,), {MIRROR.name: MIRRORED_FOR}, other_regions=False),
            calendar,
        )


def _repository(content: int) -> str:
    number = content % _REPOSITORIES
    return f"{'own' if number % 4 else 'mirrored'}/project-{number}.git"


def _networks(chance: random.Random) -> list[tuple[IPv4Network | IPv6Network, str]]:
    """Networks of clouds and offices; some lie in others, and are of another region than these."""
    regions, shares = list(REGIONS), [share for share, _ in REGIONS.values()]
    found: dict[IPv4Network | IPv6Network, str] = {}
    while len(found) < _NETWORKS:
        if chance.random() < _V6_SHARE:
            drawn = (0x2600 << 112 | chance.getrandbits(112), 40)
        else:
            drawn = (chance.getrandbits(32), chance.choice(_LENGTHS))
        found[ip_network(drawn, strict=False)] = chance.choices(regions, shares)[0]
    return list(found.items())


def _callers(
    count: int,
    networks: Sequence[tuple[IPv4Network | IPv6Network, str]],
    table: NetworkTable,
    chance: random.Random,
) -> list[Caller]:
    """Clients at sites: a few of them with addresses side by side, or a fleet behind one."""
    callers: list[Caller] = []
    while len(callers) < count:
        network, _ = chance.choice(networks)
        address = network[chance.getrandbits(network.max_prefixlen - network.prefixlen)]
        prefix = table.find(address)
        if prefix is None:
            raise RuntimeError(f"{address} is in none of the networks that it was drawn from")
        text, says = str(address), chance.random() < _SAYING
        if chance.random() < _SHARED:
            callers += [Caller(text, prefix.region, says, True)] * _MACHINES
        else:
            accepts = chance.random() >= _UNWILLING
            callers.append(Caller(text, prefix.region, says, accepts))
    return callers[:count]


def _jobs(effort: Effort, callers: Sequence[Caller], chance: random.Random) -> list[Job]:
    """Single downloads, and builds: machines behind one address that want the same."""
    popular = list(accumulate(1 / (rank + 10) for rank in range(_CONTENTS)))
    curves = {region: list(accumulate(_curve(ahead))) for region, (_, ahead) in REGIONS.items()}
    slot = effort.seconds / _SLOTS

    def when(region: str) -> float:
        curve = curves[region]
        return (bisect_right(curve, chance.random() * curve[-1]) + chance.random()) * slot

    def what() -> int:
        return bisect_right(popular, chance.random() * popular[-1])

    fleets = [
        place for place in range(len(callers) - _MACHINES)
        if all(callers[place] is callers[place + more] for more in range(1, _MACHINES))
    ]  # fmt: skip
    jobs: list[Job] = []
    for _ in range(int(effort.jobs * _BUILDS / _MACHINES)):
        first, content = chance.choice(fleets), what()
        begun = when(callers[first].region)
        jobs += (
            Job(begun + chance.random() * _BUILD_SECONDS, first + number, content)
            for number in range(_MACHINES)
        )
    while len(jobs) < effort.jobs:
        caller = chance.randrange(len(callers))
        jobs.append(Job(when(callers[caller].region), caller, what()))
    return sorted(job for job in jobs if job.at < effort.seconds)


def _curve(ahead: float) -> list[float]:
    """Load by time of day, UTC: machines work all night, and people from eight to eight."""
    hours = ((place * 24 / _SLOTS + ahead) % 24 for place in range(_SLOTS))
    return [0.4 + max(0.0, sin(pi * (hour - 8) / 12)) for hour in hours]
