# Law of this file: a name appears only when what it names is on the disk, complete; and when the
# call returns, the name is on the disk too.

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

# A static server that runs as another user reads what we publish.
FILE_MODE: Final = 0o644
DIRECTORY_MODE: Final = 0o755


def make_directory(path: Path) -> Path:
    """Make ``path`` and its parents with mode 0755 whatever the umask, durably; return it.

    Raises:
        OSError: as ``mkdir``; also if a file is in the way.
    """
    if path.is_dir():
        return path
    make_directory(path.parent)
    try:
        path.mkdir()
    except FileExistsError:
        if not path.is_dir():
            raise
    else:
        path.chmod(DIRECTORY_MODE)
        _sync(path.parent)
    return path


def publish(staged: Path, final: Path) -> None:
    """Move the complete file ``staged`` to ``final``, on the same file system, replacing it.

    Readers see the old file or the new one, and after a power failure too.

    Raises:
        OSError: the disk refused; ``final`` is as it was, or is the new file.
    """
    staged.chmod(FILE_MODE)
    make_directory(final.parent)
    _sync(staged)
    os.replace(staged, final)  # noqa: PTH105 - one name for tests to hold a process at
    _sync(final.parent)


def _sync(path: Path) -> None:
    """Have a file's content, or a directory's names, written to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
