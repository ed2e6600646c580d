# Law of this file: everything that the status page of one server process needs, made in one place
# and let go of in one. Who looks at it costs other requests nothing.

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

from server.health import Health
from server.logs import heard_by
from server.metrics import Metrics
from server.sessions.moving import Sessions
from server.settings import Settings
from server.status.history import History, HistoryUnavailable, Point
from server.status.places import shown_mirrors, shown_targets
from server.status.progress import STATUS, Last, Step, last_run, running
from server.status.published import Shelves
from server.status.recording import Recorder
from server.status.report import Report
from server.status.spans import NOW, SPANS, Saved, Share, Span, points, saved, share, total
from server.status.troubles import Keeper, Trouble, Troubles

# Of the last warnings and errors, so many are shown.
TROUBLES_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Figures:
    """What the history says.

    Attributes:
        shares: of the last five minutes, hour, day and week.
        saved: of the last hour, day and week.
        points: of the span that was asked for.
        fault: why it says nothing; else empty.
    """

    shares: tuple[Share, ...]
    saved: tuple[Saved, ...]
    points: tuple[Point, ...]
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """What the page is made of.

    Attributes:
        settings: of the server.
        health: of store and targets, as this process sees them.
        history, recorder, shelves, troubles: what is kept.
        sessions: moves sessions to mirrors; None without any.
        clock: seconds since the epoch.
    """

    settings: Settings
    health: Health
    history: History
    recorder: Recorder
    shelves: Shelves
    troubles: Troubles
    _stack: ExitStack
    sessions: Sessions | None = None
    clock: Callable[[], float] = time.time

    @classmethod
    def open(
        cls,
        settings: Settings,
        metrics: Metrics,
        health: Health,
        shelves: Shelves,
        sessions: Sessions | None = None,
    ) -> Self:
        """Begin to keep warnings and errors; :meth:`run` keeps the figures."""
        directory = settings.data / STATUS
        history, troubles = History(directory), Troubles(directory)
        stack = ExitStack()
        stack.enter_context(heard_by(Keeper(troubles)))
        recorder = Recorder(metrics, history)
        return cls(settings, health, history, recorder, shelves, troubles, stack, sessions)

    async def run(self) -> None:
        """Keep the figures, until cancelled."""
        await self.recorder.run()

    async def close(self) -> None:
        """Keep the last figures, and let go of everything."""
        await self.shelves.close()
        await asyncio.to_thread(self.recorder.close)
        self._stack.close()

    async def report(self, span: Span) -> Report:
        """Everything of now, with the traffic of a span."""
        figures = await self.figures(span)
        steps, last, troubles = await asyncio.to_thread(self._files)
        return Report(
            at=self.clock(),
            shares=figures.shares,
            saved=figures.saved,
            span=span,
            points=figures.points,
            targets=shown_targets(self.health, self.settings.effective_targets()),
            mirrors=shown_mirrors(self.sessions, self.settings.session_mirrors),
            store_down=self.health.is_store_down,
            indexing=steps,
            last_run=last,
            indexes=self.settings.index.enabled,
            shelf=await self.shelves.look(),
            troubles=troubles,
            fault=figures.fault,
        )

    async def figures(self, span: Span) -> Figures:
        """What the history says, up to now if this worker keeps it."""
        await self.recorder.record()
        return await asyncio.to_thread(self._figures, span)

    def _figures(self, span: Span) -> Figures:
        now = self.clock()
        shown = (NOW, SPANS["hour"], SPANS["day"], SPANS["week"])
        fault, series = "", {}
        try:
            series = {each.name: points(self.history, each, now) for each in (*shown, span)}
        except HistoryUnavailable as error:
            fault = str(error)
        totals = {each.name: total(series.get(each.name, ())) for each in shown}
        return Figures(
            tuple(share(each, totals[each.name]) for each in shown),
            tuple(saved(each, totals[each.name]) for each in shown[1:]),
            series.get(span.name, ()),
            fault,
        )

    def _files(self) -> tuple[tuple[Step, ...], Last | None, tuple[Trouble, ...]]:
        directory = self.settings.data / STATUS
        return running(directory), last_run(directory), self.troubles.last(TROUBLES_SHOWN)
