# Law of this file: who is redirected at all is decided before any target is looked at: by the
# repository, by the client's address, and by a lot that one client draws once and for all.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from redirects.acceptance import Client, spread_of
from redirects.decision import Reason
from redirects.names import Names
from redirects.networks import IPNetwork, read_address

# Repositories, addresses, and pairs of network and repository of which the answer is remembered.
_REPOSITORIES: Final = 4096
_ADDRESSES: Final = 16384
_LOTS: Final = 16384

_WHOLE: Final = 2.0**64


@dataclass(frozen=True, slots=True)
class Control:
    """Whom the settings keep from being redirected.

    Attributes:
        off_repositories: shell patterns of served names, with or without ``.git``, in upper or
            lower case: they only keep redirects away; ``*`` takes slashes too.
        off_networks: networks whose clients get everything inline.
        percentage: of the clients, 0 to 100, that are redirected. A client is its network, for one
            repository: it stays on its side, and who is redirected still is when this is raised.
        shadow: decide and count, and send the content all the same.

    Raises:
        ValueError: the percentage is none.
    """

    off_repositories: Sequence[str] = ()
    off_networks: Sequence[IPNetwork] = ()
    percentage: float = 100.0
    shadow: bool = False
    _is_off: Callable[[str], bool] = field(init=False, repr=False, compare=False)
    _is_within: Callable[[str], bool] = field(init=False, repr=False, compare=False)
    _lot: Callable[[str, str], float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.percentage <= 100:
            raise ValueError(f"a percentage of {self.percentage}: write a number from 0 to 100")
        names = Names.of(pattern.lower() for pattern in self.off_repositories)

        def is_off(repository: str) -> bool:
            return names.hold_repository(repository.lower())

        object.__setattr__(self, "_is_off", lru_cache(_REPOSITORIES)(is_off))
        object.__setattr__(self, "_is_within", lru_cache(_ADDRESSES)(self._holds))
        object.__setattr__(self, "_lot", lru_cache(_LOTS)(lot))

    def held_back(self, client: Client, repository: str) -> Reason | None:
        """Why ``client`` is not redirected, whatever it accepts; None if it may be.

        ``repository`` is the served name of the one that it asks.
        """
        if self.off_repositories and self._is_off(repository):
            return Reason.OFF_FOR_REPOSITORY
        if self.off_networks and self._is_within(client.address):
            return Reason.OFF_FOR_NETWORK
        if self.percentage < 100 and self._lot(client.network, repository) >= self.percentage:
            return Reason.NOT_IN_PERCENTAGE
        return None

    def _holds(self, text: str) -> bool:
        address = read_address(text)
        # Whoever cannot be placed may be in any of them.
        return address is None or any(address in network for network in self.off_networks)


def lot(network: str, repository: str) -> float:
    """A number from 0 to 100 that a client draws: always the same, else as if by chance."""
    return 100 * (spread_of(f"{network} {repository}") / _WHOLE)


EVERYBODY: Final = Control()
