# Law of this file: a pattern in the settings that names repositories means the same everywhere: a
# repository is called by its path, with or without `.git`.

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Names:
    """Shell patterns of names, ready to be matched; ``*`` takes slashes too."""

    pattern: re.Pattern[str]

    @classmethod
    def of(cls, patterns: Iterable[str]) -> Self:
        """Names that fit one of the patterns; none, if there is none."""
        each = [fnmatch.translate(pattern) for pattern in patterns]
        return cls(re.compile("|".join(each) if each else r"(?!)"))

    def hold(self, name: str) -> bool:
        """Whether ``name`` fits."""
        return self.pattern.match(name) is not None

    def hold_repository(self, name: str) -> bool:
        """Whether a repository fits, in either of its spellings: ``a`` and ``a.git`` are one."""
        name = name.strip("/").removesuffix("/.git").removesuffix(".git")
        return self.hold(name) or self.hold(f"{name}.git")
