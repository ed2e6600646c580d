# Law of this file: sizes and ages for people, at a glance, and the same wherever they are shown.

from __future__ import annotations

from typing import Final

_SIZES: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_AGES: Final = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


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
