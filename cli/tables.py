# Law of this file: figures for people: aligned columns, sizes and ages at a glance.

from __future__ import annotations

from collections.abc import Sequence

from server.quantities import age, size

__all__ = ["age", "printable", "size", "table"]


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
