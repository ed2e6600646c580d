# Law of this file: what `offramp doctor` says of the main store that is not the one that it was.

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from server.main_seal import remembered
from server.verdict import Level, Verdict
from stores.base import Store, StoreError
from stores.replica import is_sealed

# Seconds for which it is told that a store was found to be another one.
TOLD: Final = 7 * 86400.0


async def check_seal(store: Store, data: Path) -> AsyncGenerator[Verdict, None]:
    """Whether the main store is the one that processes of this machine have seen; changes nothing.

    Says nothing where none has seen one yet, or the store does not answer.
    """
    known = await asyncio.to_thread(remembered, data)
    if not known.generation:
        return
    try:
        sealed = await is_sealed(store, known.generation)
    except StoreError:
        return
    if not sealed:
        yield Verdict(
            Level.WARN,
            f"the main store ({store.name}) is not the one that it was: its content was removed, or"
            " it is another one, or is not mounted",
            "if it is to be another one, mount it or correct the settings; else nothing is to be"
            " done: servers and `offramp index` publish again what they are asked for",
        )
    elif time.time() - known.noticed < TOLD:
        when = datetime.fromtimestamp(known.noticed, UTC).strftime("%Y-%m-%d %H:%M UTC")
        yield Verdict(
            Level.WARN,
            f"the main store ({store.name}) was found to be another one than before, or to have"
            f" lost what was in it, at {when}; it is used again",
            "find out who removed its content, or what was mounted when",
        )
