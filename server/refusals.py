# Law of this file: what refused everything in a run is told at its end, once, whatever single lines
# were logged before.

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

Told = Callable[[str, str, str], None]
"""Told what became of an attempt: ``target`` or ``store``, its name, and why it failed; an empty
reason means that it went well."""


def nobody(kind: str, name: str, why: str) -> None:
    """Nobody keeps count."""
    del kind, name, why


@dataclass(slots=True)
class Refusals:
    """Counts, of one run, what became of reading back and of copying."""

    _well: set[tuple[str, str]] = field(default_factory=set)
    _failed: Counter[tuple[str, str]] = field(default_factory=Counter)
    _why: dict[tuple[str, str], str] = field(default_factory=dict)

    def told(self, kind: str, name: str, why: str) -> None:
        """See :data:`Told`."""
        if not why:
            self._well.add((kind, name))
            return
        self._failed[kind, name] += 1
        self._why[kind, name] = why

    def faults(self) -> tuple[str, ...]:
        """One line for each target or store that refused all that it was asked for."""
        return tuple(
            self._line(kind, name) for kind, name in self._failed if (kind, name) not in self._well
        )

    def _line(self, kind: str, name: str) -> str:
        times, why = self._failed[kind, name], self._why[kind, name]
        often = "once" if times == 1 else f"{times} times"
        if kind == "store":
            return f"the store {name} took nothing, tried {often}; no content is named there: {why}"
        return (
            f"nothing came back through the target {name}, tried {often}; what was tried is not"
            f" named there: {why}; `offramp doctor` looks further"
        )
