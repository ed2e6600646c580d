# Law of this file: sizes, times and shares for people, at a glance, and the same wherever they are
# shown.

from __future__ import annotations

from typing import Final

_SIZES: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_AGES: Final = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
_DURATIONS: Final = ((86400, "days"), (3600, "h"), (60, "min"))


def size(count: float) -> str:
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


def duration(seconds: float) -> str:
    """``seconds`` with two digits or so, such as ``3.2 h``."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    for unit, name in _DURATIONS:
        if seconds >= unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.1f} s"


def count(number: float) -> str:
    """A number with a comma before each three digits."""
    return f"{number:,.0f}"


def percent(share: float) -> str:
    """A share without its sign: ``93``, ``99.9``; 100 and 0 only of all and of nothing."""
    if share in {0.0, 1.0}:
        return f"{100 * share:.0f}"
    if share > 0.99:
        return f"{min(int(1000 * share) / 10, 99.9):.1f}"
    return "<1" if share < 0.01 else f"{100 * share:.0f}"
