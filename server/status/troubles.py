# Law of this file: of what all processes of this machine log as a warning or an error, the last is
# kept where any of them can read it: bounded, and without secrets.
#
# `status/troubles.jsonl` in the data directory: an object a line; `troubles.old` is what it was
# before it grew too large.

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from server.logs import redact

# Bytes of a file, and of one message.
_LARGEST: Final = 64 << 10
_LONGEST: Final = 500

# A server in trouble may say so a thousand times a second: of each process, so many in so many
# seconds are kept. The log has all.
_BURST: Final = 20
_BURST_SECONDS: Final = 10.0


class Trouble(BaseModel):
    """One record of the log.

    Attributes:
        at: seconds since the epoch.
        level: ``warning``, ``error`` or ``critical``.
        logger: who said it, such as ``offramp.health``.
        process: its process id.
        message: what was said; with an exception, its name and message too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    at: float
    level: str
    logger: str
    process: int
    message: str


@dataclass(frozen=True, slots=True)
class Troubles:
    """The last of them.

    Attributes:
        directory: the status directory in the data directory.
    """

    directory: Path

    @property
    def path(self) -> Path:
        """The file."""
        return self.directory / "troubles.jsonl"

    def add(self, trouble: Trouble) -> None:
        """Keep one more.

        Raises:
            OSError: it cannot be written.
        """
        self.directory.mkdir(0o700, parents=True, exist_ok=True)
        line = trouble.model_dump_json().encode() + b"\n"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        file = os.open(self.path, flags, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            os.write(file, line)
            if os.fstat(file).st_size > _LARGEST and self._is(file):
                self.path.replace(self.path.with_suffix(".old"))
        finally:
            os.close(file)

    def last(self, count: int) -> tuple[Trouble, ...]:
        """The last ``count``, the newest at the front."""
        lines: list[bytes] = []
        for path in (self.path.with_suffix(".old"), self.path):
            with suppress(OSError):
                lines += path.read_bytes().splitlines()
        found: list[Trouble] = []
        for line in reversed(lines):
            if len(found) == count:
                break
            with suppress(ValidationError):  # half a line, of a process that was killed
                found.append(Trouble.model_validate_json(line))
        return tuple(found)

    def _is(self, file: int) -> bool:
        """The open file has not been replaced by another process meanwhile."""
        try:
            return os.path.samestat(os.fstat(file), self.path.stat())
        except FileNotFoundError:
            return False


class Keeper(logging.Handler):
    """Keeps what is logged."""

    def __init__(self, troubles: Troubles) -> None:
        super().__init__(logging.WARNING)
        self._troubles = troubles
        self._times: deque[float] = deque(maxlen=_BURST)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record; a disk that refuses is no reason to fail whatever logs."""
        now = time.monotonic()
        if len(self._times) == _BURST and now - self._times[0] < _BURST_SECONDS:
            return
        self._times.append(now)
        with suppress(OSError):
            self._troubles.add(
                Trouble(
                    at=record.created,
                    level=record.levelname.lower(),
                    logger=record.name,
                    process=record.process or 0,
                    message=_message(record),
                )
            )


def _message(record: logging.LogRecord) -> str:
    """What a record says, as one line that may be shown."""
    # structlog's records are dicts until they are formatted.
    said = record.msg.get("event", "") if isinstance(record.msg, dict) else record.getMessage()
    if record.exc_info and record.exc_info[0] is not None:
        said = f"{said}: {record.exc_info[0].__name__}: {record.exc_info[1]}"
    line = " ".join(redact(f"{said}").split()).encode(errors="backslashreplace").decode()
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
