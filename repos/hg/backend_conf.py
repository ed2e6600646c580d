# Law of this file: what `hg serve` is told. It serves what was placed for it, and nothing that it
# finds by itself; only who may read our private file can ask it, and what we ask is not compressed.
#
# Which repositories are served is known by repos/hg/discovery.py: hg would also search work trees,
# git's objects, our own data directory and whatever a symbolic link leads to, at each request. So
# it searches a directory of ours, with a link to each repository that somebody asked for. A link
# appears at once and may lead nowhere; a list of paths in the file would have to be read again,
# and one repository that is gone from it would make hg refuse all others.

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from repos.flock import held, remove_unless_held

ADDRESS: Final = "127.0.0.1"

# A name below the prefix at which there is never a repository.
NOBODY: Final = "nobody"

_NAME: Final = "hg-serve-"
_CONF: Final = "hgweb.conf"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

# hg compares each link of a directory with all before it: 1,000 links in one directory take it
# 60 ms at each request, in sixteen 35 ms.
_SHARES: Final = "0123456789abcdef"

# These win over the configuration of a repository, and over that which HGRCPATH names.
_SETTINGS: Final = (
    # For us, who compress once and for all clients; others are handed what zlib gives. Not every hg
    # has zstd, and one that has not would refuse its name.
    "server.compressionengines=zlib,none",
    # A repository that was placed just now is to be found now.
    "web.refreshinterval=-1",
    # One line for each request, with our secret in it.
    f"web.accesslog={os.devnull}",
    # TLS ends at our front, or before it.
    "web.push_ssl=false",
)

# Whatever a repository says.
_NO_PUSHES: Final = "web.deny_push=*"

# Unless a repository names its own people, whom hgweb cannot know here. So it is in the file: what
# a repository says wins over that, by either spelling.
_PUSHES: Final = "allow-push = *\n"


class Premises:
    """A private directory for one run of ``hg serve``: its configuration, links to repositories.

    Its lock says that somebody uses it: what a killed server left is removed by the next one.

    Attributes:
        path: the directory.
        secret: the first segment of all URL paths; never in a command line, message or log.
    """

    def __init__(self, directory: Path, *, push: bool) -> None:
        """Make it.

        Args:
            directory: where; it may be shared by several processes.
            push: repositories accept pushes, as far as their own configuration allows it.

        Raises:
            OSError: it cannot be made.
            ValueError: its path cannot be written in hg's configuration.
        """
        self.secret: Final = secrets.token_urlsafe(32)
        self._push = push
        self._placed: set[Path] = set()
        directory.mkdir(parents=True, exist_ok=True)
        with held(os.open(directory, _DIRECTORY)):
            _sweep(directory)
            self.path: Final = Path(tempfile.mkdtemp(prefix=_NAME, dir=directory.resolve()))
            self._lock: int | None = os.open(self.path, _DIRECTORY)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            for share in _SHARES:
                (self.path / share).mkdir()
            self._write()
        except BaseException:
            self.remove()
            raise

    def _write(self) -> None:
        paths = "".join(f"{share} = {_quoted(self.path / share)}\n" for share in _SHARES)
        pushes = _PUSHES if self._push else ""
        text = f"[web]\nprefix = /{self.secret}\n{pushes}[paths]\n{paths}"
        # mkdtemp's directory is ours alone; so is the file, wherever it is copied.
        descriptor = os.open(self.path / _CONF, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.fsencode(text))

    def arguments(self) -> list[str]:
        """The subcommand and options of ``hg serve``."""
        settings = [*_SETTINGS, *(() if self._push else (_NO_PUSHES,))]
        return [
            *("serve", "--webdir-conf", str(self.path / _CONF)),
            *("--address", ADDRESS, "--port", "0"),
            *(word for setting in settings for word in ("--config", setting)),
        ]

    def place(self, hg_dir: Path) -> str:
        """Have a repository served, and tell where: its path below the secret.

        Two names of one repository get one path, for hg shows a directory once.

        Args:
            hg_dir: its ``.hg``, all symbolic links resolved.

        Raises:
            OSError: the link cannot be made.
        """
        token = hashlib.sha256(os.fsencode(hg_dir)).hexdigest()[:32]
        if hg_dir not in self._placed:
            with suppress(FileExistsError):
                (self.path / token[0] / token).symlink_to(hg_dir.parent, target_is_directory=True)
            self._placed.add(hg_dir)
        return f"{token[0]}/{token}"

    def remove(self) -> None:
        """Remove it; the repositories stay where they are."""
        if self._lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = None


def _quoted(share: Path) -> str:
    """All repositories of a directory, as one word of a list in hg's configuration."""
    path = str(share)
    if "\n" in path or "\r" in path:
        raise ValueError(f"{path!r} has a line break, which hg cannot read: choose another --data")
    return '"{}/*"'.format(path.replace('"', '\\"'))


def _sweep(directory: Path) -> None:
    """Remove what was left by servers that do not run any more."""
    for left in directory.glob(f"{_NAME}*"):
        try:
            descriptor = os.open(left, _DIRECTORY)
        except OSError:
            continue
        remove_unless_held(left, descriptor)
