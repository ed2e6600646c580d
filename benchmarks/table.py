# Law of this file: a figure is shown beside what it is compared with, and a goal with whether it
# was reached; the same figures, unrounded, go into the JSON file.

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that was measured at Offramp and at what it is compared with.

    Attributes:
        name: what was measured.
        unit: of both values.
        other: the value of what is compared with.
        ours: the value of Offramp.
        against: what is compared with.
        ratio: ours by theirs.
    """

    name: str
    unit: str
    other: float
    ours: float
    against: str = "stock"
    ratio: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratio", self.ours / self.other if self.other else 0.0)


@dataclass(frozen=True, slots=True)
class Goal:
    """What a value must be.

    Attributes:
        name: of the goal.
        value: that was reached.
        limit: that it must not exceed, or, if ``at_least``, that it must reach.
        at_least: which of the two.
        reached: whether it did.
    """

    name: str
    value: float
    limit: float
    at_least: bool = False
    reached: bool = field(init=False)

    def __post_init__(self) -> None:
        good = self.value >= self.limit if self.at_least else self.value <= self.limit
        object.__setattr__(self, "reached", good)


@dataclass(slots=True)
class Report:
    """Everything that one run measured.

    Attributes:
        about: the machine, the repository, how often what was repeated.
        figures: compared values.
        goals: and whether they were reached.
    """

    about: dict[str, object] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write everything as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")

    def draw(self, console: Console) -> None:
        """Print both tables; that of the figures only if there are any."""
        figures = Table("figure", "compared with", title="Measured")
        for column in ("that", "Offramp", "ratio"):
            figures.add_column(column, justify="right")
        for figure in self.figures:
            values = (f"{short(value)} {figure.unit}" for value in (figure.other, figure.ours))
            figures.add_row(figure.name, figure.against, *values, _ratio(figure.ratio))
        if self.figures:
            console.print(figures)
        goals = Table("goal", title="Goals")
        for column in ("value", "limit", "reached"):
            goals.add_column(column, justify="right")
        for goal in self.goals:
            sign = "≥" if goal.at_least else "≤"
            reached = "[green]yes[/]" if goal.reached else "[red]no[/]"
            goals.add_row(goal.name, short(goal.value), f"{sign} {short(goal.limit)}", reached)
        console.print(goals)


def short(value: float) -> str:
    """Three digits that count, and no exponent."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    decimals = 0
    while abs(value) * 10**decimals < 100 and decimals < 6:
        decimals += 1
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _ratio(ratio: float) -> str:
    return f"1/{1 / ratio:,.0f}" if 0 < ratio < 0.1 else short(ratio)
