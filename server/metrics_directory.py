# Law of this file: several worker processes keep their figures in files of one directory, and that
# is settled before prometheus_client is imported, because it decides at its import.

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"


def prepare(directory: Path) -> None:
    """Let the workers that are started from now on keep their figures together.

    Called once by the parent, before it starts them: they inherit the variable. ``directory`` is
    this server's own, and what an earlier run left in it is removed, so that counters begin at 0.

    Raises:
        OSError: the directory cannot be made or emptied.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("*.db"):
        old.unlink()
    os.environ[VARIABLE] = str(directory)


def prepared() -> Path | None:
    """The directory given to :func:`prepare`, by this process or by its parent."""
    directory = os.environ.get(VARIABLE)
    return Path(directory) if directory else None
