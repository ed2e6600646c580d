# Law of this file: what is right is what stock hg says of a repository when it is asked directly.

from __future__ import annotations

from dataclasses import dataclass

from tests.hg.session import Session


@dataclass(frozen=True, slots=True)
class Stock:
    """What hg says of a repository.

    Attributes:
        session: with hg in it.
    """

    session: Session

    def log(self, revision: str, template: str = "{node}") -> list[str]:
        """A line for each revision of a set, in its order."""
        return self.session("log", "--rev", revision, "-T", f"{template}\n").decode().splitlines()

    def nodes(self, revision: str) -> list[bytes]:
        """The nodes of a set."""
        return [bytes.fromhex(node) for node in self.log(revision)]

    def node(self, revision: str) -> bytes:
        """The one node of a set."""
        (node,) = self.nodes(revision)
        return node

    def raw(self, *args: str) -> bytes:
        """What a command prints."""
        return self.session(*args)
