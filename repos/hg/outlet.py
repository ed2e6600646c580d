# Law of this file: `hg bundle` writes to a file, and what it writes is to come through a pipe: so
# the file is a link to its standard output. What a killed process left goes with the next one.

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

NAME: Final = "hg-output"

_STDOUT: Final = "/proc/self/fd/1"


@contextmanager
def outlet(directory: Path) -> Iterator[Path]:
    """A path at which hg writes to its standard output, in this block.

    hg removes a bundle that it cannot finish, and where it cannot, that is all that it says: so the
    link is in a directory of ours, and not /dev/stdout.

    Args:
        directory: that the caller alone uses now, below the data directory.

    Raises:
        OSError: the disk refused.
    """
    # hg is not started where we were.
    output = directory.absolute() / NAME
    output.unlink(missing_ok=True)
    output.symlink_to(_STDOUT)
    try:
        yield output
    finally:
        with suppress(OSError):
            output.unlink(missing_ok=True)
