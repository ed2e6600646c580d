# Law of this file: what the page shows, and what `/-/api/` tells, are the same values.

from __future__ import annotations

from dataclasses import dataclass

from redirects.health import State
from server.status.history import Point
from server.status.places import ShownMirror, ShownTarget
from server.status.progress import Last, Step
from server.status.published import Shelf
from server.status.spans import Saved, Share, Span
from server.status.troubles import Trouble


@dataclass(frozen=True, slots=True)
class Report:
    """Everything of one moment.

    Attributes:
        at: when, in seconds since the epoch.
        shares: of the last five minutes, hour, day and week.
        saved: of the last hour, day and week.
        span: whose traffic is shown.
        points: that traffic, step by step.
        targets: as this process sees them.
        mirrors: of whole sessions, likewise.
        store_down: the store does not answer this process.
        indexing: what is being indexed on this machine.
        last_run: what the last run of the index on this machine did.
        indexes: this server indexes by itself.
        shelf: what is published; None while that is being read for the first time.
        troubles: the last warnings and errors of this machine's processes.
        fault: why there are no figures; else empty.
    """

    at: float
    shares: tuple[Share, ...]
    saved: tuple[Saved, ...]
    span: Span
    points: tuple[Point, ...]
    targets: tuple[ShownTarget, ...]
    store_down: bool
    indexing: tuple[Step, ...]
    last_run: Last | None
    indexes: bool
    shelf: Shelf | None
    troubles: tuple[Trouble, ...]
    fault: str = ""
    mirrors: tuple[ShownMirror, ...] = ()

    def concerns(self) -> tuple[str, ...]:
        """What somebody should look at, one sentence each; empty: all is well."""
        said = []
        if self.store_down:
            said.append("The store does not answer: everything is sent inline.")
        down = [each.name for each in self.targets if each.state is not State.UP]
        if down and not self.store_down:
            named = ", ".join(down)
            said.append(f"Not every target is up: {named}.")
        away = [each.name for each in self.mirrors if each.state is not State.UP]
        if away:
            said.append(f"Not every session mirror is up: {', '.join(away)}.")
        errors = sum(1 for each in self.troubles if _is_recent_error(each, self.at))
        if errors:
            said.append(f"{errors} error{'s' if errors > 1 else ''} in the last hour.")
        if self.last_run is not None and self.last_run.failures:
            said.append("The last run of the index failed for some repositories.")
        if self.shelf is not None and self.shelf.fault:
            said.append("The store does not say what is published.")
        if self.fault:
            said.append("The history cannot be read.")
        return tuple(said)


def _is_recent_error(trouble: Trouble, at: float) -> bool:
    return trouble.level != "warning" and at - trouble.at < 3600
