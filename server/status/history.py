# Law of this file: what was counted is added up by the minute, the hour and the day, all in one
# transaction with what was counted already: nothing counts twice, whoever crashes. It is bounded,
# no clock that jumps takes anything away, and a damaged file is moved aside and begun anew.
#
# `status/history.sqlite` in the data directory (WAL):
#
#     points        for each resolution (60, 3600, 86400 seconds) and time (seconds since the epoch,
#                   a multiple of it), a column for each of `counting.FIGURES`
#     costs         for each question, the runs of late and their seconds of a processor
#     seen          how far each counter of each generation was when it was last added
#     generations   what began to count at 0 together, and when it was last heard of

from __future__ import annotations

import json
import logging
import os
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from repos.flock import held
from server.status.counting import (
    FIGURES,
    Cost,
    Counters,
    Question,
    costs,
    grown,
    is_computed,
    questions,
    traffic,
)

_log = logging.getLogger("offramp.status")

T = TypeVar("T")

MINUTE: Final = 60
HOUR: Final = 3600
DAY: Final = 86400

KEPT: Final[Mapping[int, int]] = {MINUTE: 2880, HOUR: 1440, DAY: 730}
"""How many points of each resolution are kept: two days, sixty days, two years. By number, and not
by age: of a clock that jumps ahead and back, no more comes than a wrong point."""

# Questions whose costs are known. Those that did not run for longest go.
_COSTS: Final = 20_000
# The mean follows the present: of more runs than that, half are forgotten.
_RUNS: Final = 500.0
# Generations that were not heard of for a day have ended; where there are more than so many, as
# those of a server that is started again and again, for ten minutes.
_ENDED_SECONDS: Final = 86400.0
_SOON_SECONDS: Final = 600.0
_GENERATIONS: Final = 8

# How long another process of ours may write.
_BUSY_SECONDS: Final = 10.0
_VERSION: Final = 1
_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

_COLUMNS: Final = ", ".join(FIGURES)
_SCHEMA: Final = f"""
    CREATE TABLE points (
        resolution INTEGER NOT NULL,
        at INTEGER NOT NULL,
        {", ".join(f"{figure} REAL NOT NULL" for figure in FIGURES)},
        PRIMARY KEY (resolution, at)
    ) WITHOUT ROWID;
    CREATE TABLE costs (
        repo TEXT NOT NULL,
        dialect TEXT NOT NULL,
        command TEXT NOT NULL,
        runs REAL NOT NULL,
        cpu REAL NOT NULL,
        at REAL NOT NULL,
        PRIMARY KEY (repo, dialect, command)
    ) WITHOUT ROWID;
    CREATE TABLE seen (
        generation TEXT NOT NULL,
        series TEXT NOT NULL,
        value REAL NOT NULL,
        PRIMARY KEY (generation, series)
    ) WITHOUT ROWID;
    CREATE TABLE generations (id TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
    PRAGMA user_version = {_VERSION};
"""
_ADD: Final = (
    f"INSERT INTO points (resolution, at, {_COLUMNS})"  # noqa: S608 - names of our own
    f" VALUES (?, ?, {', '.join('?' * len(FIGURES))}) ON CONFLICT DO UPDATE SET "
    + ", ".join(f"{figure} = {figure} + excluded.{figure}" for figure in FIGURES)
)
_PRUNE: Final = (
    "DELETE FROM points WHERE resolution = ?1 AND at <="
    " (SELECT at FROM points WHERE resolution = ?1 ORDER BY at DESC LIMIT 1 OFFSET ?2)"
)
_READ: Final = (
    f"SELECT at, {_COLUMNS} FROM points"  # noqa: S608 - names of our own
    " WHERE resolution = ? AND at >= ? AND at < ? ORDER BY at"
)
_COST: Final = (
    "INSERT INTO costs VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
    " runs = runs + excluded.runs, cpu = cpu + excluded.cpu, at = excluded.at"
)


class HistoryUnavailable(Exception):  # noqa: N818 - what it is
    """The history cannot be read or written now; the message says why."""


@dataclass(frozen=True, slots=True)
class Point:
    """One interval.

    Attributes:
        at: when it began, in seconds since the epoch.
        figures: by the names of :data:`counting.FIGURES`.
    """

    at: int
    figures: Mapping[str, float]


