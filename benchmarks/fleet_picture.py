# Law of this file: the picture is drawn from the counts of a day and nothing else, and the same
# counts give the same picture, byte for byte. It is plain SVG, for light and for dark pages.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

from benchmarks.fleet_tally import Cause, Tally
from benchmarks.fleet_world import STANDINGS
from benchmarks.table import short
from redirects.decision import Reason

_WIDTH: Final = 960
_LEFT: Final = 64
_RIGHT: Final = 936
_HEIGHT: Final = 604

# One hue for the targets of a continent. On light and on dark paper each is told from its
# neighbours by its lightness as well.
_COLOURS: Final = {
    "us-a": ("#1d5fa6", "#3f86d1"), "us-b": ("#7fb2e3", "#8fc0ee"),
    "eu-a": ("#15694c", "#1f8a65"), "eu-b": ("#4bab87", "#56bd97"), "eu-c": ("#a3d9c3", "#a9e0c9"),
    "ap-a": ("#b35c12", "#d0762a"), "ap-b": ("#e9ae70", "#efbb84"),
    "cdn": ("#6b5aa3", "#9484d0"),
    "dead": ("#b3261e", "#f2665c"), "under": ("#eba39d", "#8e3a35"),
    "moved": ("#5c6773", "#9aa5b1"), "stayed": ("#d9a400", "#e0b83c"),
}  # fmt: skip
_SESSIONS: Final = ("moved to the mirror", "kept, because it lags")
_FAILED: Final = ("sent to a dead target", "under way when it died")

_INK: Final = ("#1f2328", "#e6edf3")
_FAINT: Final = ("#59636e", "#9198a1")
_GRID: Final = ("#d1d9e0", "#30363d")
_PAPER: Final = ("#ffffff", "#0d1117")
_BAND: Final = ("#818b98", "#6e7681")


@dataclass(frozen=True, slots=True)
class _Panel:
    """A part of the picture with a scale of its own.

    Attributes:
        title: what is counted in it.
        words: what each layer is, beside the title; none where the head of the picture says it.
        top, bottom: in pixels.
        layers: class and values of each, from the bottom up.
        bars: draw bars in place of areas: few events, each of which is to be seen.
    """

    title: str
    words: Sequence[str]
    top: float
    bottom: float
    layers: Sequence[tuple[str, Sequence[float]]]
    bars: bool = False

    @property
    def highest(self) -> float:
        """The end of its scale: a round number above every value."""
        peak = max(map(sum, zip(*(values for _, values in self.layers), strict=True)))
        power = 1.0
        while power * 10 <= peak:
            power *= 10
        while power > peak > 0:
            power /= 10
        return next(step * power for step in (1, 1.6, 2, 3, 4, 6, 8, 10) if step * power >= peak)

    def height(self, value: float) -> float:
        """Where a value is, in pixels from the top of the picture."""
        return self.bottom - value / self.highest * (self.bottom - self.top)


def draw(tally: Tally) -> str:
    """The picture of a day, as an SVG document."""
    slots = range(tally.slots)
    seconds = tally.calendar.length / tally.slots
    load = [(name, [tally.redirects[slot, name] / seconds for slot in slots]) for name in STANDINGS]
    sessions = [
        (kind, [tally.sessions[slot, word] / seconds for slot in slots])
        for kind, word in (("moved", "moved"), ("stayed", Reason.MIRROR_STALE.value))
    ]
    failed = [
        (kind, [float(tally.failures(cause, slot)) for slot in slots])
        for kind, cause in (("dead", Cause.NAMED_DEAD), ("under", Cause.UNDER_WAY))
    ]
    panels = (
        _Panel("redirects per second", (), 92, 336, load),
        _Panel("sessions per second", _SESSIONS, 384, 448, sessions),
        _Panel(
            f"failed downloads in {short(seconds / 60)} minutes",
            _FAILED,
            496,
            568,
            failed,
            bars=True,
        ),
    )
    body = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">',
        "<title>A day of a fleet: load by target, sessions at the mirror, failed downloads</title>",
        f"<style>{_style()}</style>",
        f'<rect class="paper" width="{_WIDTH}" height="{_HEIGHT}"/>',
        *_legend(tally),
        *_bands(tally, panels),
        *(line for panel in panels for line in _panel(panel)),
        *_hours(panels[-1].bottom),
        "</svg>",
    ]
    return "\n".join(body) + "\n"


