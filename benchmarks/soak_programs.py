# Law of this file: whatever program runs in a soak is the head of a session of its own, by which it
# is ended with all that it started; no client runs for ever.

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.servers import session_of

# A client that has not ended by then counts as hung.
CLIENT_SECONDS: Final = 120.0

HUNG: Final = -1


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of a program.

    Attributes:
        status: its exit status; :data:`HUNG` if it was ended.
        out: what it said on its standard output.
        said: on both of its outputs.
        began: seconds of :func:`time.time`.
        ended: likewise.
    """

    status: int
    out: str
    said: str
    began: float
    ended: float


class ProgramFailed(Exception):  # noqa: N818 - what happened
    """What the soak itself needs did not work; the message is what it said."""


async def run(
    arguments: Sequence[str | Path],
    where: Path,
    environ: Mapping[str, str],
    *,
    stdin: bytes = b"",
    seconds: float = CLIENT_SECONDS,
) -> Ran:
    """Run a program to its end, or for so many seconds."""
    began = time.time()
    process = await asyncio.create_subprocess_exec(
        *map(str, arguments),
        cwd=where,
        env=environ,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    hung, out, said = False, b"", b""
    try:
        async with asyncio.timeout(seconds):
            out, said = await process.communicate(stdin)
    except TimeoutError:
        hung = True
        said = f"it did not end within {seconds:.0f} s".encode()
    finally:
        if process.returncode is None:
            end_session(process.pid)
            await process.wait()
    status = HUNG if hung else process.returncode or 0
    texts = (each.decode(errors="replace") for each in (out, out + said))
    return Ran(status, *texts, began, time.time())


async def told(
    arguments: Sequence[str | Path], where: Path, environ: Mapping[str, str], stdin: bytes = b""
) -> str:
    """What a program that must end well said on its standard output.

    Raises:
        ProgramFailed: it did not.
    """
    ran = await run(arguments, where, environ, stdin=stdin)
    if ran.status:
        raise ProgramFailed(f"{' '.join(map(str, arguments))}: {ran.said.strip()[-600:]}")
    return ran.out


def end_session(leader: int) -> None:
    """Kill a program and what it started, even if that has left its process group."""
    for pid in session_of(leader):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
