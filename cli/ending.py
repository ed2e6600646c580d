# Law of this file: a command ends when it has said what it did, whatever still hangs in a store.

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from cli.errors import Failed


@contextmanager
def for_certain() -> Iterator[None]:
    """End this process with the block, if a thread of a store hangs; Python would wait for it."""
    try:
        yield
    except BaseException as error:
        if hanging():
            _end(error)
        raise


def hanging() -> tuple[str, ...]:
    """See :func:`stores.directory.hanging`; costs nothing where no store was used."""
    if "stores.directory" not in sys.modules:
        return ()
    from stores.directory import hanging as found

    return found()


def unfinished() -> tuple[str, ...]:
    """What is to be told of each store that hangs, by a command that was to change it."""
    return tuple(
        f"{name} hangs and is not waited for: what it was asked last may not be done; run the same"
        " command again when it answers"
        for name in hanging()
    )


def _end(error: BaseException) -> None:
    """End as Python would by an exception (for click, an end like any other), but now."""
    code = Failed.exit_code
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    else:
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
