# Law of this file: where mirrors lie. A name from outside never becomes a part of a path, and what
# has no complete mirror's name is being made, or is being removed.
#
#   <40 hex of the SHA-256 of the served name>.git    a complete mirror; its config has the name
#   <40 hex>.lock    held (flock) by who changes it, never removed
#   <40 hex>.used    its mtime is when the mirror was used last
#   <40 hex>.new     the first mirroring; left only by a process that was killed
#   <40 hex>.gone    what is being removed; likewise

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

from repos.git.mirror_lock import MirrorBusy, locked
from repos.git.mirror_upkeep import clear_leftovers

MIRROR: Final = ".git"
NEW: Final = ".new"
GONE: Final = ".gone"
USED: Final = ".used"

_STEM: Final = re.compile(r"[0-9a-f]{40}")
_NAME: Final = re.compile(r'^\[offramp\]\n\tname = "((?:[^"\\\n]|\\["\\])*)"$', re.MULTILINE)


def mirror_path(directory: Path, name: str) -> Path:
    """Where the mirror that is served as ``name`` lies, or would lie, below ``directory``."""
    digest = sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
    return directory / f"{digest[:40]}{MIRROR}"


def name_section(name: str) -> str:
    """The lines of a mirror's config that keep its served name.

    Raises:
        ValueError: the name is empty or not printable.
    """
    if not name or not name.isprintable():
        raise ValueError(f"a repository cannot be served as {name!r}")
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'[offramp]\n\tname = "{quoted}"\n'


def existing(directory: Path) -> Iterator[tuple[str, Path]]:
    """The served name and the path of each complete mirror below ``directory``.

    Its config is read here, not by git: there may be thousands. One that does not lie where its
    name belongs is no mirror.
    """
    for path in _entries(directory, MIRROR):
        with suppress(OSError, UnicodeDecodeError):
            match = _NAME.search((path / "config").read_text("utf-8"))
            if match is None:
                continue
            name = re.sub(r"\\(.)", r"\1", match[1])
            if mirror_path(directory, name) == path:
                yield name, path


def sweep(directory: Path) -> None:
    """Remove what killed processes left below ``directory``; what somebody works on is let be."""
    for suffix in (NEW, GONE, USED, MIRROR):
        for path in _entries(directory, suffix):
            with suppress(MirrorBusy), locked(path, 0):
                _sweep(path)


def _sweep(path: Path) -> None:
    if path.suffix in {NEW, GONE}:
        shutil.rmtree(path, ignore_errors=True)
    elif path.suffix == MIRROR:
        clear_leftovers(path)
    elif not path.with_suffix(MIRROR).exists():
        path.unlink(missing_ok=True)


def _entries(directory: Path, suffix: str) -> list[Path]:
    try:
        return sorted(
            path
            for path in directory.iterdir()
            if path.suffix == suffix and _STEM.fullmatch(path.stem)
        )
    except (FileNotFoundError, NotADirectoryError):
        return []