def _style() -> str:
    def rules(place: int) -> str:
        fills = {**_COLOURS, "paper": _PAPER, "band": _BAND, "ink": _INK, "faint": _FAINT}
        lines = [f".{name}{{fill:{colours[place]}}}" for name, colours in fills.items()]
        return "".join([*lines, f".grid{{stroke:{_GRID[place]}}}"])

    text = "text{font:12px system-ui,sans-serif}.band{opacity:.16}.faint{font-size:11px}"
    return f"{text}{rules(0)}@media(prefers-color-scheme:dark){{{rules(1)}}}"


def _across(share: float) -> float:
    return _LEFT + share * (_RIGHT - _LEFT)


def _text(x: float, y: float, text: str, kind: str = "ink", anchor: str = "start") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _legend(tally: Tally) -> Iterator[str]:
    yield _text(_LEFT, 24, f"A day of {tally.redirects.total():,} redirects")
    for place, name in enumerate(STANDINGS):
        yield from _key(_LEFT + place * 76, 48, name, name)


def _key(x: float, y: float, name: str, word: str) -> Iterator[str]:
    """A patch of a colour, and what it stands for."""
    yield f'<rect class="{name}" x="{x}" y="{y - 10}" width="12" height="12" rx="2"/>'
    yield _text(x + 17, y, word)


def _bands(tally: Tally, panels: Sequence[_Panel]) -> Iterator[str]:
    """What happened, from when to when, behind all panels."""
    top, bottom = panels[0].top - 8, panels[-1].bottom
    for start, end, what in tally.calendar.events:
        left, right = (_across(moment / tally.calendar.length) for moment in (start, end))
        yield (
            f'<rect class="band" x="{left:.1f}" y="{top}" width="{right - left:.1f}"'
            f' height="{bottom - top}"/>'
        )
        yield _text((left + right) / 2, top - 6, what, "faint", "middle")


def _panel(panel: _Panel) -> Iterator[str]:
    baseline = panel.top - 22 + 8 * bool(panel.words)
    yield _text(_LEFT, baseline, panel.title, "faint")
    for place, (word, (name, _)) in enumerate(zip(panel.words, panel.layers, strict=False)):
        yield from _key(_LEFT + 200 + place * 180, baseline, name, word)
    for part in (0.0, 0.5, 1.0):
        y = panel.height(part * panel.highest)
        yield f'<line class="grid" x1="{_LEFT}" x2="{_RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield _text(_LEFT - 8, y + 4, f"{part * panel.highest:g}", "faint", "end")
    below = [0.0] * len(panel.layers[0][1])
    for name, values in panel.layers:
        above = [under + value for under, value in zip(below, values, strict=True)]
        path = (_bars if panel.bars else _area)(panel, below, above)
        yield f'<path class="{name}" d="{path}"/>'
        below = above


def _area(panel: _Panel, below: Sequence[float], above: Sequence[float]) -> str:
    def points(values: Sequence[float]) -> list[str]:
        return [
            f"{_across((slot + 0.5) / len(values)):.1f},{panel.height(value):.1f}"
            for slot, value in enumerate(values)
        ]

    return f"M{' '.join(points(above))} {' '.join(reversed(points(below)))}Z"


def _bars(panel: _Panel, below: Sequence[float], above: Sequence[float]) -> str:
    return "".join(
        f"M{_across(slot / len(above)):.1f},{panel.height(low):.1f}"
        f"V{panel.height(high):.1f}H{_across((slot + 1) / len(above)):.1f}V{panel.height(low):.1f}Z"
        for slot, (low, high) in enumerate(zip(below, above, strict=True))
        if high > low
    )


def _hours(bottom: float) -> Iterator[str]:
    for hour in range(0, 25, 3):
        yield _text(_across(hour / 24), bottom + 18, f"{hour:02}:00", "faint", "middle")
    yield _text(_RIGHT, bottom + 33, "UTC", "faint", "end")
