# Law of this file: figures for people: aligned columns, sizes and ages at a glance.

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_SIZES: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_AGES: Final = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: frozenset[int]) -> str:
    """Lines of aligned columns; those whose number is in ``right`` are aligned to the right."""
    lines = [[printable(cell) for cell in line] for line in (header, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    drawn = (
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
    return "".join(f"{line.rstrip()}\n" for line in drawn)


def printable(text: str) -> str:
    """``text`` with what no terminal can be sent (bytes of a name that is no UTF-8) escaped."""
    return text.encode(errors="backslashreplace").decode()


def size(count: int) -> str:
    """``count`` bytes with three digits or so, such as ``12.8 MiB``."""
    value = float(count)
    for unit in _SIZES[:-1]:
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} {_SIZES[-1]}"


def age(seconds: float) -> str:
    """``seconds`` in its largest whole unit, such as ``3h``."""
    for unit, name in _AGES:
        if seconds >= unit:
            return f"{seconds // unit:.0f}{name}"
    return "0s"
