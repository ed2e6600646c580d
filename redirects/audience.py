# Law of this file: for whom content is, and which targets may name it, is a value that comes with
# the question. What is not for everybody is named by no URL that everybody could use.

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Audience:
    """For whom the content of a repository is, as far as naming it goes.

    Attributes:
        private: not for everybody; only targets whose URLs are signed may name it.
        targets: names of the targets that may name it; empty, all of them.
        unplaced: names of targets that may not, because it is not for the stores behind them.
    """

    private: bool
    targets: frozenset[str] = frozenset()
    unplaced: frozenset[str] = frozenset()


PUBLIC: Final = Audience(private=False)
