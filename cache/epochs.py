# Law of this file: what was answered before an epoch is never used in it. A repository's epoch only
# rises, and every process of this machine knows it as soon as it is written.
#
#   epochs/<sha256 of the served name>   the epoch, in decimal; nothing for epoch 0
#   epochs.lock                          held (flock) while one is compared and replaced

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cache.keys import record_key
from cache.layout import Stamp, remove, stamp_of, unavailable, unlock
from stores.durable import publish

_REMEMBERED: Final = 65536
# More digits than any epoch will have, and fewer than Python refuses to read.
_DIGITS: Final = 19
# Where a repository lies is a path in its normal form, without empty segments: so what follows is
# no part of one, and an epoch of one repository is never taken for another repository.
_MARK: Final = "//epoch-"


def in_epoch(identity: str, epoch: int) -> str:
    """What names the repository ``identity`` in records of ``epoch``."""
    return f"{identity}{_MARK}{epoch}" if epoch else identity


def epoch_of(named: str) -> tuple[str, int]:
    """Identity and epoch of what :func:`in_epoch` made."""
    identity, mark, epoch = named.rpartition(_MARK)
    return (identity, int(epoch)) if mark and epoch.isdecimal() else (named, 0)


def key_in_epoch(key: str, epoch: int) -> str:
    """The key of a question in ``epoch``; two epochs share none."""
    return record_key("epoch", str(epoch), key.encode("ascii")) if epoch else key


@dataclass(slots=True)
class _Known:
    path: str
    stamp: Stamp | None = None
    epoch: int = 0


class Epochs:
    """The epochs of repositories, by served name. Shared by the processes of a machine."""

    def __init__(self, data: Path) -> None:
        """Open; nothing is read or written yet.

        Args:
            data: the data directory.
        """
        self._data = data
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def of(self, repository: str) -> int:
        """The epoch of a repository, 0 without a file. Costs one ``stat``.

        A damaged file counts as none: servers read the epoch from the catalog too. For the event
        loop's thread only.
        """
        known = self._known.get(repository)
        if known is None:
            known = self._known[repository] = _Known(str(self._path(repository)))
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        try:
            stamp = stamp_of(os.stat(known.path))  # noqa: PTH116 - half of Path.stat, on every request
        except OSError:
            known.stamp, known.epoch = None, 0
            return 0
        if stamp != known.stamp:
            known.stamp, known.epoch = stamp, _read(Path(known.path))
        return known.epoch

    def raise_to(self, repository: str, epoch: int) -> None:
        """Let the epoch be at least ``epoch``, durably. Blocks.

        Raises:
            CacheUnavailable: the disk refused; the epoch is what it was.
        """
        path = self._path(repository)
        staged = path.with_name(f"new-{secrets.token_hex(8)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked():
                if _read(path) >= epoch:
                    return
                try:
                    staged.write_text(f"{epoch}\n", "ascii")
                    publish(staged, path)
                finally:
                    remove(staged)
        except OSError as error:
            raise unavailable(f"write {path}", error) from error

    def _path(self, repository: str) -> Path:
        name = hashlib.sha256(repository.encode("utf-8", "surrogatepass")).hexdigest()
        return self._data / "epochs" / name

    @contextmanager
    def _locked(self) -> Iterator[None]:
        file = os.open(self._data / "epochs.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
            unlock(file)
        finally:
            os.close(file)


def _read(path: Path) -> int:
    try:
        text = path.read_bytes().strip()
    except OSError:
        return 0
    return int(text) if text.isdigit() and len(text) < _DIGITS else 0