@dataclass(slots=True)
class History:
    """What was counted, over time. Safe for threads and processes; its calls block.

    Attributes:
        directory: its own.
    """

    directory: Path
    _checked: bool = field(default=False)

    @property
    def path(self) -> Path:
        """The file."""
        return self.directory / "history.sqlite"

    def record(
        self, generation: str, now: Counters, before: Counters, watched: float, at: float
    ) -> None:
        """Add what was counted since ``before``.

        Args:
            generation: names who began to count at 0.
            now: how far its counters are.
            before: how far they were when they were last added.
            watched: for how many seconds they were counted since then.
            at: the time, in seconds since the epoch.

        Raises:
            HistoryUnavailable: nothing was added.
        """
        more = grown(now, before)
        moved = {series: value for series, value in now.items() if before.get(series) != value}

        def add(connection: sqlite3.Connection) -> None:
            known = connection.execute("SELECT 1 FROM generations WHERE id = ?", (generation,))
            # Of a file that was begun anew, all is to be written down.
            seen = moved if known.fetchone() else now
            connection.executemany(
                "INSERT OR REPLACE INTO seen VALUES (?, ?, ?)",
                ((generation, json.dumps(series), value) for series, value in seen.items()),
            )
            connection.execute("INSERT OR REPLACE INTO generations VALUES (?, ?)", (generation, at))
            figures = {**traffic(more), "watched": watched, **_priced(connection, more, at)}
            for resolution, kept in KEPT.items():
                begun = int(at // resolution) * resolution
                row = (resolution, begun, *(figures[figure] for figure in FIGURES))
                connection.execute(_ADD, row)
                connection.execute(_PRUNE, (resolution, kept))

        self._do(add)

    def begin(self, generation: str, at: float) -> Counters:
        """How far the counters of a generation were when they were last added.

        What ended long ago is forgotten.

        Raises:
            HistoryUnavailable: nobody knows.
        """

        def read(connection: sqlite3.Connection) -> Counters:
            ended = (
                "SELECT id FROM generations WHERE id != ?1 AND (at < ?2 OR (at < ?3 AND id NOT IN"
                " (SELECT id FROM generations ORDER BY at DESC LIMIT ?4)))"
            )
            last = (generation, at - _ENDED_SECONDS, at - _SOON_SECONDS, _GENERATIONS)
            connection.execute(f"DELETE FROM seen WHERE generation IN ({ended})", last)  # noqa: S608 - a constant
            connection.execute(f"DELETE FROM generations WHERE id IN ({ended})", last)  # noqa: S608 - likewise
            rows = connection.execute(
                "SELECT series, value FROM seen WHERE generation = ?", (generation,)
            )
            return {tuple(json.loads(series)): value for series, value in rows}

        return self._do(read)

    def points(self, resolution: int, since: float, until: float) -> tuple[Point, ...]:
        """The points of a resolution that begin from ``since`` on and before ``until``, in order.

        Raises:
            HistoryUnavailable: they cannot be read.
        """

        def read(connection: sqlite3.Connection) -> tuple[Point, ...]:
            rows = connection.execute(_READ, (resolution, since, until))
            return tuple(Point(at, dict(zip(FIGURES, values, strict=True))) for at, *values in rows)

        return self._do(read)

    # --- the file ------------------------------------------------------------------------------

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do something in one transaction; in a new file, if the old one is damaged."""
        try:
            try:
                return self._done(work)
            except sqlite3.DatabaseError as error:
                if error.sqlite_errorcode & 0xFF not in _DAMAGE:
                    raise
                self._move_aside(error)
                return self._done(work)
        except (sqlite3.Error, OSError) as error:
            raise HistoryUnavailable(f"{self.path}: {error}") from error

    def _done(self, work: Callable[[sqlite3.Connection], T]) -> T:
        self.directory.mkdir(0o700, parents=True, exist_ok=True)
        # Opened each time: another process may have moved it aside.
        connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
        with closing(connection):
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("BEGIN IMMEDIATE")
            try:
                self._prepare(connection)
                result = work(connection)
            except BaseException:
                # What is damaged may not even let go of the transaction.
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
            return result

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """See that it is a history, whole and of this version; a new file becomes one."""
        if not self._checked:
            if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise _damaged("quick_check finds it damaged")
            self._checked = True
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in filter(str.strip, _SCHEMA.split(";")):
                connection.execute(statement)
        elif version != _VERSION:
            raise _damaged(f"it is of version {version}, and this one is {_VERSION}")

    def _move_aside(self, error: sqlite3.DatabaseError) -> None:
        """Move a file that cannot be used to another name, once, whoever found it so."""
        self._checked = False
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        with held(os.open(self.directory / "lock", flags, 0o600)):
            if self._is_whole():
                return  # another process was faster
            aside = self.path.with_suffix(".damaged")
            with suppress(FileNotFoundError):
                self.path.replace(aside)
            for beside in ("-wal", "-shm"):
                Path(f"{self.path}{beside}").unlink(missing_ok=True)
        _log.warning("the history is begun anew, the old one is now %s: %s", aside, error)

    def _is_whole(self) -> bool:
        try:
            self._done(lambda _: None)
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF not in _DAMAGE:
                raise
            return False
        return True


def _damaged(what: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(what)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


# --- what answers are worth --------------------------------------------------------------------


def _priced(connection: sqlite3.Connection, more: Counters, at: float) -> Mapping[str, float]:
    """Remember what runs cost, and say what the answers would have cost, each computed."""
    ran = costs(more)
    for question, cost in ran.items():
        connection.execute(_COST, (*question, cost.runs, cost.cpu, at))
    if ran:
        connection.execute(
            "UPDATE costs SET runs = runs / 2, cpu = cpu / 2 WHERE runs > ?", (_RUNS,)
        )
        connection.execute(
            "DELETE FROM costs WHERE at < (SELECT at FROM costs ORDER BY at DESC LIMIT 1 OFFSET ?)",
            (_COSTS,),
        )
    answered = priced = worth = 0.0
    for question, count in questions(more).items():
        cost_of_one = _mean(connection, question)
        if cost_of_one is not None:
            priced += count
            worth += count * cost_of_one
        if cost_of_one is not None or is_computed(question):
            answered += count
    return {"answered": answered, "priced": priced, "worth": worth}


def _mean(connection: sqlite3.Connection, question: Question) -> float | None:
    """What a run costs, in seconds of a processor: of this repository, or else of any."""
    repo, dialect, command = question
    kind = (dialect, command)
    for where, values in (("repo = ? AND ", (repo, *kind)), ("", kind)):
        found = connection.execute(
            f"SELECT sum(runs), sum(cpu) FROM costs WHERE {where}dialect = ? AND command = ?",  # noqa: S608 - constants
            values,
        ).fetchone()
        if found[0]:
            cost = Cost(*found)
            return cost.cpu / cost.runs
    return None
